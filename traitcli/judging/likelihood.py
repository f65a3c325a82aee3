"""The judge without a second model: which persona explains the answer better, + or −?

The score of an answer r to a question q is 100·σ(s·m), where m is the mean, over contrast pairs
other than the one that wrote r, of (log P(r | persona+, q) − log P(r | persona−, q)) per token,
and s the sharpness. 50 means that both personas explain it equally well. It knows nothing of
coherence.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from traitcli.config import LikelihoodConfig
from traitcli.errors import DefinitionError
from traitcli.judging.backend import Answer, ModelProvider, OnJudged
from traitcli.models.loaded import LoadedModel
from traitcli.models.memory import memory_explained
from traitcli.models.prompts import encode_response, persona_messages, render
from traitcli.models.read_texts import Text, log_probabilities
from traitcli.records import POLARITIES, Judgement, Polarity, Score, Trait

Task = tuple[Polarity, int, Answer]
"""An answer to be read after the prompt of a persona: one side of a pair."""
_EMPTY = Score(None, "empty answer", final=True)
_NO_COHERENCE = Score(None, "the likelihood judge has no coherence", final=True)


class LikelihoodJudge:
    """Scores answers with the model that wrote them; personas and questions are read once."""

    prompted = False
    overlaps = False

    def __init__(self, config: LikelihoodConfig, shelf: ModelProvider) -> None:
        """The run's model is taken from the shelf when the first answer comes."""
        self._config = config
        self._shelf = shelf
        self.identity = (
            f"likelihood:{shelf.config.name}:pairs={config.pairs}:sharpness={config.sharpness:g}"
        )

    @property
    def _loaded(self) -> LoadedModel:
        return self._shelf.load(self._shelf.config)

    def check(self) -> None:
        pass

    def close(self) -> None:
        pass

    def score(self, trait: Trait, answers: Iterable[Answer], on_judged: OnJudged) -> None:
        """Judge the answers question by question; see `Judge.score`."""
        if len(trait.pairs) < 2:
            raise DefinitionError(
                f"the likelihood judge cannot judge {trait.name}",
                cause="it asks pairs other than the one that wrote an answer, and the trait has one pair",
                fix="add a pair to the definition, or use the openai judge",
            )
        asked = sorted(answers, key=lambda answer: answer.question)
        if empty := [answer for answer in asked if not answer.response.strip()]:
            on_judged([self._judgement(answer, _EMPTY) for answer in empty])
        tasks = self._tasks(trait, [answer for answer in asked if answer.response.strip()])
        left = Counter(answer.question for _, _, answer in tasks)
        ratios: dict[Answer, float] = {}
        for (polarity, _, answer), per_token in self._read(trait, tasks):
            sign = 1 if polarity == "positive" else -1
            ratios[answer] = ratios.get(answer, 0.0) + sign * per_token / len(
                self._pairs(trait, answer)
            )
            left[answer.question] -= 1
            if not left[answer.question]:
                on_judged([self._judgement(a, self._score(ratio)) for a, ratio in ratios.items()])
                ratios = {}

    def _tasks(self, trait: Trait, answers: Sequence[Answer]) -> list[Task]:
        """Question by question, since an answer has its score when all personas are through with its question."""
        tasks = [
            (side, pair, answer)
            for answer in answers
            for pair in self._pairs(trait, answer)
            for side in POLARITIES
        ]
        return sorted(tasks, key=lambda task: (task[2].question, task[:2], len(task[2].response)))

    def _pairs(self, trait: Trait, answer: Answer) -> list[int]:
        """The pairs asked about an answer: those after its own, round and round."""
        count = len(trait.pairs)
        return [
            (answer.pair + 1 + step) % count for step in range(min(self._config.pairs, count - 1))
        ]

    def _read(self, trait: Trait, tasks: Sequence[Task]) -> Iterator[tuple[Task, float]]:
        """Mean log-probability per token of each answer, in the order of the questions."""
        if not tasks:
            return
        loaded = self._loaded
        prompts = {
            (side, pair, question): render(
                loaded.tokenizer,
                persona_messages(trait.persona(side, pair), question, loaded.persona_in),
            ).ids
            for side, pair, question in dict.fromkeys(
                (side, pair, answer.question) for side, pair, answer in tasks
            )
        }
        responses = {
            answer: tuple(encode_response(loaded.tokenizer, answer.response))
            for _, _, answer in tasks
        }
        texts = [
            Text(prompts[side, pair, answer.question], responses[answer])
            for side, pair, answer in tasks
        ]
        with memory_explained(
            loaded.device, f"lower judge.likelihood.batch_size (it is {self._config.batch_size})"
        ):
            for index, found in log_probabilities(loaded, texts, self._config.batch_size):
                yield tasks[index], float(found.mean())

    def _score(self, ratio: float) -> Score:
        evidence = max(-60.0, min(60.0, self._config.sharpness * ratio))
        return Score(100 / (1 + math.exp(-evidence)), method="likelihood ratio")

    def _judgement(self, answer: Answer, score: Score) -> Judgement:
        return Judgement(answer.rollout, self.identity, score, _NO_COHERENCE)
