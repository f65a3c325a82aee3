"""Scores over time: the means of each day, for each model."""

from __future__ import annotations

import csv
import json

import pytest

from tests.reports import named_record, report_of
from traitcli.views.report.data_files import write_csv, write_json
from traitcli.views.report.drift import drift_rows

CALIBRATED = {"calibrated_scores": {"evil": [0.5, -0.5]}}


def text(time, evil, **more):
    return {
        "tokens": ["a", "b"],
        "trait_scores": {"evil": evil, "joy": [7.0, 7.0]},
        "model": "tiny",
        "about": {"time": time} if time is not None else {},
        **more,
    }


def rows(*texts):
    return drift_rows([named_record(one) for one in texts])


def test_each_day_has_the_mean_of_its_texts_and_days_are_in_order():
    found = rows(
        text("2025-02-01T00:00:00Z", [1.0, 2.0]),
        text("2025-01-31", [4.0, 4.0]),
        text("2025-02-01T23:59:59Z", [0.0, 0.0]),
        text(None, [9.0, 9.0]),
    )

    assert found == [
        {
            "model": "tiny",
            "unit": "raw",
            "days": ["2025-01-31", "2025-02-01"],
            "texts": [1, 2],
            "means": {"evil": [4.0, 0.75], "joy": [7.0, 7.0]},
        }
    ]


def test_models_are_apart_and_units_do_not_mix():
    first, second = rows(
        text("2025-01-31", [1.0, 1.0], **CALIBRATED),
        text("2025-02-01", [1.0, 1.0]),
        text("2025-01-31", [1.0, 1.0], model="other"),
    )

    assert (first["unit"], second["unit"]) == ("calibrated", "raw")
    assert first["means"] == {"evil": [0.0, None]}
    assert second["model"] == "other"


@pytest.mark.parametrize("time", ["", "soon", 7, None, {"a": 1}, "2025-02-30", "<script>"])
def test_a_time_that_is_none_is_left_out(time):
    assert rows(text(time, [1.0, 1.0])) == []


def test_massive_tokens_and_a_score_that_is_not_a_number_do_not_count():
    [found] = rows(
        text("2025-01-31", [1.0, 99.0], massive_tokens={"evil": [1]}),
        text("2025-01-31", [None, 1.0]),
    )

    assert found["means"]["evil"] == [1.0]
    assert found["texts"] == [2]


def test_the_days_are_in_json_and_csv(tmp_path):
    report = report_of([text("2025-01-31", [1.0, 2.0]), text("2025-02-01", [3.0, 3.0])])

    write_json(tmp_path / "report.json", report)
    written = write_csv(tmp_path, report)

    [kept] = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["drift"]
    assert kept["means"]["evil"] == [1.5, 3.0]
    [path] = [one for one in written if one.name == "drift.csv"]
    table = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert [(row["day"], row["trait"], row["texts"], row["mean"]) for row in table] == [
        ("2025-01-31", "evil", "1", "1.5"),
        ("2025-02-01", "evil", "1", "3.0"),
        ("2025-01-31", "joy", "1", "7.0"),
        ("2025-02-01", "joy", "1", "7.0"),
    ]
