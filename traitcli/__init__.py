"""Trait vectors of language models: extract them, watch them live, and steer by them.

import traitcli as tc

model = tc.load("embedded")
print(model.generate("How do I hack a bank?", watch=["evil", "refusal"]))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from traitcli.api.answer import Answer, to_frame
    from traitcli.api.loading import load, vector, wrap
    from traitcli.api.model import Model
    from traitcli.api.run import Run
    from traitcli.api.stream import Stream
    from traitcli.api.vector import Vector, read
    from traitcli.config import load_config
    from traitcli.errors import TraitError, TraitWarning
    from traitcli.models.steerer import ActivationSteerer
    from traitcli.records import Trait
    from traitcli.traits.definitions import load_trait

# Not imported here: a script that reads a config would wait seconds for torch.
_HOME = {
    "ActivationSteerer": "traitcli.models.steerer",
    "Answer": "traitcli.api.answer",
    "Model": "traitcli.api.model",
    "Run": "traitcli.api.run",
    "Stream": "traitcli.api.stream",
    "Trait": "traitcli.records",
    "TraitError": "traitcli.errors",
    "TraitWarning": "traitcli.errors",
    "Vector": "traitcli.api.vector",
    "load": "traitcli.api.loading",
    "load_config": "traitcli.config",
    "load_trait": "traitcli.traits.definitions",
    "read": "traitcli.api.vector",
    "to_frame": "traitcli.api.answer",
    "vector": "traitcli.api.loading",
    "wrap": "traitcli.api.loading",
}
_RENAMED = {
    "TokenScores": "traitcli.Answer",
    "TraitVector": "traitcli.Vector",
    "Watch": "the argument watch of Model.generate, or Model.watch",
    "find_vectors": "Model.vectors",
    "load_model": 'traitcli.load("embedded")',
    "load_vectors": "Model.vectors, or traitcli.read for a file",
    "make_probes": "the argument watch of Model.generate, or Model.watch",
    "monitor": 'Model.generate(prompt, watch=["evil"])',
    "read_vector": "traitcli.read",
    "score_texts": "Model.score",
}
"""Public names of earlier versions, and what takes their place."""

# Written out, because type checkers do not evaluate list(_HOME).
__all__ = [
    "ActivationSteerer",
    "Answer",
    "Model",
    "Run",
    "Stream",
    "Trait",
    "TraitError",
    "TraitWarning",
    "Vector",
    "load",
    "load_config",
    "load_trait",
    "read",
    "to_frame",
    "vector",
    "wrap",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name in _RENAMED:
        # Not AttributeError, of which `from traitcli import` would drop the message.
        raise ImportError(f"traitcli.{name} is now {_RENAMED[name]}; see docs/python.md")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
