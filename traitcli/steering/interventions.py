"""Adds trait vectors to the residual stream while a model writes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from traitcli.errors import UserError, VectorError, suggest
from traitcli.generation.projections import check_fit
from traitcli.models.finite import check_layers
from traitcli.models.hooks import tap
from traitcli.models.loaded import LoadedModel
from traitcli.models.steerer import ActivationSteerer, relative_dose
from traitcli.records import Intervention, Position, TraitVector

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

LARGE_DOSE = 1.0
"""Answers usually become incoherent from about this dose on."""

_INTERVENTION = re.compile(
    r"(?P<trait>[^=@\s]+)=(?P<coefficient>[-+]?(?:\d+\.?\d*|\.\d+))(?:@(?P<layer>\d+))?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class PreparedIntervention:
    """An intervention with the vector that it adds: float32 [H]."""

    intervention: Intervention
    vector: Floats


def parse_intervention(text: str, vectors: Mapping[str, TraitVector]) -> Intervention:
    """Read `evil=4@14`, or `evil=4` for the vector's own layer.

    Raises UserError when the text has another form, or names a trait without a vector.
    """
    found = _INTERVENTION.fullmatch(text.strip())
    if not found:
        raise UserError(
            f"invalid --steer {text}",
            cause="expected TRAIT=COEFFICIENT[@LAYER]",
            fix="for example evil=-2 or evil=4@14",
        )
    trait = found["trait"]
    # Any trait with a vector can steer, also one that is not monitored.
    if trait not in vectors:
        raise UserError(
            f"cannot steer {trait}",
            cause=f"there are vectors of {', '.join(vectors)}",
            fix=suggest(trait, vectors) or "choose one of these",
        )
    layer = vectors[trait].layer if found["layer"] is None else int(found["layer"])
    return Intervention(trait, float(found["coefficient"]), layer)


def prepare_interventions(
    interventions: Iterable[Intervention],
    vectors: Mapping[str, TraitVector],
    loaded: LoadedModel,
    position: Position,
) -> tuple[PreparedIntervention, ...]:
    """Look up the vector of each intervention; raises VectorError when it cannot be added."""
    prepared = []
    for one in interventions:
        vector = vectors[one.trait]
        check_fit(vector, loaded, position)
        # Layer 0, the embeddings, is not the output of a block, so no hook can add to it.
        if not 1 <= one.layer <= loaded.blocks:
            raise VectorError(
                f"cannot steer {one.trait} at layer {one.layer}",
                cause=f"{loaded.name} can be steered at layers 1 to {loaded.blocks}, "
                "the outputs of its blocks",
                fix=f"leave @{one.layer} out to use the vector's own layer, {vector.layer}",
            )
        prepared.append(PreparedIntervention(one, vector.directions[position][one.layer]))
    return tuple(prepared)


@contextmanager
def steered(loaded: LoadedModel, prepared: Sequence[PreparedIntervention]) -> Iterator[None]:
    """Steer by all interventions at once, at the last prompt token and each generated one."""
    with ExitStack() as stack:
        for one in prepared:
            coefficient, layer = one.intervention.coefficient, one.intervention.layer
            # A layer k ≥ 1 is the output of block k − 1.
            steerer = ActivationSteerer(
                loaded.model, one.vector, coefficient, layer - 1, "response"
            )
            stack.enter_context(steerer)
        yield


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
    """Fill in each dose, relative to the median norm of the prompt's hidden states at its layer.

    `ids` are the token ids of the prompt.
    """
    # Without steering there is nothing to measure, and the pass over the prompt costs time.
    if not prepared:
        return ()
    norms = typical_norms(loaded, {one.intervention.layer for one in prepared}, [ids])
    measured = []
    for one in prepared:
        intervention = one.intervention
        norm = norms[intervention.layer]
        dose = relative_dose(intervention.coefficient, one.vector, norm)
        measured.append(replace(one, intervention=replace(intervention, dose=dose)))
    return tuple(measured)


def dose_notes(prepared: Sequence[PreparedIntervention], loaded: LoadedModel) -> Iterator[str]:
    """Warn of large doses, and of the layer after the final norm."""
    for one in prepared:
        trait, layer, dose = (
            one.intervention.trait,
            one.intervention.layer,
            one.intervention.dose,
        )
        if dose > LARGE_DOSE:
            yield (
                f"the dose of {trait} is {dose:.1f}: answers become incoherent above 1; "
                "0.3 to 0.5 is safe"
            )
        if layer == loaded.blocks:
            yield final_norm_note(layer)


def final_norm_note(layer: int) -> str:
    """The warning for steering at the last layer."""
    return (
        f"layer {layer} of a vector is measured after the final norm, "
        "but steering adds it before the norm"
    )
