"""The mode of monitor that scores existing texts: one file, or all logs in a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import typer

from traitcli.cli.session import MonitorOptions, MonitorSession
from traitcli.errors import TraitError

if TYPE_CHECKING:
    from pathlib import Path

    from traitcli.monitoring.log_shapes import Exchange
    from traitcli.monitoring.watch import Watch


def texts_mode(options: MonitorOptions, path: Path) -> Callable[[MonitorSession, Watch], bool]:
    """The mode that scores the texts of `path`, after what can be read early is read."""
    from traitcli.monitoring.log_folders import find_logs, read_logs
    from traitcli.monitoring.transcripts import read_transcript
    from traitcli.views.printable import one_line

    prompt, group_by = options.source.prompt or "", options.display.group_by or ""
    if path.is_dir():
        logs = find_logs(path, without=options.out)
        typer.echo(one_line(logs.description), err=True)
        # Each file is read when its turn comes: all of them may not fit into memory.
        return lambda session, watching: score_groups(
            session, watching, read_logs(logs, prompt, group_by)
        )
    transcript = read_transcript(path, prompt, group_by=group_by)
    # The kinds of parts that are not read come from the file.
    typer.echo(one_line(transcript.description), err=True)
    return lambda session, watching: score_groups(session, watching, [transcript.exchanges])


def score_groups(
    session: MonitorSession, watching: Watch, batches: Iterable[Sequence[Exchange]]
) -> bool:
    """Score the texts, and print what they show. Returns whether a --fail-on rule is met."""
    from traitcli.monitoring.score_extremes import ScoreExtremes
    from traitcli.monitoring.score_groups import ScoreGroups
    from traitcli.monitoring.score_tables import ScoreTable
    from traitcli.views.tables.base import path_line
    from traitcli.views.tables.runs import texts_table
    from traitcli.views.tables.score_groups import groups_table

    options = session.options
    source = options.source.text
    is_folder = source is not None and source.is_dir()
    path = session.record_path(source.name if source else "", ".jsonl")
    extremes = ScoreExtremes(with_file=is_folder)
    groups = ScoreGroups(options.display.group_by or "file")
    table = ScoreTable()
    total = failed = 0
    for exchanges in batches:
        for record in session.model.score_each(exchanges, watching, path):
            failed += session.print_record(record)
            extremes.add(record)
            groups.add(record)
            table.add(record)
            total += 1

    if options.writes_table and options.out is not None:
        table.write(options.out)
    # The live view would draw over the table.
    session.view.close()
    console = session.console(beside_tokens=False)
    if is_folder or options.display.group_by:
        groups_table(console, groups.key, groups.rows())
        console.line()
    texts_table(console, extremes.rows(), extremes.failures, str(path))
    if options.writes_table:
        path_line(console, "scores", str(options.out))
    check_scored(extremes.failures, total)
    if failed:
        rules = " or ".join(options.fail_on)
        typer.echo(f"{failed} of {total} texts meet {rules}", err=True)
    return failed > 0


def check_scored(failures: Sequence[str], total: int) -> None:
    """Raise TraitError when not a single text has scores; `failures` says why, for each text."""
    if len(failures) == total:
        raise TraitError(
            "no text could be scored",
            cause=f"{total} of {total} skipped; the first: {failures[0]}",
            fix="correct the texts",
        )
