"""How many requests an endpoint gets at once, in virtual time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.virtual_time import (
    Endpoint,
    Outcome,
    always,
    make_concurrency,
    now,
    play,
    together,
)
from traitcli.judging.openai.concurrency import AdaptiveConcurrency


def refuses(count: int) -> Callable[[int, int], Outcome]:
    """Refuse the first of sixteen requests shortly after the others got their replies."""
    return lambda number, in_flight: ("refused", 0.2) if number <= count else ("replied", 0.1)


async def opened(
    decide: Callable[[int, int], Outcome], retry_after: float | None = None, **options: Any
) -> Endpoint:
    """An endpoint after a round of single requests, so that its limit is still the initial one."""
    endpoint = Endpoint(make_concurrency(**options), always(), retry_after)
    for _ in range(endpoint.concurrency.limit):
        await endpoint.ask()
    endpoint.decide, endpoint.count, endpoint.starts, endpoint.limits = decide, 0, [], []
    return endpoint


async def refused_some(decide: Callable[[int, int], Outcome]) -> Endpoint:
    """An endpoint whose limit no longer doubles, because five of sixteen requests were refused."""
    endpoint = await opened(refuses(5))
    await together([endpoint.ask() for _ in range(16)])
    assert endpoint.concurrency.limit == 11
    endpoint.decide, endpoint.count, endpoint.limits = decide, 0, []
    return endpoint


def test_the_limit_doubles_with_every_round_up_to_the_maximum():
    async def scene() -> tuple[Endpoint, list[int]]:
        endpoint, seen = await opened(always(), max_concurrency=100), []

        async def watch() -> None:
            await asyncio.sleep(0.05)
            for _ in range(4):
                seen.append(endpoint.concurrency.limit)
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
        return endpoint.concurrency

    assert play(scene).limit == 16


def test_after_the_first_refusals_the_limit_rises_by_a_quarter_a_round():
    async def scene() -> Endpoint:
        endpoint = await refused_some(always())
        await together([endpoint.ask() for _ in range(1000)])
        return endpoint

    limits = play(scene).limits

    rises = [number for number in range(1, len(limits)) if limits[number] != limits[number - 1]]
    assert limits[:10] == [11] * 10
    assert all(limits[number] <= limits[number - 1] * 5 / 4 + 1 for number in rises)
    assert all(later - rise >= limits[rise] for rise, later in itertools.pairwise(rises))
    assert limits[-1] > 50


@pytest.mark.parametrize(("refused", "left"), [(4, 12), (6, 10), (8, 8)])
def test_the_limit_falls_by_the_share_that_was_refused(refused: int, left: int):
    async def scene() -> AdaptiveConcurrency:
        endpoint = await opened(refuses(refused))
        await together([endpoint.ask() for _ in range(16)])
        return endpoint.concurrency

    assert play(scene).limit == left


def test_an_endpoint_that_refuses_everything_gets_one_request_at_a_time_in_the_end():
    async def scene() -> Endpoint:
        endpoint = await opened(always("refused"))
        await together([endpoint.ask() for _ in range(300)])
        return endpoint

    limits = play(scene).limits

    assert set(limits[100:]) == {1}
    assert all(after >= before // 2 for before, after in itertools.pairwise(limits))


@pytest.mark.parametrize("capacity", [1, 2, 5])
def test_an_endpoint_that_takes_few_requests_loses_no_question(capacity: int):
    async def scene() -> tuple[list[bool], Endpoint]:
        endpoint = await opened(
            lambda number, in_flight: (
                ("refused", 0.0) if in_flight > capacity else ("replied", 0.2)
            ),
            retry_after=1.0,
        )
        return await together([endpoint.ask_with_retries() for _ in range(100)]), endpoint

    scored, endpoint = play(scene)

    assert scored.count(False) == 0
    assert endpoint.peak <= capacity


@pytest.mark.parametrize(
    "decide",
    [
        lambda number, in_flight: ("failed" if number % 2 else "replied", 0.1),
        always("failed"),
        always("timed out", 10),
    ],
    ids=["some server errors", "server errors", "timeouts"],
)
def test_server_errors_and_timeouts_do_not_change_the_limit(decide: Callable[[int, int], Outcome]):
    async def scene() -> Endpoint:
        endpoint = await refused_some(decide)
        await together([endpoint.ask() for _ in range(100)])
        return endpoint

    assert set(play(scene).limits) == {11}


def test_an_endpoint_that_fails_from_the_start_gets_no_more_requests_at_once():
    async def scene() -> AdaptiveConcurrency:
        endpoint = await opened(always("failed"))
        await together([endpoint.ask() for _ in range(200)])
        return endpoint.concurrency

    assert play(scene).limit == 16


def test_the_limit_stops_rising_when_an_endpoint_queues_requests():
    async def scene() -> Endpoint:
        endpoint = await opened(
            lambda number, in_flight: ("replied", 0.1 * max(1.0, in_flight / 16))
        )
        await together([endpoint.ask() for _ in range(4000)])
        return endpoint

    assert play(scene).concurrency.limit < 128


def test_the_first_reply_limits_requests_to_what_can_be_served_one_by_one_in_time():
    async def scene(seconds: float) -> int:
        concurrency = make_concurrency(timeout=60.0)
        async with concurrency.permit(0):
            concurrency.replied(seconds)
        return concurrency.limit

    assert [play(scene, seconds) for seconds in (0.0, 0.1, 5.0)] == [16, 16, 3]


def test_requests_are_sent_in_the_order_in_which_they_asked():
    async def scene() -> list[str]:
        concurrency, order = make_concurrency(max_concurrency=1), []

        async def ask(name: str) -> None:
            async with concurrency.permit(0):
                order.append(name)
                await asyncio.sleep(1)

        await together([ask("a"), ask("b"), ask("c")])
        return order

    assert play(scene) == ["a", "b", "c"]


def test_a_refused_permit_is_blocked_for_the_duration_of_a_reply():
    async def scene() -> list[float]:
        outcomes = [("replied", 2.0)] * 16 + [("refused", 0.0), ("replied", 2.0)]
        endpoint = await opened(lambda number, in_flight: outcomes[number - 1], max_concurrency=1)
        for _ in outcomes:
            await endpoint.ask()
        return [start - endpoint.starts[0] for start in endpoint.starts]

    starts = play(scene)

    assert starts[16:] == pytest.approx([32.0, 34.0])


def test_after_a_round_of_nothing_but_refusals_requests_wait_for_retry_after():
    async def scene() -> list[float]:
        endpoint = await opened(always("refused"), retry_after=7.0)
        await together([endpoint.ask() for _ in range(16)])
        endpoint.decide = always()
        await together([endpoint.ask() for _ in range(4)])
        return [start - endpoint.starts[0] for start in endpoint.starts]

    starts = play(scene)

    assert starts[:16] == [0.0] * 16
    assert min(starts[16:]) == pytest.approx(7.1)


def test_a_single_refusal_makes_no_other_request_wait():
    async def scene() -> list[float]:
        endpoint = await opened(
            lambda number, in_flight: ("refused" if number == 3 else "replied", 0.1),
            retry_after=7.0,
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
        endpoint = Endpoint(make_concurrency(**caps), always(seconds=0.01))
        await together([endpoint.ask(tokens=tokens) for _ in range(8)])
        return endpoint.starts

    assert play(scene) == pytest.approx([apart * number for number in range(8)])


def test_idle_time_does_not_allow_a_burst_of_requests():
    async def scene() -> list[float]:
        endpoint = Endpoint(make_concurrency(requests_per_minute=60), always(seconds=0.01))
        await endpoint.ask()
        await asyncio.sleep(100)
        await together([endpoint.ask() for _ in range(3)])
        return endpoint.starts

    first, *later = play(scene)

    assert first == 0
    assert [start - later[0] for start in later] == pytest.approx([0, 1, 2])


def test_cancelling_a_waiting_request_leaks_no_permit():
    async def scene() -> str:
        concurrency = make_concurrency(max_concurrency=1)

        async def use_permit() -> None:
            async with concurrency.permit(0):
                await asyncio.sleep(1)

        holding, waiting, last = (asyncio.create_task(use_permit()) for _ in range(3))
        await asyncio.sleep(0.5)
        waiting.cancel()
        await asyncio.gather(holding, last)
        return f"free at {now():g}"

    assert play(scene) == "free at 2"


def test_cancelling_a_request_as_it_gets_its_permit_leaks_no_permit():
    async def scene() -> list[str]:
        concurrency, done = make_concurrency(max_concurrency=1), []

        async def use_permit(name: str) -> None:
            async with concurrency.permit(0):
                await asyncio.sleep(1)
            done.append(name)
            if name == "first":
                second.cancel()

        first, second, third = (
            asyncio.create_task(use_permit(name)) for name in ("first", "second", "third")
        )
        await asyncio.gather(first, second, third, return_exceptions=True)
        return done

    assert play(scene) == ["first", "third"]


def test_cancelling_a_request_that_waits_for_a_cap_leaks_no_permit():
    async def scene() -> float:
        concurrency = make_concurrency(max_concurrency=1, requests_per_minute=6)

        async def ask() -> float:
            async with concurrency.permit(0):
                return now()

        await ask()
        waiting = asyncio.create_task(ask())
        await asyncio.sleep(5)
        waiting.cancel()
        return await ask()

    assert play(scene) == pytest.approx(20)


def test_failed_requests_leak_no_permit():
    async def scene() -> Endpoint:
        outcomes = ["refused", "failed", "timed out", "replied"]
        endpoint = Endpoint(
            make_concurrency(max_concurrency=4),
            lambda number, in_flight: (outcomes[number % 4], 0.1),
        )
        await together([endpoint.ask() for _ in range(200)])
        endpoint.decide, endpoint.in_flight, endpoint.peak = always(), 0, 0
        await together([endpoint.ask() for _ in range(200)])
        return endpoint

    assert play(scene).peak == 4
