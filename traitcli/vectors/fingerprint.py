"""Binds what was measured on a direction to that direction."""

from __future__ import annotations

import hashlib

from traitcli.errors import VectorError
from traitcli.records import Position, TraitVector


def fingerprint(vector: TraitVector, position: Position, layer: int) -> str:
    """SHA-256 of a direction, its position and its layer.

    Raises VectorError when the vector does not have it.
    """
    direction = vector.directions.get(position)
    if direction is None or not 0 <= layer < len(direction):
        raise VectorError(
            f"the vector of {vector.trait} has no {position} at layer {layer}",
            cause=f"it has {', '.join(vector.directions)} at layers 0 to {vector.layer_count - 1}",
            fix="choose one of them",
        )
    digest = hashlib.sha256(f"{position} {layer} ".encode())
    # The same bytes on every machine.
    digest.update(direction[layer].astype("<f4").tobytes())
    return digest.hexdigest()
