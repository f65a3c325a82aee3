"""Judge with a Hugging Face model in this process, by its exact probabilities."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, zip_longest
from threading import Lock

import torch

from traitcli.config import LocalJudgeConfig, ModelConfig
from traitcli.judging import prompts
from traitcli.judging.backend import Answer, ModelProvider, OnJudged, judge_id, write_identity
from traitcli.judging.local.digit_tree import (
    MAX_WHITESPACE,
    AnswerTokens,
    Path,
    build_answer_tokens,
    expand_digit_tree,
    vocabulary_texts,
)
from traitcli.judging.local.prefix_cache import (
    CachedPrefix,
    continue_prompts,
    read_prefix,
    read_prompts,
)
from traitcli.judging.questions import Question, Questionnaire
from traitcli.judging.scales import Scale, read_probabilities, to_percent
from traitcli.models.batch_size import BatchSize, as_batch_size, run_shrinking, shrinking
from traitcli.models.devices import pick_device
from traitcli.models.loaded import LoadedModel
from traitcli.models.memory import memory_explained
from traitcli.models.prefix_tree import Ids, common_start
from traitcli.models.prompts import render, without_specials
from traitcli.records import Score, Trait, Usage

_METHOD_VERSION = 1
"""Part of the judge's identity. Raise it if the same probabilities would give another score."""
_LESS_MEMORY = "use a smaller judge model, a larger device, or set the judge's dtype to bfloat16"
_SORTED_BATCHES = 4
"""How many batches of prompts are sorted by length together, if all answers exist already."""
_USUAL_PROMPT = 1024
"""Tokens. Up to this length `batch_size` prompts are read together; of longer ones fewer."""
_TREE_DEPTH = MAX_WHITESPACE + 2
"""The most tokens that the digit tree appends to a prompt."""

Prefixes = dict[str, CachedPrefix]
"""Template -> the cached beginning of its prompts."""


@dataclass(frozen=True, slots=True)
class EncodedQuestion:
    """A question, and its prompt as token ids."""

    question: Question
    ids: Ids


class LocalJudge:
    """Reads an exact score from the judge model's probabilities, without generating.

    On 0–100 the score is the expected value over all numbers, from the digit tree (see
    `digit_tree`). `Score.method` is "digit tree" for 0_100 and "probabilities" for the other
    scales.
    """

    prompted = True

    def __init__(self, config: LocalJudgeConfig, models: ModelProvider) -> None:
        """The model loads when the first answer arrives."""
        self._config = config
        self._models = models
        self._model = _with_device(config.model, models.config)
        self._lock = Lock()
        self._closings = 0
        self._notes: list[str] = []
        self.identity = _identify(config, self._model)
        self.overlaps = _has_own_device(config.model, models.config)

    @cached_property
    def _reader(self) -> ProbabilityReader:
        size = shrinking(self._config.batch_size, "prompts", self._notes.append)
        return ProbabilityReader(self._models.load(self._model), size)

    def take_notes(self) -> list[str]:
        notes = self._notes.copy()
        self._notes.clear()
        return notes

    def check(self) -> None:
        pass

    def close(self) -> None:
        self._closings += 1

    def score(self, trait: Trait, answers: Iterable[Answer], on_judged: OnJudged) -> None:
        """Judge the answers in groups, as they arrive; see `Judge.score`."""
        scale, coherence = self._config.scale, self._config.coherence
        questionnaire = Questionnaire(trait, judge_id(self, trait), scale, coherence)
        prefixes: Prefixes = {}
        closings = self._closings
        remaining = iter(answers)

        # Sorting more answers by length saves padding. During generation they arrive slowly, and
        # a large group would wait for its last answer.
        size = self._config.batch_size * (1 if self.overlaps else _SORTED_BATCHES)
        while group := list(islice(remaining, size)):
            questions = [(answer, questionnaire.questions(answer)) for answer in group]
            empty = [
                questionnaire.empty_judgement(answer) for answer, asked in questions if not asked
            ]
            if empty:
                on_judged(empty)

            # All questions about the trait, then all about coherence: each kind shares a template.
            asked_by_answer = [asked for _, asked in questions if asked]
            kinds = zip(*asked_by_answer, strict=True)
            scored = [self._scores(asked, prefixes) for asked in kinds]
            for batches in zip_longest(*scored, fillvalue={}):
                for batch in batches:
                    _hand_over(questionnaire, batch, on_judged)
                    if self._closings > closings:
                        raise CancelledError

    def _scores(
        self, questions: Sequence[Question], prefixes: Prefixes
    ) -> Iterator[Mapping[Question, Score]]:
        """Score questions that share a template, a batch at a time, the longest prompts first."""
        with self._lock:
            reader = self._reader
            encoded = [EncodedQuestion(question, reader.encode(question)) for question in questions]
            longest = reader.loaded.context - _TREE_DEPTH
            fitting = [one for one in encoded if len(one.ids) <= longest]
            fitting.sort(key=lambda one: len(one.ids), reverse=True)
            if fitting:
                with memory_explained(reader.loaded.device, _LESS_MEMORY):
                    prefix = reader.prefix(fitting, prefixes)

        context, name = reader.loaded.context, reader.loaded.name
        too_long = Score(None, f"the prompt does not fit the {context} tokens of {name}")
        yield {one.question: too_long for one in encoded if len(one.ids) > longest}

        while fitting:
            size = reader.batch_size(len(fitting[0].ids))
            batch, fitting = fitting[:size], fitting[size:]
            # Threads of other traits take turns at the model, batch by batch.
            with self._lock, memory_explained(reader.loaded.device, _LESS_MEMORY):
                scores = reader.scores(batch, prefix)
            yield scores


class ProbabilityReader:
    """Computes how much probability the judge model gives to each answer of a scale."""

    def __init__(self, loaded: LoadedModel, batch_size: int | BatchSize) -> None:
        self.loaded = loaded
        self._size = as_batch_size(batch_size)
        # Some tokenizers have more tokens than the model has logits.
        vocabulary = loaded.model.config.get_text_config().vocab_size
        self._texts = vocabulary_texts(loaded.tokenizer)[:vocabulary]
        self._answer_tokens: dict[Scale, AnswerTokens] = {}

    def encode(self, question: Question) -> Ids:
        """Return the token ids of a question's prompt.

        Answers cannot end the message that they are in: special tokens become look-alikes.
        """
        tokenizer = self.loaded.tokenizer
        content = without_specials(tokenizer, question.prompt(question.scale))
        messages = [{"role": "user", "content": content}]
        return render(tokenizer, messages, self.loaded.chat, thinking=False).ids

    def batch_size(self, width: int) -> int:
        """Return how many prompts of `width` tokens are read together."""
        return max(1, min(self._size.now, self._size.now * _USUAL_PROMPT // width))

    def prefix(self, encoded: Sequence[EncodedQuestion], prefixes: Prefixes) -> CachedPrefix:
        """Return the shared beginning of prompts from one template, computed or from `prefixes`."""
        template = encoded[0].question.template
        # The last token stays out, because each prompt needs one token to compute.
        shared = common_start([one.ids[:-1] for one in encoded])
        cached = prefixes.get(template)
        prefixes[template] = (
            cached.shortened(shared) if cached else read_prefix(self.loaded, shared)
        )
        return prefixes[template]

    def scores(
        self, batch: Sequence[EncodedQuestion], prefix: CachedPrefix
    ) -> dict[Question, Score]:
        """Return one score for each question of a batch; all questions are on one scale."""
        scale = batch[0].question.scale
        answers = self.probabilities([one.ids for one in batch], prefix, scale)
        return {
            one.question: _score(scale, probabilities)
            for one, probabilities in zip(batch, answers, strict=True)
        }

    def probabilities(
        self, prompts: Sequence[Ids], prefix: CachedPrefix, scale: Scale
    ) -> list[dict[str, float]]:
        """Return answer -> probability for each prompt."""
        if scale not in self._answer_tokens:
            self._answer_tokens[scale] = build_answer_tokens(scale, self._texts)
        tokens = self._answer_tokens[scale]

        def run(pending: Sequence[int]) -> Iterator[tuple[int, dict[str, float]]]:
            size = self.batch_size(max(len(prompts[index]) for index in pending))
            for start in range(0, len(pending), size):
                indices = pending[start : start + size]
                found = self._read([prompts[index] for index in indices], prefix, tokens)
                yield from zip(indices, found, strict=True)

        by_index = dict(run_shrinking(len(prompts), self._size, run))
        return [by_index[index] for index in range(len(prompts))]

    def _read(
        self, prompts: Sequence[Ids], prefix: CachedPrefix, answer_tokens: AnswerTokens
    ) -> list[dict[str, float]]:
        """The same for one batch."""
        ids = torch.tensor(answer_tokens.ids, dtype=torch.long, device=self.loaded.device)
        batch = read_prompts(self.loaded, prompts, prefix)
        # A multiple of the prompts, so that whole turns of `_in_turns` fit.
        turns = max(1, self.batch_size(batch.mask.shape[1]) // len(prompts))
        size = len(prompts) * turns

        def next_tokens(paths: Sequence[Path]) -> list[list[float]]:
            is_root = not paths[0][1]
            if is_root:
                return _softmax(batch.logits, ids)
            found: dict[Path, list[float]] = {}
            ordered = _in_turns(paths)
            for start in range(0, len(ordered), size):
                part = ordered[start : start + size]
                indices, continuations = zip(*part, strict=True)
                logits = continue_prompts(self.loaded, batch, indices, continuations)
                found.update(zip(part, _softmax(logits, ids), strict=True))
            return [found[path] for path in paths]

        return expand_digit_tree(len(prompts), answer_tokens, next_tokens)


def _in_turns(paths: Sequence[Path]) -> list[Path]:
    """Return the first path of every reply, then the second ones, and so on.

    Most batches then hold each prompt of the cache once and in its order, and need no copy of it.
    """
    count: Counter[int] = Counter()
    turn: dict[Path, int] = {}
    for path in paths:
        turn[path] = count[path[0]]
        count[path[0]] += 1
    return sorted(paths, key=turn.__getitem__)


def _softmax(logits: torch.Tensor, ids: torch.Tensor) -> list[list[float]]:
    """Return the probabilities [R, K] of the K token ids, from logits [R, V]."""
    return logits.softmax(1, dtype=torch.float32)[:, ids].tolist()


def _score(scale: Scale, probabilities: Mapping[str, float]) -> Score:
    if not all(map(math.isfinite, probabilities.values())):
        reason = "the judge model's probabilities are not numbers: its dtype may be too narrow"
        return Score(None, reason)
    reading = read_probabilities(scale, probabilities)
    if reading.value is None:
        return Score(None, reading.reason)
    method = "digit tree" if scale == "0_100" else "probabilities"
    return Score(to_percent(scale, reading.value), method=method)


def _hand_over(
    questionnaire: Questionnaire, scores: Mapping[Question, Score], on_judged: OnJudged
) -> None:
    received = [questionnaire.receive(question, s, Usage()) for question, s in scores.items()]
    final = [judgement for judgement in received if judgement]
    if final:
        on_judged(final)


def _with_device(judge: ModelConfig | None, run: ModelConfig) -> ModelConfig:
    """Return the judge model, on the run's device unless the config gives it another one."""
    if judge is None:
        return run
    return judge.model_copy(update={"device": run.device}) if judge.device == "auto" else judge


def _has_own_device(judge: ModelConfig | None, run: ModelConfig) -> bool:
    if judge is None or judge.device == "auto":
        return False
    return _device_key(judge.device) != _device_key(run.device)


def _device_key(device: str) -> tuple[str, int]:
    """Return a device's kind and number: 'cuda' and 'cuda:0' are the same."""
    kind, _, index = (pick_device(device) if device == "auto" else device).partition(":")
    return kind, int(index or 0)


def _identify(config: LocalJudgeConfig, model: ModelConfig) -> str:
    """Return the judge's identity; the hash covers all other settings that can change a score."""
    # Stored judgements carry this text, so neither keys nor values may change without a reason.
    settings = {
        "model": model.id,
        "revision": model.revision,
        "dtype": model.dtype,
        "ending": prompts.on_scale("100", config.scale),
        "coherence": prompts.COHERENCE if config.coherence else "",
        "max_chars": prompts.MAX_CHARS,
        "read_by": _METHOD_VERSION,
    }
    return write_identity(f"local:{model.name}", config.scale, config.coherence, settings)
