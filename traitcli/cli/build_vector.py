"""traitcli build-vector"""

from __future__ import annotations

from typing import Annotated

import typer

from traitcli.cli.options import ConfigFile, Json, Overrides, RunName, Traits


def build_vector(
    traits: Traits = None,
    config: ConfigFile = "default",
    run: RunName = None,
    threshold: Annotated[
        float | None, typer.Option(metavar="N", help="Keep positives scored ≥ N, negatives < 100 − N.")
    ] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Build vectors from what a run has stored.

    Needs no model and no judge call, so filters and methods can be tried at will.
    """
    from traitcli.cli.work import Work, carry_out
    from traitcli.scheduling.devices import Wish

    changes = [*(overrides or ()), *([f"filter.threshold={threshold:g}"] if threshold is not None else [])]
    work = Work.prepare(config, changes, traits or (), run, ("vectors",))
    carry_out(work, Wish(), as_json)
