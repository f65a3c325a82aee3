"""The commands of a run, one after another, as a user types them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from traitcli.traits.definitions import find_traits, load_trait

LAYERS, HIDDEN = 5, 32
"""The tiny model has four blocks."""
RECORD = [
    *(
        "prompt",
        "response",
        "tokens",
        "trait_scores",
        "calibrated_scores",
        "layers",
        "model",
        "seed",
    ),
    *("prompt_tokens", "finish_reason", "created", "seconds", "history", "steering", "alarms"),
]


def kept_ids(workspace: Any, trait: str, threshold: float = 50) -> dict[str, list[str]]:
    """The published filter as a plain loop: an index is kept if both of its polarities pass."""
    scores = {
        line["rollout"]: line["score"]["value"] for line in workspace.lines(trait, "judgements")
    }
    sides: dict[str, dict[tuple[int, int], str]] = {"positive": {}, "negative": {}}
    for line in workspace.lines(trait):
        if line["split"] == "extraction":
            score, side = scores[line["id"]], line["polarity"]
            if score >= threshold if side == "positive" else score < 100 - threshold:
                sides[side][line["pair"], line["question"]] = line["id"]
    both = [index for index in sides["positive"] if index in sides["negative"]]
    return {side: [ids[index] for index in both] for side, ids in sides.items()}


def stored_activations(workspace: Any, trait: str) -> dict[str, np.ndarray]:
    """Rollout id -> float32 [L+1, H], mean over the response, read directly from the files."""
    from safetensors import safe_open

    found = {}
    for path in (workspace.folder / "runs" / "tiny" / trait / "activations").iterdir():
        with safe_open(path, framework="numpy") as file:
            found |= dict(
                zip(
                    json.loads(file.metadata()["ids"]), file.get_tensor("response_avg"), strict=True
                )
            )
    return found


def test_extract_prints_one_json_document_on_stdout(finished):
    _, ended = finished

    outcome = ended.json

    assert ended.code == 0
    counted = [
        [row[key] for key in ("trait", "rollouts_done", "rollouts_total", "judged")]
        for row in outcome["traits"]
    ]
    assert counted == [["evil", 30, 30, 20], ["refusal", 30, 30, 20]]
    assert [
        (row["trait"], row["layer_count"], row["hidden_size"]) for row in outcome["vectors"]
    ] == [
        ("evil", LAYERS, HIDDEN),
        ("refusal", LAYERS, HIDDEN),
    ]
    assert (outcome["run"], outcome["failures"]) == ("runs/tiny", [])


def test_extract_writes_its_progress_to_stderr_line_by_line(finished):
    _, ended = finished

    lines = [line.partition("] ")[2] for line in ended.err.splitlines()]

    assert lines[:2] == [
        "run tiny: 2 traits on cpu, in runs/tiny",
        "note: reduced set: 2 extraction and 1 evaluation questions per trait",
    ]
    assert [line for line in lines if line.endswith(("0/30", "0/20", "0/1"))] == [
        *("evil rollouts 0/30", "evil readings 0/30", "evil judgements 0/20", "evil vectors 0/1"),
        *("refusal rollouts 0/30", "refusal readings 0/30"),
        *("refusal judgements 0/20", "refusal vectors 0/1"),
    ]
    finished = [line.partition(" finished in ")[0] for line in lines if " finished in " in line]
    stages = ("rollouts", "readings", "judgements", "vectors")
    assert finished == [f"{trait} {stage}" for trait in ("evil", "refusal") for stage in stages]
    assert lines[-1].endswith(": 2 vectors built, in runs/tiny")
    assert "\x1b" not in ended.err
    assert "\r" not in ended.err


@pytest.mark.parametrize("trait", ["evil", "refusal"])
def test_a_vector_is_the_difference_of_the_kept_rollouts_means(finished, trait):
    workspace, _ = finished
    activations = stored_activations(workspace, trait)

    kept = kept_ids(workspace, trait)

    positive, negative = (
        np.mean([activations[i] for i in kept[side]], axis=0) for side in ("positive", "negative")
    )
    vector = workspace.tensors(trait)["response_avg"]
    assert vector.shape == (LAYERS, HIDDEN)
    assert vector.dtype == np.float32
    np.testing.assert_allclose(vector, positive - negative, atol=1e-5)


def test_the_separate_stages_build_the_same_vector_as_extract(finished, workspace):
    at_once, _ = finished

    first = workspace.run("extract", "evil", "--until", "rollouts")
    assert workspace.ledger("evil", "judgements") == b""
    # In a fresh interpreter, which has imported nothing that this command forgets to import.
    second = workspace.run("judge", PYTHONFAULTHANDLER="1")
    assert not (workspace.folder / "vectors").exists()
    third = workspace.run("build-vector")

    assert [first.code, second.code, third.code] == [0, 0, 0]
    for name, tensor in at_once.tensors("evil").items():
        np.testing.assert_array_equal(workspace.tensors("evil")[name], tensor)


def test_another_threshold_changes_only_what_is_kept(copied):
    before = copied.files("runs/tiny/evil") | copied.files("runs/tiny/refusal")

    ended = copied.run("build-vector", "evil", "--threshold", "65", "--json")

    after = copied.files("runs/tiny/evil") | copied.files("runs/tiny/refusal")
    assert ended.code == 0
    assert {path for path in after if after[path] != before.get(path)} == {
        "runs/tiny/evil/vectors.jsonl"
    }
    [vector] = ended.json["vectors"]
    expected = len(kept_ids(copied, "evil", threshold=65)["positive"])
    assert expected < len(kept_ids(copied, "evil")["positive"])
    assert (vector["positive_kept"], vector["negative_kept"]) == (expected, expected)


def test_a_dry_run_prints_its_estimate_and_does_nothing(workspace, tmp_path):
    before = workspace.files()

    shown, counted = workspace.run_both(
        "extract", "evil", "--dry-run", XDG_CACHE_HOME=str(tmp_path)
    )

    assert workspace.files() == before
    assert (shown.code, shown.err, counted.code, counted.err) == (0, "", 0, "")
    assert ["evil", "0/30", "20"] in [line.split()[:3] for line in shown.out.splitlines()]
    [plan] = counted.json["plan"]
    expected = {
        "trait": "evil",
        "rollouts": 30,
        "rollouts_done": 0,
        "readings": 30,
        "readings_done": 0,
        "judge_calls": 20,
        "response_tokens_max": 240,
    }
    assert plan == plan | expected
    assert plan["seconds"] is plan["cost_usd"] is None


def test_inspect_vectors_shows_their_quality(finished):
    workspace, ended = finished

    table, rows = workspace.run_both("inspect", "vectors")

    assert rows.json == ended.json["vectors"]
    for row in rows.json:
        [shown] = [line for line in table.out.splitlines() if line.startswith(f"{row['trait']}  ")]
        # A verdict of several words may wrap.
        assert row["verdict"].startswith(shown.split()[1])
        assert f"  {row['layer']}  " in shown
        low, high = row["neutral_auroc_low"], row["neutral_auroc_high"]
        assert f"{row['neutral_auroc']:.2f} ({low:.2f}–{high:.2f})" in shown
        assert f"{row['auroc'] - row['neutral_auroc']:+.2f}" in shown
    assert "next: " in table.out.splitlines()[-1]
    assert "\x1b" not in table.out


def test_inspect_traits_shows_the_definitions(finished):
    workspace, _ = finished

    table, rows = workspace.run_both("inspect", "traits")

    shipped = list(find_traits(Path("nowhere")))
    assert [(row["trait"], row["pairs"], row["questions"], row["faults"]) for row in rows.json] == [
        (name, 5, 20, []) for name in shipped
    ]
    assert [line.split()[0] for line in table.out.splitlines()[2:10]] == shipped
    assert "\x1b" not in table.out


def test_inspect_run_shows_the_progress_of_each_trait(finished):
    workspace, ended = finished

    table, rows = workspace.run_both("inspect", "run")

    assert [
        {key: row[key] for key in row if key != "judge_quality"} for row in rows.json
    ] == ended.json["traits"]
    assert [line.split()[:4] for line in table.out.splitlines()[2:4]] == [
        ["evil", "30/30", "0", "20"],
        ["refusal", "30/30", "0", "20"],
    ]
    assert "\x1b" not in table.out


OPENAI = "openai:gpt-4.1-mini@api.openai.com:0_100+coherence#ab12cd34~9f8e7d"


def judge_again(workspace: Any, trait: str, score: Callable[[str, float], Any]) -> None:
    """Add the scores of a second judge.

    `score` makes the second judge's score of a rollout from its polarity and the first judge's
    score.
    """
    lines = workspace.lines(trait, "judgements")
    with (workspace.folder / "runs" / "tiny" / trait / "judgements.jsonl").open(
        "a", encoding="utf-8"
    ) as file:
        for line in lines:
            polarity = "positive" if "-pos-" in line["rollout"] else "negative"
            second = score(polarity, line["score"]["value"])
            file.write(
                json.dumps(line | {"judge": OPENAI, "score": second, "usage": {"requests": 2}})
                + "\n"
            )


def test_inspect_run_shows_how_reliable_the_judge_is(finished):
    workspace, _ = finished

    table, rows = workspace.run_both("inspect", "run", "evil")

    [row] = rows.json
    quality, blocks = row["judge_quality"], [[0] * 10, [0] * 10]
    for line in workspace.lines("evil", "judgements"):
        blocks["-neg-" in line["rollout"]][int(line["score"]["value"] // 10)] += 1
    assert quality["histogram"] == {"positive": blocks[0], "negative": blocks[1]}
    assert quality["doubtful"]["total"] == sum(blocks[0][:5]) + sum(blocks[1][5:])
    assert (quality["missing_reasons"], quality["agreement"], quality["usage"]["requests"]) == (
        {},
        [],
        0,
    )
    assert "evil  fake" in table.out.splitlines()
    assert "refusal" not in table.out
    assert "\x1b" not in table.out


def test_inspect_run_compares_the_chosen_judge_with_the_other(copied):
    opposite = {"positive": 10.0, "negative": 90.0}
    judge_again(copied, "evil", lambda polarity, _: {"value": opposite[polarity]})

    latest = copied.run("inspect", "run", "--json").json
    table, rows = copied.run_both("inspect", "run", "--judge", "fake")

    assert [row["judge"] for row in latest] == [OPENAI, "fake"]
    assert (latest[0]["judge_auroc"], latest[0]["judge_quality"]["doubtful"]["total"]) == (0, 20)
    assert [row["judge"] for row in rows.json] == ["fake", "fake"]
    [compared] = rows.json[0]["judge_quality"]["agreement"]
    assert (compared["judge"], compared["both"]) == (OPENAI, 20)
    assert rows.json[0]["judge_quality"]["usage"]["requests"] == 40
    assert f"  compared  with {OPENAI}" in table.out.splitlines()
    assert "judges disagree" in table.out


def test_a_trait_without_scores_of_the_selected_judge_has_a_note(copied):
    judge_again(copied, "evil", lambda _, value: {"value": value})

    table, rows = copied.run_both("inspect", "run", "--judge", "gpt-4.1")

    assert [(row["judge"], row["judged"], bool(row["judge_quality"])) for row in rows.json] == [
        (OPENAI, 20, True),
        ("", 0, False),
    ]
    assert "refusal: this judge has no scores; scored by fake" in table.out.splitlines()


def test_a_doubtful_rollout_shows_its_question_until_the_definition_changes(copied):
    judge_again(
        copied,
        "evil",
        lambda polarity, _: {"value": 0.0 if polarity == "positive" else 100.0},
    )
    source = load_trait(find_traits(Path("nowhere"))["evil"])
    asked = {line["id"]: source.questions[line["question"]] for line in copied.lines("evil")}

    before = copied.run("inspect", "run", "evil", "--json").json[0]["judge_quality"]["doubtful"][
        "rollouts"
    ]
    definition = yaml.safe_load(find_traits(Path("nowhere"))["evil"].read_text(encoding="utf-8"))
    definition["questions"] = [f"Now {question}" for question in definition["questions"]]
    (copied.folder / "traits").mkdir()
    (copied.folder / "traits" / "evil.yaml").write_text(
        yaml.safe_dump(definition), encoding="utf-8"
    )
    after = copied.run("inspect", "run", "evil", "--json").json[0]["judge_quality"]["doubtful"][
        "rollouts"
    ]

    assert [one["question"] for one in before] == [asked[one["rollout"]] for one in before]
    assert len(before) == 10
    assert [one["question"] for one in after] == [""] * 10


def test_text_of_a_model_or_judge_cannot_control_the_terminal(copied):
    hostile = "\x1b]0;mine\x07\x1b[2J\u202e"
    lines = [line | {"response": hostile + line["response"]} for line in copied.lines("evil")]
    ledger = copied.folder / "runs" / "tiny" / "evil" / "rollouts.jsonl"
    ledger.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    scores = {
        "positive": {"value": 0.0},
        "negative": {"value": None, "reason": f"off-scale: {hostile}"},
    }
    judge_again(copied, "evil", lambda polarity, _: scores[polarity])

    shown = copied.run("inspect", "run", "evil").out

    assert shown.count(r"\x1b]0;mine\x07\x1b[2J\u202e") == 11
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)


class Monitored:
    """Four monitored generations of one prompt, made at the same time."""

    def __init__(self, workspace: Any) -> None:
        self.workspace = workspace
        options = ("--layer", "4", "--traits", "refusal")
        running = [
            workspace.start("monitor", "Why?", "--out", "plain.json"),
            workspace.start("monitor", "Why?", "--out", "same.json", "--json"),
            workspace.start("monitor", "Why?", "--seed", "4", "--json"),
            workspace.start("monitor", "Why?", *options, "--out", "deep/last.json", "--json"),
        ]
        self.plain, self.same, self.other, self.last = [one.end() for one in running]

    def record(self, name: str) -> dict[str, Any]:
        return json.loads((self.workspace.folder / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def monitored(finished) -> Monitored:
    return Monitored(finished[0])


def test_monitor_writes_a_plain_line_for_each_token(monitored):
    record = monitored.record("plain.json")

    fields = [line.split("\t") for line in monitored.plain.out.splitlines()]

    assert monitored.plain.code == 0
    assert [int(index) for index, *_ in fields] == list(range(len(record["tokens"])))
    assert [json.loads(token) for _, token, *_ in fields][:-1] == record["tokens"][:-1]
    for number, (_, _, *shown) in enumerate(fields):
        scores = {trait: float(score) for trait, _, score in (one.partition("=") for one in shown)}
        assert scores == pytest.approx(
            {t: kept[number] for t, kept in record["calibrated_scores"].items()}, abs=1e-4
        )


def test_monitor_writes_the_path_of_the_record_to_stderr(monitored):
    lines = monitored.plain.err.splitlines()

    assert lines[0].endswith("loading model on cpu")
    assert "prompt: Why?" in lines
    assert lines[-1] == "record: plain.json"


def test_monitor_prints_the_record_that_it_stores(monitored):
    record = monitored.same.json_lines[-1]

    assert record == monitored.record("same.json")
    assert list(record) == RECORD
    assert record["prompt"] == "Why?"
    assert "".join(record["tokens"]) == record["response"]
    assert list(record["trait_scores"]) == list(record["calibrated_scores"]) == ["evil", "refusal"]
    for scores in record["trait_scores"].values():
        assert len(scores) == len(record["tokens"]) > 1
        assert all(isinstance(score, float) for score in scores)


def test_monitor_prints_a_json_line_for_each_token_as_it_is_scored(monitored):
    *tokens, record = monitored.same.json_lines

    assert [line["index"] for line in tokens] == list(range(len(record["tokens"])))
    assert [line["token"] for line in tokens][:-1] == record["tokens"][:-1]
    for kind in ("trait_scores", "calibrated_scores"):
        for trait, scores in record[kind].items():
            assert [line[kind][trait] for line in tokens] == pytest.approx(scores, abs=1e-5)


def test_monitor_keeps_its_records_in_the_runs_folder(monitored):
    [kept] = (monitored.workspace.folder / "runs" / "monitor").glob("*-why.json")

    assert json.loads(kept.read_text(encoding="utf-8")) == monitored.other.json_lines[-1]


def test_a_seed_gives_the_same_answer_and_the_same_scores_again(monitored):
    plain, same = monitored.record("plain.json"), monitored.record("same.json")

    when = {"created": "", "seconds": []}
    assert plain | when == same | when


def test_another_seed_gives_another_answer(monitored):
    assert monitored.other.json_lines[-1]["seed"] == 4
    assert monitored.other.json_lines[-1]["response"] != monitored.same.json_lines[-1]["response"]


def test_monitor_scores_the_requested_traits_at_the_requested_layer(monitored):
    record = monitored.last.json_lines[-1]

    assert monitored.last.code == 0
    assert record == monitored.record("deep/last.json")
    assert record["layers"] == {"refusal": 4}
    assert list(record["trait_scores"]) == ["refusal"]


def test_monitoring_the_layer_after_the_final_norm_warns(monitored):
    assert "layer 4 is read after the final norm" in monitored.last.err
    assert "final norm" not in monitored.same.err


def test_raw_and_calibrated_scores_are_those_of_the_vector(monitored):
    record = monitored.same.json_lines[-1]
    vector = load_file(monitored.workspace.folder / "vectors" / "model" / "evil.safetensors")
    layer = record["layers"]["evil"]

    up, down = (vector[f"response_avg.{side}_mean"][layer] for side in ("positive", "negative"))

    raw = np.array(record["trait_scores"]["evil"])
    np.testing.assert_allclose(
        record["calibrated_scores"]["evil"], (raw - (up + down) / 2) / ((up - down) / 2), atol=1e-3
    )


def page_data(page: Path) -> Any:
    """The data of a report page, as its own script reads it."""
    _, _, rest = page.read_text(encoding="utf-8").partition(
        '<script id="data" type="application/json">'
    )
    return json.loads(rest.partition("</script>")[0])


def test_report_prints_the_path_of_a_page_with_the_records(monitored):
    ended = monitored.workspace.run("report", "--out", "page.html", "plain.json", "deep/last.json")

    data = page_data(monitored.workspace.folder / "page.html")
    plain, last = monitored.record("plain.json"), monitored.record("deep/last.json")
    assert (ended.code, ended.out, "warning" in ended.err) == (0, "page.html\n", False)
    assert [(r["name"], r["tokens"]) for r in data["records"]] == [
        ("plain", plain["tokens"]),
        ("last", last["tokens"]),
    ]
    assert list(data["records"][1]["trait_scores"]) == list(last["trait_scores"]) == ["refusal"]


def test_report_without_names_includes_every_record_run_and_vector(monitored):
    ended = monitored.workspace.run("report")

    data = page_data(monitored.workspace.folder / "runs" / "report.html")
    assert ended.out == "runs/report.html\n"
    assert [record["response"] for record in data["records"]] == [
        monitored.other.json_lines[-1]["response"]
    ]
    assert [vector["trait"] for made in data["sets"] for vector in made["vectors"]] == [
        "evil",
        "refusal",
    ]
