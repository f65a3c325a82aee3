"""Tables of scores that other tools join by the id of a sample."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from traitcli.errors import UserError
from traitcli.monitoring import score_tables
from traitcli.monitoring.score_tables import ScoreTable, check_table
from traitcli.record_json import FailedRecord, from_json


def table_of(*ids):
    table = ScoreTable()
    for number, own in enumerate(ids, start=1):
        scores = {"evil": [0.5, 1.0], "joy": [7.0, 9.0]}
        table.add(
            from_json(
                {
                    "prompt": "",
                    "tokens": ["a", "b"],
                    "trait_scores": scores,
                    "calibrated_scores": {"evil": [number, number]},
                    "about": {"file": "a.jsonl", "line": number, "id": own},
                }
            )
        )
    table.add(FailedRecord("", "not JSON", {"file": "a.jsonl", "line": 9}))
    return table


def test_scores_join_the_samples_by_their_id(tmp_path):
    samples = pd.DataFrame({"id": ["b", "a"], "label": [0, 1]})
    table_of("a", "b").write(tmp_path / "scores.csv")

    joined = samples.merge(pd.read_csv(tmp_path / "scores.csv"), on="id", how="left")

    assert list(joined["evil"]) == [2.0, 1.0]
    assert list(joined["raw:joy"]) == [8.0, 8.0]


def test_a_text_that_failed_is_a_row_with_the_reason(tmp_path):
    table_of("a").write(tmp_path / "scores.csv")

    assert (tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines() == [
        "id,epoch,time,file,line,turn,evil,raw:joy,tokens,error",
        "a,,,a.jsonl,1,,1.0,8.0,2,",
        ",,,a.jsonl,9,,,,0,not JSON",
    ]


def test_an_id_is_never_a_formula(tmp_path):
    table_of("=1+1", "-5", "ä").write(tmp_path / "scores.csv")

    assert list(pd.read_csv(tmp_path / "scores.csv")["id"][:3]) == ["'=1+1", "'-5", "ä"]


def test_parquet_holds_ids_of_both_kinds(tmp_path):
    pytest.importorskip("pyarrow")
    table_of("=1", 2).write(tmp_path / "scores.parquet")

    found = pd.read_parquet(tmp_path / "scores.parquet")

    assert list(found["id"][:2]) == ["=1", "2"]
    assert list(found["evil"][:2]) == [1.0, 2.0]


def test_parquet_without_pyarrow_is_an_error_before_anything_is_read(monkeypatch):
    monkeypatch.setattr(score_tables.importlib.util, "find_spec", lambda name: None)

    with pytest.raises(UserError) as error:
        check_table(Path("scores.parquet"))

    assert error.value.cause == "Parquet files need pyarrow, which is not installed"
    assert error.value.fix == "pip install pyarrow, or --out scores.csv"
