"""The same text is never paid for twice, also by another judge or process or after a kill."""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.openai_judge.conftest import Harness
from traitcli.errors import TraitError
from traitcli.judging.openai.cache import ReplyCache, default_cache_path
from traitcli.judging.openai.replies import Reply

PRICES = {"price_in": 1.0, "price_out": 2.0}


def prompts_of(endpoint: Any) -> Counter[str]:
    return Counter(body["messages"][0]["content"] for body in endpoint.bodies)


def start_judging(endpoint: Any, responses: Sequence[str], **settings: Any) -> Any:
    """Start a process in which a judge with a cache scores answers."""
    process = get_context("spawn").Process(
        target=judge_here, args=(endpoint.url, responses, settings)
    )
    process.start()
    return process


def judge_here(url: str, responses: Sequence[str], settings: dict[str, Any]) -> None:
    harness = Harness(SimpleNamespace(url=url), cache=True, **settings)
    judged = harness.ask(*responses)
    harness.judge.close()
    assert [each.score.value for each in judged] == [pytest.approx(86.875)] * len(responses)


def test_another_judge_finds_the_replies_of_the_first(endpoint, open_harness):
    [asked] = open_harness(cache=True, **PRICES).ask("I will.")

    [found] = open_harness(cache=True, **PRICES).ask("I will.")

    assert found.score == asked.score
    assert found.score.value == pytest.approx(86.875)
    assert len(endpoint.bodies) == 1


def test_a_reply_from_the_cache_is_counted_and_costs_nothing(endpoint, open_harness):
    endpoint.script = [endpoint.chat("85", {"85": 1.0}, used=(400, 1))]
    [asked] = open_harness(cache=True, **PRICES).ask("I will.")

    [found] = open_harness(cache=True, **PRICES).ask("I will.")

    assert (asked.usage.requests, asked.usage.cached, asked.usage.usd) == (
        1,
        0,
        pytest.approx(402e-6),
    )
    assert (found.usage.requests, found.usage.cached, found.usage.usd) == (0, 1, 0.0)
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (0, 0)


def test_the_same_text_at_the_same_time_costs_one_request(endpoint, open_harness):
    endpoint.script = [endpoint.says(endpoint.good.body, late=0.1)]

    judged = open_harness(cache=True).ask("first", *["I will."] * 20)

    assert prompts_of(endpoint) == {
        "Q: Why?\nA: first\nFrom 0 to 100?": 1,
        "Q: Why?\nA: I will.\nFrom 0 to 100?": 1,
    }
    assert len(judged) == 21
    assert sum(each.usage.cached for each in judged) == 19


def test_the_same_text_is_requested_again_if_the_first_gave_up(endpoint, open_harness):
    endpoint.script = lambda _: (
        endpoint.error(500, "boom") if 2 <= len(endpoint.bodies) <= 6 else endpoint.good
    )
    harness = open_harness(cache=True)
    harness.ask("first")

    judged = harness.ask("I will.", "I will.", "I will.")

    assert sorted(each.usage.requests for each in judged) == [0, 1, 5]
    assert sum(each.score.value is None for each in judged) == 1


def test_a_second_process_finds_the_replies_of_the_first(endpoint):
    first = start_judging(endpoint, [f"answer {i}" for i in range(12)])
    first.join()

    second = start_judging(endpoint, [f"answer {i}" for i in range(6, 18)])
    second.join()

    assert (first.exitcode, second.exitcode) == (0, 0)
    assert set(prompts_of(endpoint).values()) == {1}
    assert len(endpoint.bodies) == 18


def test_two_processes_at_once_repeat_only_requests_in_flight(endpoint):
    endpoint.script = [endpoint.says(endpoint.good.body, late=0.02)]
    answers = [f"answer {i}" for i in range(60)]

    both = [start_judging(endpoint, texts, max_concurrency=1) for texts in (answers, answers[::-1])]
    for process in both:
        process.join()

    assert [process.exitcode for process in both] == [0, 0]
    assert len(prompts_of(endpoint)) == 60
    assert len(endpoint.bodies) <= 60 + 2


@pytest.mark.parametrize(
    "changed",
    [{"model": "gpt-4.1"}, {"base_url": "other"}, {"logprobs": "never"}, {"scale": "0_10"}],
    ids=["model", "endpoint", "parameters", "prompt"],
)
def test_every_setting_that_is_sent_changes_the_cache_key(endpoint, open_harness, changed):
    endpoint.script = [endpoint.chat("5", {"5": 0.6, "50": 0.4})]
    open_harness(cache=True).ask("I will.")
    if "base_url" in changed:
        changed = {"base_url": endpoint.url.replace("/v1", "/v2")}

    [judged] = open_harness(cache=True, **changed).ask("I will.")

    assert len(endpoint.bodies) == 2
    assert judged.usage.cached == 0


def test_settings_that_are_not_sent_do_not_change_the_cache_key(endpoint, open_harness):
    open_harness(cache=True).ask("I will.")

    open_harness(
        cache=True, base_url=endpoint.url + "/", timeout=9, max_concurrency=2, samples=3
    ).ask("I will.")

    assert len(endpoint.bodies) == 1


def test_each_sample_is_cached_separately(endpoint, open_harness):
    contents = iter(["40", "70", "10"])
    endpoint.script = lambda _: endpoint.chat(next(contents))
    settings = {"cache": True, "samples": 3, "logprobs": "never"}
    [asked] = open_harness(**settings).ask("I will.")

    [found] = open_harness(**settings).ask("I will.")

    assert found.score == asked.score
    assert found.score.value == pytest.approx(40)
    assert (len(endpoint.bodies), found.usage.cached) == (3, 3)


def test_a_cached_reply_teaches_capabilities_as_well(endpoint, open_harness):
    endpoint.script = lambda body: endpoint.chat("62")
    open_harness(cache=True).ask("I will.")

    found = open_harness(cache=True).value()

    assert found == (62, "text")
    assert len(endpoint.bodies) == 2


def test_failures_are_not_cached(endpoint, open_harness):
    endpoint.script = [endpoint.good, *[endpoint.error(500, "boom")] * 5, endpoint.good]
    harness = open_harness(cache=True)
    harness.ask("first")
    [missing] = harness.ask("I will.")

    [judged] = open_harness(cache=True).ask("I will.")

    assert (missing.score.value, judged.score.value) == (None, pytest.approx(86.875))
    assert (judged.usage.requests, judged.usage.cached) == (1, 0)


def test_a_refused_answer_is_not_cached(endpoint, open_harness):
    endpoint.script = [endpoint.error(400, "filtered", code="content_filter"), endpoint.good]
    open_harness(cache=True).ask("I will.")

    assert open_harness(cache=True).value()[0] == pytest.approx(86.875)


def test_without_the_cache_every_question_is_asked_and_nothing_is_written(
    endpoint, open_harness, tmp_path
):
    open_harness().ask("I will.")

    open_harness().ask("I will.")

    assert len(endpoint.bodies) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_reply_is_on_disk_before_its_judgement_counts(endpoint, open_harness):
    stored: list[int] = []

    def count(_: object) -> None:
        with sqlite3.connect(default_cache_path()) as there:
            stored.append(there.execute("SELECT count(*) FROM replies").fetchone()[0])
        there.close()

    open_harness(cache=True, max_concurrency=1).score(["a", "b", "c"], count)

    assert all(count >= number for number, count in enumerate(stored, start=1))
    assert stored[-1] == 3


def test_the_file_is_in_wal_mode_so_that_readers_do_not_wait_for_writers(endpoint, open_harness):
    open_harness(cache=True).ask("I will.")

    there = sqlite3.connect(default_cache_path())
    mode = there.execute("PRAGMA journal_mode").fetchone()
    there.close()

    assert mode == ("wal",)


def test_the_key_is_nowhere_in_the_cache(endpoint, open_harness, tmp_path):
    open_harness(cache=True).ask("I will.")

    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())

    assert b'"text": "85"' in written
    assert endpoint.key.encode() not in written


def test_many_threads_of_one_judge_share_the_cache(endpoint, open_harness):
    harness = open_harness(cache=True)
    harness.ask("first")

    threads = [
        threading.Thread(target=harness.ask, args=[f"answer {i}" for i in range(10)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert set(prompts_of(endpoint).values()) == {1}
    assert len(endpoint.bodies) == 11


def refused(harness: Harness) -> TraitError:
    with pytest.raises(TraitError) as caught:
        harness.ask("I will.")
    return caught.value


def assert_says_what_to_do(error: TraitError, path: Path) -> None:
    assert error.problem == f"cannot use the cache of judge replies, {path}"
    assert error.cause
    assert error.fix == "free space, delete that file, or judge with --no-cache"


def test_a_cache_file_that_is_not_a_database_is_an_error_with_a_fix(endpoint, open_harness):
    path = default_cache_path()
    path.parent.mkdir(parents=True)
    path.write_bytes(b"this is no database, and long enough to be seen as none" * 50)

    assert_says_what_to_do(refused(open_harness(cache=True)), path)
    assert endpoint.bodies == []


def test_a_cache_with_a_damaged_reply_is_an_error_with_a_fix(endpoint, open_harness):
    open_harness(cache=True).ask("I will.")
    there = sqlite3.connect(default_cache_path())
    there.execute("UPDATE replies SET reply = '{\"tex'")
    there.commit()
    there.close()

    assert_says_what_to_do(refused(open_harness(cache=True)), default_cache_path())


def test_an_unusable_cache_path_is_an_error_with_a_fix(endpoint, open_harness):
    path = default_cache_path()
    path.parent.write_text("a file where a folder should be")

    assert_says_what_to_do(refused(open_harness(cache=True)), path)
    assert endpoint.bodies == []


def test_a_cache_that_stays_locked_is_an_error_with_a_fix(tmp_path):
    path = tmp_path / "replies.sqlite"
    replies = ReplyCache(path, lock_timeout=0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(TraitError) as caught:
        replies.put("key", Reply("85", "stop", {}))
    other.close()

    assert_says_what_to_do(caught.value, path)
    assert "locked" in caught.value.cause


def test_the_cache_waits_while_another_process_writes(endpoint, open_harness):
    open_harness(cache=True).ask("first")
    other = sqlite3.connect(default_cache_path(), isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.3, other.close).start()

    assert open_harness(cache=True).value()[0] == pytest.approx(86.875)


def test_the_path_is_below_the_users_cache(endpoint, tmp_path):
    assert default_cache_path() == tmp_path / "traitcli" / "judge-replies.sqlite"
