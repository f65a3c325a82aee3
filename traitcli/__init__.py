"""Trait vectors of language models: extract them, and watch them live while a model writes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from traitcli.config import load_config
    from traitcli.errors import TraitError
    from traitcli.models.load import load_model
    from traitcli.models.steering import ActivationSteerer
    from traitcli.records import TokenScores, Trait, TraitVector
    from traitcli.stages.monitor import Watch, monitor
    from traitcli.stages.probes import make_probes
    from traitcli.stages.score_texts import score_texts
    from traitcli.traits import load_trait
    from traitcli.vectors.files import find_vectors, load_vectors, read_vector

_HOME = {
    "ActivationSteerer": "traitcli.models.steering",
    "TokenScores": "traitcli.records",
    "Trait": "traitcli.records",
    "TraitError": "traitcli.errors",
    "TraitVector": "traitcli.records",
    "Watch": "traitcli.stages.monitor",
    "find_vectors": "traitcli.vectors.files",
    "load_config": "traitcli.config",
    "load_model": "traitcli.models.load",
    "load_trait": "traitcli.traits",
    "load_vectors": "traitcli.vectors.files",
    "make_probes": "traitcli.stages.probes",
    "monitor": "traitcli.stages.monitor",
    "read_vector": "traitcli.vectors.files",
    "score_texts": "traitcli.stages.score_texts",
}

__all__ = [
    "ActivationSteerer",
    "TokenScores",
    "Trait",
    "TraitError",
    "TraitVector",
    "Watch",
    "find_vectors",
    "load_config",
    "load_model",
    "load_trait",
    "load_vectors",
    "make_probes",
    "monitor",
    "read_vector",
    "score_texts",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
