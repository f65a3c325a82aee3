"""A trait vector as Python users have it: with arithmetic, and saved in any format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from traitcli.errors import UserError, VectorError
from traitcli.models.identity import differ
from traitcli.records import ClassStats, Position, TraitVector
from traitcli.vector_quality import VectorQuality
from traitcli.vectors.formats.export import save_vector
from traitcli.vectors.formats.read_any import read_any
from traitcli.vectors.verdict import with_verdict

if TYPE_CHECKING:
    from traitcli.records import Floats


@dataclass(frozen=True, slots=True, eq=False)
class Vector(TraitVector):
    """A direction of a trait in a model's residual stream, at every layer 0 to L.

    Vectors of one model can be added, subtracted, and multiplied or divided by numbers. A multiple
    keeps its calibrated scores; a sum has raw scores only, because nobody measured its classes.

    Example:
        >>> evil = tc.vector("evil", model)
        >>> (0.5 * evil).at(layer=17).layer
        17
    """

    @classmethod
    def of(cls, vector: TraitVector) -> Vector:
        """The same vector as this class; it shares the arrays."""
        if isinstance(vector, Vector):
            return vector
        return cls(**{each.name: getattr(vector, each.name) for each in fields(TraitVector)})

    def at(self, layer: int) -> Self:
        """The same vector, read and added at another layer.

        Args:
            layer: 0 (embeddings) to L (after the final norm), as everywhere.

        Returns:
            A new vector. Its quality is that of the layer where it was measured.

        Raises:
            VectorError: The vector has no such layer.

        Example:
            >>> tc.vector("evil", model).at(layer=12).layer
            12
        """
        if layer not in range(self.layer_count):
            raise VectorError(
                f"the vector of {self.trait} has no layer {layer}",
                cause=f"it has layers 0 to {self.layer_count - 1}",
                fix="choose one of them",
            )
        return replace(self, layer=int(layer))

    def renamed(self, name: str) -> Self:
        """The same vector under another name, which scores and records then have.

        Args:
            name: The name of the trait; without spaces, = and @.

        Returns:
            A new vector.

        Raises:
            UserError: The name cannot be used on the command line and for files.

        Example:
            >>> tc.vector("evil", model).renamed("villain").trait
            'villain'
        """
        check_name(name)
        return replace(self, trait=name)

    def save(self, path: str | Path, position: Position | None = None) -> None:
        """Write the vector to a file; its ending chooses the format.

        `.safetensors` keeps everything, `.pt` is the tensor [L+1, H] of persona-vectors, `.gguf` a
        control vector for llama.cpp and repeng, `.json` the vector's layer for vllm-lens.

        Args:
            path: The file. Save it as `vectors/MODEL/TRAIT.safetensors`, and the command line
                finds it by name.
            position: Which directions the other formats get (default: those that were measured).

        Raises:
            VectorError: The ending is another one, or the format cannot hold the vector.
            StorageError: The file cannot be written.

        Example:
            >>> tc.vector("evil", model).save("evil.gguf")
            >>> tc.read("evil.gguf").trait
            'evil'
        """
        save_vector(Path(path), self, position or self._position)

    def __add__(self, other: TraitVector) -> Self:
        return self._combined(other, "+", np.add)

    def __sub__(self, other: TraitVector) -> Self:
        return self._combined(other, "-", np.subtract)

    def __neg__(self) -> Self:
        return -1.0 * self

    def __mul__(self, factor: float) -> Self:
        if not isinstance(factor, int | float | np.number):
            return NotImplemented
        if not np.isfinite(factor):
            raise UserError(
                f"cannot multiply a vector by {factor}", cause="it is not finite", fix="use another"
            )
        directions = {
            position: (direction * factor).astype(np.float32)
            for position, direction in self.directions.items()
        }
        stats = {each: _scaled(one, float(factor)) for each, one in self.stats.items() if factor}
        name = f"{float(factor):g}*{self.trait}"
        return replace(self, trait=name, directions=directions, stats=stats)

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Self:
        if not isinstance(divisor, int | float | np.number):
            return NotImplemented
        return self * (1 / divisor if divisor else float("inf"))

    def __eq__(self, other: object) -> bool:
        """Whether both have the same name, model, layer and numbers, as a copy has."""
        if not isinstance(other, Vector):
            return NotImplemented
        return self._key == other._key and all(
            np.array_equal(own, its) for own, its in zip(self._arrays, other._arrays, strict=True)
        )

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        verdict = self.quality.verdict or "no verdict"
        layers = f"layer {self.layer} of 0 to {self.layer_count - 1}"
        return f"<Vector {self.trait} of {self.model}: {verdict}, {layers}>"

    @property
    def _key(self) -> tuple[Any, ...]:
        return self.trait, self.model, self.layer, (*self.directions,), (*self.stats,)

    @property
    def _arrays(self) -> list[Any]:
        stats = [getattr(one, each.name) for one in self.stats.values() for each in fields(one)]
        return [*self.directions.values(), *stats]

    @property
    def _position(self) -> Position:
        measured = [each for each in self.directions if each == self.quality.position]
        return next(iter([*measured, *self.directions]))

    def _combined(
        self, other: TraitVector, sign: str, combine: Callable[[Floats, Floats], Any]
    ) -> Self:
        if not isinstance(other, TraitVector):
            return NotImplemented
        if differ(self, other):
            raise VectorError(
                f"{self.trait} and {other.trait} are vectors of different models",
                cause=f"one is of {self.model}, the other of {other.model}; directions of two "
                "models have nothing in common",
                fix="build both from one model",
            )
        positions = [each for each in self.directions if each in other.directions]
        if not positions:
            raise VectorError(
                f"{self.trait} and {other.trait} have no position in common",
                cause=f"{', '.join(self.directions)} and {', '.join(other.directions)}",
                fix="rebuild one of them",
            )
        directions = {
            each: combine(self.directions[each], other.directions[each]) for each in positions
        }
        quality = VectorQuality(
            layer_count=self.layer_count,
            hidden_size=self.hidden_size,
            layer=self.layer,
            layer_choice=f"that of {self.trait}",
            position=positions[0],
        )
        return replace(
            self,
            trait=f"{self.trait}{sign}{other.trait}",
            method="arithmetic",
            directions=directions,
            stats={},
            quality=with_verdict(quality),
            provenance={key: value for key, value in self.provenance.items() if key in _OF_MODEL},
        )


_OF_MODEL = ("model_identity", "versions")
"""What the provenance of a sum keeps: it comes from no run."""


def read(path: str | Path, layer: int | None = None) -> Vector:
    """Read a vector file of traitcli or of another tool; the content decides the format.

    Args:
        path: A `.safetensors`, `.pt`, `.gguf` or `.json` file; docs/interop.md lists what can be
            in it.
        layer: The layer of a file that holds one direction and does not say of which layer.

    Returns:
        The vector. Layers that the file does not have are zero.

    Raises:
        VectorError: The file is missing, damaged, or no vector.

    Example:
        >>> tc.vector("evil", model).save("evil.pt")
        >>> tc.read("evil.pt").layer_count
        31
    """
    return Vector.of(read_any(Path(path), layer=layer))


def check_name(name: str) -> None:
    """Raise UserError for a name that --steer, or a file, could not have."""
    is_text = isinstance(name, str) and name.isprintable()
    is_file_name = is_text and Path(name).name == name and name not in {"", ".", ".."}
    if not is_file_name or set(name) & set(" =@<>"):
        raise UserError(
            f"{name!r} cannot name a trait",
            cause="a name is also used in file names, and in steering as NAME=1@14",
            fix="use letters, digits, - and _",
        )


def _scaled(stats: ClassStats, factor: float) -> ClassStats:
    """The class statistics of a multiple. A negative one has the classes exchanged."""
    if factor > 0:
        return stats
    # Projections on −v are those on v, negated: the negative class is then the upper one.
    return ClassStats(
        -stats.negative_mean, -stats.positive_mean, stats.negative_spread, stats.positive_spread
    )
