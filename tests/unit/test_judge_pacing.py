"""How many requests are let through to an endpoint: in virtual time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.virtual_time import Endpoint, Fate, always, now, pace_of, play, together
from traitcli.judging.openai.concurrency import AdaptiveConcurrency


def refuses(some: int) -> Callable[[int, int], Fate]:
    """The first of sixteen are refused, a moment after the others got their replies."""
    return lambda number, busy: ("refused", 0.2) if number <= some else ("replied", 0.1)


async def opened(
    decide: Callable[[int, int], Fate], retry_after: float | None = None, **pace: Any
) -> Endpoint:
    """An endpoint that has replied to a round of requests, one after the other; so the limit is where it began."""
    endpoint = Endpoint(pace_of(**pace), always(), retry_after)
    for _ in range(endpoint.pace.limit):
        await endpoint.ask()
    endpoint.decide, endpoint.count, endpoint.starts, endpoint.limits = decide, 0, [], []
    return endpoint


async def refused_some(decide: Callable[[int, int], Fate]) -> Endpoint:
    """An endpoint whose doubling is over: five of its first sixteen requests were refused, eleven are let through."""
    endpoint = await opened(refuses(5))
    await together([endpoint.ask() for _ in range(16)])
    assert endpoint.pace.limit == 11
    endpoint.decide, endpoint.count, endpoint.limits = decide, 0, []
    return endpoint


def test_the_limit_doubles_with_every_round_until_it_is_the_most_that_is_allowed():
    async def scene() -> tuple[Endpoint, list[int]]:
        endpoint, seen = await opened(always(), most=100), []

        async def watch() -> None:
            await asyncio.sleep(0.05)
            for _ in range(4):
                seen.append(endpoint.pace.limit)
                await asyncio.sleep(0.1)

        await together([*(endpoint.ask() for _ in range(600)), watch()])
        return endpoint, seen

    endpoint, seen = play(scene)

    assert seen == [16, 32, 64, 100]
    assert endpoint.peak == max(endpoint.limits) == 100


def test_a_limit_that_is_not_used_does_not_rise():
    async def scene() -> AdaptiveConcurrency:
        endpoint = await opened(always())
        for _ in range(50):
            await together([endpoint.ask() for _ in range(3)])
        return endpoint.pace

    assert play(scene).limit == 16


def test_after_the_first_refusals_the_limit_rises_by_four_a_round_at_most():
    async def scene() -> Endpoint:
        endpoint = await refused_some(always())
        await together([endpoint.ask() for _ in range(1000)])
        return endpoint

    limits = play(scene).limits

    rises = [number for number in range(1, len(limits)) if limits[number] != limits[number - 1]]
    assert limits[:10] == [11] * 10
    assert all(1 <= limits[number] - limits[number - 1] <= 4 for number in rises)
    assert all(later - rise >= limits[rise] for rise, later in itertools.pairwise(rises))
    assert limits[-1] > 50


@pytest.mark.parametrize(("refused", "left"), [(4, 12), (6, 10), (8, 8)])
def test_the_limit_falls_by_the_share_that_was_refused(refused: int, left: int):
    async def scene() -> AdaptiveConcurrency:
        endpoint = await opened(refuses(refused))
        await together([endpoint.ask() for _ in range(16)])
        return endpoint.pace

    assert play(scene).limit == left


def test_an_endpoint_that_refuses_everything_is_asked_one_question_at_a_time_in_the_end():
    async def scene() -> Endpoint:
        endpoint = await opened(always("refused"))
        await together([endpoint.ask() for _ in range(300)])
        return endpoint

    limits = play(scene).limits

    assert set(limits[100:]) == {1}
    assert all(after >= before // 2 for before, after in itertools.pairwise(limits))


@pytest.mark.parametrize("places", [1, 2, 5])
def test_an_endpoint_with_few_places_loses_no_question(places: int):
    async def scene() -> tuple[list[bool], Endpoint]:
        endpoint = await opened(
            lambda number, busy: ("refused", 0.0) if busy > places else ("replied", 0.2),
            retry_after=1.0,
        )
        return await together([endpoint.ask_as_scheduled() for _ in range(100)]), endpoint

    scored, endpoint = play(scene)

    assert scored.count(False) == 0
    assert endpoint.peak <= places


@pytest.mark.parametrize(
    "decide",
    [
        lambda number, busy: ("failed" if number % 2 else "replied", 0.1),
        always("failed"),
        always("timed out", 10),
    ],
    ids=["some server errors", "server errors", "timeouts"],
)
def test_server_errors_and_timeouts_hold_the_limit_where_it_is(decide: Callable[[int, int], Fate]):
    async def scene() -> Endpoint:
        endpoint = await refused_some(decide)
        await together([endpoint.ask() for _ in range(100)])
        return endpoint

    assert set(play(scene).limits) == {11}


def test_an_endpoint_that_fails_from_the_start_gets_no_more_requests_at_a_time():
    async def scene() -> AdaptiveConcurrency:
        endpoint = await opened(always("failed"))
        await together([endpoint.ask() for _ in range(200)])
        return endpoint.pace

    assert play(scene).limit == 16


def test_an_endpoint_that_queues_what_it_is_given_is_noticed():
    async def scene() -> Endpoint:
        endpoint = await opened(lambda number, busy: ("replied", 0.1 * max(1.0, busy / 16)))
        await together([endpoint.ask() for _ in range(4000)])
        return endpoint

    assert play(scene).pace.limit < 128


def test_the_first_reply_tells_how_many_an_endpoint_could_serve_one_after_the_other_in_time():
    async def scene(seconds: float) -> int:
        pace = pace_of(timeout=60.0)
        async with pace.slot(0, urgent=False):
            pace.replied(seconds)
        return pace.limit

    assert [play(scene, seconds) for seconds in (0.0, 0.1, 5.0)] == [16, 16, 3]


def test_those_that_were_asked_before_go_first():
    async def scene() -> list[str]:
        pace, order = pace_of(most=1), []

        async def ask(name: str, urgent: bool) -> None:
            async with pace.slot(0, urgent):
                order.append(name)
                await asyncio.sleep(1)

        await together(
            [
                ask("a", False),
                ask("b", False),
                ask("c", False),
                ask("again", True),
                ask("and again", True),
            ]
        )
        return order

    assert play(scene) == ["a", "again", "and again", "b", "c"]


def test_a_place_that_was_refused_stays_taken_for_as_long_as_a_reply_takes():
    async def scene() -> list[float]:
        fates = [("replied", 2.0)] * 16 + [("refused", 0.0), ("replied", 2.0)]
        endpoint = await opened(lambda number, busy: fates[number - 1], most=1)
        for _ in fates:
            await endpoint.ask()
        return [start - endpoint.starts[0] for start in endpoint.starts]

    starts = play(scene)

    assert starts[16:] == pytest.approx([32.0, 34.0])


def test_after_a_round_that_was_refused_altogether_nobody_asks_until_retry_after():
    async def scene() -> list[float]:
        endpoint = await opened(always("refused"), retry_after=7.0)
        await together([endpoint.ask() for _ in range(16)])
        endpoint.decide = always()
        await together([endpoint.ask() for _ in range(4)])
        return [start - endpoint.starts[0] for start in endpoint.starts]

    starts = play(scene)

    assert starts[:16] == [0.0] * 16
    assert min(starts[16:]) == pytest.approx(7.1)


def test_a_refusal_among_many_replies_makes_nobody_else_wait():
    async def scene() -> list[float]:
        endpoint = await opened(
            lambda number, busy: ("refused" if number == 3 else "replied", 0.1), retry_after=7.0
        )
        await together([endpoint.ask() for _ in range(40)])
        return endpoint.starts

    starts = play(scene)

    assert starts[-1] - starts[0] < 1


@pytest.mark.parametrize(
    ("caps", "tokens", "apart"),
    [
        ({"requests_per_minute": 60}, 1000, 1.0),
        ({"tokens_per_minute": 6000}, 500, 5.0),
        ({"requests_per_minute": 60, "tokens_per_minute": 6000}, 500, 5.0),
        ({"requests_per_minute": 6, "tokens_per_minute": 6000}, 500, 10.0),
    ],
)
def test_caps_are_kept_by_spacing_requests_evenly(
    caps: dict[str, float], tokens: int, apart: float
):
    async def scene() -> list[float]:
        endpoint = Endpoint(pace_of(**caps), always(seconds=0.01))
        await together([endpoint.ask(tokens=tokens) for _ in range(8)])
        return endpoint.starts

    assert play(scene) == pytest.approx([apart * number for number in range(8)])


def test_time_in_which_nothing_was_asked_is_not_made_up_for():
    async def scene() -> list[float]:
        endpoint = Endpoint(pace_of(requests_per_minute=60), always(seconds=0.01))
        await endpoint.ask()
        await asyncio.sleep(100)
        await together([endpoint.ask() for _ in range(3)])
        return endpoint.starts

    first, *later = play(scene)

    assert first == 0
    assert [start - later[0] for start in later] == pytest.approx([0, 1, 2])


def test_a_waiting_request_that_is_cancelled_leaks_no_place():
    async def scene() -> str:
        pace = pace_of(most=1)

        async def hold() -> None:
            async with pace.slot(0, urgent=False):
                await asyncio.sleep(1)

        holding, waiting, last = (asyncio.create_task(hold()) for _ in range(3))
        await asyncio.sleep(0.5)
        waiting.cancel()
        await asyncio.gather(holding, last)
        return f"free at {now():g}"

    assert play(scene) == "free at 2"


def test_a_request_that_is_cancelled_in_the_moment_it_is_let_in_leaks_no_place():
    async def scene() -> list[str]:
        pace, done = pace_of(most=1), []

        async def hold(name: str) -> None:
            async with pace.slot(0, urgent=False):
                await asyncio.sleep(1)
            done.append(name)
            if name == "first":
                second.cancel()

        first, second, third = (
            asyncio.create_task(hold(name)) for name in ("first", "second", "third")
        )
        await asyncio.gather(first, second, third, return_exceptions=True)
        return done

    assert play(scene) == ["first", "third"]


def test_a_request_that_is_cancelled_while_it_is_spaced_out_leaks_no_place():
    async def scene() -> float:
        pace = pace_of(most=1, requests_per_minute=6)

        async def ask() -> float:
            async with pace.slot(0, urgent=False):
                return now()

        await ask()
        waiting = asyncio.create_task(ask())
        await asyncio.sleep(5)
        waiting.cancel()
        return await ask()

    assert play(scene) == pytest.approx(20)


def test_requests_that_all_end_badly_leak_no_place():
    async def scene() -> Endpoint:
        fates = ["refused", "failed", "timed out", "replied"]
        endpoint = Endpoint(pace_of(most=4), lambda number, busy: (fates[number % 4], 0.1))
        await together([endpoint.ask() for _ in range(200)])
        endpoint.decide, endpoint.busy, endpoint.peak = always(), 0, 0
        await together([endpoint.ask() for _ in range(200)])
        return endpoint

    assert play(scene).peak == 4
