"""Where the command begins: every error a user can meet is told here, and nowhere else."""

from __future__ import annotations

import signal
import sys

import typer

from traitcli.cli.app import app
from traitcli.errors import TraitError


def main() -> None:
    """Run the command line; exit codes: 0 done, 1 failed while running, 2 user's mistake, 130 Ctrl-C, 143 SIGTERM."""
    signal.signal(signal.SIGTERM, _end_in_order)
    try:
        app()
    except TraitError as error:
        typer.echo(error, err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def _end_in_order(number: int, frame: object) -> None:
    """Let a scheduler's SIGTERM do what Ctrl-C does: keep what is finished, leave no lock behind."""
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
