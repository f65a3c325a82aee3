"""Loads what monitor needs, and shows what is watched: an answer, a chat, a set of prompts, texts, a record."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from traitcli.cli.session import ALARM, MonitorOptions, MonitorSession
from traitcli.config import Config
from traitcli.errors import UserError, suggest
from traitcli.records import TraitVector

if TYPE_CHECKING:
    from traitcli.monitoring.alarms import Rule
    from traitcli.monitoring.monitor import Watch
    from traitcli.monitoring.prompt_sets import PromptSet
    from traitcli.monitoring.transcripts import Exchange


def watch(wanted: MonitorOptions, config: Config) -> None:
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

    from traitcli.generation.projections import make_probes
    from traitcli.models.load import load_model
    from traitcli.monitoring.monitor import Watch
    from traitcli.steering.interventions import make_steering, parse_intervention
    from traitcli.views import open_monitor_view

    pushes = [parse_intervention(text, vectors) for text in wanted.steer]
    position = config.vector.position
    with open_monitor_view(
        wanted.trait, raw=wanted.raw, by_layer=by_row, as_json=wanted.as_json
    ) as view:
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
        crossed = work(MonitorSession(wanted, config, vectors, loaded, view), watching)
    if crossed:
        raise typer.Exit(ALARM)


MonitorMode = Callable[[MonitorSession, "Watch"], bool]
"""Watches, and returns whether an alarm fails."""


def _prepare(wanted: MonitorOptions, config: Config) -> MonitorMode:
    """The way of watching, with all that can be checked before a model is loaded."""
    if wanted.chat:
        from traitcli.cli.chat import chat

        return chat
    if wanted.prompts:
        from traitcli.monitoring.prompt_sets import load_prompt_set

        asked = load_prompt_set(wanted.prompts)
        return lambda desk, watching: _watch_set(desk, watching, asked)
    if wanted.text:
        from traitcli.monitoring.transcripts import read_exchanges

        exchanges = read_exchanges(wanted.text, wanted.prompt or "")
        return lambda desk, watching: _score_texts(desk, watching, exchanges)
    return _watch_one


def _watch_one(desk: MonitorSession, watching: Watch) -> bool:
    from traitcli.monitoring.monitor import monitor
    from traitcli.record_json import to_json

    prompt = desk.wanted.prompt or ""
    record = monitor(desk.loaded, watching, prompt, desk.place(prompt), desk.view.show)
    return desk.tell(to_json(record))


def _watch_set(desk: MonitorSession, watching: Watch, asked: PromptSet) -> bool:
    from traitcli.monitoring.prompt_sets import sum_up, watch_set
    from traitcli.views.tables.runs import set_table

    out, kept, crossed = desk.place(asked.name, ".jsonl"), [], False
    for record in watch_set(desk.loaded, watching, asked, out, desk.view.show):
        crossed |= desk.tell(record)
        kept.append(record)
    set_table(desk.console(shared=True), [asdict(row) for row in sum_up(kept)], str(out))
    return crossed


def _score_texts(desk: MonitorSession, watching: Watch, exchanges: Sequence[Exchange]) -> bool:
    from traitcli.monitoring.score_texts import ScoreExtremes, score_texts
    from traitcli.views.tables.runs import texts_table

    name = str(exchanges[0].about["file"])
    out, extremes, crossed = desk.place(name, ".jsonl"), ScoreExtremes(), 0
    for record in score_texts(desk.loaded, watching, exchanges, out, desk.view.show):
        crossed += desk.tell(record)
        extremes.take(record)
    desk.view.close()
    texts_table(desk.console(shared=False), extremes.rows(), extremes.failures, str(out))
    if crossed:
        typer.echo(
            f"{crossed} of {len(exchanges)} texts cross {' or '.join(desk.wanted.fail_on)}",
            err=True,
        )
    return crossed > 0


def _replay(wanted: MonitorOptions, path: Path) -> None:
    from traitcli.monitoring.record_files import read_records
    from traitcli.monitoring.replay import replay
    from traitcli.record_json import to_json
    from traitcli.records import TokenScores
    from traitcli.views import open_monitor_view

    records = [record for record in read_records(path) if isinstance(record, TokenScores)]
    traits = dict.fromkeys(trait for record in records for trait in record.raw)
    _check_watched(wanted.trait, traits)
    kept = {record.layer_scores.trait for record in records if record.layer_scores}
    by_row = next(iter(kept), None)
    with open_monitor_view(
        wanted.trait, raw=wanted.raw, by_layer=by_row, as_json=wanted.as_json
    ) as view:
        for record in records:
            replay(record, view.show, wanted.speed)
            if wanted.as_json:
                typer.echo(json.dumps(to_json(record, decimals=None), ensure_ascii=False))


def _load_vectors(wanted: MonitorOptions, config: Config) -> Mapping[str, TraitVector]:
    """Those of the model, of a folder or that of this model in it, or the one in a file of any format."""
    from traitcli.vectors.files import load_vectors
    from traitcli.vectors.formats.read_any import read_any

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
            fix=suggest(name, known) or "choose one of them",
        )


def _by_row(wanted: MonitorOptions, watched: Mapping[str, TraitVector]) -> str | None:
    """The trait that is shown at every layer."""
    if not wanted.per_layer:
        return None
    if not wanted.trait and len(watched) > 1:
        raise UserError(
            "--per-layer shows one trait",
            cause=f"{len(watched)} are watched",
            fix="name it: --trait evil",
        )
    return wanted.trait or next(iter(watched))


def _rules(
    wanted: MonitorOptions, config: Config, watched: Mapping[str, TraitVector]
) -> tuple[Rule, ...]:
    """The alarms; raises UserError for one that is none, or that needs class means which a vector has not."""
    from traitcli.monitoring.alarms import parse_rule

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
