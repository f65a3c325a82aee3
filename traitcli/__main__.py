"""Runs the command line; the only module that prints errors and sets exit codes for them."""

from __future__ import annotations

import errno
import os
import signal
import sys
from io import TextIOWrapper

import typer
from typer.exceptions import TyperException

from traitcli.cli.app import app
from traitcli.cli.usage import usage_error
from traitcli.errors import StorageError, TraitError

_OUTPUT_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF)


def main() -> None:
    """Run the command line.

    Exit codes: 0 done, 1 failed while running, 2 the user's mistake, 3 a --fail-on rule was met,
    130 Ctrl-C, 143 SIGTERM.
    """
    signal.signal(signal.SIGTERM, _exit_on_signal)
    if isinstance(sys.stdout, TextIOWrapper):
        # A terminal or file that cannot show a character gets a question mark for it.
        sys.stdout.reconfigure(errors="replace")
    try:
        try:
            _run()
        finally:
            # Here, because an error at exit would be a message of Python's own.
            if sys.stdout:
                sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough, as in `traitcli inspect vectors | head`.
        _drop_output()
        sys.exit(1)
    except OSError as error:
        # An error of another file names it, or is a TraitError.
        if error.filename is not None or error.errno not in _OUTPUT_FAULTS:
            raise
        _drop_output()
        _fail(StorageError("cannot write to stdout", cause=error.strerror or "", fix=_ELSEWHERE))


_ELSEWHERE = "free disk space, or redirect the output to another place"


def _run() -> None:
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


def _drop_output() -> None:
    """Let what is still in the buffer of stdout go nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())


def _fail(error: TraitError) -> None:
    typer.echo(error, err=True)
    sys.exit(error.exit_code)


def _exit_on_signal(number: int, frame: object) -> None:
    """End on a scheduler's SIGTERM as on Ctrl-C: results so far are kept, locks are released."""
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
