"""Gathers what a report shows: monitoring records, trait vectors and runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from traitcli.config import Config
from traitcli.events import Listener
from traitcli.files import list_files
from traitcli.inspection.kept_results import read_known
from traitcli.inspection.run_rows import Row, run_row
from traitcli.inspection.vector_sets import run_vector_sets, vector_sets
from traitcli.judging.reasons import merge_reasons
from traitcli.monitoring.record_files import collect_records
from traitcli.pipeline.snapshot import TraitSnapshot, read_snapshots
from traitcli.records import Usage
from traitcli.report_records import Report
from traitcli.runs.command_log import read_commands
from traitcli.runs.run import Run, require_run
from traitcli.shipped import find_shipped
from traitcli.vectors.files import vector_folder


def gather_report(
    names: Sequence[str],
    config: Config,
    on_step: Callable[[str], None] = lambda step: None,
    on_event: Listener = lambda event: None,
) -> Report:
    """Gather the named runs and record files.

    Without names, gathers all records and runs; if there are no records or no vectors, the shipped
    ones.

    Args:
        names: Runs by name, records by file (.json or .jsonl) or by folder.
        config: Its paths are searched.
        on_step: Called with a description of each step before it begins.
        on_event: Receives warnings, such as a record that is left out.

    Raises RunError for an unknown run, and UserError for a file that is not a monitoring record.
    """
    files = [name for name in names if _has_records(name, config.paths.runs)]
    run_names = [name for name in names if name not in files]
    on_step("reading records")
    records = collect_records(config.paths.runs, files, on_event)

    sets: list[Row] = []
    runs: list[Row] = []
    for run in _find_runs(config.paths.runs, run_names):
        on_step(f"reading the run {run.name}")
        traits = read_snapshots(run, config)
        runs.append(_run_details(run, traits, config))
        sets += run_vector_sets(traits, config, f"run {run.name}", on_event)
    # A named run without a vector shows none: those of others would look like its own.
    if not sets and not run_names:
        paths = list_files(find_shipped("vectors") / config.model.name, "*.safetensors")
        # Results for a shipped vector are kept where your own vectors are.
        own = vector_folder(config)
        vectors = [read_known(path, own / path.name, on_event) for path in paths]
        sets = vector_sets(vectors, "shipped with traitcli")

    now = datetime.now().astimezone().isoformat(timespec="seconds")
    return Report(tuple(records), tuple(sets), tuple(_without_paths(runs)), now)


def _has_records(name: str, runs: Path) -> bool:
    """Whether a name is that of a record file or of a folder of records, and not of a run."""
    if name.endswith((".json", ".jsonl")):
        return True
    # A run comes first: its name may be that of a folder that lies here by chance.
    is_run = any((folder / "run.json").exists() for folder in (runs / name, Path(name)))
    return Path(name).is_dir() and not is_run


def _find_runs(runs: Path, names: Sequence[str]) -> list[Run]:
    if names:
        found = [Run(runs / name) for name in names]
    else:
        found = [Run(path.parent) for path in list_files(runs, "*/run.json")]
    for run in found:
        require_run(run, "name a run, a record file (.json or .jsonl), or a folder of records")
    return found


def _run_details(run: Run, traits: Sequence[TraitSnapshot], config: Config) -> Row:
    """A run's settings, its progress and cost trait by trait, and its commands."""
    manifest = run.manifest()
    commands = read_commands(run)
    settings = manifest.get("settings", {})
    # The manifest has the settings of the first command; a later one may use another judge.
    if commands:
        settings = {**settings, **commands[-1]["settings"]}
    usage = sum((trait.usage for trait in traits), Usage())
    return {
        "name": run.name,
        "model": manifest.get("model", ""),
        "settings": _without_unused_judges(settings),
        "traits": [_trait_details(trait, config, commands) for trait in traits],
        "usage": asdict(usage),
        "commands": commands,
    }


def _without_unused_judges(settings: Mapping[str, Any]) -> Row:
    """The settings without those of the judge backends that were not chosen."""
    backend = settings.get("judge.backend")
    unused = tuple(
        f"judge.{name}." for name in ("likelihood", "openai", "local") if name != backend
    )
    return {key: value for key, value in settings.items() if not key.startswith(unused)}


def _trait_details(trait: TraitSnapshot, config: Config, commands: Sequence[Row]) -> Row:
    """The trait's row of `inspect run`, with what its rollouts and judgements took."""
    row = run_row(config, trait, next(iter(trait.judges), ""))
    # A path says where things are on this computer, and a report is sent to others.
    has_vector = bool(row.pop("vector"))

    latest = trait.judged_by(row["judge"]).values()
    missing = [one.score.reason for one in latest if one.score.value is None]
    prompt_tokens = sum(rollout.prompt_tokens for rollout in trait.rollouts)
    response_tokens = sum(rollout.response_tokens for rollout in trait.rollouts)
    return {
        **row,
        "built": has_vector,
        "prompt_tokens": prompt_tokens,
        "response_tokens": response_tokens,
        "missing_reasons": merge_reasons(missing),
        "usage": asdict(trait.usage),
        "seconds": _stage_seconds(trait.name, commands),
    }


def _stage_seconds(trait: str, commands: Sequence[Row]) -> dict[str, float]:
    """Stage -> seconds that all commands together spent on the trait in it."""
    seconds: Counter[str] = Counter()
    for command in commands:
        for stage in command["took"]:
            if stage["trait"] == trait:
                seconds[stage["stage"]] += stage["seconds"]
    return {stage: round(value, 2) for stage, value in seconds.items()}


def _without_paths(value: Any) -> Any:
    """A JSON-able value without the working folder, the home folder and absolute paths."""
    if isinstance(value, Mapping):
        return {key: _without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(item) for item in value]
    if not isinstance(value, str):
        return value
    # Text with spaces is a message. One may begin with a slash, so it is not cut to its last part.
    if "\n" not in value and " " not in value and Path(value).is_absolute():
        return Path(value).name
    for folder, short in ((str(Path.cwd()), "."), (str(Path.home()), "~")):
        # In a container the working folder or the home may be "/", which is in every path.
        if len(folder) > 1:
            value = value.replace(folder, short)
    return value
