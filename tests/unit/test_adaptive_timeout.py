"""The timeout of a request, which adapts to the speed of replies, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.virtual_time import now, play, together
from traitcli.judging.openai.adaptive_timeout import AdaptiveTimeout


async def time_to_give_up(timeout: AdaptiveTimeout, timeouts: int) -> float:
    """Measure the seconds until a request that never ends is cancelled."""
    start = now()
    with pytest.raises(TimeoutError):
        async with timeout.limit(timeouts):
            await asyncio.sleep(10_000)
    return now() - start


async def reply(timeout: AdaptiveTimeout, seconds: float, count: int) -> None:
    """Send requests one after another."""
    for _ in range(count):
        await asyncio.sleep(seconds)
        timeout.replied(seconds)


def test_without_enough_replies_the_configured_timeout_counts():
    async def scene() -> list[float]:
        timeout = AdaptiveTimeout(60.0)
        await reply(timeout, 0.5, count=19)
        return [await time_to_give_up(timeout, timeouts) for timeouts in range(3)]

    assert play(scene) == pytest.approx([60, 60, 60])


@pytest.mark.parametrize(
    ("seconds", "waited"),
    [(0.5, [2, 4, 8, 16, 32]), (5.0, [20, 40, 60, 60, 60]), (0.01, [0.5, 1, 2, 4, 8])],
)
def test_the_timeout_is_four_times_a_slow_reply_and_doubles_after_each_timeout(
    seconds: float, waited: list[float]
):
    async def scene() -> list[float]:
        timeout = AdaptiveTimeout(60.0)
        await reply(timeout, seconds, count=64)
        return [await time_to_give_up(timeout, timeouts) for timeouts in range(5)]

    assert play(scene) == pytest.approx(waited)


def test_a_hanging_request_times_out_once_replies_are_known_to_be_fast():
    async def scene() -> float:
        timeout = AdaptiveTimeout(60.0)
        replies = [reply(timeout, 0.5, count=1) for _ in range(64)]
        waited, *_ = await together([time_to_give_up(timeout, 0), *replies])
        return waited

    assert play(scene) == pytest.approx(2.0, abs=0.6)
