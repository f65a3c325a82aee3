"""traitcli judge"""

from __future__ import annotations

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


def judge(
    traits: Traits = None,
    config: ConfigFile = "default",
    run: RunName = None,
    max_cost: MaxCost = None,
    no_cache: NoCache = False,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Score stored rollouts; generate nothing.

    Asks again for the scores that are missing, or for all when the judge's settings changed.
    """
    from traitcli.cli.work import Work, carry_out, show_plan

    changes = judge_overrides(overrides, max_cost, no_cache)
    work = Work.prepare(config, changes, traits or (), run, ("judgements",))
    if dry_run:
        show_plan(work, as_json)
        return
    carry_out(work, None, None, as_json, trust_remote_code)
