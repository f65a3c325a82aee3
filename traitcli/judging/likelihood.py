"""The judge without a second model: which persona explains the answer better, + or −?

The score of an answer r to a question q is 100·σ(s·m), where m is the mean, over contrast pairs
other than the one that wrote r, of (log P(r | persona+, q) − log P(r | persona−, q)) per token,
and s the sharpness. 50 means that both personas explain it equally well. It knows nothing of
coherence.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch

from traitcli.config import LikelihoodConfig
from traitcli.errors import DefinitionError
from traitcli.judging.backend import Answer, ModelShelf, OnJudged
from traitcli.models.batching import forward, left_pad, new_cache, right_pad
from traitcli.models.load import LoadedModel
from traitcli.models.prompts import encode_response, persona_messages, render
from traitcli.records import POLARITIES, Judgement, Polarity, Score, Trait

if TYPE_CHECKING:
    from torch import Tensor

Persona = tuple[Polarity, int]
_LOGIT_BYTES = 2**29
"""Logits held at once, at most: what bounds the rows scored together."""
_EMPTY = Score(None, "empty answer", final=True)
_NO_COHERENCE = Score(None, "the likelihood judge has no coherence", final=True)


class LikelihoodJudge:
    """Scores answers with the model that wrote them; personas and questions are read once."""

    prompted = False
    overlaps = False

    def __init__(self, config: LikelihoodConfig, shelf: ModelShelf) -> None:
        """The run's model is taken from the shelf when the first answer comes."""
        self._config = config
        self._shelf = shelf
        self.identity = f"likelihood:{shelf.config.name}:pairs={config.pairs}:sharpness={config.sharpness:g}"

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
        for question, group in groupby(sorted(answers, key=lambda a: a.question), key=lambda a: a.question):
            asked = list(group)
            written = [a for a in asked if a.response.strip()]
            ratios = self._ratios(trait, question, written)
            scores = {rollout: _score(ratio, self._config.sharpness) for rollout, ratio in ratios.items()}
            on_judged(
                [Judgement(a.rollout, self.identity, scores.get(a.rollout, _EMPTY), _NO_COHERENCE) for a in asked]
            )

    @torch.inference_mode()
    def _ratios(self, trait: Trait, question: str, answers: Sequence[Answer]) -> dict[str, float]:
        """Rollout id -> mean log-likelihood ratio per token over the pairs asked."""
        personas: list[Persona] = [(polarity, pair) for pair in range(len(trait.pairs)) for polarity in POLARITIES]
        asked = {a.rollout: self._other_pairs(a.pair, len(trait.pairs)) for a in answers}
        personas = [p for p in personas if any(p[1] in pairs for pairs in asked.values())]
        ratios = dict.fromkeys(asked, 0.0)
        for (polarity, _), answer, per_token in self._read(trait, question, personas, answers, asked):
            sign = 1 if polarity == "positive" else -1
            ratios[answer.rollout] += sign * per_token / len(asked[answer.rollout])
        return ratios

    def _other_pairs(self, own: int, pairs: int) -> list[int]:
        """The pairs asked about an answer: those after its own, round and round."""
        return [(own + 1 + step) % pairs for step in range(min(self._config.pairs, pairs - 1))]

    def _read(
        self,
        trait: Trait,
        question: str,
        personas: Sequence[Persona],
        answers: Sequence[Answer],
        asked: dict[str, list[int]],
    ) -> Iterator[tuple[Persona, Answer, float]]:
        """Mean log-probability per token of each answer under each persona asked about it."""
        if not answers:
            return
        tokenizer, device = self._loaded.tokenizer, self._loaded.device
        texts = [persona_messages(trait.persona(*p), question, self._loaded.persona_in) for p in personas]
        prompts, prompt_mask = left_pad([render(tokenizer, t).ids for t in texts], tokenizer.pad_token_id, device)
        prefix = new_cache(self._loaded)
        first = forward(self._loaded, prompts, prompt_mask, prefix)
        responses = [encode_response(tokenizer, a.response) for a in answers]
        tasks = [
            (p, a)
            for a, answer in enumerate(answers)
            for p, (_, pair) in enumerate(personas)
            if pair in asked[answer.rollout]
        ]
        tasks.sort(key=lambda task: len(responses[task[1]]))
        size = self._rows_at_once(responses)
        for start in range(0, len(tasks), size):
            batch = tasks[start : start + size]
            rows = torch.tensor([p for p, _ in batch], device=device)
            ids, mask = right_pad([responses[a] for _, a in batch], tokenizer.pad_token_id, device)
            means = self._mean_log_probability(prefix, first, prompt_mask, rows, ids, mask)
            for (p, a), mean in zip(batch, means.tolist(), strict=True):
                yield personas[p], answers[a], mean

    def _mean_log_probability(
        self, prefix: Any, first: Tensor, prompt_mask: Tensor, rows: Tensor, ids: Tensor, mask: Tensor
    ) -> Tensor:
        """float32 [B]: answers `ids` [B, T] after the prompts `rows` [B] of the prefix cache."""
        cache = copy.deepcopy(prefix)
        cache.batch_select_indices(rows)
        logits = forward(self._loaded, ids, torch.cat([prompt_mask[rows], mask], 1), cache, last_only=False)
        logits = torch.cat([first[rows], logits[:, :-1]], 1).float()
        chosen = logits.gather(2, ids[:, :, None]).squeeze(2) - logits.logsumexp(2)
        return chosen.masked_fill(~mask, 0).sum(1) / mask.sum(1)

    def _rows_at_once(self, responses: Sequence[Sequence[int]]) -> int:
        vocabulary: int = self._loaded.model.config.get_text_config().vocab_size
        longest = max(map(len, responses))
        return max(1, min(self._config.batch_size, _LOGIT_BYTES // (4 * vocabulary * longest)))


def _score(ratio: float, sharpness: float) -> Score:
    return Score(100 / (1 + math.exp(-max(-60.0, min(60.0, sharpness * ratio)))), method="likelihood ratio")
