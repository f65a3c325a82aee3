"""A run folder: its manifest, its lock, and the stored records of every trait."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traitcli.config import Config, ExtractConfig, ModelConfig, flatten
from traitcli.errors import RunError, suggest
from traitcli.files import append_lines, list_files, lock, parse_json, read_lines, write_atomic
from traitcli.records import Context, Judgement, Position, Rollout, Score, Trait, Usage
from traitcli.runs.states import FOLDERS, StateBatch, read_states, stored_ids, write_states

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SHAPING = ("adjectives", "pairs", "questions", "evaluation_questions")
"""The parts of a definition that change rollouts. The judge prompt and provided scores do not."""
_SPEED_ONLY = {"model.device", "model.device_map", "extract.batch_size"}
"""Settings that change how fast rollouts are made, not which; a run may change them."""
_RESERVED_NAMES = {"..", "monitor"}
"""No run names: the parent folder, and the folder of monitoring records."""
_CHOOSE_RUN = "run traitcli extract first, or choose a run with --run"
_FORMER_FINISH_REASONS = {"given": "provided"}
_FORMER_METHODS = {"given": "provided", "walk": "digit tree"}
"""Former name -> name; `rollouts.jsonl` of older versions has the former one."""


@dataclass(frozen=True, slots=True)
class TraitFiles:
    """The stored records of one trait; one process writes them at a time.

    A rollout is done if its line is in rollouts.jsonl. Its activations are written before the
    line, so a kill in between costs work but leaves no rollout without activations. Its neutral
    reading is done if a file in neutral/ has it.
    """

    folder: Path

    @property
    def has_rollouts(self) -> bool:
        return (self.folder / "rollouts.jsonl").is_file()

    def rollouts(self) -> list[Rollout]:
        return [_read_rollout(line) for line in read_lines(self.folder / "rollouts.jsonl")]

    def add_rollouts(self, rollouts: Sequence[Rollout], states: StateBatch | None = None) -> None:
        """Store a batch; without `states`, those that rollouts have are stored already."""
        if states:
            self.add_states(states)
        append_lines(self.folder / "rollouts.jsonl", map(asdict, rollouts))

    def add_states(self, states: StateBatch) -> None:
        """Store states of rollouts; a neutral reading is complete then."""
        write_states(self.folder, states)

    def neutral_ids(self) -> set[str]:
        """The rollouts that have a neutral reading."""
        return stored_ids(self.folder, "neutral")

    def all_judgements(self) -> list[Judgement]:
        """Every judgement that was stored, also those that a later one replaces."""
        return [_read_judgement(line) for line in read_lines(self.folder / "judgements.jsonl")]

    def add_judgements(self, judgements: Iterable[Judgement]) -> None:
        append_lines(self.folder / "judgements.jsonl", map(asdict, judgements))

    def vectors(self) -> list[Path]:
        """The vector files that were built from this run, the last one last."""
        return [Path(line["path"]) for line in read_lines(self.folder / "vectors.jsonl")]

    def add_vector(self, path: Path, inputs: str) -> None:
        """Note that a vector was built; `inputs` is the digest of all that went into it."""
        append_lines(self.folder / "vectors.jsonl", [{"path": str(path), "inputs": inputs}])

    def activations(
        self, ids: Sequence[str], position: Position, context: Context = "persona"
    ) -> NDArray[np.float32]:
        """float32 [n, L+1, H] of the named rollouts, in their order.

        Neutral readings have the position response_avg only. Raises RunError if some rollouts have
        no activations.
        """
        import numpy as np

        result, missing = read_states(self.folder, ids, position, context)
        if result is None or missing:
            count = "1 rollout has" if missing == 1 else f"{missing} rollouts have"
            raise RunError(
                f"{count} no activations",
                cause=f"{self.folder}/rollouts.jsonl lists them; no file in {FOLDERS[context]}/ "
                "has them",
                fix="restore the files, or rename the run folder and rerun extract",
            )
        if broken := [index for index, one in enumerate(result) if not np.isfinite(one).all()]:
            raise RunError(
                f"activations in {self.folder} cannot be used",
                cause=f"{len(broken)} of {len(ids)} are NaN or infinite: {ids[broken[0]]}",
                fix="extract again with model.dtype float32 or bfloat16, under another --run name",
            )
        return result


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder; its manifest `run.json` has the settings that its rollouts were made with."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    def trait(self, name: str) -> TraitFiles:
        return TraitFiles(self.folder / name)

    def manifest(self) -> dict[str, Any]:
        """The content of run.json, {} without the file; raises RunError if it is damaged."""
        path = self.folder / "run.json"
        if not path.is_file():
            return {}
        try:
            manifest: dict[str, Any] = parse_json(path.read_text(encoding="utf-8"))
        except ValueError as error:
            fix = "restore the file, or rename the run folder and rerun extract"
            raise RunError(f"{path} is damaged", cause=str(error), fix=fix) from None
        return manifest

    def trait_names(self) -> list[str]:
        return sorted(self.manifest().get("traits", {}))


def find_run(config: Config, name: str | None) -> Run:
    """The run that a command works on; it need not exist. Raises RunError for an invalid name."""
    chosen = name or config.name
    # A name with a slash would put the run outside of the runs folder.
    is_file_name = bool(chosen) and chosen.isprintable() and Path(chosen).name == chosen
    if not is_file_name or chosen in _RESERVED_NAMES:
        reserved = ", ".join(sorted(_RESERVED_NAMES))
        raise RunError(
            f"{chosen!r} is not a valid run name",
            cause=f"a run is a folder in {config.paths.runs}/; reserved names: {reserved}",
            fix="use letters and digits",
        )
    return Run(config.paths.runs / chosen)


def start_run(run: Run, config: Config, traits: Sequence[Trait]) -> None:
    """Create or extend the run's manifest; raises RunError like `check_run`, before it writes."""
    manifest = check_run(run, config, traits)
    # A finished command that runs again must change no file.
    if manifest != run.manifest():
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        write_atomic(run.folder / "run.json", text)


def check_run(run: Run, config: Config, traits: Sequence[Trait]) -> dict[str, Any]:
    """The manifest that the run will have; raises RunError if its rollouts had other settings.

    Without rollouts the settings may change freely: an earlier command may have failed before it
    made one, for example because it did not find the model.
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
    # A setting that was added to traitcli after the run was made had its default value then.
    stored = _settings(_default_config(config)) | manifest["settings"]

    differing = []
    for key in asked | stored:
        if stored.get(key) != asked.get(key):
            differing.append(f"{key}: {stored.get(key)!r} in the run, {asked.get(key)!r} now")

    for trait in traits:
        digest = digest_of(_shape(trait))
        changed = manifest["traits"].get(trait.name, digest) != digest
        # Without rollouts nothing was made from the old definition.
        if changed and run.trait(trait.name).has_rollouts:
            differing.append(f"trait {trait.name}: its definition has changed")
        manifest["traits"][trait.name] = digest

    if differing:
        raise RunError(
            f"{run.folder} contains a run with other settings",
            cause="\n".join(differing),
            fix="choose another run name (--run NAME), or change the settings back",
        )
    return manifest


@contextmanager
def lock_run(run: Run) -> Iterator[None]:
    """Hold the run's lock; raises RunError, which names the process, if another command holds it.

    The lock of a dead process of this machine is taken over.
    """
    path = run.folder / "lock"
    with lock(path) as owner:
        if owner is not None:
            raise RunError(
                f"another command is working on run {run.name}",
                cause=f"{owner} holds {path}",
                fix="wait for it, or choose another run name (--run NAME); "
                f"if that process is dead, delete {path}",
            )
        yield


def require_run(run: Run, fix: str = _CHOOSE_RUN) -> None:
    """Raise RunError if the run does not exist; a run with a similar name is the fix."""
    if not run.manifest():
        cause = f"{run.folder}/run.json does not exist"
        existing = [path.parent.name for path in list_files(run.folder.parent, "*/run.json")]
        if existing:
            cause += f"; runs: {', '.join(existing)}"
        fix = suggest(run.name, existing) or fix
        raise RunError(f"no run {run.name}", cause=cause, fix=fix)


def digest_of(tree: Any) -> str:
    """Sixteen hex digits of the SHA-256 of a JSON-able value."""
    text = json.dumps(tree, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _shape(trait: Trait) -> list[Any]:
    """The parts of a definition that rollouts depend on, as their digest is stored in run.json."""
    definition = asdict(trait)
    shape = [definition[part] for part in _SHAPING]
    # Without the file of a response, which may be moved. Added only if there are any, so that the
    # digests of other traits are those of versions without labelled responses.
    responses = trait.by_rollout().items()
    if responses:
        shape.append([(key.id, one.before, one.text, one.form) for key, one in responses])
    return shape


def _read_rollout(line: Mapping[str, Any]) -> Rollout:
    # The file stays as it is: it is append-only, so old names are translated when it is read.
    reason = line["finish_reason"]
    return Rollout(**{**line, "finish_reason": _FORMER_FINISH_REASONS.get(reason, reason)})


def _read_judgement(line: Mapping[str, Any]) -> Judgement:
    return Judgement(
        line["rollout"],
        line["judge"],
        _read_score(line["score"]),
        _read_score(line["coherence"]),
        Usage(**line.get("usage", {})),
    )


def _read_score(line: Mapping[str, Any]) -> Score:
    method = line.get("method", "")
    return Score(**{**line, "method": _FORMER_METHODS.get(method, method)})


def _default_config(config: Config) -> Config:
    """The defaults of all settings that change rollouts."""
    return Config(model=ModelConfig(id=config.model.id), extract=ExtractConfig())


def _settings(config: Config) -> dict[str, Any]:
    """The settings that change rollouts."""
    sections = {
        "model": config.model.model_dump(mode="json"),
        "extract": config.extract.model_dump(mode="json"),
    }
    return {key: value for key, value in flatten(sections).items() if key not in _SPEED_ONLY}
