"""traitcli judge"""

from __future__ import annotations

from traitcli.cli.options import ConfigFile, Json, Overrides, RunName, Traits, TrustRemoteCode


def judge(
    traits: Traits = None,
    config: ConfigFile = "default",
    run: RunName = None,
    overrides: Overrides = None,
    as_json: Json = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Score stored rollouts; generate nothing.

    Asks again for the scores that are missing, or for all when the judge's settings changed.
    """
    from traitcli.cli.work import Work, carry_out

    work = Work.prepare(config, overrides or (), traits or (), run, ("judgements",))
    carry_out(work, None, None, as_json, trust_remote_code)
