"""The scanner for Inspect Scout: `trait_scores`, which Inspect finds as an extension.

Inspect imports this also where Scout is not installed, and that must not fail.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

if find_spec("inspect_scout"):
    from traitcli.inspect_scanner.scanner import trait_scores as trait_scores


def __getattr__(name: str) -> Any:
    if name == "trait_scores":
        raise ImportError("trait_scores needs Inspect Scout: pip install 'traitcli[scout]'")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
