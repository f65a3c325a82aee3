"""The view of several workers: a row for each, a row for the judge, and one line in a pipe."""

from __future__ import annotations

import pytest
from rich.console import Group

from tests.unit.test_progress_views import drawn_lines, followed, show_live, show_plain
from traitcli.events import Progressed, RunFinished, RunStarted, StageStarted, WorkerSeen
from traitcli.views.progress.worker_rows import WorkerRows, draw_workers
from traitcli.views.words import run_text

RUN = RunStarted(
    "big", "runs/big", ("evil", "refusal"), ("cuda:0", "cuda:1"), (), {"rollouts": 400}
)
GIB = 2**30


def seen_workers(*timed):
    workers = WorkerRows()
    for now, seen in timed:
        workers.update(seen, now)
    return workers


TWO = seen_workers(
    (100.0, WorkerSeen(0, "cuda:0", "rollouts", "evil", 0, 200)),
    (110.0, WorkerSeen(0, "cuda:0", "rollouts", "evil", 50, 200, 5000, 17 * GIB)),
    (100.0, WorkerSeen(1, "cuda:1", "loading", "refusal", 0, 200)),
)


def drawn(workers, now=110.0, width=100, room=20, rates=None):
    return drawn_lines(Group(*draw_workers(workers, rates or followed(), now, width, room)), width)


def test_each_worker_has_a_row_with_speed_memory_and_time_left():
    assert drawn(TWO, width=84) == [
        "   #  device  trait    doing                        done   tok/s     memory     left",
        "   0  cuda:0  evil     rollouts    ━━╸            50/200     500   17.0 GiB     0:30",
        "   1  cuda:1  refusal  loading                                 –          –        –",
    ]


def test_the_judge_has_its_own_row():
    rates = followed(
        (100.0, StageStarted("evil", "judgements", 0, 100)),
        (
            110.0,
            Progressed(
                "evil", "judgements", 40, 100, missing=3, waiting=12, in_flight=8, usd=0.0123
            ),
        ),
    )

    assert drawn(TWO, rates=rates)[-1] == (
        "  judge: 12 waiting · 8 in flight · 37 of 100 scored · 3 missing · $0.0123"
    )


def test_a_worker_that_starts_another_task_starts_a_new_rate():
    workers = seen_workers(
        (100.0, WorkerSeen(0, "cpu", "rollouts", "evil", 0, 10)),
        (110.0, WorkerSeen(0, "cpu", "rollouts", "evil", 10, 10, 100)),
        (120.0, WorkerSeen(0, "cpu", "rollouts", "refusal", 0, 10)),
        (130.0, WorkerSeen(0, "cpu", "rollouts", "refusal", 5, 10, 50)),
    )

    assert workers.by_worker[0].rate.tokens_per_second == 5
    assert workers.by_worker[0].left(130.0) == 10


@pytest.mark.parametrize("width", range(30, 140, 3))
def test_worker_rows_are_never_wider_than_the_terminal(width):
    clock = iter(range(1000))
    live = [
        RUN,
        *(WorkerSeen(n, f"10.0.0.{n} cuda:{n}", "rollouts", "a-long-name", 1, 9) for n in range(9)),
    ]

    shown = show_live(
        *live, RunFinished("big", "runs/big", 1.0, 0), clock=lambda: float(next(clock)), width=width
    )

    assert max(map(len, shown)) <= width


def test_with_more_workers_than_lines_only_active_workers_are_shown():
    workers = seen_workers(
        *(
            (100.0, WorkerSeen(n, "gpu", "waiting" if n % 2 else "rollouts", "evil", 1, 9))
            for n in range(64)
        )
    )

    rows = drawn(workers, room=8)

    assert len(rows) == 8
    assert [row.split()[0] for row in rows[1:7]] == ["0", "2", "4", "6", "8", "10"]
    assert rows[-1] == "  … and 58 more workers"


def test_the_live_view_shows_workers_above_traits():
    shown = show_live(
        RUN,
        WorkerSeen(0, "cuda:0", "rollouts", "evil", 0, 200),
        WorkerSeen(1, "cuda:1", "gone"),
        StageStarted("evil", "rollouts", 0, 200),
    )

    text = "\n".join(shown)
    assert text.index("cuda:0  evil") < text.index("1  cuda:1") < text.index("  trait    stage")
    assert "gone" in text


def test_a_pipe_has_one_line_for_all_workers_every_few_seconds():
    steps = [
        RUN,
        WorkerSeen(0, "cuda:0", "rollouts", "evil", 0, 200),
        WorkerSeen(1, "cuda:1", "loading"),
    ]
    steps.append(StageStarted("evil", "rollouts", 0, 200))
    for done in range(20, 140, 10):
        steps += [1.0, Progressed("evil", "rollouts", done, 200, tokens=100)]

    lines = show_plain(*steps)

    assert lines[1:] == [
        "[0:00] evil rollouts 0/200",
        "[0:05] 1 of 2 workers at work, 60 rollouts, 100 tokens/s, 0:28 left",
        "[0:10] 1 of 2 workers at work, 110 rollouts, 100 tokens/s, 0:26 left",
    ]


def test_many_devices_are_abbreviated():
    many = RunStarted("big", "runs/big", ("evil",), tuple(f"cuda:{n}" for n in range(64)))

    assert (
        run_text(many) == "run big: 1 trait on cuda:0, cuda:1, … cuda:63 (64 workers), in runs/big"
    )
