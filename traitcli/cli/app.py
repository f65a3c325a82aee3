"""The Typer application and its eight commands."""

from __future__ import annotations

import typer

from traitcli.cli.build_vector import build_vector
from traitcli.cli.calibrate import calibrate
from traitcli.cli.extract import extract
from traitcli.cli.inspection import inspect
from traitcli.cli.judge import judge
from traitcli.cli.monitor import monitor
from traitcli.cli.report import report
from traitcli.cli.serve import serve

# Commands import what they need when they run: torch alone takes two seconds, and no --help
# needs it.
app = typer.Typer(
    help="Watch what a language model is doing while it writes.",
    no_args_is_help=True,
    add_completion=False,
    # Plain help: Rich's takes twice as long to print.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (extract, judge, build_vector, monitor):
    app.command()(command)
app.add_typer(inspect, name="inspect")
app.command()(calibrate)
app.command()(report)
app.command()(serve)


def show_version(is_asked: bool) -> None:
    """Print the version and exit."""
    if is_asked:
        from importlib.metadata import version

        typer.echo(f"traitcli {version('traitcli')}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", callback=show_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Watch what a language model is doing while it writes."""
