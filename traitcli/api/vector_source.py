"""The vectors that a command monitors, and the folder that keeps what is measured on them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from traitcli.config import Config
from traitcli.errors import UserError, VectorError, suggest
from traitcli.records import TraitVector


@dataclass(frozen=True, slots=True)
class VectorSource:
    """Where vectors come from.

    path    of --vectors: a folder or one file; None takes the folder of the config's model
    traits  names that must be there; none for all
    layer   the layer to read for all traits; None takes each vector's own
    """

    config: Config
    path: Path | None
    traits: tuple[str, ...]
    layer: int | None

    def load(self) -> Mapping[str, TraitVector]:
        """The vectors of the config's model, of the --vectors folder, or of one --vectors file.

        A folder may hold vectors itself, or one folder for each model, as the config's folder does.
        Raises VectorError when there is none, or one of `traits` is missing.
        """
        from traitcli.vectors.files import load_vectors
        from traitcli.vectors.formats.read_any import read_any

        if self.path is not None and self.path.is_file():
            vector = read_any(self.path, layer=self.layer)
            for name in self.traits:
                check_monitored(name, {vector.trait})
            return {vector.trait: vector}

        if self.path is not None and not self.path.exists():
            raise VectorError(
                f"cannot read --vectors {self.path}",
                cause="no file or folder has this path",
                fix="check the path",
            )
        source = self.config if self.path is None else self.folder
        vectors = load_vectors(source)
        if not vectors.keys() >= set(self.traits):
            # Fails for the missing trait, with an error that says how to make its vector.
            load_vectors(source, self.traits)
        return vectors

    def chosen(self, vectors: Mapping[str, TraitVector]) -> Mapping[str, TraitVector]:
        """Those of `traits`, in that order; all without names."""
        return {name: vectors[name] for name in self.traits} or vectors

    @property
    def folder(self) -> Path:
        """The folder of the vectors. For shipped ones, it is where your own would be."""
        from traitcli.vectors.files import vector_folder

        if self.path is None:
            return vector_folder(self.config)
        if self.path.is_file():
            return self.path.parent
        of_model = self.path / self.config.model.name
        return of_model if of_model.is_dir() else self.path

    def layer_of(self, vector: TraitVector) -> int:
        """The layer that is read of a vector."""
        return vector.layer if self.layer is None else self.layer


def check_monitored(name: str | None, monitored: Collection[str]) -> None:
    """Raise UserError when a named trait is not monitored."""
    if name is not None and name not in monitored:
        raise UserError(
            f"the trait {name} is not monitored",
            cause=f"monitored: {', '.join(monitored)}",
            fix=suggest(name, monitored) or "choose one of these",
        )
