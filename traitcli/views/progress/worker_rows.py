"""Draws the workers of a run that has several: a row for each, one for the judge, one for the traits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from traitcli.events import (
    Progressed,
    Stage,
    WorkerSeen,
)
from traitcli.views.cells import fit
from traitcli.views.formatting import clock_time
from traitcli.views.palette import BLUE
from traitcli.views.printable import one_line
from traitcli.views.progress.rates import Rate, Rates

QUIET = Style(dim=True)
_BAD = Style(color="red")
_FILLED = Style(color=BLUE)
_WIDEST_NAME = 14
_WIDEST_DEVICE = 18
_WIDEST_BAR = 20
_NARROWEST_BAR = 6
_FIGURES = (("done", 11), ("tok/s", 7), ("memory", 9), ("left", 8))
_AT_WORK = {"rollouts", "judgements"}


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker as it was last seen, and the rate of its share."""

    seen: WorkerSeen
    rate: Rate

    @classmethod
    def begun(cls, seen: WorkerSeen, now: float) -> Self:
        """As it starts on something."""
        stage: Stage = "judgements" if seen.doing == "judgements" else "rollouts"
        return cls(seen, Rate(seen.trait, stage, 0, seen.done, seen.total, now, now, seen.tokens))

    def next(self, seen: WorkerSeen, now: float) -> Self:
        """What follows: the same task further on, or another one."""
        if (self.seen.doing, self.seen.trait) != (
            seen.doing,
            seen.trait,
        ) or seen.done < self.seen.done:
            return self.begun(seen, now)
        told = Progressed(seen.trait, self.rate.stage, seen.done, seen.total, seen.tokens)
        return replace(self, seen=seen, rate=self.rate.advanced(told, now))

    @property
    def is_at_work(self) -> bool:
        return self.seen.doing in _AT_WORK

    def left(self, now: float) -> float | None:
        """Seconds to the end of its share, while it is at work."""
        return self.rate.left(now) if self.is_at_work else None


class WorkerRows:
    """The workers of a run; `by_worker` is replaced and never changed, so another thread may draw from it."""

    def __init__(self) -> None:
        self.by_worker: dict[int, WorkerRow] = {}

    def take(self, seen: WorkerSeen, now: float) -> None:
        known = self.by_worker.get(seen.worker)
        worker = known.next(seen, now) if known else WorkerRow.begun(seen, now)
        self.by_worker = dict(sorted({**self.by_worker, seen.worker: worker}.items()))

    @property
    def has_several(self) -> bool:
        return len(self.by_worker) > 1


def worker_lines(
    workers: WorkerRows, rates: Rates, now: float, width: int, room: int
) -> list[Text]:
    """A header, a row for each worker and one for the judge, in `room` lines; idle workers give way first."""
    held = list(workers.by_worker.values())
    judge = judge_text(rates)
    room = max(1, room - 1 - bool(judge))
    shown = held
    if len(held) > room:
        busy = [worker for worker in held if worker.is_at_work]
        shown = (busy or held)[: max(1, room - 1)]
    device = min(
        _WIDEST_DEVICE,
        max(len("device"), *(cell_len(one_line(worker.seen.device)) for worker in held)),
    )
    name = min(
        _WIDEST_NAME, max(len("trait"), *(cell_len(one_line(worker.seen.trait)) for worker in held))
    )
    number = max(2, len(str(max(workers.by_worker))))
    fixed = 2 + number + 2 + device + 2 + name + 2 + len("judgements")
    figures = list(_FIGURES)
    while figures[1:] and fixed + sum(size for _, size in figures) > width:
        figures.pop(-2)
    bar = min(_WIDEST_BAR, width - fixed - sum(size for _, size in figures) - 2)
    bar = bar if bar >= _NARROWEST_BAR else 0
    head = f"  {fit('#', number, right=True)}  {fit('device', device)}  {fit('trait', name)}  {fit('doing', 10)}"
    head += " " * (bar + 2 if bar else 0) + "".join(
        fit(title, size, right=True) for title, size in figures
    )
    lines = [Text(head, QUIET)]
    for worker in shown:
        row = Text(f"  {fit(str(worker.seen.worker), number, right=True)}  ", no_wrap=True, end="")
        row.append(
            f"{fit(one_line(worker.seen.device), device)}  {fit(one_line(worker.seen.trait), name)}  "
        )
        row.append(fit(worker.seen.doing, 10), _BAD if worker.seen.doing == "gone" else QUIET)
        lines.append(_with_figures(row, worker, now, bar, figures))
    if len(shown) < len(held):
        lines.append(Text(f"  … and {len(held) - len(shown)} more workers", QUIET))
    if judge:
        lines.append(Text(f"  judge: {judge}", QUIET))
    return lines


def _with_figures(
    row: Text, worker: WorkerRow, now: float, bar: int, figures: list[tuple[str, int]]
) -> Text:
    seen, at_work = worker.seen, worker.is_at_work
    if bar:
        full = int(bar * seen.done / seen.total) if seen.total and at_work else 0
        row.append("  ").append("━" * full, _FILLED).append("─" * (bar - full), QUIET)
    rate = worker.rate.tokens_per_second
    told = {
        "done": f"{seen.done}/{seen.total}" if at_work else "",
        "tok/s": f"{rate:,.0f}" if rate and at_work else "–",
        "memory": f"{seen.memory / 2**30:.1f} GiB" if seen.memory else "–",
        "left": clock_time(worker.left(now)),
    }
    for title, size in figures:
        row.append(fit(told[title], size, right=True))
    return row


def judge_text(rates: Rates) -> str:
    """`40 waiting · 12 in flight · 160 of 320 scored · 3 missing · $0.0123`; empty before anything is judged."""
    judged = [rate for rate in rates.by_stage.values() if rate.stage == "judgements"]
    if not judged:
        return ""
    waiting, in_flight = (
        sum(rate.waiting for rate in judged),
        sum(rate.in_flight for rate in judged),
    )
    missing, usd = (
        sum(rate.missing for rate in judged),
        [rate.usd for rate in judged if rate.usd is not None],
    )
    scored = sum(rate.done - rate.missing for rate in judged)
    parts = [
        f"{waiting:,} waiting" if waiting else "",
        f"{in_flight:,} in flight" if in_flight else "",
        f"{scored:,} of {sum(rate.total for rate in judged):,} scored",
        f"{missing:,} missing" if missing else "",
        f"${sum(usd):,.4f}" if usd else "",
    ]
    return " · ".join(part for part in parts if part)
