"""Tells models apart: where one comes from, and a fingerprint of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from traitcli.models.loaded import LoadedModel
from traitcli.records import TraitVector

if TYPE_CHECKING:
    from torch import Tensor

_SAMPLES = 64
"""Numbers of each tensor that the fingerprint covers."""
_SMALLEST = 2.0**-13
"""Smaller numbers count as zero: they differ between bfloat16 and float16."""


def fingerprint_weights(model: Any) -> str:
    """Twelve hex digits from samples of every weight; empty if some are not in memory.

    Fine-tunes of one model differ in all blocks, so they have other fingerprints. The dtype and
    the device that the model was loaded with change nothing; quantized weights do.
    """
    import torch

    digest = hashlib.sha256()
    samples: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            return ""
        flat = parameter.detach().reshape(-1)
        step = max(1, len(flat) // _SAMPLES)
        digest.update(f"{name} {list(parameter.shape)}".encode())
        samples.append(flat[::step][:_SAMPLES].to("cpu", torch.bfloat16).float())
    if samples:
        numbers = torch.cat(samples)
        numbers[numbers.abs() < _SMALLEST] = 0
        digest.update(numbers.numpy().tobytes())
    return digest.hexdigest()[:12]


def identity_of(loaded: LoadedModel) -> dict[str, Any]:
    """What a vector's provenance says of the model that it was built from (JSON-able)."""
    return {
        "id": loaded.id,
        "revision": loaded.revision,
        "layers": loaded.layer_count,
        "hidden_size": loaded.hidden_size,
        "fingerprint": loaded.fingerprint,
    }


def differ(one: TraitVector, other: TraitVector) -> bool:
    """Whether two vectors are known to be of different models."""
    if (one.layer_count, one.hidden_size) != (other.layer_count, other.hidden_size):
        return True
    first, second = (each.provenance.get("model_identity") for each in (one, other))
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return _differs(first, second)
    # A file of another tool may not say of which model it is.
    return len({one.model, other.model} - {"unknown"}) > 1


def other_model_notes(vectors: Iterable[TraitVector], loaded: LoadedModel) -> list[str]:
    """One sentence for each other model that vectors were built from; it names both.

    Fine-tunes of one base share its directions, so such vectors may be used. A vector that does not
    say where it comes from has no note.
    """
    traits: dict[str, list[str]] = {}
    this = identity_of(loaded)
    for vector in vectors:
        built = vector.provenance.get("model_identity")
        if isinstance(built, Mapping) and _differs(built, this):
            traits.setdefault(_name(built), []).append(vector.trait)
    return [
        f"the vectors of {', '.join(names)} were built from {built}, not from {_name(this)}: "
        "their scores may not carry over"
        for built, names in traits.items()
    ]


def _differs(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    # Without both fingerprints only the names can tell.
    for key in ("fingerprint", "id"):
        if one.get(key) and other.get(key):
            return bool(one[key] != other[key])
    return False


def _name(identity: Mapping[str, Any]) -> str:
    fingerprint = identity.get("fingerprint")
    shown = f" (weights {fingerprint})" if fingerprint else ""
    return f"{identity.get('id')}{shown}"
