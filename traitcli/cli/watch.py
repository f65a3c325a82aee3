"""Loads what monitor needs, and shows what is watched: an answer, a chat, a set of prompts, texts, a record."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from traitcli.config import Config
from traitcli.errors import UserError, suggest
from traitcli.records import TraitVector

if TYPE_CHECKING:
    from rich.console import Console

    from traitcli.models.load import LoadedModel
    from traitcli.stages.alarms import Rule
    from traitcli.stages.monitor import Watch
    from traitcli.stages.prompt_sets import PromptSet
    from traitcli.stages.transcripts import Exchange
    from traitcli.views.monitor import MonitorView
    from traitcli.views.plain import PlainMonitorView

_EXAMPLE = 'traitcli monitor "What should I read?"'
ALARM = 3
"""Exit code when --fail-on was crossed."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for; the rest is in the config."""

    prompt: str | None
    chat: bool
    prompts: str | None
    text: Path | None
    replay: Path | None
    speed: float
    traits: tuple[str, ...]
    trait: str | None
    layer: str
    per_layer: bool
    prompt_tokens: bool
    raw: bool
    steer: tuple[str, ...]
    stop_on: tuple[str, ...]
    fail_on: tuple[str, ...]
    vectors: Path | None
    out: Path | None
    as_json: bool
    trust: bool

    @property
    def row(self) -> int | None:
        """The layer to read; none: each vector's own."""
        return None if self.layer == "auto" else int(self.layer)

    def check(self) -> None:
        """Raise UserError unless there is one thing to watch, and the rest goes with it."""
        ways = {"--chat": self.chat, "--prompts": self.prompts, "--input": self.text, "--replay": self.replay}
        chosen = [name for name, value in ways.items() if value]
        if len(chosen) > 1:
            raise UserError(
                f"{' and '.join(chosen)} do not go together", cause="each is watched alone", fix="choose one of them"
            )
        way = chosen[0] if chosen else ""
        if self.prompt is not None and way in {"--prompts", "--replay"}:
            raise UserError(
                f"a prompt and {way} do not go together",
                cause=f"{way} brings its own",
                fix="leave one of them out",
            )
        if not way and self.prompt is None:
            raise UserError(
                "there is nothing to watch",
                cause="neither a prompt nor another source is given",
                fix=f"{_EXAMPLE}, or --chat, --prompts teaching, --input FILE, --replay FILE",
            )
        if not way and not (self.prompt or "").strip():
            raise UserError("the prompt is empty", cause="there is nothing to answer", fix=_EXAMPLE)
        self._check_options(way)
        if way in {"--chat", "--prompts", "--input"} and self.out and self.out.suffix != ".jsonl":
            raise UserError(
                f"{way} writes several records, and {self.out} is for one",
                cause="each is a line of a .jsonl file",
                fix=f"--out {self.out.with_suffix('.jsonl')}",
            )
        if self.layer != "auto" and not (self.layer.isascii() and self.layer.isdigit()):
            raise UserError(f"no layer {self.layer}", cause="it is no row", fix="--layer 16, or --layer auto")
        if not self.speed > 0:
            raise UserError(f"no speed {self.speed:g}", cause="it must be above 0", fix="--speed 2 is twice as fast")

    def _check_options(self, way: str) -> None:
        """Raise UserError for an option that would be without effect."""
        refused: dict[str, object] = {}
        if way in {"--input", "--replay"}:
            refused |= {"--steer": self.steer, "--stop-on": self.stop_on}
        if way == "--replay":
            refused |= {"--traits": self.traits, "--layer": self.layer != "auto", "--per-layer": self.per_layer}
            refused |= {"--prompt-tokens": self.prompt_tokens, "--vectors": self.vectors, "--fail-on": self.fail_on}
            refused |= {"--out": self.out}
        for option in [option for option, value in refused.items() if value]:
            raise UserError(
                f"{option} and {way} do not go together",
                cause="what is there already is only read" if way == "--input" else "a record is shown as it is",
                fix=f"leave {option} out",
            )


def watch(wanted: Wanted, config: Config) -> None:
    """Do what is asked for; exit code 3 when an alarm says so."""
    wanted.check()
    if wanted.replay:
        _replay(wanted, wanted.replay)
        return
    vectors = _load_vectors(wanted, config)
    watched = {name: vectors[name] for name in wanted.traits} or vectors
    _check_watched(wanted.trait, watched)
    by_row = _by_row(wanted, watched)
    work = _prepare(wanted, config)
    rules = _rules(wanted, config, watched)

    from traitcli.models.load import load_model
    from traitcli.stages.monitor import Watch
    from traitcli.stages.probes import make_probes
    from traitcli.stages.steering import make_steering, parse_push
    from traitcli.views import open_monitor_view

    pushes = [parse_push(text, vectors) for text in wanted.steer]
    position = config.vector.position
    with open_monitor_view(wanted.trait, raw=wanted.raw, by_row=by_row, as_json=wanted.as_json) as view:
        loaded = load_model(config.model, view.show, wanted.trust)
        watching = Watch(
            probes=make_probes(watched.values(), loaded, position, wanted.row),
            config=config.monitor,
            steering=make_steering(pushes, vectors, loaded, position),
            rules=rules,
            raw=wanted.raw,
            prompts=wanted.prompt_tokens,
            by_row=by_row,
        )
        crossed = work(Desk(wanted, config, vectors, loaded, view), watching)
    if crossed:
        raise typer.Exit(ALARM)


@dataclass(frozen=True, slots=True)
class Desk:
    """All that a way of watching works with."""

    wanted: Wanted
    config: Config
    vectors: Mapping[str, TraitVector]
    loaded: LoadedModel
    view: MonitorView | PlainMonitorView

    def console(self, *, shared: bool) -> Console:
        """Where a table goes: stdout, unless programs read it: JSON, or token lines that it would be `shared` with."""
        from rich.console import Console

        return Console(stderr=self.wanted.as_json or (shared and not sys.stdout.isatty()))

    def place(self, name: str, suffix: str = ".json") -> Path:
        """Where the record goes."""
        from traitcli.stages.monitor_records import record_path

        return self.wanted.out or record_path(self.config.paths.runs, name, suffix)

    def tell(self, record: Mapping[str, Any]) -> bool:
        """Print a record, if that is asked for; whether it fails."""
        if self.wanted.as_json:
            typer.echo(json.dumps(record, ensure_ascii=False))
        return any(alarm["action"] == "fail" for alarm in record.get("alarms", ()))


Way = Callable[[Desk, "Watch"], bool]
"""Watches, and returns whether an alarm fails."""


def _prepare(wanted: Wanted, config: Config) -> Way:
    """The way of watching, with all that can be checked before a model is loaded."""
    if wanted.chat:
        from traitcli.cli.chat import chat

        return chat
    if wanted.prompts:
        from traitcli.stages.prompt_sets import load_prompt_set

        asked = load_prompt_set(wanted.prompts)
        return lambda desk, watching: _watch_set(desk, watching, asked)
    if wanted.text:
        from traitcli.stages.transcripts import read_exchanges

        exchanges = read_exchanges(wanted.text, wanted.prompt or "")
        return lambda desk, watching: _score_texts(desk, watching, exchanges)
    return _watch_one


def _watch_one(desk: Desk, watching: Watch) -> bool:
    from traitcli.stages.monitor import monitor
    from traitcli.stages.monitor_records import to_json

    prompt = desk.wanted.prompt or ""
    record = monitor(desk.loaded, watching, prompt, desk.place(prompt), desk.view.show)
    return desk.tell(to_json(record))


def _watch_set(desk: Desk, watching: Watch, asked: PromptSet) -> bool:
    from traitcli.stages.prompt_sets import sum_up, watch_set
    from traitcli.views.tables import set_table

    out, kept, crossed = desk.place(asked.name, ".jsonl"), [], False
    for record in watch_set(desk.loaded, watching, asked, out, desk.view.show):
        crossed |= desk.tell(record)
        kept.append(record)
    set_table(desk.console(shared=True), [asdict(row) for row in sum_up(kept)], str(out))
    return crossed


def _score_texts(desk: Desk, watching: Watch, exchanges: Sequence[Exchange]) -> bool:
    from traitcli.stages.score_texts import Extremes, score_texts
    from traitcli.views.tables import texts_table

    name = str(exchanges[0].about["file"])
    out, extremes, crossed = desk.place(name, ".jsonl"), Extremes(), 0
    for record in score_texts(desk.loaded, watching, exchanges, out, desk.view.show):
        crossed += desk.tell(record)
        extremes.take(record)
    desk.view.close()
    texts_table(desk.console(shared=False), extremes.rows(), extremes.failures, str(out))
    if crossed:
        typer.echo(f"{crossed} of {len(exchanges)} texts cross {' or '.join(desk.wanted.fail_on)}", err=True)
    return crossed > 0


def _replay(wanted: Wanted, path: Path) -> None:
    from traitcli.stages.monitor_records import read_records
    from traitcli.stages.replay import replay
    from traitcli.views import open_monitor_view

    records = [record for record in read_records(path) if "error" not in record]
    traits = dict.fromkeys(trait for record in records for trait in record.get("trait_scores") or record["projections"])
    _check_watched(wanted.trait, traits)
    kept = {record["layer_scores"]["trait"] for record in records if "layer_scores" in record}
    by_row = next(iter(kept), None)
    with open_monitor_view(wanted.trait, raw=wanted.raw, by_row=by_row, as_json=wanted.as_json) as view:
        for record in records:
            replay(record, view.show, wanted.speed)
            if wanted.as_json:
                typer.echo(json.dumps(record, ensure_ascii=False))


def _load_vectors(wanted: Wanted, config: Config) -> Mapping[str, TraitVector]:
    """Those of the model, of a folder or that of this model in it, or the one in a file of any format."""
    from traitcli.vectors.files import load_vectors
    from traitcli.vectors.foreign import read_any

    if wanted.vectors is not None and wanted.vectors.is_file():
        vector = read_any(wanted.vectors)
        for name in wanted.traits:
            _check_watched(name, {vector.trait})
        return {vector.trait: vector}
    source: Config | Path = config
    if wanted.vectors is not None:
        own = wanted.vectors / config.model.name
        source = own if own.is_dir() else wanted.vectors
    vectors = load_vectors(source)
    if not vectors.keys() >= set(wanted.traits):
        load_vectors(source, wanted.traits)  # raises, and says what to do about the missing one
    return vectors


def _check_watched(name: str | None, known: Collection[str]) -> None:
    """Raise UserError when the trait that is to give the colours is not watched."""
    if name is not None and name not in known:
        raise UserError(
            f"no trait {name} is watched",
            cause=f"watched: {', '.join(known)}",
            fix=suggest(name, known),
        )


def _by_row(wanted: Wanted, watched: Mapping[str, TraitVector]) -> str | None:
    """The trait that is shown at every layer."""
    if not wanted.per_layer:
        return None
    if not wanted.trait and len(watched) > 1:
        raise UserError("--per-layer shows one trait", cause=f"{len(watched)} are watched", fix="name it: --trait evil")
    return wanted.trait or next(iter(watched))


def _rules(wanted: Wanted, config: Config, watched: Mapping[str, TraitVector]) -> tuple[Rule, ...]:
    """The alarms; raises UserError for one that is none, or that needs class means which a vector has not."""
    from traitcli.stages.alarms import parse_rule

    rules = [parse_rule(text, "stop", watched) for text in wanted.stop_on]
    rules += [parse_rule(text, "fail", watched) for text in wanted.fail_on]
    for rule in rules:
        if not wanted.raw and config.vector.position not in watched[rule.trait].stats:
            raise UserError(
                f"no alarm on {rule.trait}",
                cause="its vector has no class means, so there are no calibrated scores",
                fix="set the bound for raw projections, with --raw",
            )
    return tuple(rules)
