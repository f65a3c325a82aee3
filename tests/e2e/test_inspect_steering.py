"""traitcli inspect steering as a user types it: tables, JSON, kills and mistakes."""

from __future__ import annotations

import shutil
import signal

import numpy as np
import pytest

from tests.e2e.judge_server import KEY, settings
from traitcli.records import TraitVector
from traitcli.vectors.files import write_vector

SMALL = ("--coefficients=-4,4", "--questions", "5")
SAMPLING = {"sampling": {"max_new_tokens": 8}}
LIKELIHOOD = {"backend": "likelihood", "likelihood": {"pairs": 1}}
MANY = {"extract": {"batch_size": 2, "sampling": {"max_new_tokens": 24}}, "judge": LIKELIHOOD}


def add_vector(workspace, trait):
    """A vector that was not built by a run."""
    directions = np.random.default_rng(5).normal(size=(5, 32)).astype(np.float32)
    vector = TraitVector(trait, "model", "mean_difference", 2, {"response_avg": directions}, {})
    write_vector(workspace.folder / "vectors" / "model", vector)


@pytest.fixture(scope="module")
def sweep_results(open_workspace):
    """A folder with two vectors and no run, and the results without and with --json."""
    workspace = open_workspace(extract=SAMPLING)
    for trait in ("evil", "refusal"):
        add_vector(workspace, trait)
    shown = workspace.run("inspect", "steering", *SMALL, "--show")
    after = workspace.files("runs")
    return workspace, shown, workspace.run("inspect", "steering", *SMALL, "--json"), after


def test_every_vector_has_a_table_without_a_run(sweep_results):
    _, shown, _, _ = sweep_results

    lines = shown.out.splitlines()

    assert shown.code == 0
    assert [line for line in lines if line.startswith(("evil", "refusal"))] == [
        "evil  model, layer 2",
        "refusal  model, layer 2",
    ]
    header = ["coefficient", "dose", "score", "wrong", "coherence", "answers", "empty", "missing"]
    assert [line.split() for line in lines].count(header) == 2
    assert sum(line.startswith("question: ") for line in lines) == 2
    assert "\x1b" not in shown.out


def test_progress_goes_to_stderr_line_by_line(sweep_results):
    _, shown, _, _ = sweep_results

    stderr_lines = [line.partition("] ")[2] for line in shown.err.splitlines()]

    assert stderr_lines[0] == "run tiny: 2 traits, in runs/tiny"
    assert [line for line in stderr_lines if line.endswith("0/15")] == [
        f"{trait} {stage} 0/15"
        for trait in ("evil", "refusal")
        for stage in ("rollouts", "judgements")
    ]
    assert "vector" not in shown.err
    assert not {"\x1b", "\r"} & set(shown.err)


def test_the_same_command_with_json_has_all_results_and_does_nothing(sweep_results):
    workspace, _, counted, after = sweep_results

    rows = counted.json

    assert (counted.code, counted.err) == (0, "")
    assert workspace.files("runs") == after
    assert [row["trait"] for row in rows] == ["evil", "refusal"]
    for row in rows:
        assert [step["coefficient"] for step in row["steps"]] == [-4, 0, 4]
        assert len(row["written"]) == 15
        for step in row["steps"]:
            own = [
                one["score"] for one in row["written"] if one["coefficient"] == step["coefficient"]
            ]
            assert step["score"] == pytest.approx(
                np.mean([score for score in own if score is not None])
            )
        kinds = [line["kind"] for line in workspace.lines(row["trait"], "steering")]
        assert {kind: kinds.count(kind) for kind in kinds} == {
            "norm": 1,
            "answer": 15,
            "judgement": 15,
        }


def test_brakes_have_results_beside_those_of_pushes(sweep_results):
    workspace, *_ = sweep_results
    ways = ("--brake", "evil=ablate", "--brake", "evil=ablate@all refusal=2")

    shown = workspace.run("inspect", "steering", "evil", *SMALL, *ways)
    counted = workspace.run(
        "inspect", "steering", "evil", *SMALL, *ways, "--persona", "positive", "--json"
    )

    assert (shown.code, counted.code) == (0, 0)
    assert "evil=ablate@2 " in shown.out
    assert "evil=ablate@all refusal=2@2 " in " ".join(shown.out.split()) + " "
    [row] = counted.json
    assert [brake["text"] for brake in row["brakes"]] == [
        "evil=ablate@2",
        "evil=ablate@all refusal=2@2",
    ]
    assert row["persona"] == "positive"
    assert len(row["written"]) == 25


def test_a_later_run_in_the_same_folder_is_not_disturbed(sweep_results, open_workspace):
    workspace = open_workspace(extract=SAMPLING | {"questions": 1, "evaluation_questions": 1})
    shutil.copytree(sweep_results[0].folder / "runs", workspace.folder / "runs")
    before = workspace.ledger("evil", "steering")

    ended = workspace.run("extract", "evil", "--json")

    assert (ended.code, ended.json["traits"][0]["judged"]) == (0, 10)
    assert workspace.ledger("evil", "steering") == before


def test_a_killed_sweep_resumes_and_repeats_nothing(open_workspace):
    workspace = open_workspace(**MANY)
    add_vector(workspace, "evil")
    command = ("inspect", "steering", "evil", "--doses=-0.5,0.5", "--questions", "12", "--json")

    def lines(kind):
        return workspace.ledger("evil", "steering").count(f'"kind": "{kind}"'.encode())

    going = workspace.start(*command)
    going.wait_until(lambda: lines("answer") >= 6)
    killed = going.kill()
    written = lines("answer")
    going = workspace.start(*command)
    going.wait_until(lambda: lines("judgement") >= 3)
    interrupted = going.kill(signal.SIGINT)
    judged = lines("judgement")
    ended = workspace.run(*command)

    assert (killed.code, interrupted.code, ended.code) == (-signal.SIGKILL, 130, 0)
    assert "Traceback" not in interrupted.err
    assert 6 <= written < 36
    assert 3 <= judged < 36
    kept = [line for line in workspace.lines("evil", "steering") if line["kind"] != "norm"]
    keys = [(line["kind"], line.get("key") or line["rollout"]) for line in kept]
    assert len(keys) == len(set(keys))
    with_text = sum(bool(one["response"].strip()) for one in ended.json[0]["written"])
    assert (lines("answer"), lines("judgement"), lines("reading")) == (36, 36, with_text)
    assert ended.json[0]["coherence_by"] == "stand-ins"
    assert not (workspace.folder / "runs" / "tiny" / "lock").exists()


MISTAKES = [
    (["evli"], "trait evli not found"),
    (["verbosity"], "no vector of verbosity for model"),
    (["evil", "--layer", "0"], "cannot steer evil at layer 0"),
    (["evil", "--layer", "5"], "cannot steer evil at layer 5"),
    (["evil", "--doses", "a,b"], "invalid --doses a,b"),
    (["evil", "--doses=0"], "nothing to steer by"),
    (["evil", "--coefficients=inf"], "nothing to steer by"),
    (
        ["evil", "--doses=1", "--coefficients=1"],
        "--doses and --coefficients cannot be used together",
    ),
    (["evil", "--brake", "evil<=0"], "cannot steer by evil<=0@2"),
    (["evil", "--brake", "evil"], "invalid --brake evil"),
    (["evil", "--persona", "evil"], "invalid --persona evil"),
    (["evil", "--coefficients=1e39"], "coeff 1e+39 is too large"),
]


def test_mistakes_have_three_lines_and_exit_code_2(sweep_results):
    workspace, *_ = sweep_results
    before = workspace.files("runs")

    ended = workspace.run_all(
        [["inspect", "steering", *typed, "-c", "tiny.yaml"] for typed, _ in MISTAKES]
    )

    for (typed, problem), one in zip(MISTAKES, ended, strict=True):
        stderr_lines = [
            line
            for line in one.err.splitlines()
            if line.startswith(("error: ", "cause: ", "fix: "))
        ]
        assert (one.code, one.out) == (2, ""), typed
        assert [line.partition(": ")[0] for line in stderr_lines] == ["error", "cause", "fix"], (
            typed
        )
        assert stderr_lines[0] == f"error: {problem}", typed
    assert workspace.files("runs").keys() == before.keys()


def test_a_judge_without_a_key_is_refused_before_any_answer(open_workspace):
    workspace = open_workspace(judge={"backend": "openai"})
    add_vector(workspace, "evil")

    ended = workspace.run("inspect", "steering", "evil", *SMALL)

    assert (ended.code, "OPENAI_API_KEY" in ended.err) == (2, True)
    assert workspace.ledger("evil", "steering") == b""


def test_another_command_that_uses_the_run_is_named(sweep_results):
    workspace, *_ = sweep_results
    lock = workspace.folder / "runs" / "tiny" / "lock"
    lock.write_text("1\nelsewhere\n")

    ended = workspace.run("inspect", "steering", "evil", *SMALL)

    lock.unlink()
    assert (ended.code, "another command is working on run tiny" in ended.err) == (2, True)


def test_an_endpoint_judges_coherence_and_its_key_is_not_stored(open_workspace, server):
    server.reset()
    workspace = open_workspace(extract=SAMPLING, **settings(server))
    add_vector(workspace, "evil")

    ended = workspace.run("inspect", "steering", "evil", *SMALL, "--json", OPENAI_API_KEY=KEY)

    [row] = ended.json
    assert (ended.code, row["coherence_by"]) == (0, "judge")
    assert len(server.keys) >= 30
    assert KEY not in ended.out + ended.err
    assert KEY.encode() not in workspace.ledger("evil", "steering")
