"""A command parses each ledger of a run at most once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml

from traitcli.__main__ import main


@pytest.fixture
def parse_counts(monkeypatch):
    """Counts for each ledger how often it is opened for reading."""
    opened = Counter()
    real = Path.open

    def count(path, mode="r", *more, **options):
        if path.suffix == ".jsonl" and "r" in mode:
            opened[f"{path.parent.name}/{path.name}"] += 1
        return real(path, mode, *more, **options)

    monkeypatch.setattr(Path, "open", count)
    return opened


@pytest.fixture
def traitcli(model_folders, tmp_path, monkeypatch, capsys, parse_counts):
    """Runs a command in this process and in an empty folder; returns its output."""
    settings = {
        "name": "tiny",
        "model": {"id": str(model_folders["llama"]), "device": "cpu"},
        "extract": {
            "questions": 2,
            "evaluation_questions": 1,
            "batch_size": 6,
            "sampling": {"max_new_tokens": 8},
        },
        "judge": {"backend": "fake"},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        parse_counts.clear()
        monkeypatch.setattr("sys.argv", ["traitcli", *arguments, "-c", "tiny.yaml"])
        code = exit_code()
        shown = capsys.readouterr()
        assert code == 0, shown.err
        return shown.out

    return run


def exit_code():
    try:
        main()
    except SystemExit as ended:
        return ended.code or 0
    return 0


def cut_ledger(path, lines):
    """Keep only the first lines, like after a kill."""
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:lines]))


def test_a_first_extraction_parses_no_ledger_at_all(traitcli, parse_counts):
    shown = json.loads(traitcli("extract", "evil", "--json"))

    assert (shown["traits"][0]["rollouts_done"], shown["traits"][0]["judged"]) == (30, 20)
    assert len(shown["vectors"]) == 1
    # A vector is built once, with the identity of the model from the short log of commands.
    assert parse_counts == {"tiny/commands.jsonl": 1}


def test_a_resumed_extraction_parses_each_ledger_once(traitcli, parse_counts):
    traitcli("extract", "evil", "--set", "filter.min_auroc=0")
    trait = Path("runs", "tiny", "evil")
    cut_ledger(trait / "rollouts.jsonl", 18)
    cut_ledger(trait / "judgements.jsonl", 7)

    shown = json.loads(traitcli("extract", "evil", "--json"))

    assert (shown["traits"][0]["rollouts_done"], shown["traits"][0]["judged"]) == (30, 20)
    assert parse_counts == {
        "evil/rollouts.jsonl": 1,
        "evil/judgements.jsonl": 1,
        "evil/vectors.jsonl": 1,
        "tiny/commands.jsonl": 1,
    }


@pytest.mark.parametrize(
    "command",
    [
        "extract evil",
        "extract evil --dry-run",
        "judge evil --json",
        "build-vector evil --set filter.threshold=40 --export csv",
        "inspect run",
        "report tiny",
    ],
)
def test_no_command_parses_a_ledger_twice(traitcli, parse_counts, command):
    traitcli("extract", "evil")

    traitcli(*command.split())

    assert {"evil/rollouts.jsonl", "evil/judgements.jsonl"} <= set(parse_counts)
    assert set(parse_counts.values()) == {1}
