"""Judging over HTTP that is killed, overlaps with generation, or finds cached replies."""

from __future__ import annotations

import random
import shutil
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import TINY
from tests.e2e.judge_server import KEY, expected_score, is_about_coherence, settings
from traitcli.judging.openai.cache import cache_key
from traitcli.judging.prompts import COHERENCE, clean_answer, write_prompt
from traitcli.records import Trait
from traitcli.traits.definitions import find_traits, load_trait

TRAITS = ("evil", "refusal")
CALLS = 2 * 2 * 20
"""A trait question and a coherence question for twenty rollouts of each of two traits."""
KILLS = 4


def definition(name: str) -> Trait:
    return load_trait(find_traits(Path("nowhere"))[name])


def prompts_for(workspace: Any, name: str, rollouts: set[str]) -> set[str]:
    """All judge prompts about some rollouts of a trait."""
    trait = definition(name)
    asked = [line for line in workspace.lines(name) if line["id"] in rollouts]
    return {
        write_prompt(template, trait.questions[line["question"]], clean_answer(line["response"]))
        for line in asked
        for template in (trait.judge_prompt, COHERENCE)
    }


def judged_rollouts(workspace: Any, name: str, run: str = "tiny") -> set[str]:
    lines = workspace.ledger(name, "judgements", run).split(b"\n")[:-1]
    return {line.split(b'"rollout": "')[1].split(b'"')[0].decode() for line in lines}


def cached_replies(workspace: Any) -> set[str]:
    """The keys of the replies in the cache, as a later process sees them."""
    [path] = (workspace.folder / "cache").rglob("judge-replies.sqlite")
    there = sqlite3.connect(path)
    try:
        return {key for (key,) in there.execute("SELECT key FROM replies")}
    finally:
        there.close()


def scores_of(workspace: Any, run: str = "tiny") -> dict[str, float]:
    return {
        line["rollout"]: line["score"]["value"]
        for name in TRAITS
        for line in workspace.lines(name, "judgements", run)
    }


def expected_scores(workspace: Any) -> dict[str, float]:
    return {
        line["id"]: expected_score(clean_answer(line["response"]))
        for name in TRAITS
        for line in workspace.lines(name)
        if line["split"] == "extraction"
    }


class Killed:
    """`judge` killed at arbitrary times several times, then run to its end.

    asked  the requests of each command, including the last
    known  what was stored before each command: prompts of judgements, keys of cached replies
    """

    def __init__(self, workspace: Any, server: Any, *flags: str) -> None:
        server.reset()
        server.delay = 0.02
        self.workspace, self.url = workspace, server.url
        self.codes: list[int] = []
        self.asked: list[list[dict[str, Any]]] = []
        self.known: list[tuple[set[str], set[str]]] = [(set(), set())]
        dice = random.Random(7)
        for _ in range(KILLS):
            begun = len(server.bodies)
            enough = begun + dice.randint(3, 11)
            going = workspace.start("judge", *flags, OPENAI_API_KEY=KEY)
            going.wait_until(lambda enough=enough: len(server.bodies) >= enough)
            self.codes.append(going.kill().code)
            self.asked.append(server.bodies[begun:])
            judged = set().union(
                *(prompts_for(workspace, name, judged_rollouts(workspace, name)) for name in TRAITS)
            )
            self.known.append((judged, set() if flags else cached_replies(workspace)))
        begun = len(server.bodies)
        self.codes.append(workspace.run("judge", *flags, OPENAI_API_KEY=KEY).code)
        self.asked.append(server.bodies[begun:])

    def asked_twice(self) -> list[str]:
        """Prompts that were sent although their judgement or reply was already stored."""
        return [
            prompt
            for asked, (judged, replies) in zip(self.asked, self.known, strict=True)
            for body in asked
            if (prompt := body["messages"][0]["content"]) in judged
            or cache_key(self.url, body, 0) in replies
        ]


@pytest.fixture(scope="module", params=[(), ("--no-cache",)], ids=["cache", "no cache"])
def killed(open_unjudged, server, request) -> Killed:
    return Killed(open_unjudged(**settings(server, max_concurrency=4)), server, *request.param)


def test_a_killed_judge_is_killed_in_the_middle_and_then_completes(killed):
    assert killed.codes == [-signal.SIGKILL] * KILLS + [0]
    assert all(0 < len(asked) < CALLS for asked in killed.asked)
    assert 0 < len(killed.known[-1][0]) < CALLS


def test_after_a_kill_no_stored_judgement_is_requested_again(killed):
    assert killed.asked_twice() == []


def test_the_scores_of_a_killed_run_are_those_of_an_uninterrupted_one(killed):
    workspace = killed.workspace

    assert scores_of(workspace) == pytest.approx(expected_scores(workspace))
    assert (
        sum(len(workspace.lines(name, "judgements")) for name in TRAITS)
        == len(scores_of(workspace))
        == 40
    )


class Overlapping:
    """`extract evil refusal` with a slow judge, killed during the second trait, then run again.

    seen  for each request: its trait, and the number of rollouts of each trait at that time
    """

    def __init__(self, workspace: Any, server: Any) -> None:
        server.reset()
        workspace.own_cache()
        server.delay = 0.05
        self.workspace = workspace
        self.seen: list[tuple[str, int, int]] = []
        marks = {name: f"one trait: {name}." for name in TRAITS}

        def note(prompt: str) -> None:
            rollouts = [workspace.ledger(name).count(b"\n") for name in TRAITS]
            if not is_about_coherence(prompt):
                self.seen.append(
                    (next(name for name in TRAITS if marks[name] in prompt), *rollouts)
                )

        server.on_prompt = note
        going = workspace.start("extract", *TRAITS, OPENAI_API_KEY=KEY)
        going.wait_until(
            lambda: (
                bool(workspace.ledger("refusal"))
                and workspace.ledger("evil", "judgements").count(b"\n") >= 3
            )
        )
        self.first = going.kill()
        self.rollouts_then = {name: workspace.ledger(name) for name in TRAITS}
        self.judged_then = {name: judged_rollouts(workspace, name) for name in TRAITS}
        self.replies_then, begun = cached_replies(workspace), len(server.bodies)
        server.delay = 0.0
        self.second = workspace.run("extract", *TRAITS, "--json", OPENAI_API_KEY=KEY)
        self.asked_again = [cache_key(server.url, body, 0) for body in server.bodies[begun:]]


@pytest.fixture(scope="module")
def overlapping(open_workspace, server) -> Overlapping:
    sections = settings(server, max_concurrency=2) | {
        "extract": TINY["extract"] | {"batch_size": 3},
        "filter": {"threshold": 0, "min_auroc": 0, "pairing": "independent"},
    }
    return Overlapping(open_workspace(**sections), server)


def test_judging_overlaps_with_generation(overlapping):
    early = [evil for trait, evil, _ in overlapping.seen if trait == "evil" and evil < 30]

    assert early


def test_the_next_trait_is_generated_while_the_first_is_still_judged(overlapping):
    during_generation = [
        refusal for trait, _, refusal in overlapping.seen if trait == "evil" and refusal
    ]

    assert during_generation


def test_a_killed_extract_repeats_no_stored_rollout_or_judgement(overlapping):
    assert (overlapping.first.code, overlapping.second.code) == (-signal.SIGKILL, 0)
    assert 0 < len(overlapping.replies_then) < CALLS
    assert not overlapping.replies_then & set(overlapping.asked_again)
    for name in TRAITS:
        assert overlapping.workspace.ledger(name).startswith(
            overlapping.rollouts_then[name].rpartition(b"\n")[0]
        )
        judged = [line["rollout"] for line in overlapping.workspace.lines(name, "judgements")]
        assert len(judged) == len(set(judged)) == 20


def test_a_killed_extract_ends_with_all_scores_and_vectors(overlapping):
    workspace = overlapping.workspace

    assert scores_of(workspace) == pytest.approx(expected_scores(workspace))
    assert len(scores_of(workspace)) == 40
    assert {vector["trait"] for vector in overlapping.second.json["vectors"]} == set(TRAITS)


def test_another_run_with_the_same_answers_uses_the_cache(open_unjudged, server):
    server.reset()
    workspace = open_unjudged(**settings(server))
    for run in ("second", "third"):
        shutil.copytree(workspace.folder / "runs" / "tiny", workspace.folder / "runs" / run)

    codes, asked = [], []
    for flags in ([], ["--run", "second"], ["--run", "third", "--no-cache"]):
        begun = len(server.bodies)
        codes.append(workspace.run("judge", *flags, OPENAI_API_KEY=KEY).code)
        asked.append(len(server.bodies) - begun)

    assert codes == [0, 0, 0]
    assert asked == [CALLS, 0, CALLS]
    assert scores_of(workspace, "second") == scores_of(workspace, "third") == scores_of(workspace)
