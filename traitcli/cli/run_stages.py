"""What extract, judge and build-vector share: they show work on a run, and print its results."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from traitcli.api.work import Work
from traitcli.runs.run import check_run

if TYPE_CHECKING:
    from traitcli.scheduling.placement import DeviceRequest


def do_work(
    work: Work,
    request: DeviceRequest,
    as_json: bool,
    afterwards: Callable[[Collection[str]], Mapping[str, Any]] = lambda failed: {},
) -> None:
    """Run the stages under a view; exit with code 1 when a trait failed.

    `afterwards` gets the names of the failed traits, and returns more keys for the JSON output.
    """
    from traitcli.views import open_view

    with open_view() as view:
        failures = work.do(request, view.show)

    # Outside of the lock: a slow upload must not keep other commands from the run.
    more = afterwards({failure.trait for failure in failures})
    if as_json:
        typer.echo(json.dumps({**work.outcome(failures), **more}))
    if failures:
        # The view has shown each failure already.
        raise typer.Exit(1)


def show_plan(work: Work, request: DeviceRequest, as_json: bool) -> None:
    """Print what would be done, on which devices, and its cost; run nothing.

    Raises ModelError when the model does not fit the devices, after the plan is printed.
    """
    from rich.console import Console

    from traitcli.pipeline.estimate import plan_rows
    from traitcli.scheduling.devices import choose_placement
    from traitcli.scheduling.memory_check import first_device, measure_fit, refuse_unfit
    from traitcli.scheduling.partition import plan_partitions
    from traitcli.views.tables.runs import plan_table, workers_table

    # A plan that the real command would refuse is of no use.
    work.check_folders()
    check_run(work.run, work.config, work.traits)
    placement = choose_placement(request, work.config.model)
    rows = plan_rows(work.traits, work.config, work.ledgers, work.trust, first_device(placement))
    fits = measure_fit(work.config, placement, work.trust)

    partitions = plan_partitions(work.missing(), len(placement.devices))
    workers = [
        {
            "worker": number,
            "device": fit.device,
            "needed_mb": round(fit.needed / 2**20),
            "found_mb": None if fit.found is None else round(fit.found / 2**20),
            "partitions": list(map(asdict, own)),
        }
        for number, (fit, own) in enumerate(zip(fits, partitions, strict=True))
    ]

    if as_json:
        plan = {
            "run": str(work.run.folder),
            "model": work.config.model.name,
            "plan": rows,
            "workers": workers,
            "notes": placement.notes,
        }
        typer.echo(json.dumps(plan))
    else:
        plan_table(Console(), rows)
        workers_table(Console(), workers, placement.notes)
    # Last, because the printed plan shows how much memory each worker lacks.
    refuse_unfit(work.config, fits)
