"""The judge that prompts a Hugging Face model of this process and reads its probabilities."""

from __future__ import annotations

import hashlib
import json
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
from traitcli.judging.backend import Answer, ModelProvider, OnJudged, judge_id
from traitcli.judging.local.digits import (
    MAX_BLANKS,
    AnswerTokens,
    Path,
    build_answer_tokens,
    token_texts,
    walk,
)
from traitcli.judging.local.prefix_cache import Prefix, read_on, read_prefix, read_prompts
from traitcli.judging.questions import Question, Questionnaire
from traitcli.judging.scales import Scale, read_probabilities, to_percent
from traitcli.models.devices import pick_device
from traitcli.models.loaded import LoadedModel
from traitcli.models.prefix_tree import Ids, common_start
from traitcli.models.prompts import render, without_specials
from traitcli.records import Score, Trait, Usage

_READ_BY = 1
"""Part of the judge's identity: raise it when the same probabilities would give another score."""
_GROUP = 4
"""Batches whose prompts are sorted by length together, where all answers are there already."""
_ORDINARY = 1024
"""Tokens of a prompt, up to which `batch_size` of them are read together; of longer ones fewer."""
_WALKED = MAX_BLANKS + 2
"""Tokens that a walk adds to a prompt, at most."""

_NOTHING: Mapping[Question, Score] = {}

Prefixes = dict[str, Prefix]
"""What prompts of a template begin with, by template."""


@dataclass(frozen=True, slots=True)
class Prompted:
    """A question as the tokens that the judge model reads."""

    question: Question
    ids: Ids


class LocalJudge:
    """Reads an exact score off the judge model's probabilities, without writing anything.

    On 0–100 it is the expected value over all numbers, had by walking their digits (see `digits`).
    `Score.method` says how a value was had: walk (0_100), probabilities (the other scales).
    """

    prompted = True

    def __init__(self, config: LocalJudgeConfig, shelf: ModelProvider) -> None:
        """The model is taken from the shelf when the first answer comes."""
        self._config = config
        self._shelf = shelf
        self._model = _place(config.model, shelf.config)
        self._alone = Lock()
        self._closings = 0
        self.identity = _identify(config, self._model)
        self.overlaps = _has_own_device(config.model, shelf.config)

    @cached_property
    def _reader(self) -> Reader:
        return Reader(self._shelf.load(self._model), self._config.batch_size)

    def check(self) -> None:
        pass

    def close(self) -> None:
        self._closings += 1

    def score(self, trait: Trait, answers: Iterable[Answer], on_judged: OnJudged) -> None:
        """Judge the answers as they come, a group at a time; see `Judge.score`."""
        form = Questionnaire(
            trait, judge_id(self, trait), self._config.scale, self._config.coherence
        )
        prefixes: Prefixes = {}
        closings = self._closings
        coming = iter(answers)
        size = self._config.batch_size * (1 if self.overlaps else _GROUP)
        while group := list(islice(coming, size)):
            asked = {answer: form.questions(answer) for answer in group}
            if blank := [
                form.blank(answer) for answer, questions in asked.items() if not questions
            ]:
                on_judged(blank)
            kinds = zip(
                *filter(None, asked.values()), strict=True
            )  # all questions on the trait, all on coherence
            scored = [self._scores(questions, prefixes) for questions in kinds]
            for batches in zip_longest(*scored, fillvalue=_NOTHING):
                for batch in batches:
                    _hand_over(form, batch, on_judged)
                    if self._closings > closings:
                        raise CancelledError

    def _scores(
        self, questions: Sequence[Question], prefixes: Prefixes
    ) -> Iterator[Mapping[Question, Score]]:
        """Score questions of one kind, a batch at a time; the longest prompts come first."""
        with self._alone:
            reader = self._reader
            asked = [Prompted(question, reader.encode(question)) for question in questions]
            room = reader.loaded.context - _WALKED
            fitting = sorted(
                (a for a in asked if len(a.ids) <= room), key=lambda a: len(a.ids), reverse=True
            )
            if fitting:
                prefix = reader.prefix(fitting, prefixes)
        reason = (
            f"the prompt does not fit the {reader.loaded.context} tokens of {reader.loaded.name}"
        )
        yield {a.question: Score(None, reason) for a in asked if len(a.ids) > room}
        while fitting:
            rows = reader.rows(len(fitting[0].ids))
            batch, fitting = fitting[:rows], fitting[rows:]
            with self._alone:
                scores = reader.scores(batch, prefix)
            yield scores


class Reader:
    """The judge model, and how much probability it gives to each answer of a scale."""

    def __init__(self, loaded: LoadedModel, batch_size: int) -> None:
        self.loaded = loaded
        self._batch_size = batch_size
        self._texts = token_texts(loaded.tokenizer)[
            : loaded.model.config.get_text_config().vocab_size
        ]
        self._lexicons: dict[Scale, AnswerTokens] = {}

    def encode(self, question: Question) -> Ids:
        """The tokens of a question's prompt; nothing in the answer can end the message it stands in."""
        tokenizer = self.loaded.tokenizer
        content = without_specials(tokenizer, question.prompt(question.scale))
        return render(tokenizer, [{"role": "user", "content": content}], thinking=False).ids

    def rows(self, width: int) -> int:
        """How many prompts of so many tokens are read together."""
        return max(1, min(self._batch_size, self._batch_size * _ORDINARY // width))

    def prefix(self, asked: Sequence[Prompted], prefixes: Prefixes) -> Prefix:
        """What these prompts begin with, all from the same template; what was read before serves again."""
        template = asked[0].question.template
        shared = common_start([a.ids[:-1] for a in asked])
        held = prefixes.get(template)
        prefixes[template] = held.cut(shared) if held else read_prefix(self.loaded, shared)
        return prefixes[template]

    def scores(self, batch: Sequence[Prompted], prefix: Prefix) -> dict[Question, Score]:
        """One score for each question of a batch, all on one scale."""
        scale = batch[0].question.scale
        found = self.probabilities([a.ids for a in batch], prefix, scale)
        return {a.question: _score(scale, stated) for a, stated in zip(batch, found, strict=True)}

    def probabilities(
        self, prompts: Sequence[Ids], prefix: Prefix, scale: Scale
    ) -> list[dict[str, float]]:
        """For each prompt, how probable it is that the reply states each answer of the scale."""
        if scale not in self._lexicons:
            self._lexicons[scale] = build_answer_tokens(scale, self._texts)
        lexicon = self._lexicons[scale]
        tokens = torch.tensor(lexicon.tokens, dtype=torch.long, device=self.loaded.device)
        reading = read_prompts(self.loaded, prompts, prefix)
        size = len(prompts) * max(1, self.rows(reading.mask.shape[1]) // len(prompts))

        def ask(paths: Sequence[Path]) -> list[list[float]]:
            if not paths[0][1]:
                return _softmax(reading.logits, tokens)
            found: dict[Path, list[float]] = {}
            turns = _in_turns(paths)
            for batch in (turns[start : start + size] for start in range(0, len(turns), size)):
                replies, written = zip(*batch, strict=True)
                logits = read_on(self.loaded, reading, replies, written)
                found.update(zip(batch, _softmax(logits, tokens), strict=True))
            return [found[path] for path in paths]

        return walk(len(prompts), lexicon, ask)


def _in_turns(paths: Sequence[Path]) -> list[Path]:
    """The first path of every reply, then the second ones, and so on.

    So most batches hold each prompt of the cache once, in its order, and need no copy of it.
    """
    taken: Counter[int] = Counter()
    turn: dict[Path, int] = {}
    for path in paths:
        turn[path] = taken[path[0]]
        taken[path[0]] += 1
    return sorted(paths, key=turn.__getitem__)


def _softmax(logits: torch.Tensor, tokens: torch.Tensor) -> list[list[float]]:
    """Probabilities [rows, K] of the K tokens, over all [rows, V] logits."""
    return logits.float().softmax(1)[:, tokens].tolist()


def _score(scale: Scale, stated: Mapping[str, float]) -> Score:
    if not all(map(math.isfinite, stated.values())):
        return Score(
            None,
            "the judge model's probabilities are not numbers: its dtype may be too narrow for it",
        )
    reading = read_probabilities(scale, stated)
    if reading.value is None:
        return Score(None, reading.reason)
    return Score(
        to_percent(scale, reading.value), method="walk" if scale == "0_100" else "probabilities"
    )


def _hand_over(form: Questionnaire, scores: Mapping[Question, Score], on_judged: OnJudged) -> None:
    received = [form.receive(question, score, Usage()) for question, score in scores.items()]
    if final := [judgement for judgement in received if judgement]:
        on_judged(final)


def _place(own: ModelConfig | None, runs: ModelConfig) -> ModelConfig:
    """The judge model, on the run's device unless it has one of its own."""
    if own is None:
        return runs
    return own.model_copy(update={"device": runs.device}) if own.device == "auto" else own


def _has_own_device(own: ModelConfig | None, runs: ModelConfig) -> bool:
    return own is not None and own.device != "auto" and _name(own.device) != _name(runs.device)


def _name(device: str) -> tuple[str, int]:
    """A device by kind and number: 'cuda' and 'cuda:0' are the same."""
    kind, _, index = (pick_device(device) if device == "auto" else device).partition(":")
    return kind, int(index or 0)


def _identify(config: LocalJudgeConfig, model: ModelConfig) -> str:
    """The judge in one line; the hash covers all else that can change a score."""
    settings = {
        "model": model.id,
        "revision": model.revision,
        "dtype": model.dtype,
        "ending": prompts.on_scale("100", config.scale),
        "coherence": prompts.COHERENCE if config.coherence else "",
        "max_chars": prompts.MAX_CHARS,
        "read_by": _READ_BY,
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    coherence = "+coherence" if config.coherence else ""
    return f"local:{model.name}:{config.scale}{coherence}#{digest}"
