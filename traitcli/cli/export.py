"""Exports the vectors of a command for other tools, and prints their paths on stdout."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from traitcli.errors import UserError
from traitcli.output_paths import check_output_folder

if TYPE_CHECKING:
    from traitcli.api.work import Work


class FormName(StrEnum):
    """The formats of `vectors.formats.export`, and csv for rollouts.

    Listed here a second time because --help must not load numpy, as that module does.
    """

    gguf = "gguf"
    pt = "pt"
    safetensors = "safetensors"
    vllm_lens = "vllm-lens"
    lm_eval = "lm-eval"
    csv = "csv"


Forms = Annotated[
    list[FormName] | None,
    typer.Option(
        "--export",
        metavar="gguf|pt|safetensors|vllm-lens|lm-eval|csv",
        help="Also write the vectors in this format for other tools, or their rollouts as csv. "
        "Can be repeated. See docs/interop.md.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="FOLDER", help="Folder for --export (default: the folder of the vectors)."
    ),
]


def check_folder(forms: Sequence[str], out: Path | None) -> None:
    """Raise UserError for --out without --export, and for an --out that cannot be written."""
    if out is not None and not forms:
        raise UserError(
            "--out has no effect without --export",
            cause="nothing is exported",
            fix="add --export gguf, or leave --out out",
        )
    if out is not None:
        check_output_folder(out)


def export(
    work: Work,
    forms: Sequence[str],
    out: Path | None,
    failed: Collection[str],
    as_json: bool,
) -> dict[str, Any]:
    """Write the vectors of a command's traits, except the failed ones, in each format.

    Prints the paths, or with `as_json` only returns them, for the command's JSON.
    """
    from traitcli.inspection.rollout_csv import write_rollout_csv
    from traitcli.models.block_names import path_of_blocks
    from traitcli.vectors.files import read_vector, vector_folder
    from traitcli.vectors.formats.export import Form, export_vector

    if not forms:
        return {}

    # Always the config's position: most formats of other tools hold one direction per layer.
    folder, position = vector_folder(work.config), work.config.vector.position
    blocks = path_of_blocks(work.config.model) if FormName.lm_eval in forms else ""
    wanted = [form for form in get_args(Form) if form in forms]
    written: list[Path] = []
    for trait in work.traits:
        # An old vector of it may exist, and its export would pass for a new one.
        if trait.name in failed:
            continue
        vector = read_vector(folder / f"{trait.name}.safetensors")
        for form in wanted:
            written += export_vector(vector, position, form, out or folder, blocks=blocks)
        if FormName.csv in forms:
            written += write_rollout_csv(
                work.ledgers.trait(trait.name).snapshot, trait, out or folder
            )

    paths = [str(path) for path in written]
    if not as_json:
        for path in paths:
            typer.echo(path)
    return {"exported": paths}
