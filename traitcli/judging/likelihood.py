"""Judge without a second model: which persona explains the answer better, positive or negative?

The score of an answer r to a question q is 100·σ(s·m). Here m is the mean, over contrast pairs
other than the one that generated r, of (log P(r | persona+, q) − log P(r | persona−, q)) per token,
and s is the sharpness. A score of 50 means that both personas explain the answer equally well. The
method measures no coherence.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from traitcli.config import LikelihoodConfig
from traitcli.errors import DefinitionError
from traitcli.judging.backend import EMPTY_ANSWER, Answer, ModelProvider, OnJudged, judge_id
from traitcli.models.batch_size import shrinking
from traitcli.models.loaded import LoadedModel
from traitcli.models.memory import memory_explained
from traitcli.models.prompts import encode_response, persona_messages, render
from traitcli.models.read_texts import Text, log_probabilities
from traitcli.records import POLARITIES, Judgement, Polarity, Score, Trait

Task = tuple[Polarity, int, Answer]
"""One side of a contrast pair, and an answer to read after the prompt of that persona."""
_NO_COHERENCE = Score(None, "the likelihood judge has no coherence", final=True)
_LESS_MEMORY = "set model.dtype to bfloat16, use a larger device, or another judge"
_LARGEST_EXPONENT = 60.0
"""Beyond this the score is 0 or 100 in every printed digit, and `math.exp` could overflow."""


class LikelihoodJudge:
    """Scores answers with the run's own model."""

    prompted = False
    overlaps = False

    def __init__(self, config: LikelihoodConfig, models: ModelProvider) -> None:
        """The model loads when the first answer arrives."""
        self._config = config
        self._models = models
        self._notes: list[str] = []
        self._size = shrinking(config.batch_size, "answers", self._notes.append)
        self.identity = (
            f"likelihood:{models.config.name}:pairs={config.pairs}:sharpness={config.sharpness:g}"
        )

    @property
    def _loaded(self) -> LoadedModel:
        return self._models.load(self._models.config)

    def take_notes(self) -> list[str]:
        notes = self._notes.copy()
        self._notes.clear()
        return notes

    def check(self) -> None:
        pass

    def close(self) -> None:
        pass

    def score(self, trait: Trait, answers: Iterable[Answer], on_judged: OnJudged) -> None:
        """Judge the answers question by question; see `Judge.score`."""
        if len(trait.pairs) < 2:
            raise DefinitionError(
                f"the likelihood judge cannot judge {trait.name}",
                cause="it asks pairs other than the one that wrote an answer, "
                "and the trait has one pair",
                fix="add a pair to the definition, or use the openai judge",
            )

        name = judge_id(self, trait)

        def hand_over(scores: Iterable[tuple[Answer, Score]]) -> None:
            judged = [Judgement(a.rollout, name, score, _NO_COHERENCE) for a, score in scores]
            if judged:
                on_judged(judged)

        # All answers exist by now: this judge needs the model that writes them, so it comes after.
        by_question = sorted(answers, key=lambda answer: answer.question)
        hand_over((answer, EMPTY_ANSWER) for answer in by_question if not answer.response.strip())

        tasks = self._tasks(trait, [a for a in by_question if a.response.strip()])
        unread = Counter(answer.question for _, _, answer in tasks)
        ratios: dict[Answer, float] = {}
        for (polarity, _, answer), per_token in self._read(trait, tasks):
            sign = 1 if polarity == "positive" else -1
            share = sign * per_token / len(self._pairs(trait, answer))
            ratios[answer] = ratios.get(answer, 0.0) + share

            # Final scores are passed on at once: if the command is killed, they are stored already.
            unread[answer.question] -= 1
            if not unread[answer.question]:
                hand_over((judged, self._score(ratio)) for judged, ratio in ratios.items())
                ratios = {}

    def _tasks(self, trait: Trait, answers: Sequence[Answer]) -> list[Task]:
        """Every answer after every persona that judges it, grouped by question.

        An answer has its score only after all personas have read it, so this order gives the first
        scores early. Within a persona the answers are ordered by length, so that batches hold
        little padding.
        """
        tasks = [
            (polarity, pair, answer)
            for answer in answers
            for pair in self._pairs(trait, answer)
            for polarity in POLARITIES
        ]
        return sorted(tasks, key=lambda task: (task[2].question, task[:2], len(task[2].response)))

    def _pairs(self, trait: Trait, answer: Answer) -> list[int]:
        """The pairs that judge an answer: those that follow its own pair, cyclically.

        The answer's own pair is left out. Its instruction often quotes words to use, so its ratio
        would show which instruction was given, not what the answer does.
        """
        count = len(trait.pairs)
        used = min(self._config.pairs, count - 1)
        return [(answer.pair + 1 + step) % count for step in range(used)]

    def _read(self, trait: Trait, tasks: Sequence[Task]) -> Iterator[tuple[Task, float]]:
        """Yield the mean log-probability per token of each task's answer, question by question."""
        if not tasks:
            return
        loaded = self._loaded

        # Prompts are rendered once each, although many answers follow the same one.
        personas = dict.fromkeys((side, pair, answer.question) for side, pair, answer in tasks)
        prompts = {}
        for side, pair, question in personas:
            messages = persona_messages(trait.persona(side, pair), question, loaded.persona_in)
            prompts[side, pair, question] = render(loaded.tokenizer, messages, loaded.chat).ids

        # In the same way, several personas read the same tokens of an answer.
        responses = {}
        for answer in dict.fromkeys(answer for _, _, answer in tasks):
            responses[answer] = tuple(encode_response(loaded.tokenizer, answer.response))

        texts = [
            Text(prompts[side, pair, answer.question], responses[answer])
            for side, pair, answer in tasks
        ]
        with memory_explained(loaded.device, _LESS_MEMORY):
            for index, log_probs in log_probabilities(loaded, texts, self._size):
                yield tasks[index], float(log_probs.mean())

    def _score(self, ratio: float) -> Score:
        exponent = self._config.sharpness * ratio
        exponent = max(-_LARGEST_EXPONENT, min(_LARGEST_EXPONENT, exponent))
        return Score(100 / (1 + math.exp(-exponent)), method="likelihood ratio")
