"""The retries of a question."""

from __future__ import annotations

import asyncio

import pytest

from traitcli.judging.openai.retry import GaveUpError, RetryBudget, read_retry_after


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "9", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}, 60),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_seconds_milliseconds_or_a_date(
    headers: dict[str, str], seconds: float | None
):
    assert read_retry_after(headers, now=40.0) == seconds


def test_retry_after_replaces_one_wait_for_two_minutes_at_most():
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def fail() -> None:
        retries = RetryBudget(sleep)
        for retry_after in (None, 3.0, 9999.0, None, None):
            retries.count_request()
            await retries.wait("busy", retry_after)

    with pytest.raises(GaveUpError, match="no usable reply in 5 requests; the last: busy"):
        asyncio.run(fail())

    assert waits == [1.0, 3.0, 120.0, 8.0]


def test_a_sixth_request_is_refused_even_when_none_has_failed():
    retries = RetryBudget(asyncio.sleep)
    for _ in range(5):
        retries.count_request()

    with pytest.raises(GaveUpError, match="no usable reply in 5 requests"):
        retries.count_request()
