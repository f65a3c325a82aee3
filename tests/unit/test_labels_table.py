"""The table of labelled answers on 80 columns."""

from __future__ import annotations

import io

from rich.cells import cell_len
from rich.console import Console

from tests.unit.test_labelled_answers import NONE, VECTOR, planted, read_as
from traitcli.inspection.kept_test import make_test
from traitcli.inspection.labelled_rows import labelled_rows
from traitcli.views.tables.labels import labels_table


def printed(answers, source="x.jsonl"):
    rows = labelled_rows(answers, NONE)
    test = make_test("", source, (VECTOR, "response_avg", 1), answers, rows)
    console = Console(file=io.StringIO(), width=80)
    labels_table(console, "evil", test, rows)
    return console.file.getvalue()


def test_every_part_has_its_table_within_80_columns():
    text = printed(planted(count=400, shift=1.0))

    assert "evil on x.jsonl: 200 of 400 answers show it, 400 prompts, layer 1" in text
    for title in ("read by", "lead of the first row", "within group", "topic"):
        assert f"\n{title} " in text
    assert "b against others, label 0" in text
    assert "no TPR" not in text
    assert max(map(cell_len, text.splitlines())) <= 80


def test_what_was_not_measured_has_a_dash_and_a_reason():
    text = printed([read_as([1.0 * index], index > 3, f"prompt {index}") for index in range(8)])

    words = next(line for line in text.splitlines() if line.startswith("bag of words "))
    assert words.split()[3:] == ["–"] * 4
    assert "bag of words: not measured: no rollouts of this trait" in text
    assert "no TPR at 5% FPR: it needs 20 answers without the trait, and there are 4" in text


def test_a_name_from_the_file_cannot_write_to_the_terminal():
    assert "\x1b" not in printed(planted(count=8), "x\x1b[2J.jsonl")
