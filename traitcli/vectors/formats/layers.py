"""Between trait vectors and directions keyed by block, which is how other tools hold them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from traitcli.errors import VectorError
from traitcli.records import Position, TraitVector
from traitcli.vectors.files import MAX_HIDDEN, MAX_NUMBERS, MAX_ROWS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where directions come from that traitcli did not make, and what is known of them.

    source  how errors name it
    form    the format, in a word or two
    layer   the row to read, if it is told
    more    what else belongs in the provenance (JSON-able)
    """

    source: str
    form: str
    trait: str = "unknown"
    position: Position = "response_avg"
    model: str = "unknown"
    method: str = "unknown"
    layer: int | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    def refuse(self, cause: str, fix: str = "see docs/interop.md for what is read") -> NoReturn:
        """Raise VectorError."""
        raise VectorError(f"{self.source} is no trait vector", cause=cause, fix=fix)


def to_layer_directions(vector: TraitVector, position: Position) -> dict[int, Floats]:
    """Block -> float32 [H], blocks counted from 0: block k gives row k+1.

    This is what `repeng.ControlVector(model_type, directions)` takes, `steering_vectors.SteeringVector` once the
    arrays are tensors, and a plain hook on block k's output. Left out are row 0, which no block gives; row L, which
    has the final norm behind it and is not what the last block gives; and rows that hold no direction. Raises
    VectorError when the vector has no such position, or nothing is left.
    """
    directions = vector.directions.get(position)
    if directions is None:
        raise VectorError(
            f"the vector of {vector.trait} has no position {position}",
            cause=f"it has {', '.join(vector.directions)}",
            fix="choose one of them",
        )
    found = {
        row - 1: directions[row]
        for row in range(1, vector.layer_count - 1)
        if directions[row].any()
    }
    if not found:
        raise VectorError(
            f"the vector of {vector.trait} gives no block a direction",
            cause=f"rows 1 to {vector.layer_count - 2} are all zero",
            fix="take one that has more than the first and the last row",
        )
    return found


def from_layer_directions(
    directions: Mapping[int, Any],
    trait: str,
    rows: int | None = None,
    position: Position = "response_avg",
    model: str = "unknown",
) -> TraitVector:
    """A vector from block -> [H], blocks counted from 0: block k gives row k+1; what is not given is zero.

    `rows` is L+1 of the model; without it the highest block counts as the model's last. What a last block gives is
    taken before the final norm, unlike row L of a vector that traitcli made. Raises VectorError when the directions
    are not finite or do not fit each other.
    """
    origin = Origin("what is given", "layer directions", trait, position, model)
    return assemble({block + 1: np.asarray(row) for block, row in directions.items()}, rows, origin)


def assemble(given: Mapping[int, NDArray[Any]], rows: int | None, origin: Origin) -> TraitVector:
    """A vector from row -> float [H]; raises VectorError where that cannot be.

    `rows` is L+1; without it the highest row that is given is row L.
    """
    if not given:
        origin.refuse("it holds no direction")
    shapes = {direction.shape for direction in given.values()}
    if len(shapes) > 1 or len(next(iter(shapes))) != 1:
        told = " and ".join(str(list(shape)) for shape in sorted(shapes)[:3])
        origin.refuse(
            f"its directions are {told}", "all must be [H], H being the model's hidden size"
        )
    width, count = next(iter(shapes))[0], rows or max(max(given) + 1, 2)
    check_size(count, width, origin)
    outside = [row for row in given if not 0 <= row < count]
    if outside:
        origin.refuse(
            f"it gives row {outside[0]}, a model of {count} rows has rows 0 to {count - 1}",
            "blocks are counted from 0, block k gives row k+1; a negative number could be any block",
        )
    directions = np.zeros((count, width), np.float32)
    with np.errstate(over="ignore"):  # what float32 cannot hold is told below
        for row, direction in given.items():
            directions[row] = direction
    if not np.isfinite(directions).all():
        origin.refuse("it holds NaN, infinity or numbers that float32 cannot hold", "make it anew")
    held = np.flatnonzero(directions.any(1)).tolist()
    if not held:
        origin.refuse("all its directions are zero", "make it anew")
    return _vector(directions, held, origin)


def check_size(rows: int, width: int, origin: Origin) -> None:
    """Refuse what is no vector by its shape, before memory is taken for it."""
    if not 2 <= rows <= MAX_ROWS or not 1 <= width <= MAX_HIDDEN or rows * width > MAX_NUMBERS:
        limits = f"rows go from 2 to {MAX_ROWS:,}, hidden sizes to {MAX_HIDDEN:,}, both together to {MAX_NUMBERS:,}"
        origin.refuse(
            f"its shape would be [{rows}, {width}]; {limits}",
            "take a vector [L+1, H] of a language model",
        )


def middle_row(held: Sequence[int], rows: int) -> int:
    """The middle one of the rows that hold a direction and lie between 25 % and 75 % of depth, else of all."""
    blocks = rows - 1
    inside = [
        row for row in held if math.ceil(blocks * 0.25) <= row <= math.floor(blocks * 0.75)
    ] or list(held)
    return inside[len(inside) // 2]


def _vector(directions: Floats, held: list[int], origin: Origin) -> TraitVector:
    rows, width = directions.shape
    # float32 may not hold the squares
    norms = np.sqrt(np.einsum("rh,rh->r", directions, directions, dtype=np.float64)).round(3)
    told = origin.layer in held
    layer = origin.layer if origin.layer is not None and told else middle_row(held, rows)
    quality = {
        "rows": rows,
        "hidden_size": width,
        "rows_given": held,
        "layer": layer,
        "layer_choice": "told by the file" if told else "the middle row that is given",
        "position": origin.position,
        "magnitude": round(float(norms[held].mean()), 3),
        "magnitude_rows": norms.tolist(),
    }
    provenance = {"format": origin.form, **origin.more}
    return TraitVector(
        origin.trait,
        origin.model,
        origin.method,
        layer,
        {origin.position: directions},
        {},
        quality,
        provenance,
    )
