"""How long a request is waited for, as its endpoint shows how fast it is: in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.virtual_time import Endpoint, always, now, pace_of, play, together
from traitcli.judging.openai.concurrency import AdaptiveConcurrency


async def patient(pace: AdaptiveConcurrency, hung: int) -> float:
    """How long a request that never ends is waited for."""
    start = now()
    with pytest.raises(TimeoutError):
        async with pace.patience(hung):
            await asyncio.sleep(10_000)
    return now() - start


async def knowing(seconds: float, timeout: float = 60.0) -> AdaptiveConcurrency:
    endpoint = Endpoint(pace_of(timeout=timeout), always(seconds=seconds))
    await together([endpoint.ask() for _ in range(64)])
    return endpoint.pace


def test_without_knowledge_a_request_is_waited_for_as_long_as_the_timeout():
    async def scene() -> list[float]:
        return [await patient(pace_of(timeout=60.0), hung) for hung in range(3)]

    assert play(scene) == pytest.approx([60, 60, 60])


@pytest.mark.parametrize(
    ("seconds", "waited"),
    [(0.5, [2, 4, 8, 16, 32]), (5.0, [20, 40, 60, 60, 60]), (0.01, [0.5, 1, 2, 4, 8])],
)
def test_with_knowledge_it_is_four_times_a_slow_reply_and_twice_as_long_after_each_hang(
    seconds: float, waited: list[float]
):
    async def scene() -> list[float]:
        pace = await knowing(seconds)
        return [await patient(pace, hung) for hung in range(5)]

    assert play(scene) == pytest.approx(waited)


def test_a_request_that_hangs_already_is_given_up_when_the_others_show_how_fast_replies_are():
    async def scene() -> float:
        endpoint = Endpoint(pace_of(timeout=60.0), always(seconds=0.5))
        waited, *_ = await together(
            [patient(endpoint.pace, 0), *(endpoint.ask() for _ in range(64))]
        )
        return waited

    assert play(scene) == pytest.approx(2.0, abs=0.6)
