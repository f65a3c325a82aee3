"""traitcli build-vector"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any

import typer

from traitcli.cli.export import Forms, Out, check_folder, export
from traitcli.cli.hub import Private, PushTo, check_options, push
from traitcli.cli.options import ConfigFile, Json, Overrides, RunName, Traits


def build_vector(
    traits: Traits = None,
    config: ConfigFile = "default",
    run: RunName = None,
    threshold: Annotated[
        float | None,
        typer.Option(metavar="N", help="Keep positives scored ≥ N, negatives < 100 − N."),
    ] = None,
    forms: Forms = None,
    out: Out = None,
    push_to: PushTo = None,
    private: Private = False,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Build vectors from what a run has stored.

    Needs no model and no judge call, so filters and methods can be tried at will.
    """
    from traitcli.cli.run_stages import Work, carry_out
    from traitcli.scheduling.placement import DeviceRequest

    check_options(push_to, private)
    check_folder(forms or (), out)
    changes = [
        *(overrides or ()),
        *([f"filter.threshold={threshold:g}"] if threshold is not None else []),
    ]
    work = Work.prepare(config, changes, traits or (), run, ("vectors",))

    def hand_on(failed: Collection[str]) -> dict[str, Any]:
        exported = export(work, forms or (), out, failed, as_json)
        return exported | (
            push(work, push_to, private, failed, as_json) if push_to is not None else {}
        )

    carry_out(work, DeviceRequest(), as_json, then=hand_on)
