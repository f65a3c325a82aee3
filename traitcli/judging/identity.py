"""Finds which judge a command means among those that have scored a run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from traitcli.errors import RunError
from traitcli.records import Judgement

_PROMPT = re.compile(r"~[0-9a-f]{6}$")
"""What `judge_id` adds for the judge prompt, which makes a judge another one for each trait."""


def judges_by_latest(judgements: Sequence[Judgement]) -> list[str]:
    """The judges of a trait's judgements, given in the order they were written: the latest one first."""
    return list(dict.fromkeys(j.judge for j in reversed(judgements)))


def choose_judges(held: Mapping[str, Sequence[str]], asked: str | None, run: str) -> dict[str, str]:
    """Trait -> the judge to show, "" where there is none; `held` is trait -> its judges, the latest first.

    `asked` is a judge's name in full or a part that no other judge has; by default each trait's latest judge.
    Raises RunError, listing the judges, when it is none of them or may be several.
    """
    everyone = {judge for judges in held.values() for judge in judges}
    meant = {judge for judge in everyone if asked is None or asked in (judge, _base(judge))}
    meant = meant or {judge for judge in everyone if asked is not None and asked in judge}
    if asked is not None and len({_base(judge) for judge in meant}) != 1:
        raise _unclear(
            asked, run, sorted({_base(judge) for judge in meant or everyone}), ambiguous=bool(meant)
        )
    return {
        trait: next((judge for judge in judges if judge in meant), "")
        for trait, judges in held.items()
    }


def _base(judge: str) -> str:
    return _PROMPT.sub("", judge)


def _unclear(asked: str, run: str, judges: Sequence[str], *, ambiguous: bool) -> RunError:
    problem = f"no judge {asked!r} in the run {run}"
    if not judges:
        return RunError(problem, cause="nothing is judged yet", fix="run traitcli judge")
    fix = "name one of these, or a part that no other has"
    if ambiguous:
        problem = f"{asked!r} may mean {len(judges)} judges of the run {run}"
        fix = "give more of the name, or all of it"
    return RunError(problem, cause="\n".join(["it holds scores by", *judges]), fix=fix)
