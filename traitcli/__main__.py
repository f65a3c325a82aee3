"""Where the command begins: every error a user can meet is told here, and nowhere else."""

from __future__ import annotations

import sys

import typer

from traitcli.cli.app import app
from traitcli.errors import TraitError


def main() -> None:
    """Run the command line; exit codes: 0 done, 1 failed while running, 2 user's mistake, 130 Ctrl-C."""
    try:
        app()
    except TraitError as error:
        typer.echo(error, err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
