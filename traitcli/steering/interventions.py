"""Pushes the residual stream along trait vectors while a model writes."""

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
from traitcli.models.hooks import tap
from traitcli.models.loaded import LoadedModel
from traitcli.models.steerer import ActivationSteerer, relative_dose
from traitcli.records import Intervention, Position, TraitVector

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

LARGE_DOSE = 1.0
"""From about here on answers fall apart."""

_PUSH = re.compile(
    r"(?P<trait>[^=@\s]+)=(?P<coefficient>[-+]?(?:\d+\.?\d*|\.\d+))(?:@(?P<layer>\d+))?", re.ASCII
)
_FORM = "write trait=coefficient or trait=coefficient@layer, such as evil=-2 or evil=4@14"


@dataclass(frozen=True, slots=True)
class Steering:
    """A push, and what is pushed by: `vector` float32 [H]."""

    push: Intervention
    vector: Floats


def parse_intervention(text: str, vectors: Mapping[str, TraitVector]) -> Intervention:
    """`evil=4@14` -> Intervention, at the vector's own layer unless told; raises UserError when it is none."""
    found = _PUSH.fullmatch(text.strip())
    if not found:
        raise UserError(f"cannot steer by {text}", cause="it has no form that is known", fix=_FORM)
    trait = found["trait"]
    if trait not in vectors:
        raise _unknown(trait, vectors)
    layer = vectors[trait].layer if found["layer"] is None else int(found["layer"])
    return Intervention(trait, float(found["coefficient"]), layer)


def make_steering(
    pushes: Iterable[Intervention],
    vectors: Mapping[str, TraitVector],
    loaded: LoadedModel,
    position: Position,
) -> tuple[Steering, ...]:
    """Take the direction of each push from its vector; raises VectorError when it does not fit the model."""
    made = []
    for push in pushes:
        vector = vectors[push.trait]
        check_fit(vector, loaded, position)
        if not 1 <= push.layer <= loaded.blocks:
            raise VectorError(
                f"cannot steer {push.trait} at layer {push.layer}",
                cause=f"outputs of blocks are steered, which are layers 1 to {loaded.blocks} of {loaded.name}",
                fix=f"leave @{push.layer} out for the vector's own layer, {vector.layer}",
            )
        made.append(Steering(push, vector.directions[position][push.layer]))
    return tuple(made)


@contextmanager
def steered(loaded: LoadedModel, steering: Sequence[Steering]) -> Iterator[None]:
    """All pushes at once, at the last prompt token and each generated one; they leave on exit."""
    with ExitStack() as stack:
        for one in steering:
            push = one.push
            stack.enter_context(
                ActivationSteerer(
                    loaded.model, one.vector, push.coefficient, push.layer - 1, "response"
                )
            )
        yield


@torch.inference_mode()
def typical_norms(
    loaded: LoadedModel, rows: Collection[int], prompts: Iterable[Sequence[int]]
) -> dict[int, float]:
    """Row -> median length of the hidden states of prompts, in activation units."""
    found: dict[int, list[torch.Tensor]] = {row: [] for row in rows}

    def measure(row: int, hidden: torch.Tensor) -> None:
        found[row].append(hidden[0].float().norm(dim=-1).cpu())

    few = {"logits_to_keep": 1} if loaded.last_logits else {}
    with tap(loaded.model, rows, measure):
        for ids in prompts:
            loaded.model(
                input_ids=torch.tensor([list(ids)], device=loaded.device), use_cache=False, **few
            )
    return {row: float(torch.cat(norms).median()) for row, norms in found.items()}


def measure_doses(
    loaded: LoadedModel, steering: Sequence[Steering], ids: Sequence[int]
) -> tuple[Steering, ...]:
    """The same with each push's dose: relative to the median norm of the prompt's states at its row."""
    if not steering:
        return ()
    norms = typical_norms(loaded, {one.push.layer for one in steering}, [ids])
    return tuple(
        replace(
            one,
            push=replace(push, dose=relative_dose(push.coefficient, one.vector, norms[push.layer])),
        )
        for one in steering
        for push in [one.push]
    )


def dose_notes(steering: Sequence[Steering], loaded: LoadedModel) -> Iterator[str]:
    """What to warn of: large doses, and the row after the final norm."""
    for push in (one.push for one in steering):
        if push.dose > LARGE_DOSE:
            yield (
                f"{push.trait} is pushed by {push.dose:.1f} times the usual length of a state: "
                "above 1 answers fall apart; 0.3 to 0.5 is safe"
            )
        if push.layer == loaded.blocks:
            yield f"layer {push.layer} of a vector is read after the final norm; what is pushed lies before it"


def _unknown(trait: str, vectors: Collection[str]) -> UserError:
    return UserError(
        f"cannot steer by {trait}",
        cause=f"there is no vector of it; there are: {', '.join(vectors)}",
        fix=suggest(trait, vectors) or "choose one of them",
    )
