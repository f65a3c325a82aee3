"""traitcli report"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from traitcli.cli.options import ColorTrait, ConfigFile, Overrides
from traitcli.cli.output import show_warning

if TYPE_CHECKING:
    from collections.abc import Callable

    from traitcli.report_records import Report


class Form(StrEnum):
    """The format of a report."""

    html = "html"
    json = "json"
    csv = "csv"
    png = "png"


Runs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUN", help="Runs by name, and records by file or folder (default: all)."
    ),
]


def report(
    runs: Runs = None,
    form: Annotated[
        Form,
        typer.Option(
            "--format",
            help="A page, its figures as json or csv, or pictures as png (default: html).",
            show_default=False,
        ),
    ] = Form.html,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Output file, or for csv and png the output folder "
            "(default: report in the runs folder).",
        ),
    ] = None,
    trait: ColorTrait = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    config: ConfigFile = "default",
    overrides: Overrides = None,
) -> None:
    """Write one HTML file with records, vectors and runs.

    Prints the path of every file that it writes on stdout. With a page, it also says on stderr
    what was learned, in three sentences.
    """
    from rich.console import Console
    from rich.text import Text

    from traitcli.config import load_config
    from traitcli.inspection.report_data import gather_report
    from traitcli.output_paths import check_output_file, check_output_folder

    # Before gathering, which reads every record and rollout.
    check_options(form, trait, open_page)
    settings = load_config(config, overrides or ())
    is_folder = form in {Form.csv, Form.png}
    default = settings.paths.runs / ("report" if is_folder else f"report.{form.value}")
    check_path = check_output_folder if is_folder else check_output_file
    check_path(out or default)
    # On stderr, because stdout gets the paths of the files.
    with Console(stderr=True).status("") as status:

        def show_step(step: str) -> None:
            # Text, because rich would read a run named [x] as markup.
            status.update(Text(f"{step} …"))

        gathered = gather_report(runs or [], settings, show_step, show_warning)
        # Only now, because the records say which traits they have.
        check_trait(trait, gathered)
        written = write(form, out or default, gathered, trait, show_step)
    show_written(form, written, gathered)
    if open_page:
        open_in_browser(written[0])


def write(
    form: Form, path: Path, report: Report, trait: str | None, show_step: Callable[[str], None]
) -> list[Path]:
    """Write a report in one format; returns the files."""
    show_step("writing")
    match form:
        case Form.html:
            from traitcli.views.report.page import write_page

            write_page(path, report)
            return [path]
        case Form.json:
            from traitcli.views.report.data_files import write_json

            write_json(path, report)
            return [path]
        case Form.csv:
            from traitcli.views.report.data_files import write_csv

            return write_csv(path, report)
        case Form.png:
            from traitcli.views.report.pictures import write_pictures

            return write_pictures(path, report, trait, show_step)


def show_written(form: Form, written: list[Path], report: Report) -> None:
    """Print the path of each file, and for a page what was learned."""
    from rich.console import Console

    from traitcli.views.findings import findings
    from traitcli.views.tables.base import heading, labelled_line

    for path in written:
        typer.echo(path)
    if form is not Form.html:
        return
    # On stderr, because stdout gets the paths.
    console = Console(stderr=True)
    console.line()
    heading(console, "What was learned")
    for number, sentence in enumerate(findings(report), start=1):
        labelled_line(console, f"{number}. ", sentence)


def check_options(form: Form, trait: str | None, open_page: bool) -> None:
    """Raise UserError for an option that would have no effect."""
    from traitcli.errors import UserError

    if open_page and form is not Form.html:
        raise UserError(
            f"--open and --format {form.value} cannot be used together",
            cause="--open opens an HTML page",
            fix="leave one of them out",
        )
    if trait is not None and form is not Form.png:
        raise UserError(
            "--trait has no effect without --format png",
            cause="in the page, readers choose the trait themselves",
            fix="add --format png, or leave --trait out",
        )


def check_trait(trait: str | None, report: Report) -> None:
    """Raise UserError when no record has scores of the trait that --trait names."""
    from traitcli.errors import UserError, suggest

    monitored = sorted({name for record in report.records for name in record.scores.raw})
    if trait is not None and trait not in monitored:
        raise UserError(
            f"no record has scores of {trait}",
            cause=f"the records have scores of {', '.join(monitored) or 'no trait'}",
            fix=suggest(trait, monitored) or "choose one of these",
        )


def open_in_browser(path: Path) -> None:
    """Open a page in the user's browser; raises TraitError when no browser starts."""
    import webbrowser

    from traitcli.errors import TraitError

    if not webbrowser.open(path.resolve().as_uri()):
        raise TraitError(
            "cannot open the report", cause="no browser was found", fix=f"open {path} yourself"
        )
