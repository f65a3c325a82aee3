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


def other_model_notes(vectors: Iterable[TraitVector], loaded: LoadedModel) -> list[str]:
    """One sentence for each other model that vectors were built from; it names both.

    Fine-tunes of one base share its directions, so such vectors may be used. A vector that does not
    say where it comes from has no note.
    """
    traits: dict[str, list[str]] = {}
    for vector in vectors:
        built = vector.provenance.get("model_identity")
        if isinstance(built, Mapping) and _differs(built, loaded):
            traits.setdefault(_name(built), []).append(vector.trait)
    this = _name({"id": loaded.id, "fingerprint": loaded.fingerprint})
    return [
        f"the vectors of {', '.join(names)} were built from {built}, not from {this}: "
        "their scores may not carry over"
        for built, names in traits.items()
    ]


def _differs(built: Mapping[str, Any], loaded: LoadedModel) -> bool:
    fingerprint = built.get("fingerprint")
    if fingerprint and loaded.fingerprint:
        return bool(fingerprint != loaded.fingerprint)
    # Without both fingerprints only the names can tell.
    return bool(built.get("id") and loaded.id and built["id"] != loaded.id)


def _name(identity: Mapping[str, Any]) -> str:
    fingerprint = identity.get("fingerprint")
    shown = f" (weights {fingerprint})" if fingerprint else ""
    return f"{identity.get('id')}{shown}"
