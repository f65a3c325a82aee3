"""What commands say of vectors that are exported for other tools: their paths, on stdout."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from traitcli.errors import UserError

if TYPE_CHECKING:
    from traitcli.cli.run_stages import Work


class FormName(StrEnum):
    """The formats of `vectors.export`, which --help does not load, and rollouts as CSV."""

    gguf = "gguf"
    pt = "pt"
    safetensors = "safetensors"
    csv = "csv"


Forms = Annotated[
    list[FormName] | None,
    typer.Option(
        "--export",
        metavar="gguf|pt|safetensors|csv",
        help="Write the vectors for other tools too, or as csv their rollouts; see docs/interop.md. Can be repeated.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="FOLDER", help="Where --export writes; beside the vectors by default."
    ),
]


def check_folder(forms: Sequence[str], out: Path | None) -> None:
    """Raise UserError for a folder that nothing would be written to, or that is none, before anything is done."""
    if out is not None and not forms:
        raise UserError(
            "--out is for an export",
            cause="nothing is exported",
            fix="leave it out, or add --export gguf",
        )
    if out is not None and out.exists() and not out.is_dir():
        raise UserError(
            f"cannot write to {out}", cause="it is no folder", fix="name a folder with --out"
        )


def export(
    work: Work,
    forms: Sequence[str],
    out: Path | None,
    failed: Collection[str],
    as_json: bool,
) -> dict[str, Any]:
    """Write the vectors of a command's traits, those that failed left out; print the paths, or give them for JSON."""
    from traitcli.inspection.rollout_csv import write_rollout_csv
    from traitcli.vectors.files import read_vector, vector_folder
    from traitcli.vectors.formats.export import Form, export_vector

    if not forms:
        return {}
    folder, position = vector_folder(work.config), work.config.vector.position
    written = []
    for trait in work.traits:
        if trait.name not in failed:
            vector = read_vector(folder / f"{trait.name}.safetensors")
            for form in get_args(Form):
                written += (
                    export_vector(vector, position, form, out or folder) if form in forms else []
                )
            written += (
                write_rollout_csv(work.ledgers.trait(trait.name).snapshot, trait, out or folder)
                if FormName.csv in forms
                else []
            )
    if not as_json:
        for path in written:
            typer.echo(str(path))
    return {"exported": [str(path) for path in written]}
