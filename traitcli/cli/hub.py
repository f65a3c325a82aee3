"""What commands say of a push to the hub, or of a pull from it: addresses on stdout, notes on stderr."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from traitcli.errors import UserError

if TYPE_CHECKING:
    from traitcli.cli.run_stages import Work
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
        help="Pull vectors from the hub first, and show those.",
    ),
]
Private = Annotated[
    bool, typer.Option("--private", help="Create that repository as a private one.")
]


def check_options(push_to: str | None, private: bool) -> None:
    """Raise UserError for a push that cannot work, before anything else is done."""
    from traitcli.vectors.hub.push import check_push

    if push_to is not None:
        check_push(push_to)
    elif private:
        raise UserError(
            "--private is for a push",
            cause="nothing is pushed",
            fix="leave it out, or add --push ORG/NAME",
        )


def push(
    work: Work, repo: str, private: bool, failed: Collection[str], as_json: bool
) -> dict[str, Any]:
    """Push the vectors that a command has built, unless a trait failed; print where they are, or give it for JSON."""
    from traitcli.vectors.files import vector_folder
    from traitcli.vectors.hub.push import push_vectors

    if failed:
        typer.echo(
            f"nothing is pushed to {repo}: no vector of {', '.join(sorted(failed))}", err=True
        )
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
    """Pull vectors, all or those named, into the user's own; tell from which commit, and what to pin."""
    from traitcli.vectors.hub.pull import Source, pull_vectors

    asked = Source.parse(source)
    typer.echo(f"pulling {source} …", err=True)
    _without_bars()
    pulled = pull_vectors(settings, asked, names)
    exact = f"{pulled.repo}@{pulled.commit}"
    for path in pulled.paths:
        typer.echo(f"{path} is from {exact}", err=True)
    if asked.revision != pulled.commit:
        typer.echo(f"warning: what {source} names may change; pin it: --pull {exact}", err=True)
    return list(pulled.paths)


def _without_bars() -> None:
    """Vectors are small, and bars of a library would stand in pipes too."""
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()
