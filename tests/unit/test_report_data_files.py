"""The figures of the report as data: exact, complete, allow-listed, and safe."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.reports import report_of
from traitcli.errors import StorageError
from traitcli.report_records import Report
from traitcli.views.findings import findings
from traitcli.views.report.contents import contents
from traitcli.views.report.data_files import summarize, write_csv, write_json

NAN = float("nan")
TOKENS = ["I", " cannot", "", " None"]
RECORD = {
    "name": "bank",
    "prompt": "How?",
    "response": "I cannot None",
    "tokens": TOKENS,
    "trait_scores": {"refusal": [0.1 + 0.2, 2.25, NAN, 1 / 3], "evil": [1.0, 3.0, 3.0, -2.0]},
    "calibrated_scores": {"refusal": [-0.5, 1.25, None, 0.75]},
    "layers": {"refusal": 17, "evil": 9},
    "model": "tiny",
}
EXAMPLE = {
    "rollout": "refusal-pos-p0-q0-r0",
    "polarity": "positive",
    "kept": False,
    "why": "too low",
    "score": 12.5,
    "reason": "",
    "coherence": None,
    "question": "How?",
    "response": "=1+1\nNA",
    "finish_reason": "stop",
}
VECTOR = {
    "trait": "refusal",
    "model": "tiny",
    "layer_count": 3,
    "layer": 1,
    "auroc": 0.9,
    "magnitude_by_layer": [0.5, 2.0, 1.5],
    "auroc_by_layer": [0.5, 0.9, 0.8],
    "positive_kept": 3,
    "negative_kept": 4,
    "positive_total": 5,
    "histogram": {
        "positive": [0, 1, 0, 0, 0, 0, 0, 0, 1, 3],
        "negative": [4, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    },
    "dropped": {"positive": {"too low": 2}, "negative": {}},
    "examples": [EXAMPLE],
    "versions": {"torch": "2"},
}
EVIL = {"trait": "evil", "model": "tiny", "layer_count": 3, "layer": 2}
SET = {
    "name": "run demo",
    "model": "tiny",
    "vectors": [VECTOR, EVIL],
    "cosines": [[1.0, -0.25], [None, 1.0]],
}
USED = {"requests": 7, "cached": 1, "prompt_tokens": 70, "completion_tokens": 7, "usd": None}
COMMAND = {
    "started": "2025-01-31T12:00:00+01:00",
    "stages": ["rollouts", "judgements"],
    "traits": ["refusal", "evil"],
    "devices": [],
    "models": [{"device": "cpu"}],
    "seconds": 1.5,
    "tokens": 20,
    "used": USED,
    "failures": [
        {
            "trait": "evil",
            "stage": "vectors",
            "problem": "no vector",
            "cause": "nothing kept",
            "fix": "…",
        }
    ]
    * 2,
    "ending": "stopped",
    "problem": "interrupted",
}
RUN = {
    "name": "demo",
    "model": "tiny",
    "settings": {},
    "usage": USED,
    "commands": [COMMAND],
    "traits": [
        {
            "trait": "refusal",
            "rollouts_done": 8,
            "judged": 6,
            "missing": 2,
            "seconds": {"rollouts": 1.25},
            "usage": USED,
            "missing_reasons": {"off the scale": 2},
        }
    ],
}
FULL = report_of((RECORD,), (SET,), (RUN,), "2025-01-31")


def read_table(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_json(path: Path) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(path.read_text(encoding="ascii"), parse_constant=refuse)


def table_of(tmp_path: Path, name: str, report: Report = FULL) -> list[dict[str, str]]:
    write_csv(tmp_path, report)
    return read_table(tmp_path, name)


# The summary


def test_a_summary_matches_numpy_without_missing_scores():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=50)
    scores[::7] = np.nan

    figures = summarize({"tokens": ["a"] * 50, "trait_scores": {"evil": scores.tolist()}})["evil"][
        "raw"
    ]

    assert figures["mean"] == pytest.approx(np.nanmean(scores), rel=1e-12)
    assert [figures["min"], figures["max"]] == [np.nanmin(scores), np.nanmax(scores)]
    assert figures["at"] == np.nanargmax(scores)


def test_the_first_of_equal_maxima_is_reported():
    assert summarize(RECORD)["evil"]["raw"]["at"] == TOKENS.index(" cannot")


@pytest.mark.parametrize("count", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("size", [0.0, 5e-324, 1.7976931348623157e308])
def test_the_mean_of_equal_scores_is_that_score_at_any_size(size, count):
    record = {"tokens": ["a"] * count, "trait_scores": {"evil": [size] * count}}

    assert summarize(record)["evil"]["raw"]["mean"] == size


def test_a_trait_without_scores_has_no_summary():
    summary = summarize({"tokens": ["a"], "trait_scores": {"evil": [NAN]}, "layers": {"evil": 3}})

    assert summary == {"evil": {"layer": 3, "raw": None, "calibrated": None}}


# JSON


def test_the_json_file_has_full_precision(tmp_path):
    write_json(tmp_path / "report.json", FULL)

    data = read_json(tmp_path / "report.json")
    assert list(data) == ["made_at", "findings", "records", "drift", "sets", "runs"]
    assert data["findings"] == list(findings(FULL))
    assert data["made_at"] == FULL.made_at
    assert data["records"][0]["trait_scores"] == {
        "refusal": [0.1 + 0.2, 2.25, None, 1 / 3],
        "evil": RECORD["trait_scores"]["evil"],
    }
    assert data["records"][0]["summary"] == json.loads(json.dumps(summarize(RECORD)))
    assert data["sets"] == [SET]
    assert data["runs"] == [RUN]


def test_half_an_emoji_is_written_and_read_back(tmp_path):
    write_json(tmp_path / "report.json", report_of(({**RECORD, "response": "\ud83d"},)))

    assert read_json(tmp_path / "report.json")["records"][0]["response"] == "\ud83d"


def test_an_integer_too_large_for_a_double_is_written_as_text(tmp_path):
    write_json(
        tmp_path / "report.json",
        report_of(({**RECORD, "seed": 2**53}, {**RECORD, "seed": 2**53 - 1})),
    )

    assert [one["seed"] for one in read_json(tmp_path / "report.json")["records"]] == [
        str(2**53),
        2**53 - 1,
    ]


def test_an_empty_report_is_valid_and_makes_no_tables(tmp_path):
    write_json(tmp_path / "report.json", report_of())

    assert read_json(tmp_path / "report.json") == {
        "made_at": "",
        "findings": list(findings(report_of())),
        "records": [],
        "drift": [],
        "sets": [],
        "runs": [],
    }
    assert write_csv(tmp_path / "tables", report_of()) == []
    assert not (tmp_path / "tables").exists()


# Paths and keys


def test_unlisted_keys_are_left_out(tmp_path):
    record, vector = {**RECORD, "host": "secret"}, {**VECTOR, "path": "secret"}
    report = report_of(
        (record,),
        ({**SET, "vectors": [vector, EVIL], "folder": "secret"},),
        ({**RUN, "home": "secret"},),
    )

    write_json(tmp_path / "report.json", report)
    write_csv(tmp_path, report)

    assert not [path for path in tmp_path.iterdir() if "secret" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("key", ["file", "path", "source"])
@pytest.mark.parametrize(
    "source", ["/home/me/chats/talk.jsonl", r"C:\Users\me\talk.jsonl", "~/talk.jsonl"]
)
def test_a_path_in_a_record_is_shortened_to_its_name(key, source):
    data = contents(report_of(({"about": {key: source, "line": 3, "trait": "evil"}},)))

    assert data["records"][0]["about"] == {key: "talk.jsonl", "line": 3, "trait": "evil"}


def test_a_relative_path_is_shortened_too():
    data = contents(report_of(({"about": {"file": "private/talk.jsonl", "shows": "up/down"}},)))

    assert data["records"][0]["about"] == {"file": "talk.jsonl", "shows": "up/down"}


def test_records_with_the_same_name_get_a_number():
    data = contents(report_of(tuple({"name": name} for name in ("a", "a", "a (2)", "a"))))

    assert [record["name"] for record in data["records"]] == ["a", "a (2)", "a (2) (2)", "a (3)"]


# CSV


def test_each_table_is_a_file_and_files_are_in_order(tmp_path):
    paths = write_csv(tmp_path, FULL)

    names = "summary tokens vectors vector_layers cosines histograms filter rollouts runs commands "
    names += "failures"
    assert [path.name for path in paths] == [f"{name}.csv" for name in names.split()]
    assert sorted(paths) == sorted(tmp_path.iterdir())


def test_the_tokens_table_has_every_stored_score(tmp_path):
    rows = table_of(tmp_path, "tokens")

    assert [json.loads(row["token_json"]) for row in rows if row["trait"] == "refusal"] == TOKENS
    assert [row["raw"] for row in rows if row["trait"] == "refusal"] == [
        repr(0.1 + 0.2),
        "2.25",
        "",
        repr(1 / 3),
    ]
    assert [row["calibrated"] for row in rows] == ["-0.5", "", "1.25", "", "", "", "0.75", ""]
    assert {(row["record"], row["trait"], row["layer"]) for row in rows} == {
        ("bank", "refusal", "17"),
        ("bank", "evil", "9"),
    }


def test_the_summary_names_the_token_of_the_maximum(tmp_path):
    rows = table_of(tmp_path, "summary")

    assert [(row["trait"], row["unit"], json.loads(row["max_token_json"])) for row in rows] == [
        ("refusal", "raw", " cannot"),
        ("refusal", "calibrated", " cannot"),
        ("evil", "raw", " cannot"),
    ]
    expected = summarize(RECORD)["refusal"]["calibrated"]
    assert {key: float(rows[1][key]) for key in ("mean", "min", "max")} | {
        "at": int(rows[1]["max_token_index"])
    } == expected


@pytest.mark.parametrize(
    "text", ["None", "NA", "=HYPERLINK(1)", "a\nb\r\n", '","', "", "\ud83d", "é\u2028\x00", "1"]
)
def test_a_token_survives_and_is_never_a_bare_cell(tmp_path, text):
    rows = table_of(tmp_path, "tokens", report_of(({**RECORD, "tokens": [text] * 4},)))

    assert {json.loads(row["token_json"]) for row in rows} == {text}
    assert all(row["token_json"].startswith('"') and row["token_json"].isascii() for row in rows)


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t", "\r"])
def test_a_label_that_a_spreadsheet_would_compute_gets_an_apostrophe(tmp_path, sign):
    record = {**RECORD, "name": f"{sign}1", "trait_scores": {f"{sign}2": [-1.0] * 4}}

    rows = table_of(tmp_path, "tokens", report_of((record,)))

    assert {(row["record"], row["trait"], row["raw"]) for row in rows} >= {
        (f"'{sign}1", f"'{sign}2", "-1.0")
    }


def test_half_an_emoji_in_a_label_is_escaped(tmp_path):
    rows = table_of(tmp_path, "tokens", report_of(({**RECORD, "name": "\ud83d"},)))

    assert {row["record"] for row in rows} == {"\\ud83d"}


def test_layers_mark_the_chosen_one_and_the_one_after_the_final_norm(tmp_path):
    rows = table_of(tmp_path, "vector_layers")

    assert [tuple(row.values()) for row in rows] == [
        ("run demo", "refusal", "0", "0.5", "0.5", "False", "False"),
        ("run demo", "refusal", "1", "2.0", "0.9", "True", "False"),
        ("run demo", "refusal", "2", "1.5", "0.8", "False", "True"),
    ]


def test_each_vector_is_one_row_of_plain_values(tmp_path):
    rows = table_of(tmp_path, "vectors")

    assert [(row["set"], row["trait"], row["auroc"]) for row in rows] == [
        ("run demo", "refusal", "0.9"),
        ("run demo", "evil", ""),
    ]
    assert not {"examples", "versions", "histogram", "auroc_by_layer"} & set(rows[0])


def test_a_cosine_names_its_layer(tmp_path):
    rows = table_of(tmp_path, "cosines")

    assert [tuple(row.values()) for row in rows] == [
        ("run demo", "refusal", "refusal", "1", "1.0"),
        ("run demo", "refusal", "evil", "1", "-0.25"),
        ("run demo", "evil", "refusal", "2", ""),
        ("run demo", "evil", "evil", "2", "1.0"),
    ]


def test_histograms_say_where_each_bin_begins_and_ends(tmp_path):
    rows = table_of(tmp_path, "histograms")

    positive = [row for row in rows if row["polarity"] == "positive"]
    assert [(int(row["low"]), int(row["high"])) for row in positive] == [
        (at, at + 10) for at in range(0, 100, 10)
    ]
    assert [int(row["count"]) for row in positive] == VECTOR["histogram"]["positive"]
    assert len(rows) == 20


def test_the_filter_table_has_reasons(tmp_path):
    rows = table_of(tmp_path, "filter")

    assert [tuple(row.values())[2:] for row in rows] == [
        ("positive", "True", "", "3"),
        ("positive", "False", "too low", "2"),
        ("negative", "True", "", "4"),
    ]


def test_example_rollouts_are_json_texts(tmp_path):
    row, *others = table_of(tmp_path, "rollouts")

    assert others == []
    assert json.loads(row["response_json"]) == EXAMPLE["response"]
    assert json.loads(row["question_json"]) == EXAMPLE["question"]
    assert (row["rollout"], row["kept"], row["why"], row["score"]) == (
        EXAMPLE["rollout"],
        "False",
        "too low",
        "12.5",
    )


def test_runs_list_usage_by_trait_and_an_unknown_cost_is_empty(tmp_path):
    (row,) = table_of(tmp_path, "runs")

    asked = (
        "run",
        "trait",
        "rollouts_done",
        "rollouts_seconds",
        "vectors_seconds",
        "judge_requests",
        "judge_usd",
    )
    assert [row[key] for key in asked] == ["demo", "refusal", "8", "1.25", "", "7", ""]


def test_commands_list_devices_that_only_a_model_names(tmp_path):
    (row,) = table_of(tmp_path, "commands")

    asked = ("command", "stages", "traits", "devices", "seconds", "ending", "problem")
    assert [row[key] for key in asked] == [
        *("1", "rollouts, judgements", "refusal, evil", "cpu"),
        *("1.5", "stopped", "interrupted"),
    ]


def test_failures_are_counted(tmp_path):
    rows = table_of(tmp_path, "failures")

    assert [tuple(row.values()) for row in rows] == [
        ("demo", "evil", "vectors", "no vector: nothing kept", "2"),
        ("demo", "refusal", "judgements", "score missing: off the scale", "2"),
    ]


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")

    with pytest.raises(StorageError, match="cannot write"):
        write_csv(tmp_path / "file", FULL)


def test_figures_import_no_heavy_package():
    heavy = {"torch", "transformers", "pandas", "numpy", "matplotlib"}
    code = (
        "import sys, traitcli.views.report.data_files; "
        f"print(*sorted({heavy!r} & set(sys.modules)))"
    )

    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )

    assert loaded.stdout.split() == []
