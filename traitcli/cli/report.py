"""traitcli report"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from traitcli.cli.options import ConfigFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from traitcli.records import Report


class Form(StrEnum):
    """What a report is written as."""

    html = "html"
    json = "json"
    csv = "csv"
    png = "png"


def report(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN", help="Runs by name, records by file; all by default."),
    ] = None,
    form: Annotated[
        Form,
        typer.Option("--format", help="A page; the same figures as data; or pictures for papers."),
    ] = Form.html,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="The file, or for csv and png the folder; in runs/ by default."
        ),
    ] = None,
    trait: Annotated[
        str | None,
        typer.Option(
            metavar="TRAIT", help="For png: which trait colours the text; else the strongest."
        ),
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open the page in your browser.")] = False,
    config: ConfigFile = "default",
) -> None:
    """Put records, vectors and runs into one HTML file.

    Prints the path of every file that it writes on stdout.
    """
    from rich.console import Console
    from rich.text import Text

    from traitcli.config import load_config
    from traitcli.inspection.report_data import gather_report

    check_options(form, trait, open_it)
    settings = load_config(config)
    with Console(stderr=True).status("") as status:

        def tell(step: str) -> None:
            status.update(Text(f"{step} …"))

        gathered = gather_report(runs or [], settings, tell)
        check_trait(trait, gathered)
        folder = form in {Form.csv, Form.png}
        place = out or settings.paths.runs / ("report" if folder else f"report.{form.value}")
        written = write(form, place, gathered, trait, tell)
    for path in written:
        typer.echo(path)
    if open_it:
        show(written[0])


def write(
    form: Form, place: Path, report: Report, trait: str | None, tell: Callable[[str], None]
) -> list[Path]:
    """Write a report in one of its forms; returns the files."""
    tell("writing")
    match form:
        case Form.html:
            from traitcli.views.report.page import write_page

            write_page(place, report)
            return [place]
        case Form.json:
            from traitcli.views.report.figures import write_json

            write_json(place, report)
            return [place]
        case Form.csv:
            from traitcli.views.report.figures import write_csv

            return write_csv(place, report)
        case Form.png:
            from traitcli.views.report.pictures import write_pictures

            return write_pictures(place, report, trait, tell)


def check_options(form: Form, trait: str | None, open_it: bool) -> None:
    """Raise UserError for an option that would have no effect."""
    from traitcli.errors import UserError

    if open_it and form is not Form.html:
        raise UserError(
            "--open is for the page",
            cause=f"--format {form.value} makes none",
            fix="leave one of them out",
        )
    if trait is not None and form is not Form.png:
        fix = "leave it out, or add --format png"
        raise UserError(
            "--trait is for pictures", cause="in the page you choose traits yourself", fix=fix
        )


def check_trait(trait: str | None, report: Report) -> None:
    """Raise UserError when no record was watched for the trait asked for."""
    from traitcli.errors import UserError, suggest

    watched = sorted({name for record in report.records for name in record.scores.raw})
    if trait is not None and trait not in watched:
        cause = f"the records were watched for {', '.join(watched) or 'none'}"
        raise UserError(
            f"no record has scores of {trait}",
            cause=cause,
            fix=suggest(trait, watched) or "choose one of them",
        )


def show(path: Path) -> None:
    """Open a page in the user's browser; raises TraitError when there is none."""
    import webbrowser

    from traitcli.errors import TraitError

    if not webbrowser.open(path.resolve().as_uri()):
        raise TraitError(
            "there is no browser to open the report with",
            fix=f"open {path} yourself, on any machine",
        )
