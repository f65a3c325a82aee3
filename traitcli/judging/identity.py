"""Find the judge that a command names among those that have scored a run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from traitcli.errors import RunError
from traitcli.records import Judgement

_PROMPT_DIGEST = re.compile(r"~[0-9a-f]{6}$")
"""What `judge_id` appends for the judge prompt. It gives one judge another id for each trait."""


def judges_by_latest(judgements: Sequence[Judgement]) -> list[str]:
    """Return the judges of a trait's judgements, the latest first.

    `judgements` are in the order in which they were written.
    """
    return list(dict.fromkeys(j.judge for j in reversed(judgements)))


def choose_judges(
    judges_by_trait: Mapping[str, Sequence[str]], asked: str | None, run: str
) -> dict[str, str]:
    """Choose the judge to show for each trait.

    Args:
        judges_by_trait: trait -> judges that have scored it, the latest first.
        asked: a judge's name, or a part that no other name has. None means each trait's latest
            judge.
        run: the name of the run, for the error.

    Returns trait -> judge, "" for a trait that the chosen judge has not scored.

    Raises RunError, which lists the judges, if `asked` fits no judge or several.
    """
    everyone = {judge for judges in judges_by_trait.values() for judge in judges}
    if asked is None:
        # The latest judge may be another one for each trait.
        chosen = everyone
    else:
        # A full name comes first: it may be a part of another judge's name.
        chosen = {judge for judge in everyone if asked in (judge, _without_digest(judge))}
        chosen = chosen or {judge for judge in everyone if asked in judge}
        names = {_without_digest(judge) for judge in chosen}
        if len(names) != 1:
            available = {_without_digest(judge) for judge in everyone}
            raise _not_found(asked, run, sorted(names or available), is_ambiguous=bool(names))

    shown = {}
    for trait, judges in judges_by_trait.items():
        shown[trait] = next((judge for judge in judges if judge in chosen), "")
    return shown


def _without_digest(judge: str) -> str:
    return _PROMPT_DIGEST.sub("", judge)


def _not_found(asked: str, run: str, judges: Sequence[str], *, is_ambiguous: bool) -> RunError:
    problem = f"no judge {asked!r} in the run {run}"
    if not judges:
        return RunError(problem, cause="the run has no scores yet", fix="run traitcli judge")
    fix = "name one of these judges, or a part of the name that no other has"
    if is_ambiguous:
        problem = f"{asked!r} matches {len(judges)} judges of the run {run}"
        fix = "give more of the name, or all of it"
    return RunError(problem, cause="\n".join(["the run has scores by", *judges]), fix=fix)
