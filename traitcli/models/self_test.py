"""Compares every way in which traitcli reads a model with one plain forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, cast

import torch

from traitcli.errors import ModelError
from traitcli.models.engine import Engine
from traitcli.models.finite import check_layers
from traitcli.models.float32 import can_compute_in_float32, computing_in_float32
from traitcli.models.hooks import tap
from traitcli.models.kv_store import KVStore
from traitcli.models.loaded import LoadedModel, PathCheck, SelfTest, first_problem
from traitcli.models.memory import ran_out_of_memory
from traitcli.models.padding import forward, left_pad, new_cache, right_pad, tap_masked
from traitcli.models.prefix_tree import Ids, find_shared_prefixes
from traitcli.models.state_keeper import StateKeeper, States, on_cpu

if TYPE_CHECKING:
    from torch import Tensor

_TEXT = "The old lighthouse keeper climbed the stairs every night, and he counted them aloud."
_SHARED = 8
"""Tokens that both texts begin with: the fewest that the prefix tree shares."""
_WAYS = {
    "whole": ((13, 10),),
    "after a cached prefix": ((10, 9), (3, 1)),
    "one token at a time": ((11, 9), (1, 1), (1, 0)),
}
"""For each way of reading, its passes: how many tokens of each text are read."""

_TOLERANCE = 2e-4
"""Of float32 states. Rounding gives 1.4e-5 at most, a soft cap that is missing 5e-4 to 1.3e-3."""
_HALF_TOLERANCE = 0.05
"""Of half precision. Rounding gives up to 0.014; wrong positions or texts are far above."""

_Passes = Sequence[Sequence[int]]
_Read = Callable[[LoadedModel, Sequence[Ids], _Passes], States]

_UNFIT = (
    TypeError,
    ValueError,
    RuntimeError,
    AttributeError,
    LookupError,
    AssertionError,
    ImportError,
)
"""Whatever an unknown model raises in a forward pass means that it does not fit."""


class _UnfitError(ValueError):
    """A reason not to read packed tokens that short texts cannot show."""


def run_self_test(loaded: LoadedModel, *, thorough: bool = False) -> SelfTest:
    """Read two short texts in every way, and compare hidden states and logits.

    The texts begin alike and differ in length. They are read whole, continued after a cached
    beginning, and one token at a time. So whatever a model has besides plain attention (position
    biases, recurrent layers) is found without a list of models.

    A model in half precision is compared twice: as it is, and in float32, where small faults do not
    hide behind rounding. If it cannot compute in float32, only as it is.

    Args:
        loaded: the model.
        thorough: whether to compare padded texts when packed ones agree already; they are then
            used nowhere. If neither agree, each text is read alone.

    Raises ModelError if the plain pass itself fails, or if its values are not finite.
    """
    texts = _texts(loaded)
    with torch.inference_mode():
        expected, hooked = _plain(loaded, texts)
        compare = _Comparison(loaded, texts, expected, _plain_float32(loaded, texts))
        hooks = compare.check("hooks", lambda: hooked)
        stores: list[KVStore] = []
        packed = compare.check_ways("packed", partial(_read_packed, stores=stores))
        packs = not first_problem(packed)
        padded, alone = [], []
        if thorough or not packs:
            padded = compare.check_ways("padded", _read_padded)
        pads = not first_problem(padded)
        if not (packs or pads):
            alone = compare.check_ways("alone", _read_alone)

    problem = first_problem([hooks]) or first_problem(alone)
    groups = stores[-1].groups if packs else ()
    return SelfTest((hooks, *packed, *padded, *alone), packs, pads, problem, groups)


def _texts(loaded: LoadedModel) -> list[Ids]:
    """Two texts in the model's own tokens, with the same beginning and different lengths."""
    ids = list(loaded.tokenizer(_TEXT, add_special_tokens=False)["input_ids"]) or [0]
    [(first, second)] = _WAYS["whole"]
    while len(ids) <= first:
        ids += ids
    # The second text leaves a token out, so that they differ after what they share.
    return [tuple(ids[:first]), (*ids[:_SHARED], *ids[_SHARED + 1 : second + 1])]


def _plain(loaded: LoadedModel, texts: Sequence[Ids]) -> tuple[States, States]:
    """What transformers returns for each text alone, and what hooks see in the same pass."""
    expected: States = []
    hooked: States = []
    for text in texts:
        seen: dict[int, Tensor] = {}

        def keep(layer: int, hidden: Tensor, seen: dict[int, Tensor] = seen) -> None:
            seen[layer] = on_cpu(hidden[0])

        ids = torch.tensor([text], device=loaded.device)
        try:
            with tap(loaded.model, range(loaded.layer_count), keep):
                output = loaded.model(input_ids=ids, output_hidden_states=True, use_cache=False)
        except _UNFIT as error:
            if ran_out_of_memory(error):
                raise
            raise _refusal(loaded, f"a plain forward pass fails: {_sentence(error)}") from error

        states = output.hidden_states or ()
        _check_shapes(loaded, [state.shape for state in states], len(text))
        logits = {loaded.layer_count: on_cpu(output.logits[0, -1:])}
        expected.append({layer: on_cpu(state[0]) for layer, state in enumerate(states)} | logits)
        hooked.append(seen | logits)
    for of_text in expected:
        check_layers(loaded, of_text.items())
    return expected, hooked


def _plain_float32(loaded: LoadedModel, texts: Sequence[Ids]) -> States | None:
    """What a model in half precision returns in float32; None for others, or if it cannot."""
    if not _is_half(loaded) or not can_compute_in_float32(loaded.model):
        return None
    try:
        with computing_in_float32(loaded.model):
            return _plain(loaded, texts)[0]
    except ModelError:
        return None  # it casts its states itself


def _is_half(loaded: LoadedModel) -> bool:
    return bool(loaded.model.dtype.itemsize < 4)


def _check_shapes(loaded: LoadedModel, shapes: Sequence[Sequence[int]], tokens: int) -> None:
    if len(shapes) != loaded.layer_count:
        found = f"transformers returns {len(shapes)} hidden states"
        raise _refusal(loaded, f"{found}, and its config has {loaded.blocks} blocks")
    expected = (1, tokens, loaded.hidden_size)
    for layer, shape in enumerate(shapes):
        if tuple(shape) != expected:
            cause = f"layer {layer} has the shape {list(shape)}, not {list(expected)}"
            raise _refusal(loaded, cause)


def _refusal(loaded: LoadedModel, cause: str) -> ModelError:
    return ModelError(
        f"cannot read hidden states of {loaded.name}",
        cause=cause,
        fix="use another model, or another version of transformers",
    )


def _sentence(error: BaseException) -> str:
    first, *_ = str(error).strip().splitlines() or [""]
    return first if isinstance(error, _UnfitError) else f"{type(error).__name__}: {first}"


@dataclass(frozen=True, slots=True)
class _Comparison:
    """A plain pass over `texts`, with which the other ways are compared.

    exact  the same pass in float32, if the model is in half precision
    """

    loaded: LoadedModel
    texts: list[Ids]
    expected: States
    exact: States | None

    def check_ways(self, path: str, read: _Read) -> list[PathCheck]:
        found = []
        for way, passes in _WAYS.items():
            again = partial(read, self.loaded, self.texts, passes)
            check = self.check(f"{path}, {way}", again, passes[0])
            if self.exact is not None and not check.problem:
                with computing_in_float32(self.loaded.model):
                    check = replace(self, expected=self.exact).check(check.path, again, passes[0])
            found.append(check)
        return found

    def check(
        self, path: str, read: Callable[[], States], first_pass: Sequence[int] = _WAYS["whole"][0]
    ) -> PathCheck:
        try:
            found = read()
        except _UNFIT as error:
            if ran_out_of_memory(error):
                raise
            return PathCheck(path, None, None, _sentence(error))
        return self._compare(path, found, first_pass)

    def _compare(self, path: str, found: States, first_pass: Sequence[int]) -> PathCheck:
        # Inside `computing_in_float32` the logits are rounded all the same.
        in_float32 = self.expected is self.exact
        is_half = _is_half(self.loaded) and not in_float32
        worst, worst_layer = 0.0, 0
        for layer in range(self.loaded.layer_count + (not in_float32)):
            for errors in self._errors(layer, found, first_pass):
                # In half precision, rounding may send single tokens to other experts.
                error = float(errors.median() if is_half else errors.max())
                if not error <= worst:
                    worst, worst_layer = error, layer

        problem = ""
        if not worst < (_HALF_TOLERANCE if is_half else _TOLERANCE):
            at = "the logits"
            if worst_layer < self.loaded.layer_count:
                at = f"the states of layer {worst_layer}"
            problem = f"{at} differ from a plain pass by {_percent(worst)}"
        return PathCheck(path, worst, worst_layer, problem)

    def _errors(self, layer: int, found: States, first_pass: Sequence[int]) -> Iterator[Tensor]:
        """Relative errors of the tokens of the first pass, then of the later ones."""
        early, late = [], []
        for one, other, count in zip(found, self.expected, first_pass, strict=True):
            errors = _relative_errors(one[layer], other[layer])
            early.append(errors[:count])
            late.append(errors[count:])
        yield torch.cat(early)
        if any(map(len, late)):
            yield torch.cat(late)


def _percent(share: float) -> str:
    """`74%`, `0.3%`, `0.05%`."""
    if share < 0.001:
        return f"{share:.2%}"
    return f"{share:.1%}" if share < 0.01 else f"{share:.0%}"


def _relative_errors(found: Tensor, expected: Tensor) -> Tensor:
    """float32 [T], the distance of each token's state, relative to the length of the right one."""
    if found.shape != expected.shape:
        return torch.tensor([torch.inf])
    tiny = torch.finfo(torch.float32).tiny
    errors: Tensor = (found - expected).norm(dim=-1) / expected.norm(dim=-1).clamp(min=tiny)
    return errors


def _read_packed(
    loaded: LoadedModel, texts: Sequence[Ids], passes: _Passes, stores: list[KVStore]
) -> States:
    """The states of packed texts; `stores` gets their keys and values."""
    engine = Engine(loaded, StateKeeper(range(loaded.layer_count)))
    batch = engine.open(len(texts), max(map(len, texts)))
    stores.append(batch.store)
    first, *later = passes
    known = list(first)
    beginnings = [text[:count] for text, count in zip(texts, first, strict=True)]
    # One way of reading shows whether prefixes are shared correctly: they cost a pass.
    prefixes = dict(find_shared_prefixes(beginnings)) if len(later) == 1 else {}
    ends: dict[int, Tensor] = {}
    with engine.running():
        shared = [prefixes.get(slot) for slot in range(len(texts))]
        ends |= enumerate(engine.read_prompts(batch, range(len(texts)), beginnings, shared))
        for counts in later:
            read = [slot for slot, count in enumerate(counts) if count]
            new = [texts[slot][known[slot] : known[slot] + counts[slot]] for slot in read]
            logits = engine.read(batch, "response", read, [known[slot] for slot in read], new)
            ends |= zip(read, logits, strict=True)
            known = [before + count for before, count in zip(known, counts, strict=True)]

    _check_windows(loaded, batch.store)
    state = cast("StateKeeper", batch.state)
    return state.states_with(loaded.layer_count, ends)


def _check_windows(loaded: LoadedModel, store: KVStore) -> None:
    """Raise _UnfitError if packing might fail on longer texts than those of the test."""
    config = loaded.model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if unknown := kinds - {"full_attention", "sliding_attention"}:
        raise _UnfitError(f"it has layers of {' and '.join(sorted(unknown))}")
    if "sliding_attention" in kinds and store.windows <= {None}:
        raise _UnfitError("its attention does not pass on its sliding window")


def _read_padded(loaded: LoadedModel, texts: Sequence[Ids], passes: _Passes) -> States:
    pad, device = loaded.tokenizer.pad_token_id, loaded.device
    state, cache = StateKeeper(range(loaded.layer_count)).open(len(texts)), new_cache(loaded)
    slots, known = torch.arange(len(texts)), [0] * len(texts)
    mask = torch.zeros(len(texts), 0, dtype=torch.bool, device=device)
    ends: dict[int, Tensor] = {}
    with tap_masked(loaded, state) as begin:
        for number, counts in enumerate(passes):
            going = torch.tensor([counts[slot] > 0 for slot in slots.tolist()])
            if not going.all():
                slots, mask = slots[going], mask[going.to(device)]
                cache.reorder_cache(going.nonzero().squeeze(1).to(device))
            new = [texts[slot][known[slot] :][: counts[slot]] for slot in slots.tolist()]
            pad_new = right_pad if number else left_pad
            ids, new_mask = pad_new(new, pad, torch.device("cpu"))
            mask = torch.cat([mask, new_mask.to(device)], 1)
            begin(state, "response" if number else "prompt", slots.tolist(), new_mask)
            logits = forward(loaded, ids.to(device), mask, cache, last_only=number == 0)
            for row, slot in enumerate(slots.tolist()):
                ends[slot] = logits[row, counts[slot] - 1 if number else -1]
                known[slot] += counts[slot]
    return state.states_with(loaded.layer_count, ends)


def _read_alone(loaded: LoadedModel, texts: Sequence[Ids], passes: _Passes) -> States:
    states: States = []
    for number, text in enumerate(texts):
        own = [[counts[number]] for counts in passes if counts[number]]
        states += _read_padded(loaded, [text], own)
    return states
