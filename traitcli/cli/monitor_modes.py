"""The modes of monitor: one answer, a chat, a prompt set, existing texts, a stored record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from traitcli.api.alarm_rules import read_rules
from traitcli.api.vector_source import VectorSource, check_monitored
from traitcli.cli.output import print_json
from traitcli.cli.session import ALARM_EXIT_CODE, MonitorOptions, MonitorSession
from traitcli.config import Config
from traitcli.errors import UserError
from traitcli.output_paths import check_output_file, check_output_folder
from traitcli.records import TraitVector

if TYPE_CHECKING:
    from traitcli.monitoring.prompt_sets import PromptSet
    from traitcli.monitoring.watch import Watch


def monitor_source(options: MonitorOptions, config: Config) -> None:
    """Monitor what the options name; exit with code 3 when a --fail-on rule is met."""
    options.check()
    if options.source.replay:
        _replay(options, options.source.replay)
        return

    if options.out is not None:
        check_output_file(options.out)
    else:
        check_output_folder(config.paths.runs / "monitor", "--set paths.runs=FOLDER")
    # Loading a model takes seconds to minutes, so everything else is read and checked first.
    source = VectorSource(config, options.vectors, options.traits, options.layer)
    vectors = source.load()
    monitored = source.chosen(vectors)
    check_monitored(options.display.trait, monitored)
    by_layer = _trait_by_layer(options, monitored)
    run_mode = _choose_mode(options)
    rules = [
        *read_rules(options.stop_on, "stop", source, monitored, raw=options.display.raw),
        *read_rules(options.fail_on, "fail", source, monitored, raw=options.display.raw),
    ]

    from traitcli.api.model import Model
    from traitcli.steering.interventions import check_calibration
    from traitcli.steering.parse import parse_intervention
    from traitcli.views import open_monitor_view

    interventions = [parse_intervention(text, vectors) for text in options.steer]
    check_calibration(interventions, vectors, config.vector.position)
    display = options.display
    with open_monitor_view(
        display.trait, raw=display.raw, by_layer=by_layer, as_json=display.as_json
    ) as view:
        model = Model.open(config, view.show, options.trust)
        vectors = {name: model.fitted(vector) for name, vector in vectors.items()}
        watching = replace(
            model.watch(source.chosen(vectors).values(), options.layer),
            steering=model.prepare(interventions, vectors),
            rules=tuple(rules),
            raw=display.raw,
            prompts=display.prompt_tokens,
            by_layer=by_layer,
        )
        has_failed = run_mode(MonitorSession(options, vectors, model, view), watching)
    if has_failed:
        # After the view has released the terminal.
        raise typer.Exit(ALARM_EXIT_CODE)


MonitorMode = Callable[[MonitorSession, "Watch"], bool]
"""Monitors one kind of source. Returns whether a --fail-on rule is met."""


def _choose_mode(options: MonitorOptions) -> MonitorMode:
    """The mode for the source, after its files are read and checked."""
    source = options.source
    if source.chat:
        from traitcli.cli.chat import chat

        return chat
    if source.prompts:
        from traitcli.monitoring.prompt_sets import load_prompt_set

        prompt_set = load_prompt_set(source.prompts)
        return lambda session, watching: _monitor_set(session, watching, prompt_set)
    if source.text:
        from traitcli.cli.monitor_texts import texts_mode

        return texts_mode(options, source.text)
    return _monitor_prompt


def _monitor_prompt(session: MonitorSession, watching: Watch) -> bool:
    prompt = session.options.source.prompt or ""
    path = session.record_path(prompt)
    return session.print_record(session.model.generate(prompt, watching, path))


def _monitor_set(session: MonitorSession, watching: Watch, prompt_set: PromptSet) -> bool:
    from traitcli.monitoring.monitor_set import monitor_set, summarize_set
    from traitcli.views.tables.runs import set_table

    path = session.record_path(prompt_set.name, ".jsonl")
    records, has_failed = [], False
    for record in monitor_set(session.model.loaded, watching, prompt_set, path, session.view.show):
        has_failed |= session.print_record(record)
        records.append(record)

    rows = [asdict(row) for row in summarize_set(records)]
    set_table(session.console(beside_tokens=True), rows, str(path))
    return has_failed


def _replay(options: MonitorOptions, path: Path) -> None:
    from traitcli.monitoring.record_files import read_records
    from traitcli.monitoring.replay import replay
    from traitcli.record_json import to_json
    from traitcli.records import TokenScores
    from traitcli.views import open_monitor_view

    # A prompt of a set that failed is in the file too, as an error without scores.
    records = [record for record in read_records(path) if isinstance(record, TokenScores)]
    traits: dict[str, None] = {}
    for record in records:
        traits |= dict.fromkeys(record.raw)

    display = options.display
    check_monitored(display.trait, traits)
    shown = [record.layer_scores.trait for record in records if record.layer_scores]
    by_layer = shown[0] if shown else None
    with open_monitor_view(
        display.trait, raw=display.raw, by_layer=by_layer, as_json=display.as_json
    ) as view:
        for record in records:
            replay(record, view.show, options.source.speed)
            if display.as_json:
                # Not rounded again, so that the output equals the stored record.
                print_json(to_json(record, decimals=None))


def _trait_by_layer(options: MonitorOptions, monitored: Mapping[str, TraitVector]) -> str | None:
    """The trait that --per-layer shows at every layer; None without that option."""
    if not options.display.per_layer:
        return None
    if not options.display.trait and len(monitored) > 1:
        raise UserError(
            "--per-layer shows one trait",
            cause=f"{len(monitored)} traits are monitored",
            fix=f"name one, for example --trait {next(iter(monitored))}",
        )
    return options.display.trait or next(iter(monitored))
