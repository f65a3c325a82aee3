"""traitcli judge"""

from __future__ import annotations

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


def judge(
    traits: Traits = None,
    config: ConfigFile = "default",
    run: RunName = None,
    gpus: Gpus = None,
    devices: Devices = None,
    gpus_per_worker: GpusPerWorker = 1,
    scheduler: SchedulerName = SchedulerKind.local,
    ray_address: RayAddress = "auto",
    max_cost: MaxCost = None,
    no_cache: NoCache = False,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Score stored rollouts; generate nothing.

    Asks only for missing scores, or for all scores when the judge's settings changed.
    """
    from dataclasses import replace

    from traitcli.api.work import Work
    from traitcli.cli.run_stages import do_work, show_plan
    from traitcli.scheduling.placement import DeviceRequest

    changes = judge_overrides(overrides, max_cost, no_cache)
    work = Work.prepare(config, changes, traits or (), run, ("judgements",))
    work = replace(work, trust=trust_remote_code)
    # A local judge runs on devices as extract does; an endpoint needs none of these.
    request = DeviceRequest(gpus, devices, gpus_per_worker, scheduler.value, ray_address)
    if dry_run:
        show_plan(work, request, as_json)
        return
    do_work(work, request, as_json)
