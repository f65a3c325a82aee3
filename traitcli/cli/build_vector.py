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
        typer.Option(
            metavar="N",
            help="Keep positives scored N or more and negatives scored below 100 − N "
            "(default: the config's).",
        ),
    ] = None,
    forms: Forms = None,
    out: Out = None,
    push_to: PushTo = None,
    private: Private = False,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Build vectors from the rollouts and scores that a run has stored.

    Needs no model and no judge, so filters and methods are quick to compare.
    """
    from traitcli.api.work import Work
    from traitcli.cli.run_stages import do_work
    from traitcli.config import Override
    from traitcli.scheduling.placement import DeviceRequest

    # Checked first: a push that cannot work must not cost the time of the build.
    check_options(push_to, private)
    check_folder(forms or (), out)
    changes: list[str | Override] = list(overrides or ())
    if threshold is not None:
        changes.append(Override(f"filter.threshold={threshold:g}", f"--threshold {threshold:g}"))
    work = Work.prepare(config, changes, traits or (), run, ("vectors",))

    def export_and_push(failed: Collection[str]) -> dict[str, Any]:
        # First: it needs no network, and a push that fails must not cost the exported files.
        outcome = export(work, forms or (), out, failed, as_json)
        if push_to is not None:
            outcome |= push(work, push_to, private, failed, as_json)
        return outcome

    # The default request: activations are stored, so no device computes anything.
    do_work(work, DeviceRequest(), as_json, afterwards=export_and_push)
