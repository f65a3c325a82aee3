"""Runs the command line; the only module that prints errors and sets exit codes for them."""

from __future__ import annotations

import signal
import sys

import typer
from typer.exceptions import TyperException

from traitcli.cli.app import app
from traitcli.cli.usage import usage_error
from traitcli.errors import TraitError


def main() -> None:
    """Run the command line.

    Exit codes: 0 done, 1 failed while running, 2 the user's mistake, 3 a --fail-on rule was met,
    130 Ctrl-C, 143 SIGTERM.
    """
    signal.signal(signal.SIGTERM, _exit_on_signal)
    try:
        # Not standalone: Typer would print parse errors in a format of its own.
        sys.exit(app(standalone_mode=False))
    except TraitError as error:
        _fail(error)
    except TyperException as error:
        # By name, because Typer keeps this class private.
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.format_message(), err=True)
            sys.exit(2)
        _fail(usage_error(error, sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(error: TraitError) -> None:
    typer.echo(error, err=True)
    sys.exit(error.exit_code)


def _exit_on_signal(number: int, frame: object) -> None:
    """End on a scheduler's SIGTERM as on Ctrl-C: results so far are kept, locks are released."""
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
