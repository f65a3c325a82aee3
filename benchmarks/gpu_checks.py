"""Compares traitcli's states, means and tokens with those of transformers, on the same device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.gpu_models import (
    Ids,
    Sizes,
    answer,
    make_prompts,
    make_requests,
)
from benchmarks.gpu_parts import Parts
from traitcli.config import SamplingConfig
from traitcli.generation.decode import Generation, decode
from traitcli.models.loaded import LoadedModel
from traitcli.models.massive import is_massive
from traitcli.models.self_test import run_self_test
from traitcli.models.state_keeper import StateKeeper, on_cpu

if TYPE_CHECKING:
    from torch import Tensor

STATE_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Largest relative error of a state. Rounding stays below; wrong states are far above."""
TOKEN_TOLERANCE = {torch.float32: 0.01, torch.bfloat16: 0.2}
"""How far below the likeliest token a greedy one may be, in standard deviations of the logits."""
ALIKE_SHARE = 0.9
"""Share of answers that must agree in float32: rounding may turn a close choice in single ones."""


class StateRecorder(StateKeeper):
    """Keeps all states of every answer: `finished` maps requests to layer -> float32 [T, H]."""

    def __init__(
        self,
        layers: Iterable[int],
        slots: int = 0,
        finished: dict[int, dict[int, Tensor]] | None = None,
    ) -> None:
        super().__init__(layers, slots)
        self.finished = {} if finished is None else finished

    def open(self, slots: int) -> StateRecorder:
        return StateRecorder(self.layers, slots, self.finished)

    def finish(self, slots: Sequence[int], requests: Sequence[int]) -> None:
        for slot, request in zip(slots, requests, strict=True):
            kept = self._kept[slot]
            self.finished[request] = {layer: torch.cat(parts) for layer, parts in kept.items()}
            self._kept[slot] = {}

    def move(self, source_slot: int, slot: int) -> None:
        self._kept[slot], self._kept[source_slot] = self._kept[source_slot], {}


@torch.inference_mode()
def read_plainly(loaded: LoadedModel, ids: Ids) -> tuple[Tensor, Tensor]:
    """What transformers computes: states [L+1, T, H] in the model's dtype, and logits [T, V]."""
    output = loaded.model(
        torch.tensor([ids], device=loaded.device), output_hidden_states=True, use_cache=False
    )
    return torch.stack([states[0] for states in output.hidden_states]), output.logits[0]


def check_self_test(loaded: LoadedModel, sizes: Sizes, parts: Parts) -> None:
    """The comparison that every model passes when it is loaded, for all ways of reading."""
    test = run_self_test(loaded, thorough=True)
    limit = STATE_TOLERANCE[loaded.model.dtype]
    for check in test.checks:
        error = float("nan") if check.error is None else check.error
        parts.at_most(f"{check.path}, error of the states", error, limit)
        if check.problem:
            parts.found(f"{check.path}, problem", check.problem)


def check_states(loaded: LoadedModel, sizes: Sizes, parts: Parts) -> None:
    """Every state of every token of answers that take turns in few slots."""
    count, tokens = sizes.checked
    requests = make_requests(loaded, count)
    recorder = StateRecorder(range(loaded.layer_count))
    sampling = SamplingConfig(max_new_tokens=tokens)
    written: list[list[int]] = [[] for _ in requests]
    for step in decode(loaded, requests, sampling, max(1, count // 2), recorder):
        for index, token in step.written:
            written[index].append(token)

    errors = []
    for index, request in enumerate(requests):
        expected, _ = read_plainly(loaded, (*request.ids, *written[index]))
        for layer, states in recorder.finished[index].items():
            errors.append(relative_errors(states, on_cpu(expected[layer])))
    found, limit = torch.cat(errors), STATE_TOLERANCE[loaded.model.dtype]
    parts.found("states that were compared", len(found))
    # Rounding in half precision may add up in single tokens, but not in half of them.
    is_half = loaded.model.dtype.itemsize < 4
    parts.at_most("median relative error of a state", float(found.median()), limit)
    parts.at_most("largest relative error of a state", float(found.max()), 1 if is_half else limit)


def check_means(loaded: LoadedModel, sizes: Sizes, parts: Parts) -> None:
    """Mean activations of greedy answers, at every position, and whether their tokens are best."""
    count, tokens = sizes.checked
    prompts = make_prompts(loaded, count)
    sampling = SamplingConfig(temperature=0, max_new_tokens=tokens)
    answers = answer(loaded, make_requests(loaded, count), sampling, max(1, count // 2))

    errors: dict[str, float] = {}
    shortfall = 0.0
    for prompt, generation in zip(prompts, answers, strict=True):
        states, logits = read_plainly(loaded, (*prompt, *generation.ids))
        for position, expected in expected_means(loaded, states, len(prompt)).items():
            found = dict(generation.activations or {})[position]
            error = float(relative_errors(found, expected.cpu()).max())
            errors[position] = max(errors.get(position, 0.0), error)
        before = logits[len(prompt) - 1 : -1].float()
        shortfall = max(shortfall, token_shortfall(before, generation.ids))

    dtype = loaded.model.dtype
    for position, error in errors.items():
        parts.at_most(f"{position}, largest relative error", error, STATE_TOLERANCE[dtype])
    parts.at_most(
        "greedy tokens below the likeliest, at most",
        shortfall,
        TOKEN_TOLERANCE[dtype],
        "standard deviations",
    )
    theirs = [generate_greedily(loaded.model, prompt, tokens) for prompt in prompts]
    _compare_answers(loaded, parts, "greedy answers as of `generate`", answers, theirs)


def expected_means(loaded: LoadedModel, states: Tensor, prompt: int) -> dict[Any, Tensor]:
    """The published procedure, without massive tokens: position -> float32 [L+1, H]."""

    def means(first: int, end: int) -> Tensor:
        by_layer = []
        for layer, of_layer in enumerate(states[:, first:end].float()):
            ordinary = ~is_massive(loaded, layer, of_layer)
            by_layer.append(of_layer[ordinary if ordinary.any() else ~ordinary].mean(0))
        return torch.stack(by_layer)

    return {
        "response_avg": means(prompt, states.shape[1]),
        "prompt_avg": means(0, prompt),
        "prompt_last": states[:, prompt - 1].float(),
    }


def token_shortfall(logits: Tensor, tokens: Sequence[int]) -> float:
    """How far below the likeliest the least likely token is, in standard deviations of logits."""
    chosen = logits.gather(1, torch.tensor(tokens, device=logits.device)[:, None]).squeeze(1)
    return float(((logits.max(1).values - chosen) / logits.std(1)).max())


def generate_greedily(model: Any, prompt: Ids, tokens: int) -> Ids:
    """The answer of transformers."""
    ids = torch.tensor([prompt], device=model.device)
    written = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False
    )
    return tuple(written[0, len(prompt) :].tolist())


def check_batches(loaded: LoadedModel, sizes: Sizes, parts: Parts) -> None:
    """Whether sampled answers depend on the batch size, or differ when they are written again."""
    count, tokens = sizes.repeated
    requests = make_requests(loaded, count)
    sampling = SamplingConfig(max_new_tokens=tokens)
    first, *later = sizes.repeat_batches
    expected = [one.ids for one in answer(loaded, requests, sampling, first)]
    for size in later:
        answers = answer(loaded, requests, sampling, size)
        name = f"sampled answers at batch {size} as at batch {first}"
        _compare_answers(loaded, parts, name, answers, expected)

    again = answer(loaded, requests, sampling, later[-1])
    alike = sum(one.ids == other.ids for one, other in zip(answers, again, strict=True))
    parts.at_least(f"of {count} sampled answers, the same the second time", alike, count)
    # Sums over several tokens of a sequence may be added in another order.
    worst = 0.0
    for one, other in zip(answers, again, strict=True):
        for position, means in (one.activations or {}).items():
            others = (other.activations or {})[position]
            worst = max(worst, float(relative_errors(means, others).max()))
    parts.at_most("their means the second time, largest relative error", worst, 1e-3)


def _compare_answers(
    loaded: LoadedModel,
    parts: Parts,
    name: str,
    answers: Sequence[Generation],
    expected: Sequence[Ids],
) -> None:
    """Record how many answers are equal; in half precision, rounding may part any of them."""
    alike = sum(one.ids == other for one, other in zip(answers, expected, strict=True))
    measure = f"of {len(expected)} {name}"
    if loaded.model.dtype.itemsize < 4:
        parts.found(measure, alike)
    else:
        parts.at_least(measure, alike, ALIKE_SHARE * len(expected))


def relative_errors(found: Tensor, expected: Tensor) -> Tensor:
    """float32 [T]: distance of each state from the right one, relative to its length."""
    errors: Tensor = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
    return errors
