"""A run directory: what was asked for, what is done, and the records of every trait."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traitcli.config import Config, ExtractConfig, ModelConfig, flatten
from traitcli.errors import RunError
from traitcli.files import append_lines, lock, parse_json, read_lines, write_atomic
from traitcli.records import POSITIONS, Judgement, Position, Rollout, Score, Trait, Usage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SHAPING = ("adjectives", "pairs", "questions", "evaluation_questions")
"""The parts of a definition that rollouts are made of; the judge prompt is the judge's, and so are given scores."""
_FREE = {"model.device", "model.device_map", "extract.batch_size"}
"""Settings that change how fast rollouts are made, and not which."""
_TAKEN = {"..", "monitor"}
"""Names that would lead out of the runs, or to where monitor keeps its records."""


@dataclass(frozen=True, slots=True)
class TraitFiles:
    """What a run holds of one trait; one process writes it at a time.

    A rollout is done when its line is in rollouts.jsonl; its activations were on disk before.
    """

    folder: Path

    @property
    def has_rollouts(self) -> bool:
        return (self.folder / "rollouts.jsonl").is_file()

    def rollouts(self) -> list[Rollout]:
        return [Rollout(**line) for line in read_lines(self.folder / "rollouts.jsonl")]

    def add_rollouts(
        self, rollouts: Sequence[Rollout], activations: Mapping[str, Mapping[Position, Any]]
    ) -> None:
        """Store a batch: `activations` is rollout id -> position -> float32 [L+1, H]."""
        if activations:
            self._write_activations(activations)
        append_lines(self.folder / "rollouts.jsonl", map(asdict, rollouts))

    def all_judgements(self) -> list[Judgement]:
        """Every judgement that was stored, also those that a later one replaces."""
        return [_judgement(line) for line in read_lines(self.folder / "judgements.jsonl")]

    def add_judgements(self, judgements: Iterable[Judgement]) -> None:
        append_lines(self.folder / "judgements.jsonl", map(asdict, judgements))

    def vectors(self) -> list[Path]:
        """The vector files that were built from this run, the last one last."""
        return [Path(line["path"]) for line in read_lines(self.folder / "vectors.jsonl")]

    def add_vector(self, path: Path, inputs: str) -> None:
        """Note that a vector was built; `inputs` is the digest of all that went into it."""
        append_lines(self.folder / "vectors.jsonl", [{"path": str(path), "inputs": inputs}])

    def activations(self, ids: Sequence[str], position: Position) -> NDArray[np.float32]:
        """float32 [n, L+1, H] of the named rollouts, in their order."""
        import numpy as np
        from safetensors import safe_open

        wanted = {name: index for index, name in enumerate(ids)}
        result: NDArray[np.float32] | None = None
        found: set[str] = set()
        for path, held in self._activation_files():
            inside = [(row, wanted[name]) for row, name in enumerate(held) if name in wanted]
            if not inside:
                continue
            with safe_open(path, framework="numpy") as file:
                block = file.get_tensor(position)
            if result is None:
                result = np.zeros((len(ids), *block.shape[1:]), dtype=np.float32)
            rows, places = zip(*inside, strict=True)
            result[list(places)] = block[list(rows)]
            found.update(held)
        if result is None or set(ids) - found:
            raise RunError(
                f"{self.folder} lacks activations",
                cause=f"{len(set(ids) - found)} rollouts are in the ledger but not in activations/",
                fix="restore the files, or move the run aside and extract anew",
            )
        return result

    def _write_activations(self, activations: Mapping[str, Mapping[Position, Any]]) -> None:
        import numpy as np
        from safetensors.numpy import save

        ids = list(activations)
        tensors = {
            p: np.stack([np.asarray(activations[name][p]) for name in ids]) for p in POSITIONS
        }
        name = hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]
        write_atomic(
            self.folder / "activations" / f"{name}.safetensors",
            save(tensors, metadata={"ids": json.dumps(ids)}),
        )

    def _activation_files(self) -> Iterator[tuple[Path, list[str]]]:
        """Files with the ids they hold, oldest first, so that a redone batch wins."""
        from safetensors import safe_open

        for path in sorted(
            (self.folder / "activations").glob("*.safetensors"), key=lambda p: p.stat().st_mtime_ns
        ):
            with safe_open(path, framework="numpy") as file:
                yield path, parse_json(file.metadata()["ids"])


@dataclass(frozen=True, slots=True)
class Run:
    """A run directory; `run.json` says which settings its rollouts were made with."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    def trait(self, name: str) -> TraitFiles:
        return TraitFiles(self.folder / name)

    def manifest(self) -> dict[str, Any]:
        path = self.folder / "run.json"
        try:
            manifest: dict[str, Any] = (
                parse_json(path.read_text(encoding="utf-8")) if path.is_file() else {}
            )
        except ValueError as error:
            fix = "restore the file, or move the run aside and extract anew"
            raise RunError(f"{path} is damaged", cause=str(error), fix=fix) from None
        return manifest

    def trait_names(self) -> list[str]:
        return sorted(self.manifest().get("traits", {}))


def find_run(config: Config, name: str | None) -> Run:
    """The run that a command means; it need not exist yet."""
    chosen = name or config.name
    if not chosen or not chosen.isprintable() or Path(chosen).name != chosen or chosen in _TAKEN:
        raise RunError(
            f"{chosen!r} is no name for a run",
            cause=f"a run is a folder in {config.paths.runs}/, and not one of {', '.join(sorted(_TAKEN))}",
            fix="use letters and digits",
        )
    return Run(config.paths.runs / chosen)


def start_run(run: Run, config: Config, traits: Sequence[Trait]) -> None:
    """Create or extend the run's manifest; raises RunError like `check_run`, and writes nothing then."""
    manifest = check_run(run, config, traits)
    if manifest != run.manifest():
        write_atomic(
            run.folder / "run.json", json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        )


def check_run(run: Run, config: Config, traits: Sequence[Trait]) -> dict[str, Any]:
    """The manifest that the run will have; raises RunError saying what differs from the rollouts it holds.

    Settings that never made a rollout (a model that was not found) bind nobody.
    """
    asked = _settings(config)
    manifest: dict[str, Any] = {
        "format": 1,
        "model": config.model.name,
        "settings": asked,
        "traits": {},
    }
    if any(run.trait(name).has_rollouts for name in run.trait_names()):
        manifest = run.manifest()
    held = (
        _settings(_bare(config)) | manifest["settings"]
    )  # a setting that is younger than the run had its default
    differing = [
        f"{key}: {held.get(key)!r} there, {asked.get(key)!r} now"
        for key in asked | held
        if held.get(key) != asked.get(key)
    ]
    for trait in traits:
        digest = digest_of(_shape(trait))
        if (
            manifest["traits"].get(trait.name, digest) != digest
            and run.trait(trait.name).has_rollouts
        ):
            differing.append(f"trait {trait.name}: its definition has changed")
        manifest["traits"][trait.name] = digest
    if differing:
        raise RunError(
            f"{run.folder} holds a run made with other settings",
            cause="\n".join(differing),
            fix="give this one a name of its own (--run NAME), or change the settings back",
        )
    return manifest


@contextmanager
def hold_run(run: Run) -> Iterator[None]:
    """Be the only command that writes to a run; raises RunError, which names the other one.

    What a command that is gone has left behind is taken over, if it ran on this machine.
    """
    path = run.folder / "lock"
    with lock(path) as holder:
        if holder is not None:
            raise RunError(
                f"another command is at work on the run {run.name}",
                cause=f"{holder} holds {path}",
                fix=f"wait for it, or give this one a name of its own (--run NAME); if it is gone, delete {path}",
            )
        yield


def require_run(run: Run) -> None:
    """Raise RunError when the run has no rollouts to work on."""
    if not run.manifest():
        there = sorted(p.parent.name for p in run.folder.parent.glob("*/run.json"))
        raise RunError(
            f"no run {run.name}",
            cause=f"there is no {run.folder}/run.json"
            + (f"; runs: {', '.join(there)}" if there else ""),
            fix="run traitcli extract first, or name one with --run",
        )


def digest_of(tree: Any) -> str:
    """Sixteen hex digits that change with any part of a JSON-able value."""
    text = json.dumps(tree, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _shape(trait: Trait) -> list[Any]:
    """What of a definition a rollout depends on; that of a trait without ready responses names none."""
    told = asdict(trait)
    # not where a response stands: a file may be moved
    ready = [(key.id, one.before, one.text, one.form) for key, one in trait.by_rollout().items()]
    return [*(told[part] for part in _SHAPING), *([ready] if ready else [])]


def _judgement(line: Mapping[str, Any]) -> Judgement:
    return Judgement(
        line["rollout"],
        line["judge"],
        Score(**line["score"]),
        Score(**line["coherence"]),
        Usage(**line.get("usage", {})),
    )


def _bare(config: Config) -> Config:
    """The defaults of all that shapes a rollout."""
    return Config(model=ModelConfig(id=config.model.id), extract=ExtractConfig())


def _settings(config: Config) -> dict[str, Any]:
    shown = flatten(
        {
            "model": config.model.model_dump(mode="json"),
            "extract": config.extract.model_dump(mode="json"),
        }
    )
    return {key: value for key, value in shown.items() if key not in _FREE}
