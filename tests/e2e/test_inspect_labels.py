"""inspect labels with a tiny model: the whole command line, and what it keeps."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.e2e.conftest import CommandResult
from traitcli.traits.definitions import find_traits
from traitcli.vectors.labelled import read_tests

SENTENCE = "the answer to this is that a pin turns in a lock while it rains on every house"


def write_answers(path: Any, count: int) -> None:
    """Random words; each second answer shows the trait and is longer, each third is of topic b."""
    rng = random.Random(0)
    lines = []
    for index in range(count):
        words = rng.choices(SENTENCE.split(), k=24 if index % 2 else 12)
        entry = {
            "prompt": f"Why {index % 10}?",
            "response": " ".join(words),
            "label": index % 2,
            "topic": "b" if index % 3 == 0 else "a",
            "spans": [words[3]] if index % 2 else [],
        }
        lines.append(json.dumps(entry))
    path.write_text("\n".join(lines), encoding="utf-8")


@pytest.fixture(scope="module")
def folder(open_workspace: Callable[..., Any], finished: tuple[Any, CommandResult]) -> Any:
    """A workspace with vectors, the run that they are from, and labelled answers."""
    workspace = open_workspace()
    for name in ("vectors", "runs"):
        shutil.copytree(finished[0].folder / name, workspace.folder / name, dirs_exist_ok=True)
    write_answers(workspace.folder / "answers.jsonl", 60)
    # The judge prompt of the shipped definition does not fit the context of the tiny model.
    definition = yaml.safe_load(
        find_traits(workspace.folder / "traits")["evil"].read_text(encoding="utf-8")
    )
    definition["judge_prompt"] = "Is it evil?\nQ: {question}\nA: {answer}\nFrom 0 to 100:"
    path = workspace.folder / "traits" / "evil.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(definition), encoding="utf-8")
    return workspace


@pytest.fixture(scope="module")
def measured(folder: Any) -> CommandResult:
    return folder.run(
        "inspect", "labels", "answers.jsonl", "--trait", "evil", "--by", "topic", "--json",
        "--keep", "own",
    )  # fmt: skip


def row(result: Any, part: str, name: str) -> Any:
    [found] = [one for one in result["rows"] if (one["part"], one["name"]) == (part, name)]
    return found


def stored(folder: Any) -> Any:
    [path] = (folder.folder / "vectors").rglob("evil.labels.json")
    return path, json.loads(path.read_text(encoding="utf-8"))


def test_ways_to_sum_up_baselines_leads_groups_and_tokens_are_printed_as_json(measured):
    assert measured.code == 0, measured.err
    result = measured.json

    assert (result["trait"], result["source"], result["summary"]) == (
        "evil",
        "answers.jsonl",
        "rolling(8)",
    )
    assert (result["texts"], result["positive"], result["prompts"]) == (60, 30, 10)
    parts = {one["part"] for one in result["rows"]}
    assert parts == {"summary", "baseline", "lead", "group", "topic", "tokens"}
    assert result["auroc"] == row(result, "summary", "rolling mean of 8")["value"]
    assert result["low"] <= result["auroc"] <= result["high"]
    # A word is one token or more, so 24 of them are more tokens than 12.
    assert result["length_auroc"] == 1
    assert row(result, "tokens", "tokens inside spans")["positive"] >= 30


def test_words_are_learned_from_the_run_and_the_model_is_asked(measured):
    result = measured.json

    assert result["words_auroc"] is not None
    assert result["words_lead_low"] == row(result, "lead", "over bag of words")["low"]
    assert row(result, "baseline", "asked yes or no")["count"] == 60
    assert "asking" in measured.err


def test_a_true_positive_rate_needs_enough_negatives(measured):
    rolling = row(measured.json, "summary", "rolling mean of 8")

    assert rolling["tpr_1"] is None
    assert 0 <= rolling["tpr_5"] <= 1


def test_the_result_is_kept_beside_the_vector_under_its_name(folder, measured):
    path, data = stored(folder)

    assert (path.parent / "evil.safetensors").is_file()
    assert [test["name"] for test in data["tests"]] == ["own"]
    assert data["tests"][0]["auroc"] == measured.json["auroc"]


def test_a_kept_result_of_an_earlier_vector_is_named(folder, measured):
    path, data = stored(folder)
    data["tests"][0] |= {"name": "old", "fingerprint": "0" * 64}
    text = path.read_text(encoding="utf-8")
    path.write_text(json.dumps(data), encoding="utf-8")

    ended = folder.run(
        "inspect", "labels", "answers.jsonl", "--trait", "evil", "--no-ask", "--keep", "new"
    )

    names = [test["name"] for test in stored(folder)[1]["tests"]]
    path.write_text(text, encoding="utf-8")
    assert ended.code == 0, ended.err
    assert names == ["old", "new"]
    assert "of an earlier vector, no evidence for this one: old" in ended.err


def test_a_result_of_a_vector_file_is_kept_under_the_name_of_the_file(folder, tmp_path):
    [own] = (folder.folder / "vectors").rglob("evil.safetensors")
    path = shutil.copy(own, tmp_path / "mine.safetensors")

    ended = folder.run(
        "inspect", "labels", "answers.jsonl", "--trait", "evil", "--no-ask", "--keep", "new",
        "--vectors", str(path),
    )  # fmt: skip

    assert ended.code == 0, ended.err
    assert [one.name for one in read_tests(path)] == ["new"]


def test_the_table_names_what_was_not_measured(folder):
    ended = folder.run("inspect", "labels", "answers.jsonl", "--trait", "evil", "--no-ask")

    assert ended.code == 0, ended.err
    assert "evil on answers.jsonl: 30 of 60 answers show it, 10 prompts" in ended.out
    assert "asked yes or no: not measured: --no-ask" in ended.out
    assert "no TPR at 1% FPR" in ended.out


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--trait", "evil", "--labels", "shown"), "nothing to compare in answers.jsonl"),
        (("--trait", "evil", "--by", "kind"), "cannot group answers.jsonl by kind"),
        (("--trait", "unknown"), "unknown"),
        (("--trait", "evil", "--keep", " "), "invalid --keep"),
    ],
)
def test_a_mistake_is_found_before_the_model_is_loaded(folder, arguments, problem):
    ended = folder.run("inspect", "labels", "answers.jsonl", *arguments)

    assert ended.code != 0
    assert problem in ended.err
    assert "loading" not in ended.err


# inspect methods, on the same answers


def test_the_mean_difference_has_the_figures_of_the_vector_of_build_vector(folder, measured):
    result = measured.json

    ended = folder.run("inspect", "methods", "evil", "--answers", "answers.jsonl", "--json")

    assert ended.code == 0, ended.err
    methods = {one["method"]: one for one in ended.json}
    mean, logistic = methods["mean_difference"], methods["logistic"]
    assert mean["layer"] == result["layer"]
    for key, name in (("rolling", "rolling mean of 8"), ("mean", "mean")):
        own = row(result, "summary", name)
        for bound, number in (("", "value"), ("_low", "low"), ("_high", "high")):
            assert mean[f"{key}_auroc{bound}"] == pytest.approx(own[number], abs=1e-3)
        lead = logistic[f"{key}_auroc"] - mean[f"{key}_auroc"]
        assert logistic[f"{key}_ahead"] == pytest.approx(lead)
    counts = [logistic[key] for key in ("answers", "answers_positive", "answers_prompts")]
    assert counts == [60, 30, 10]


def test_the_answers_have_a_table_below_that_of_the_trait(folder):
    ended = folder.run("inspect", "methods", "evil", "--answers", "answers.jsonl")

    assert ended.code == 0, ended.err
    assert "evil on answers.jsonl: 30 of 60 answers show it, 10 prompts" in ended.out
    assert "read answers.jsonl as JSON lines" in ended.err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("evil", "refusal", "--answers", "answers.jsonl"), "--answers needs one trait"),
        (("--answers", "answers.jsonl"), "--answers needs one trait"),
        (("evil", "--labels", "shown"), "--labels needs --answers"),
        (
            ("evil", "--answers", "answers.jsonl", "--labels", "shown"),
            "nothing to compare in answers.jsonl",
        ),
        (
            ("evil", "--answers", "answers.jsonl", "--set", "model.id=other"),
            "other cannot read answers for run tiny",
        ),
    ],
)
def test_a_mistake_about_answers_is_found_before_anything_is_compared(folder, arguments, problem):
    ended = folder.run("inspect", "methods", *arguments)

    assert ended.code != 0
    assert problem in ended.err
    assert ended.out == ""
