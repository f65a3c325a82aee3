"""Prepares interventions for a model, and lets them act while it writes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from traitcli.errors import VectorError
from traitcli.generation.projections import Probe, check_fit
from traitcli.interventions import Ablate, Cap, Gate, Intervention, Push
from traitcli.models.block_edit import BlockEdit
from traitcli.models.brakes import ActivationAblator, ActivationCapper, GatedSteerer
from traitcli.models.finite import check_layers
from traitcli.models.hooks import tap
from traitcli.models.loaded import LoadedModel
from traitcli.models.score_gate import ScoreGate, ScoreScale
from traitcli.models.steerer import ActivationSteerer, relative_dose
from traitcli.records import Position, TraitVector

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

LARGE_DOSE = 1.0
"""Answers usually become incoherent from about this dose on."""


@dataclass(frozen=True, slots=True)
class PreparedIntervention:
    """An intervention with what it needs of the vectors.

    vector  float32 [H], what is added, or the direction that is removed or capped
    probe   reads the calibrated score that a cap bounds or a gate watches; also for an ablation, if
            its vector has class means
    """

    intervention: Intervention
    vector: Floats
    probe: Probe | None = None


def check_calibration(
    interventions: Iterable[Intervention], vectors: Mapping[str, TraitVector], position: Position
) -> None:
    """Raise VectorError for a cap or a gate whose vector gives no calibrated scores.

    Needs no model, so that nobody waits for one in vain.
    """
    for one in interventions:
        match one:
            case Cap():
                trait, layer = one.trait, one.layer
            case Gate():
                trait, layer = one.when.trait, vectors[one.when.trait].layer
            case _:
                continue
        problem = f"cannot steer by {one.text}"
        stats = vectors[trait].stats.get(position)
        if stats is None:
            raise VectorError(
                problem,
                cause=f"the vector of {trait} has no class means, so its scores cannot be "
                "calibrated",
                fix=f"build it from rollouts: traitcli extract {trait}; or push: {trait}=-1",
            )
        # A layer that does not exist is noticed with the model, which knows how many there are.
        means = stats.positive_mean, stats.negative_mean
        if layer < len(means[0]) and means[0][layer] == means[1][layer]:
            raise VectorError(
                problem,
                cause=f"both classes of {trait} have the same mean at layer {layer}",
                fix="choose another layer",
            )


def prepare_interventions(
    interventions: Iterable[Intervention],
    vectors: Mapping[str, TraitVector],
    loaded: LoadedModel,
    position: Position,
) -> tuple[PreparedIntervention, ...]:
    """Look up what each intervention needs of the vectors, in the order given.

    Raises VectorError when a vector does not fit the model, has no such layer, or has no class
    means for calibrated scores.
    """
    prepared = []
    chosen = list(interventions)
    check_calibration(chosen, vectors, position)
    for one in chosen:
        vector = vectors[one.trait]
        check_fit(vector, loaded, position)
        layer = vector.layer if one.layer is None else one.layer
        _check_layer(one, layer, vector, loaded)
        probe = None
        if isinstance(one, Cap) or (isinstance(one, Ablate) and position in vector.stats):
            probe = Probe(vector, position, layer)
        elif isinstance(one, Gate):
            watched = vectors[one.when.trait]
            check_fit(watched, loaded, position)
            probe = Probe(watched, position, watched.layer)
        prepared.append(PreparedIntervention(one, vector.directions[position][layer], probe))
    return tuple(prepared)


def _check_layer(one: Intervention, layer: int, vector: TraitVector, loaded: LoadedModel) -> None:
    # Layer 0, the embeddings, is not the output of a block, so no hook can change it.
    if not 1 <= layer <= loaded.blocks:
        raise VectorError(
            f"cannot steer {one.trait} at layer {layer}",
            cause=f"{loaded.name} can be steered at layers 1 to {loaded.blocks}, "
            "the outputs of its blocks",
            fix=f"leave @{layer} out to use the vector's own layer, {vector.layer}",
        )
    if layer == loaded.blocks and isinstance(one, Ablate | Cap):
        raise VectorError(
            f"cannot steer by {one.text}",
            cause=f"layer {layer} of a vector is measured after the final norm, and the output of "
            "the last block comes before it",
            fix=f"name a layer below it, for example @{layer - 1}",
        )


class Steering:
    """Interventions that act inside `with`, several at once.

    Pushes act at the last token of each prompt and at each generated token, gates at generated
    tokens. Ablations and caps act at all tokens of prompts and answers. At one layer, pushes and
    gates act first, then ablations, then caps; those of a kind in the order given.

    Args:
        loaded: The model.
        prepared: The interventions; without any, the model gets no hook.

    Raises:
        VectorError, UserError: As `ActivationSteerer`, when entered.

    Example:
        with Steering(loaded, prepared):
            generate(loaded, requests, ...)
    """

    def __init__(self, loaded: LoadedModel, prepared: Sequence[PreparedIntervention]) -> None:
        self._loaded = loaded
        self._prepared = prepared
        self._hooks = ExitStack()
        self._braking: list[ActivationCapper | GatedSteerer] = []
        self.brakes = brake_texts(prepared)

    def __enter__(self) -> Self:
        edits = block_edits(self._loaded, self._prepared)
        self._braking = [edit for edit in edits if isinstance(edit, _BRAKES)]
        with ExitStack() as hooks:
            # What is entered last acts first.
            for edit in sorted(edits, key=lambda edit: edit.turn)[::-1]:
                hooks.enter_context(edit)
            self._hooks = hooks.pop_all()
        return self

    def __exit__(self, *raised: object) -> None:
        self._hooks.close()

    @property
    def width(self) -> int:
        """The number of `brakes`."""
        return len(self.brakes)

    def held(self, tokens: int) -> list[torch.Tensor | None]:
        """For each of `brakes`, at which tokens of the last pass it held.

        Each is bool [tokens], on the device where it acted; none: it held nowhere. Meant for passes
        over generated tokens, one for each sequence.
        """
        return [
            edit.held if edit.held is not None and len(edit.held) == tokens else None
            for edit in self._braking
        ]


_BRAKES = (ActivationCapper, GatedSteerer)


def brake_texts(prepared: Sequence[PreparedIntervention]) -> tuple[str, ...]:
    """The caps and gates, which hold at some tokens only; as a user types them."""
    found = (one.intervention for one in prepared)
    return tuple(one.text for one in found if isinstance(one, Cap | Gate))


def steered(loaded: LoadedModel, prepared: Sequence[PreparedIntervention]) -> Steering:
    """Steer by all interventions at once inside `with`; see `Steering`."""
    return Steering(loaded, prepared)


def block_edits(
    loaded: LoadedModel, prepared: Sequence[PreparedIntervention]
) -> tuple[BlockEdit, ...]:
    """The edits that interventions are made of, in the order given; for one sequence alone.

    Raises VectorError and UserError as `ActivationSteerer`.
    """
    return tuple(edit for one in prepared for edit in _edits(loaded, one))


def _edits(loaded: LoadedModel, prepared: PreparedIntervention) -> list[BlockEdit]:
    """The hooks of one intervention. A layer k ≥ 1 is the output of block k − 1."""
    model, vector = loaded.model, prepared.vector
    match prepared.intervention:
        case Push(coefficient=coefficient, layer=layer):
            return [ActivationSteerer(model, vector, coefficient, layer - 1, "response")]
        case Ablate(layer=layer):
            blocks = range(loaded.blocks) if layer is None else [layer - 1]
            return [ActivationAblator(model, vector, block) for block in blocks]
        case Cap(score=score, at_most=at_most, layer=layer):
            scale = _scale(loaded, prepared)
            # Where the classes are the other way round, low projections have high scores.
            below = at_most == (scale.half > 0)
            bound = scale.projection_at(score)
            massive = scale.massive_above
            return [ActivationCapper(model, vector, layer - 1, bound, below, massive)]
        case Gate(coefficient=coefficient, layer=layer, when=when):
            gate = _gate(loaded, prepared, when.score, when.above)
            return [GatedSteerer(model, vector, coefficient, layer - 1, gate)]


def _gate(
    loaded: LoadedModel, prepared: PreparedIntervention, bound: float, above: bool
) -> ScoreGate:
    probe, scale = prepared.probe, _scale(loaded, prepared)
    assert probe  # noqa: S101 - prepared with every gate
    direction = probe.vector.directions[probe.position][probe.layer]
    return ScoreGate(loaded.model, direction, probe.layer, scale, bound, above)


def _scale(loaded: LoadedModel, prepared: PreparedIntervention) -> ScoreScale:
    probe = prepared.probe
    assert probe  # noqa: S101 - prepared with every cap and every gate
    stats, layer = probe.vector.stats[probe.position], probe.layer
    up, down = float(stats.positive_mean[layer]), float(stats.negative_mean[layer])
    massive = {"massive_above": loaded.massive_above[layer]} if loaded.massive_above else {}
    return ScoreScale((up + down) / 2, (up - down) / 2, **massive)


@torch.inference_mode()
def typical_norms(
    loaded: LoadedModel, layers: Collection[int], prompts: Iterable[Sequence[int]]
) -> dict[int, float]:
    """Measure how long hidden states usually are.

    Args:
        loaded: The model.
        layers: The layers to measure.
        prompts: Token ids of each prompt.

    Returns:
        Layer -> median norm of all hidden states of the prompts, in activation units. The median
        ignores the first token, whose state may be a hundred times as long as the others.
    """
    norms: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}

    def measure(layer: int, hidden: torch.Tensor) -> None:
        # To the CPU at once: the states of all prompts need not stay on the device.
        norms[layer].append(hidden[0].float().norm(dim=-1).cpu())

    # The logits are not used, and those of all positions of a long prompt need much memory.
    last_only = {"logits_to_keep": 1} if loaded.last_logits else {}
    with tap(loaded.model, layers, measure):
        for ids in prompts:
            batch = torch.tensor([list(ids)], device=loaded.device)
            loaded.model(input_ids=batch, use_cache=False, **last_only)
    found = {layer: torch.cat(parts) for layer, parts in norms.items()}
    check_layers(loaded, sorted(found.items()))
    return {layer: float(lengths.median()) for layer, lengths in found.items()}


def measure_doses(
    loaded: LoadedModel, prepared: Sequence[PreparedIntervention], ids: Sequence[int]
) -> tuple[PreparedIntervention, ...]:
    """Fill in the dose of each push and each gate.

    It is relative to the median norm of the prompt's hidden states at its layer. `ids` are the
    token ids of the prompt.
    """
    # Without a push there is nothing to measure, and the pass over the prompt costs time.
    pushes = [one.intervention for one in prepared if isinstance(one.intervention, Push | Gate)]
    if not pushes:
        return tuple(prepared)
    norms = typical_norms(loaded, {push.layer for push in pushes}, [ids])

    def measure(one: PreparedIntervention) -> PreparedIntervention:
        push = one.intervention
        if not isinstance(push, Push | Gate):
            return one
        dose = relative_dose(push.coefficient, one.vector, norms[push.layer])
        return replace(one, intervention=replace(push, dose=dose))

    return tuple(map(measure, prepared))


def dose_notes(prepared: Sequence[PreparedIntervention], loaded: LoadedModel) -> Iterator[str]:
    """Warn of large doses, of ablations that are none, and of the layer after the final norm."""
    for each in prepared:
        one = each.intervention
        if isinstance(one, Ablate):
            yield from _ablation_notes(one, each.probe)
        if not isinstance(one, Push | Gate):
            continue
        if one.dose > LARGE_DOSE:
            yield (
                f"the dose of {one.trait} is {one.dose:.1f}: answers become incoherent above 1; "
                "0.3 to 0.5 is safe"
            )
        if one.layer == loaded.blocks:
            yield final_norm_note(one.layer)


def _ablation_notes(one: Ablate, probe: Probe | None) -> Iterator[str]:
    """Say what score is left, where that of a projection of 0 is as far out as a class."""
    if probe is None:
        return
    left = float(probe.calibrate(np.zeros(1, np.float32))[0])
    if abs(left) > 1:
        yield (
            f"ablating {one.trait} gives all tokens a calibrated score of {left:+.1f} at layer "
            f"{probe.layer}, because both of its classes are on one side of 0; {one.trait}<=0 "
            "bounds the score itself"
        )


def final_norm_note(layer: int) -> str:
    """The warning for steering at the last layer."""
    return (
        f"layer {layer} of a vector is measured after the final norm, "
        "but steering adds it before the norm"
    )
