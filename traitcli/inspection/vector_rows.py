"""Collects what `inspect vectors` shows about trait vectors, and how alike they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from traitcli.config import Config
from traitcli.pipeline.snapshot import TraitSnapshot
from traitcli.records import Position, TraitVector
from traitcli.vectors.controls import cosine
from traitcli.vectors.files import find_vectors, read_all, vector_folder
from traitcli.vectors.formats.read_any import read_any
from traitcli.vectors.labelled import tests_of
from traitcli.vectors.verdict import nearest_trait, with_near_duplicates, with_verdict

Row = dict[str, Any]

_SUFFIXES = {".safetensors", ".pt", ".pth", ".bin", ".gguf", ".json", ".npz", ".pkl"}


def vector_rows(config: Config, names: Sequence[str] = ()) -> list[Row]:
    """One row for each vector. A name is a trait of the config's model, or the path of a file.

    Without names: all traits of the model. Raises VectorError for a trait without a vector, and
    for a file that is not a vector.
    """
    files = [Path(name) for name in names if _is_file(name)]
    traits = [name for name in names if not _is_file(name)]
    named = list(find_vectors(config, traits).values()) if traits or not files else []
    # Your results for a shipped vector are kept where your own vectors are.
    beside = {path: vector_folder(config) / path.name for path in named}
    for path in files:
        beside.setdefault(path, path)
    return _rows(beside)


def built_rows(snapshots: Sequence[TraitSnapshot]) -> list[Row]:
    """Rows of the current vectors of a run."""
    paths = [snapshot.last_vector for snapshot in snapshots]
    return _rows({path: path for path in paths if path and path.is_file()})


def _rows(beside: Mapping[Path, Path]) -> list[Row]:
    """A row for each vector. `beside` maps its path to the one that your results are kept beside.

    A path that is named twice is one vector: it must not be its own near-duplicate.
    """
    paths = list(beside)
    vectors = dict(zip(paths, read_all(paths, read_any), strict=True))
    return [_row(path, vector, vectors, beside[path]) for path, vector in vectors.items()]


def _is_file(name: str) -> bool:
    """Whether a name means a path. The name of a trait has no slash and no suffix of a format."""
    return "/" in name or Path(name).suffix in _SUFFIXES


def _row(
    path: Path,
    vector: TraitVector,
    all_vectors: Mapping[Path, TraitVector],
    beside: Path,
) -> Row:
    # The verdict follows from the measurements. It is worded again here, so that a file of an
    # earlier version gets the words that the other commands use.
    fitting, outdated = tests_of(vector, path, beside)
    quality = with_verdict(vector.quality, fitting)

    others = [other for other_path, other in all_vectors.items() if other_path != path]
    cosines = _cosines(vector, others)
    known = asdict(with_near_duplicates(quality, cosines))

    # the tensors decide these three, whatever the file says about itself
    shape = {
        "layer": vector.layer,
        "layer_count": vector.layer_count,
        "hidden_size": vector.hidden_size,
    }
    return {
        "trait": vector.trait,
        "model": vector.model,
        "path": str(path),
        "method": vector.method,
        **known,
        **shape,
        "labelled_tests": [asdict(test) for test in fitting],
        "outdated_tests": [test.name for test in outdated],
        "cosines": cosines,
        "nearest": nearest_trait(cosines),
    }


def _cosines(vector: TraitVector, others: Sequence[TraitVector]) -> dict[str, float]:
    """Trait -> cosine at the vector's layer, for other vectors of the same model and position."""
    position, shape = read_position(vector), _shape(vector)
    found = {}
    for other in others:
        is_comparable = _shape(other) == shape and position in other.directions
        if is_comparable and other.trait != vector.trait:
            one = vector.directions[position][vector.layer]
            two = other.directions[position][vector.layer]
            found[other.trait] = round(float(cosine(one, two)), 4)
    return found


def _shape(vector: TraitVector) -> tuple[str, int, int]:
    return vector.model, vector.layer_count, vector.hidden_size


def read_position(vector: TraitVector) -> Position:
    """The position that `quality` was measured at; otherwise the first one that the file holds."""
    measured = vector.quality.position
    return next(
        (position for position in vector.directions if position == measured),
        next(iter(vector.directions)),
    )
