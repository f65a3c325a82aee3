"""traitcli extract"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from traitcli.cli.options import (
    ConfigFile,
    Devices,
    DryRun,
    Gpus,
    GpusPerWorker,
    Json,
    MaxCost,
    NoCache,
    Overrides,
    RayAddress,
    RunName,
    SchedulerKind,
    SchedulerName,
    Traits,
    TrustRemoteCode,
    judge_overrides,
)


class Until(StrEnum):
    """The stage to stop after."""

    rollouts = "rollouts"
    readings = "readings"
    judgements = "judgements"
    vectors = "vectors"


def extract(
    traits: Traits = None,
    config: ConfigFile = "default",
    run: RunName = None,
    gpus: Gpus = None,
    devices: Devices = None,
    gpus_per_worker: GpusPerWorker = 1,
    scheduler: SchedulerName = SchedulerKind.local,
    ray_address: RayAddress = "auto",
    until: Annotated[
        Until, typer.Option(help="Stop after this stage (default: vectors).", show_default=False)
    ] = Until.vectors,
    max_cost: MaxCost = None,
    no_cache: NoCache = False,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Generate rollouts, judge them, and build trait vectors.

    The same command resumes a stopped run. A finished run is left as it is.
    """
    from dataclasses import replace

    from traitcli.api.work import Work
    from traitcli.cli.run_stages import do_work, show_plan
    from traitcli.events import STAGES
    from traitcli.scheduling.placement import DeviceRequest

    stages = STAGES[: STAGES.index(until.value) + 1]
    changes = judge_overrides(overrides, max_cost, no_cache)
    # A dry run passes the same checks, so that its plan holds for the real command.
    work = Work.prepare(config, changes, traits or (), run, stages)
    work = replace(work, trust=trust_remote_code)
    request = DeviceRequest(gpus, devices, gpus_per_worker, scheduler.value, ray_address)
    if dry_run:
        show_plan(work, request, as_json)
        return
    do_work(work, request, as_json)
