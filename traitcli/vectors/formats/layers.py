"""Converts between trait vectors and directions by block, which other tools store."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from traitcli.errors import VectorError
from traitcli.records import POSITIONS, Position, TraitVector
from traitcli.vector_quality import VectorQuality
from traitcli.vectors.files import MAX_HIDDEN, MAX_LAYERS, MAX_NUMBERS
from traitcli.vectors.layer_choice import middle_layers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


_COUNT_UNKNOWN = "layer_count_unknown"
"""Key in the provenance of a vector whose file does not say how many layers its model has."""
_MIDDLE = "the middle one of the layers provided"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the directions of another tool come from, and what is known about them.

    source  how errors name it
    form    the format, in a word or two
    layer   the layer to read, if the file sets it
    more    what else belongs in the provenance (JSON-able)
    named_layer  the layer that the user names for a direction whose file does not say it
    """

    source: str
    form: str
    trait: str = "unknown"
    position: Position = "response_avg"
    model: str = "unknown"
    method: str = "unknown"
    layer: int | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    named_layer: int | None = None

    def refuse(self, cause: str, fix: str = "see docs/interop.md for what can be read") -> NoReturn:
        """Raise VectorError."""
        raise VectorError(f"{self.source} is not a trait vector", cause=cause, fix=fix)

    def with_about(self, about: Any) -> tuple[int | None, Origin]:
        """L+1, and the origin with what `about_vector` wrote, as far as it is valid.

        Values of a wrong type are ignored: the directions are readable without them.
        """
        if not isinstance(about, Mapping):
            return None, self
        texts = {
            key: about[key]
            for key in ("trait", "model", "method")
            if isinstance(about.get(key), str)
        }
        position: Position = next(
            (p for p in POSITIONS if p == about.get("position")), self.position
        )

        # files of earlier versions call the number of layers "rows"
        stored = {"layer_count": about.get("rows"), **about}
        numbers: dict[str, int | None] = {}
        for key in ("layer_count", "layer"):
            # not isinstance: true and false are instances of int
            numbers[key] = stored[key] if type(stored.get(key)) is int else None
        origin = replace(self, **texts, position=position, layer=numbers["layer"])
        return numbers["layer_count"], origin


def finite_number(value: Any) -> float | None:
    """A number of a file as a float; None for anything else, and for NaN and infinity."""
    try:
        number = float(value) if type(value) in {int, float} else math.nan
    except OverflowError:  # JSON holds whole numbers of any size
        return None
    return number if math.isfinite(number) else None


def about_vector(vector: TraitVector, position: Position) -> dict[str, str | int]:
    """What a file of another tool has no place for, and `Origin.with_about` reads back."""
    return {
        "trait": vector.trait,
        "model": vector.model,
        "method": vector.method,
        "position": position,
        "layer_count": vector.layer_count,
        "layer": vector.layer,
    }


def to_layer_directions(vector: TraitVector, position: Position) -> dict[int, Floats]:
    """Block -> float32 [H], blocks counted from 0: layer k+1 becomes block k.

    `repeng.ControlVector(model_type, directions)` takes the result as it is, and
    `steering_vectors.SteeringVector` once the arrays are tensors; a plain hook adds each array to
    the output of its block. Three kinds of layers are left out: layer 0, which no block computes;
    layer L, which is after the final norm and so is not the output of the last block; and layers
    that are all zero.

    Raises VectorError when the vector does not have the position, or when no layer is left.
    """
    directions = vector.directions.get(position)
    if directions is None:
        raise VectorError(
            f"the vector of {vector.trait} has no position {position}",
            cause=f"it has {', '.join(vector.directions)}",
            fix="choose one of them",
        )

    found = {
        layer - 1: directions[layer]
        for layer in range(1, vector.layer_count - 1)
        if directions[layer].any()
    }
    if not found:
        raise VectorError(
            f"the vector of {vector.trait} has no direction for any block",
            cause=f"layers 1 to {vector.layer_count - 2} are all zero",
            fix="use a vector that has more than the first and the last layer",
        )
    return found


def to_block_direction(vector: TraitVector, position: Position) -> tuple[int, Floats]:
    """The block that computes the vector's layer, counted from 0, and its direction float32 [H].

    For tools that steer every block that a file names: all layers at once would be a far larger
    dose than the one layer of `traitcli monitor --steer`.

    Raises VectorError when the vector does not have the position, or no block computes its layer.
    """
    directions = to_layer_directions(vector, position)
    block = vector.layer - 1
    if block not in directions:
        last = vector.layer_count - 1
        raise VectorError(
            f"the vector of {vector.trait} cannot steer one block",
            cause=f"its layer is {vector.layer}, which is not the output of a block with a "
            f"direction: layer 0 is the embeddings, layer {last} is after the final norm",
            fix=f"choose another layer: build-vector --set vector.layer=K, 1 to {last - 1}",
        )
    return block, directions[block]


def from_layer_directions(
    directions: Mapping[int, Any],
    trait: str,
    layer_count: int | None = None,
    position: Position = "response_avg",
    model: str = "unknown",
) -> TraitVector:
    """A vector from block -> [H], blocks counted from 0; block k becomes layer k+1.

    Other layers are zero.
    `layer_count` is L+1 of the model; without it the highest block counts as the model's last. The
    output of a last block is before the final norm, unlike layer L of a vector that traitcli
    built.

    Raises VectorError when the directions are not finite or have different sizes.
    """
    origin = Origin("the mapping", "layer directions", trait, position, model)
    by_layer = {block + 1: np.asarray(direction) for block, direction in directions.items()}
    return assemble(by_layer, layer_count, origin)


def assemble(
    by_layer: Mapping[int, NDArray[Any]], layer_count: int | None, origin: Origin
) -> TraitVector:
    """A vector from layer -> float [H]; other layers are zero. Refuses what cannot be a vector.

    `layer_count` is L+1; without it the highest layer provided is layer L.
    """
    if not by_layer:
        origin.refuse("it holds no direction")
    shapes = {direction.shape for direction in by_layer.values()}
    if len(shapes) > 1 or len(next(iter(shapes))) != 1:
        shown = " and ".join(str(list(shape)) for shape in sorted(shapes)[:3])
        origin.refuse(
            f"its directions are {shown}", "all must be [H], where H is the model's hidden size"
        )

    # at least two layers: a vector has the embeddings and the output of a block
    width, count = next(iter(shapes))[0], layer_count or max(max(by_layer) + 1, 2)
    check_size(count, width, origin)
    outside = [layer for layer in by_layer if not 0 <= layer < count]
    if outside:
        origin.refuse(
            f"it provides layer {outside[0]}, but layers go from 0 to {count - 1}",
            "count blocks from 0: block k becomes layer k+1; negative numbers are ambiguous",
        )

    directions = np.zeros((count, width), np.float32)
    with np.errstate(over="ignore"):  # an overflow becomes infinity, which is refused below
        for layer, direction in by_layer.items():
            directions[layer] = direction
    if not np.isfinite(directions).all():
        origin.refuse("it holds NaN, infinity or numbers that float32 cannot hold", "rebuild it")

    # a file may hold zeros for layers that it does not steer
    provided = np.flatnonzero(directions.any(1)).tolist()
    if not provided:
        origin.refuse("all its directions are zero", "rebuild it")
    if layer_count is None:
        origin = replace(origin, more={**origin.more, _COUNT_UNKNOWN: True})
    return _vector(directions, provided, origin)


def with_layers(vector: TraitVector, layer_count: int) -> TraitVector:
    """The vector for a model with L+1 layers, if its file does not say how many its model has.

    Layers that the file does not have are zero. Any other vector is returned as it is.
    """
    provided = vector.quality.layers_provided
    missing = layer_count - vector.layer_count
    if not provided or not vector.provenance.get(_COUNT_UNKNOWN) or missing < 1:
        return vector
    directions = {
        position: np.pad(direction, ((0, missing), (0, 0)))
        for position, direction in vector.directions.items()
    }
    layer, quality = vector.layer, vector.quality
    if quality.layer_choice == _MIDDLE:
        layer = middle_of(provided, layer_count)
    norms = (*(quality.magnitude_by_layer or ()), *[0.0] * missing)
    quality = replace(quality, layer_count=layer_count, layer=layer, magnitude_by_layer=norms)
    return replace(vector, directions=directions, layer=layer, quality=quality)


def check_size(layer_count: int, width: int, origin: Origin) -> None:
    """Refuse a shape that no vector has, before memory is allocated for it."""
    fits_layers, fits_width = 2 <= layer_count <= MAX_LAYERS, 1 <= width <= MAX_HIDDEN
    if not fits_layers or not fits_width or layer_count * width > MAX_NUMBERS:
        limits = (
            f"the limits are 2 to {MAX_LAYERS:,} layers, a hidden size of {MAX_HIDDEN:,}, "
            f"and {MAX_NUMBERS:,} numbers"
        )
        origin.refuse(
            f"its shape would be [{layer_count}, {width}]; {limits}",
            "use a vector [L+1, H] of a language model",
        )


def middle_of(provided: Sequence[int], layer_count: int) -> int:
    """The middle one of the provided layers within 25–75 % of depth; if none is there, of all."""
    middle = middle_layers(layer_count)
    inside = [layer for layer in provided if layer in middle] or list(provided)
    return inside[len(inside) // 2]


def _vector(directions: Floats, provided: list[int], origin: Origin) -> TraitVector:
    layer_count, width = directions.shape
    # float64: the squares of large float32 numbers overflow float32
    norms = np.sqrt(np.einsum("lh,lh->l", directions, directions, dtype=np.float64)).round(3)
    if origin.layer is not None and origin.layer in provided:
        layer, choice = origin.layer, "set by the file"
    else:
        layer, choice = middle_of(provided, layer_count), _MIDDLE

    quality = VectorQuality(
        layer_count=layer_count,
        hidden_size=width,
        layers_provided=tuple(provided),
        layer=layer,
        layer_choice=choice,
        position=origin.position,
        # the zeros of absent layers would make the vector look weaker than it is
        magnitude=round(float(norms[provided].mean()), 3),
        magnitude_by_layer=tuple(norms.tolist()),
    )

    return TraitVector(
        trait=origin.trait,
        model=origin.model,
        method=origin.method,
        layer=layer,
        directions={origin.position: directions},
        # class means need rollouts, and another tool's file has none
        stats={},
        quality=quality,
        provenance={"format": origin.form, **origin.more},
    )
