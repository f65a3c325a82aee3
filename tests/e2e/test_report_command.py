"""traitcli report: runs, vectors and records as a page, as data and as pictures."""

from __future__ import annotations

import csv
import html
import json
import stat

import numpy as np
import pytest

TRAITS = ["evil", "refusal"]


@pytest.fixture(scope="module")
def report_workspace(open_workspace):
    """A workspace with a run of two traits and a record.

    The scores of the fake judge are at chance, so the filter must accept any judge.
    """
    workspace = open_workspace(filter={"min_auroc": 0.0, "pairing": "independent"})
    assert workspace.run("extract", *TRAITS).code == 0
    assert workspace.run("monitor", "Hello?", "--out", "runs/monitor/hello.json").code == 0
    return workspace


@pytest.fixture(scope="module")
def content(report_workspace):
    """The report as JSON."""
    ended = report_workspace.run("report", "--format", "json")
    assert (ended.code, ended.out, ended.err) == (0, "runs/report.json\n", "")
    return json.loads((report_workspace.folder / "runs/report.json").read_text())


def vectors(content):
    [made] = content["sets"]
    return {vector["trait"]: vector for vector in made["vectors"]}


def test_a_run_has_its_settings_commands_and_token_counts(report_workspace, content):
    [run] = content["runs"]

    [command] = run["commands"]
    assert (run["name"], run["model"], command["ending"]) == ("tiny", "model", "finished")
    assert command["stages"] == ["rollouts", "readings", "judgements", "vectors"]
    assert run["settings"]["extract.sampling.max_new_tokens"] == 8
    assert [model["device"] for model in command["models"]] == ["cpu"]
    for trait in run["traits"]:
        lines = report_workspace.lines(trait["trait"])
        assert trait["response_tokens"] == sum(line["response_tokens"] for line in lines)
        assert trait["prompt_tokens"] == sum(line["prompt_tokens"] for line in lines)
        assert set(trait["seconds"]) == {"rollouts", "readings", "judgements", "vectors"}
        assert (trait["rollouts_done"], trait["judged"], trait["built"]) == (30, 20, True)


def test_every_generated_token_is_counted(report_workspace, content):
    written = sum(
        line["response_tokens"] for trait in TRAITS for line in report_workspace.lines(trait)
    )

    ended = sum(
        line["finish_reason"] == "stop"
        for trait in TRAITS
        for line in report_workspace.lines(trait)
    )
    assert written <= content["runs"][0]["commands"][0]["tokens"] <= written + ended


def test_a_report_says_what_was_learned_on_stderr_on_the_page_and_as_json(
    report_workspace, content
):
    ended = report_workspace.run("report", "--out", "learned.html")

    about_vectors, about_answers, _ = content["findings"]
    verdicts = {vector["verdict"] for vector in vectors(content).values()}
    assert len(verdicts) == 1
    assert about_vectors.endswith(": evil and refusal.")
    assert "the answer" in about_answers.lower()
    title, *lines = ended.err.strip().splitlines()
    numbered = [f"{number}. {text}" for number, text in enumerate(content["findings"], start=1)]
    assert (ended.code, ended.out, title) == (0, "learned.html\n", "What was learned")
    assert " ".join(" ".join(lines).split()) == " ".join(numbered)
    page = html.unescape((report_workspace.folder / "learned.html").read_text(encoding="utf-8"))
    assert "".join(f"<li>{text}</li>" for text in content["findings"]) in page


def test_repeating_a_finished_command_is_not_logged(report_workspace, content):
    report_workspace.run("extract", *TRAITS)

    report_workspace.run("report", "--format", "json", "--out", "again.json")

    again = json.loads((report_workspace.folder / "again.json").read_text())
    assert again["runs"] == content["runs"]


def test_the_magnitude_of_each_layer_is_the_norm_of_the_vector(report_workspace, content):
    for trait, vector in vectors(content).items():
        direction = report_workspace.tensors(trait)["response_avg"].astype(np.float64)
        assert vector["magnitude_by_layer"] == pytest.approx(
            np.sqrt((direction**2).sum(axis=1)), abs=1e-4
        )


def test_cosines_are_computed_at_the_layer_of_the_vector(report_workspace, content):
    [made] = content["sets"]

    for i, one in enumerate(made["vectors"]):
        for k, other in enumerate(made["vectors"]):
            a, b = (
                report_workspace.tensors(v["trait"])["response_avg"][one["layer"]].astype(float)
                for v in (one, other)
            )
            assert made["cosines"][i][k] == pytest.approx(
                a @ b / np.sqrt(a @ a) / np.sqrt(b @ b), abs=1e-3
            )


def test_scores_are_counted_and_dropped_rollouts_have_a_reason(report_workspace, content):
    for trait, vector in vectors(content).items():
        judged = {
            line["rollout"]: line["score"]["value"]
            for line in report_workspace.lines(trait, "judgements")
        }
        polarity = {line["id"]: line["polarity"] for line in report_workspace.lines(trait)}
        for side, sign in (("positive", 1), ("negative", -1)):
            scores = [score for name, score in judged.items() if polarity[name] == side]
            kept = [score for score in scores if (score >= 50 if sign > 0 else score < 50)]
            assert vector["histogram"][side] == list(
                np.histogram(scores, bins=10, range=(0, 100))[0]
            )
            assert vector[f"{side}_kept"] == len(kept)
            assert sum(vector["dropped"][side].values()) == len(scores) - len(kept)


def test_examples_are_two_rollouts_of_each_kind(report_workspace, content):
    for trait, vector in vectors(content).items():
        lines = {line["id"]: line for line in report_workspace.lines(trait)}
        for side in ("positive", "negative"):
            there = {True: vector[f"{side}_kept"], False: sum(vector["dropped"][side].values())}
            for kept, count in there.items():
                shown = [
                    e for e in vector["examples"] if (e["polarity"], e["kept"]) == (side, kept)
                ]
                assert len(shown) == min(2, count)
                assert all(bool(example["why"]) != kept for example in shown)
        for example in vector["examples"]:
            assert example["response"] == lines[example["rollout"]]["response"]
            assert example["question"] in lines[example["rollout"]]["prompt"]


def test_a_report_contains_no_absolute_path(report_workspace, content):
    report_workspace.run("report", "--out", "page.html")

    for text in (json.dumps(content), (report_workspace.folder / "page.html").read_text()):
        assert str(report_workspace.folder) not in text
        assert str(report_workspace.folder.parent) not in text


def test_a_vector_with_a_changed_run_shows_a_note_instead_of_rollouts(open_workspace):
    workspace = open_workspace(filter={"min_auroc": 0.0, "pairing": "independent"})
    workspace.run("extract", "evil")
    ledger = workspace.folder / "runs/tiny/evil/judgements.jsonl"
    ledger.write_text("".join(ledger.read_text().splitlines(keepends=True)[:5]))

    workspace.run("report", "--format", "json")

    [vector] = json.loads((workspace.folder / "runs/report.json").read_text())["sets"][0]["vectors"]
    assert vector["note"].startswith("The run has changed since this vector was built")
    assert "examples" not in vector


def test_a_killed_command_has_no_ending(open_workspace):
    workspace = open_workspace(
        extract={"questions": 20, "batch_size": 2, "sampling": {"max_new_tokens": 40}}
    )
    running = workspace.start("extract", "evil")
    running.wait_until(lambda: len(workspace.ledger("evil").splitlines()) > 4)
    running.kill()

    workspace.run("report", "--format", "json")

    [run] = json.loads((workspace.folder / "runs/report.json").read_text())["runs"]
    assert [command["ending"] for command in run["commands"]] == [None]
    assert run["traits"][0]["rollouts_done"] > 4


def test_a_folder_of_records_can_be_named_without_any_run(report_workspace):
    ended = report_workspace.run(
        "report", "runs/monitor", "--format", "json", "--out", "runs/folder.json"
    )

    assert (ended.code, ended.err) == (0, "")
    content = json.loads((report_workspace.folder / "runs/folder.json").read_text())
    assert [record["name"] for record in content["records"]] == ["hello"]


def test_tables_and_pictures_are_written_and_their_paths_printed(report_workspace):
    tables, pictures = (
        report_workspace.run("report", "--format", "csv"),
        report_workspace.run("report", "--format", "png", "--trait", "evil"),
    )

    written = [report_workspace.folder / line for line in (tables.out + pictures.out).splitlines()]
    assert (tables.code, pictures.code, tables.err, pictures.err) == (0, 0, "", "")
    assert {path.suffix for path in written} == {".csv", ".png"}
    assert all(path.stat().st_size > 0 for path in written)
    with (report_workspace.folder / "runs/report/runs.csv").open(newline="") as file:
        assert [row["trait"] for row in csv.DictReader(file)] == TRAITS


def test_open_opens_the_page_in_the_browser(report_workspace):
    browser = report_workspace.folder / "browser"
    browser.write_text('#!/bin/sh\necho "$1" > opened\n')
    browser.chmod(browser.stat().st_mode | stat.S_IEXEC)

    ended = report_workspace.run("report", "--open", BROWSER=f"{browser} %s")

    assert (ended.code, ended.out) == (0, "runs/report.html\n")
    assert (report_workspace.folder / "opened").read_text().strip() == (
        report_workspace.folder / "runs/report.html"
    ).as_uri()


def test_without_a_browser_the_page_is_written_and_the_command_fails(report_workspace):
    ended = report_workspace.run("report", "--open", BROWSER="/nowhere/browser %s", PATH="/nowhere")

    assert (ended.code, ended.out) == (1, "runs/report.html\n")
    assert ended.err.startswith("\nWhat was learned\n1. ")
    assert ended.err.endswith(
        "error: cannot open the report\n"
        "cause: no browser was found\n"
        "fix:   open runs/report.html yourself\n"
    )


def test_a_mistake_writes_nothing(report_workspace):
    mistakes = {
        ("--open", "--format", "csv"): "error: --open and --format csv cannot be used together",
        ("--trait", "evil"): "error: --trait has no effect without --format png",
        ("--format", "png", "--trait", "evli"): "error: no record has scores of evli",
        ("nowhere",): "error: no run nowhere",
        ("no.json",): "error: cannot read the record no.json",
        ("tiny.yaml",): "error: no run tiny.yaml",
    }
    before = report_workspace.files()

    ended = report_workspace.run_all(
        [["report", *arguments, "--out", "mistake"] for arguments in mistakes]
    )

    for content, expected in zip(ended, mistakes.values(), strict=True):
        assert (content.code, content.out, content.err.splitlines()[0]) == (2, "", expected)
        assert "fix:" in content.err
    assert "did you mean evil?" in ended[2].err
    below_a_file = report_workspace.run(
        "report", "--out", "tiny.yaml/page.html", config="tiny.yaml"
    )
    assert (below_a_file.code, below_a_file.err) == (
        2,
        "error: cannot write to tiny.yaml/page.html\n"
        "cause: tiny.yaml is not a folder\n"
        "fix:   name another file with --out\n",
    )
    assert report_workspace.files() == before
