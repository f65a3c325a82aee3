"""How fast the stages of a run are, and when it ends."""

from __future__ import annotations

import pytest

from tests.unit.test_progress_views import followed
from traitcli.events import Progressed, StageFinished, StageStarted
from traitcli.views.progress.rates import Rates


def stage(name, trait, start, end, done, total):
    """The events of a stage that takes from `start` to `end`; it ends when all is done."""
    events = [
        (start, StageStarted(trait, name, 0, total)),
        (end, Progressed(trait, name, done, total)),
    ]
    return [*events, (end, StageFinished(trait, name, end - start))] if done == total else events


def test_resumed_work_counts_as_done_but_not_as_speed():
    rates = followed(
        (100.0, StageStarted("evil", "rollouts", 150, 200)),
        (110.0, Progressed("evil", "rollouts", 160, 200, tokens=1000)),
    )

    rate = rates.by_stage["evil", "rollouts"]

    assert rate.tokens_per_second == 100.0
    assert rate.left(110.0) == 40.0


def test_without_progress_there_is_no_speed():
    rate = followed((100.0, StageStarted("evil", "rollouts", 150, 200))).by_stage[
        "evil", "rollouts"
    ]

    assert (rate.tokens_per_second, rate.left(105.0)) == (None, None)


def test_items_before_the_first_event_do_not_count_as_speed():
    rates = followed(
        (100.0, Progressed("evil", "rollouts", 90, 100, tokens=9000)),
        (101.0, Progressed("evil", "rollouts", 91, 100, tokens=10)),
    )

    assert rates.by_stage["evil", "rollouts"].left(101.0) == 9.0


def test_the_end_of_an_unknown_stage_adds_no_row():
    assert followed((100.0, StageFinished("evil", "rollouts", 3.0))).by_stage == {}


def test_the_speed_of_a_finished_stage_stays():
    rates = Rates()
    rates.update(StageStarted("evil", "rollouts", 0, 100), 0.0)
    rates.update(Progressed("evil", "rollouts", 100, 100, tokens=1000), 10.0)
    rates.update(StageFinished("evil", "rollouts", 10.0), 10.0)

    assert rates.update(Progressed("evil", "rollouts", 100, 100), 50.0) is None
    assert rates.of("evil")[0].tokens_per_second == 100.0


def test_the_times_of_stages_that_take_turns_add_up():
    rates = followed(
        *stage("rollouts", "evil", 0, 100, 100, 100),
        *stage("readings", "evil", 100, 101, 10, 100),
    )

    left = rates.left({"rollouts": 300, "readings": 300}, 101)

    assert left == 200 * 1.0 + 290 * 0.1


def test_a_stage_is_not_slower_for_the_stages_between_its_traits():
    rates = followed(
        *stage("rollouts", "evil", 0, 100, 100, 100),
        *stage("readings", "evil", 100, 110, 100, 100),
        *stage("rollouts", "refusal", 110, 160, 50, 100),
    )

    left = rates.left({"rollouts": 200, "readings": 200}, 160)

    assert left == pytest.approx(50 * 1.0 + 100 * 0.1)


def test_readings_of_an_earlier_run_are_counted_though_nothing_is_generated():
    rates = followed(
        (0, StageStarted("evil", "rollouts", 100, 100)),
        (0, StageFinished("evil", "rollouts", 0.0)),
        *stage("readings", "evil", 0, 5, 50, 100),
    )

    assert rates.left({"rollouts": 0, "readings": 100}, 5) == 5.0


def test_judging_beside_generation_takes_no_time_of_its_own():
    rates = followed(
        *stage("rollouts", "evil", 0, 10, 50, 200),
        *stage("judgements", "evil", 0, 10, 50, 200),
    )

    assert rates.left({"rollouts": 200, "judgements": 200}, 10) == pytest.approx(30)


def test_judging_that_outlasts_generation_decides():
    rates = followed(
        *stage("rollouts", "evil", 0, 20, 200, 200),
        *stage("judgements", "evil", 0, 40, 100, 200),
    )

    assert rates.left({"rollouts": 200, "judgements": 200}, 40) == 40


def test_stages_on_two_devices_share_the_time():
    rates = followed(
        *stage("rollouts", "evil", 0, 10, 100, 100),
        *stage("readings", "evil", 10, 20, 100, 200),
        *stage("rollouts", "refusal", 10, 20, 100, 200),
    )

    # Each device makes 10 items a second. One would take 20 seconds for the rest, two take 10; so
    # far both worked for half of the time.
    assert rates.left({"rollouts": 300, "readings": 200}, 20) == pytest.approx(20 * 20 / 30)


def test_the_time_left_of_a_run_counts_down_between_events():
    rates = followed(*stage("readings", "evil", 0, 10, 50, 100))

    assert [rates.left({}, now) for now in (10, 14, 99)] == [10, 6, 0]


def test_a_run_without_a_new_item_has_no_time_left_to_show():
    rates = followed((0, StageStarted("evil", "readings", 20, 100)))

    assert rates.left({"readings": 80}, 5) is None
