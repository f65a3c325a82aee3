"""Pushes vectors to the hub and pulls them; addresses go to stdout, notes to stderr."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from traitcli.errors import UserError
from traitcli.output_paths import check_output_folder

if TYPE_CHECKING:
    from traitcli.api.work import Work
    from traitcli.config import Config

PushTo = Annotated[
    str | None,
    typer.Option(
        "--push", metavar="ORG/NAME", help="Push the vectors to this repository on the hub."
    ),
]
PullFrom = Annotated[
    str | None,
    typer.Option(
        "--pull",
        metavar="ORG/NAME[@REVISION]",
        help="Pull vectors from this repository on the hub, and show those.",
    ),
]
Private = Annotated[
    bool, typer.Option("--private", help="Create the --push repository as a private one.")
]


def check_options(push_to: str | None, private: bool) -> None:
    """Raise UserError for a push that cannot work, before any other work starts."""
    from traitcli.vectors.hub.push import check_push

    if push_to is not None:
        check_push(push_to)
    elif private:
        raise UserError(
            "--private has no effect without --push",
            cause="nothing is pushed",
            fix="add --push ORG/NAME, or leave --private out",
        )


def push(
    work: Work, repo: str, private: bool, failed: Collection[str], as_json: bool
) -> dict[str, Any]:
    """Push the vectors that a command built; push nothing when a trait failed.

    Prints the address, or with `as_json` only returns it, for the command's JSON.
    """
    from traitcli.vectors.files import vector_folder
    from traitcli.vectors.hub.push import push_vectors

    if failed:
        # The repository would hold the new vectors next to an old one of the failed trait.
        names = ", ".join(sorted(failed))
        typer.echo(f"nothing is pushed to {repo}: there is no vector of {names}", err=True)
        return {"pushed": None}

    paths = [vector_folder(work.config) / f"{trait.name}.safetensors" for trait in work.traits]
    typer.echo(f"pushing to {repo} …", err=True)
    _without_bars()
    pushed = push_vectors(paths, repo, private=private)
    if not as_json:
        typer.echo(pushed.url)
    state = "pushed" if pushed.changed else "nothing has changed"
    typer.echo(f"{state}; others get this with --pull {pushed.repo}@{pushed.commit}", err=True)
    return {"pushed": asdict(pushed)}


def pull(settings: Config, source: str, names: Sequence[str] = ()) -> list[Path]:
    """Pull all vectors of a repository, or the named ones, into the vectors folder.

    Prints the commit of each file, and how to pin a revision that may move.
    """
    from traitcli.vectors.hub.pull import Source, pull_vectors

    asked = Source.parse(source)
    check_output_folder(settings.paths.vectors, "--set paths.vectors=FOLDER")
    # Notes go to stderr, because stdout gets the table of vectors, or JSON for programs.
    typer.echo(f"pulling {source} …", err=True)
    _without_bars()
    pulled = pull_vectors(settings, asked, names)
    exact = f"{pulled.repo}@{pulled.commit}"
    for path in pulled.paths:
        typer.echo(f"{path} is from {exact}", err=True)
    # A branch or a tag can be moved to other vectors; a commit cannot.
    if asked.revision != pulled.commit:
        typer.echo(f"warning: {source} may change later; pin it with --pull {exact}", err=True)
    return list(pulled.paths)


def _without_bars() -> None:
    """Turn off the library's progress bars: vectors are small, and bars garble a pipe."""
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()
