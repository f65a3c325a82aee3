"""Draws the workers of a run that has several: a row for each of them, and a line for the judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from rich.cells import cell_len
from rich.console import RenderableType
from rich.text import Text

from traitcli.events import Progressed, Stage, WorkerSeen
from traitcli.views.formatting import QUIET, clock_time
from traitcli.views.printable import one_line
from traitcli.views.progress.rates import Rate, Rates
from traitcli.views.progress.table import BAD, BAR, Column, Row, progress_bar, progress_table

_WIDEST_NAME = 14
_WIDEST_DEVICE = 18
_AT_WORK: dict[str, Stage] = {
    "rollouts": "rollouts",
    "readings": "readings",
    "judgements": "judgements",
}
"""What a worker is doing -> the stage that it works at."""


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """The last event of a worker, and how fast it works on its current task."""

    seen: WorkerSeen
    rate: Rate

    @classmethod
    def begun(cls, seen: WorkerSeen, now: float) -> Self:
        """The row of a worker that starts a task."""
        stage = _AT_WORK.get(seen.doing, "rollouts")
        return cls(seen, Rate(seen.trait, stage, 0, seen.done, seen.total, now, now, seen.tokens))

    def next(self, seen: WorkerSeen, now: float) -> Self:
        """The row after one more event, of the same task or of another one."""
        is_same_task = (self.seen.doing, self.seen.trait) == (seen.doing, seen.trait)
        # A count that falls means other rollouts of the same trait.
        if not is_same_task or seen.done < self.seen.done:
            return self.begun(seen, now)

        event = Progressed(seen.trait, self.rate.stage, seen.done, seen.total, seen.tokens)
        return replace(self, seen=seen, rate=self.rate.advanced(event, now))

    @property
    def is_at_work(self) -> bool:
        return self.seen.doing in _AT_WORK

    def left(self, now: float) -> float | None:
        """Seconds until the worker finishes its task; None while it is idle."""
        return self.rate.left(now) if self.is_at_work else None


class WorkerRows:
    """The workers of a run.

    `by_worker` is replaced and never changed, because another thread draws from it.
    """

    def __init__(self) -> None:
        self.by_worker: dict[int, WorkerRow] = {}

    def update(self, seen: WorkerSeen, now: float) -> None:
        known = self.by_worker.get(seen.worker)
        row = known.next(seen, now) if known else WorkerRow.begun(seen, now)
        # Workers start in any order.
        self.by_worker = dict(sorted({**self.by_worker, seen.worker: row}.items()))

    @property
    def has_several(self) -> bool:
        return len(self.by_worker) > 1


def draw_workers(
    workers: WorkerRows, rates: Rates, now: float, width: int, room: int
) -> list[RenderableType]:
    """A table of the workers and a line for the judge, in at most `room` lines.

    When there are more workers than lines, those at work stay.
    """
    rows = list(workers.by_worker.values())
    judge = judge_text(rates)
    # The header of the table takes a line, and so does the judge.
    room = max(1, room - 1 - bool(judge))
    shown = rows
    if len(rows) > room:
        busy = [row for row in rows if row.is_at_work]
        # The last line counts the workers that are not shown.
        shown = (busy or rows)[: max(1, room - 1)]

    table = progress_table(_columns(rows), [_cells(row, now) for row in shown], width)
    lines: list[RenderableType] = [table]
    if len(shown) < len(rows):
        lines.append(Text(f"  … and {len(rows) - len(shown)} more workers", QUIET))
    if judge:
        lines.append(Text(f"  judge: {judge}", QUIET, no_wrap=True, overflow="ellipsis"))
    return lines


def _columns(rows: Sequence[WorkerRow]) -> list[Column]:
    device = max(cell_len(one_line(row.seen.device)) for row in rows)
    name = max(cell_len(one_line(row.seen.trait)) for row in rows)
    number = max(len(str(row.seen.worker)) for row in rows)
    return [
        Column("#", 2 + max(number, 2)),
        Column("device", max(len("device"), min(device, _WIDEST_DEVICE)), right=False),
        Column("trait", max(len("trait"), min(name, _WIDEST_NAME)), right=False),
        Column("doing", len("judgements"), right=False),
        BAR,
        Column("done", 9),
        Column("tok/s", 6, optional=True),
        Column("memory", 9, optional=True),
        Column("left", 7),
    ]


def _cells(row: WorkerRow, now: float) -> Row:
    seen, speed = row.seen, row.rate.tokens_per_second
    cells = {
        "#": Text(str(seen.worker)),
        "device": Text(one_line(seen.device)),
        "trait": Text(one_line(seen.trait)),
        "doing": Text(seen.doing, BAD if seen.doing == "gone" else QUIET),
        "tok/s": Text("–"),
        "memory": Text(f"{seen.memory / 2**30:.1f} GiB" if seen.memory else "–"),
        "left": Text(clock_time(row.left(now))),
    }
    if not row.is_at_work:
        return cells
    return cells | {
        BAR.title: progress_bar(seen.done, seen.total),
        "done": Text(f"{seen.done}/{seen.total}"),
        "tok/s": Text(f"{speed:,.0f}" if speed else "–"),
    }


def judge_text(rates: Rates) -> str:
    """Word the state of the judge; empty before it starts.

    For example `40 waiting · 12 in flight · 160 of 320 scored · 3 missing · $0.0123`.
    """
    judged = rates.at("judgements")
    if not judged:
        return ""

    waiting = sum(rate.waiting for rate in judged)
    in_flight = sum(rate.in_flight for rate in judged)
    scored = sum(rate.done - rate.missing for rate in judged)
    total = sum(rate.total for rate in judged)
    missing = sum(rate.missing for rate in judged)
    usd = sum(rate.usd or 0.0 for rate in judged)
    parts = [
        f"{waiting:,} waiting" if waiting else "",
        f"{in_flight:,} in flight" if in_flight else "",
        f"{scored:,} of {total:,} scored",
        f"{missing:,} missing" if missing else "",
        f"${usd:,.4f}" if usd else "",
    ]
    return " · ".join(part for part in parts if part)
