"""Trait vectors of language models: extract them, and watch them live while a model writes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from traitcli.config import load_config
    from traitcli.errors import TraitError
    from traitcli.models.load import load_model
    from traitcli.records import TokenScores, Trait, TraitVector
    from traitcli.stages.monitor import make_probes, monitor
    from traitcli.traits import load_trait
    from traitcli.vectors.files import find_vectors, read_vector

_HOME = {
    "TokenScores": "traitcli.records",
    "Trait": "traitcli.records",
    "TraitError": "traitcli.errors",
    "TraitVector": "traitcli.records",
    "find_vectors": "traitcli.vectors.files",
    "load_config": "traitcli.config",
    "load_model": "traitcli.models.load",
    "load_trait": "traitcli.traits",
    "make_probes": "traitcli.stages.monitor",
    "monitor": "traitcli.stages.monitor",
    "read_vector": "traitcli.vectors.files",
}

__all__ = [
    "TokenScores",
    "Trait",
    "TraitError",
    "TraitVector",
    "find_vectors",
    "load_config",
    "load_model",
    "load_trait",
    "make_probes",
    "monitor",
    "read_vector",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
