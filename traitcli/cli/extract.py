"""traitcli extract"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from traitcli.cli.options import (
    ConfigFile,
    DryRun,
    Json,
    MaxCost,
    NoCache,
    Overrides,
    RunName,
    Traits,
    TrustRemoteCode,
    judge_overrides,
)
from traitcli.events import STAGES


class Until(StrEnum):
    """The stage to stop after."""

    rollouts = "rollouts"
    judgements = "judgements"
    vectors = "vectors"


def extract(
    traits: Traits = None,
    config: ConfigFile = "default",
    run: RunName = None,
    gpus: Annotated[int | None, typer.Option(metavar="N", help="Use the first N GPUs, one worker each.")] = None,
    devices: Annotated[
        str | None, typer.Option(metavar="D,D", help="Use these devices, e.g. cuda:0,cuda:3 or cpu,cpu.")
    ] = None,
    until: Annotated[Until, typer.Option(help="Stop after this stage.")] = Until.vectors,
    max_cost: MaxCost = None,
    no_cache: NoCache = False,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Generate rollouts, judge them, build trait vectors.

    A run that was stopped goes on where it was; a finished one does nothing.
    """
    from traitcli.cli.work import Work, carry_out, show_plan

    wanted = STAGES[: STAGES.index(until.value) + 1]
    changes = judge_overrides(overrides, max_cost, no_cache)
    work = Work.prepare(config, changes, traits or (), run, wanted)
    if dry_run:
        show_plan(work, as_json)
        return
    carry_out(work, gpus, devices, as_json, trust_remote_code)
