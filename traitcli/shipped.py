"""Finds the files that come with traitcli: traits, configs, vectors, the example record."""

from __future__ import annotations

from pathlib import Path

from traitcli.files import list_files

_PACKAGE = Path(__file__).parent


def find_shipped(kind: str) -> Path:
    """The folder `kind` inside the wheel, or at the top of a checkout."""
    # First: in an installed copy the folder above is site-packages, with folders of others.
    inside = _PACKAGE / "shipped" / kind
    return inside if inside.is_dir() else _PACKAGE.parent / kind


def list_shipped(kind: str, pattern: str) -> list[Path]:
    """The files of a shipped folder, sorted; empty when the folder is not there."""
    return list_files(find_shipped(kind), pattern)
