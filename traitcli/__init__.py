"""Trait vectors of language models: extract them, and watch them live while a model writes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from traitcli.config import load_config
    from traitcli.errors import TraitError
    from traitcli.generation.load import load_model
    from traitcli.generation.projections import make_probes
    from traitcli.models.steerer import ActivationSteerer
    from traitcli.monitoring.monitor import Watch, monitor
    from traitcli.monitoring.score_texts import score_texts
    from traitcli.records import TokenScores, Trait, TraitVector
    from traitcli.traits.definitions import load_trait
    from traitcli.vectors.files import find_vectors, load_vectors, read_vector

# Not imported here: a script that reads a config would wait seconds for torch.
_HOME = {
    "ActivationSteerer": "traitcli.models.steerer",
    "TokenScores": "traitcli.records",
    "Trait": "traitcli.records",
    "TraitError": "traitcli.errors",
    "TraitVector": "traitcli.records",
    "Watch": "traitcli.monitoring.monitor",
    "find_vectors": "traitcli.vectors.files",
    "load_config": "traitcli.config",
    "load_model": "traitcli.generation.load",
    "load_trait": "traitcli.traits.definitions",
    "load_vectors": "traitcli.vectors.files",
    "make_probes": "traitcli.generation.projections",
    "monitor": "traitcli.monitoring.monitor",
    "read_vector": "traitcli.vectors.files",
    "score_texts": "traitcli.monitoring.score_texts",
}

# Written out, because type checkers do not evaluate list(_HOME).
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
