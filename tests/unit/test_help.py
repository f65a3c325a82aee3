"""What commands load: help loads nothing heavy, inspect and report load no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from typer.main import get_command

from traitcli.cli.app import app
from traitcli.records import ClassStats, Judgement, Rollout, Score, TraitVector
from traitcli.runs.run import TraitFiles
from traitcli.vectors.files import write_vector

COMMANDS = (
    *("extract", "judge", "build-vector", "monitor", "calibrate", "report", "serve"),
    "inspect",
)
INSPECTED = ("vectors", "traits", "run", "methods", "steering", "labels")
HEAVY = {
    "torch",
    "transformers",
    "openai",
    "pandas",
    "numpy",
    "sklearn",
    "safetensors",
    "accelerate",
    "starlette",
    "uvicorn",
    "prometheus_client",
}
SCRIPT = """
import json, sys
from traitcli.__main__ import main
try:
    main()
finally:
    print(json.dumps(list(sys.modules)), file=sys.stderr)
"""


@dataclass(frozen=True)
class Ended:
    """A finished command and the modules that it imported."""

    code: int
    out: str
    loaded: set[str]


def run(folder, *arguments):
    """Run the command in a new process that prints its loaded modules at the end."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, set(json.loads(ended.stderr.splitlines()[-1])))


def add_judged_rollouts(files):
    """Four answers, scored by two judges."""
    rollouts = [
        Rollout(f"evil-{side}-{n}", "evil", "extraction", side, n, 0, 0, 0, "p", "r", 1, 1, "stop")
        for n in range(2)
        for side in ("positive", "negative")
    ]
    files.add_rollouts(rollouts)
    none = Score(None, "not asked", final=True)
    scores = [Score(10.0 + 20 * number) for number in range(len(rollouts))]
    for judge in ("fake", "other"):
        files.add_judgements(
            Judgement(r.id, judge, score, none) for r, score in zip(rollouts, scores, strict=True)
        )


@pytest.fixture
def folder(tmp_path):
    """A working folder with a config, a vector, a run that built it and a monitoring record."""
    (tmp_path / "tiny.yaml").write_text("model: {id: org/tiny}\n")
    spread = np.ones(3, np.float32)
    vector = TraitVector(
        trait="evil",
        model="tiny",
        method="mean_difference",
        layer=1,
        directions={"response_avg": np.ones((3, 4), np.float32)},
        stats={"response_avg": ClassStats(spread, -spread, spread, spread)},
        quality=QUALITY,
    )
    path = write_vector(tmp_path / "vectors" / "tiny", vector)
    trait = tmp_path / "runs" / "tiny" / "evil"
    trait.mkdir(parents=True)
    (trait / "vectors.jsonl").write_text(json.dumps({"path": str(path), "inputs": "x"}) + "\n")
    add_judged_rollouts(TraitFiles(trait))
    settings = {
        "extract.repeats": 1,
        "extract.questions": None,
        "extract.evaluation_questions": None,
    }
    (tmp_path / "runs" / "tiny" / "run.json").write_text(
        json.dumps({"settings": settings, "traits": {"evil": "x"}})
    )
    record = {
        "prompt": "p",
        "response": "a b",
        "tokens": ["a", " b"],
        "trait_scores": {"evil": [0.5, -1.0]},
    }
    (tmp_path / "runs" / "monitor").mkdir()
    (tmp_path / "runs" / "monitor" / "one.json").write_text(json.dumps(record))
    return tmp_path


QUALITY = {
    "layer_count": 3,
    "hidden_size": 4,
    "layer": 1,
    "layer_choice": "set",
    "position": "response_avg",
    "positive_total": 10,
    "negative_total": 10,
    "positive_kept": 9,
    "negative_kept": 9,
    "empty": 0,
    "missing": 0,
    "filter": "paired",
    "coherence": "mean 90",
    "judge": "fake",
    "judge_auroc": 0.9,
    "positive_score": 80.0,
    "negative_score": 20.0,
    "contrast": 60.0,
    "magnitude": 2.0,
    "relative_magnitude": 0.5,
    "auroc": 0.9,
    "auroc_by_layer": [0.5, 0.9, 0.8],
    "d": 2.0,
    "evaluation_rollouts": 10,
    "verdict": "good",
    "verdict_reason": "held-out AUROC 0.90",
}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["-h"],
        *([command, "--help"] for command in COMMANDS),
        *(["inspect", what, "--help"] for what in INSPECTED),
    ],
)
def test_help_loads_nothing_heavy(tmp_path, arguments):
    ended = run(tmp_path, *arguments)

    assert ended.code == 0
    assert ended.out.startswith(("Usage:", "\nUsage:", " Usage:", "\n Usage:"))
    assert ended.loaded & HEAVY == set()


def test_help_lists_the_eight_commands(tmp_path):
    ended = run(tmp_path, "--help")

    # Typer loads pydantic for the help of a command, but not for the list of commands.
    assert ended.loaded & {*HEAVY, "pydantic"} == set()
    listed = [
        line.split()[0] for line in ended.out.partition("Commands:")[2].splitlines() if line.strip()
    ]
    assert [word for word in listed if word in COMMANDS] == list(COMMANDS)


def all_options() -> dict[str, dict[str, Any]]:
    """Command -> option -> the option, without --help."""
    found: dict[str, dict[str, Any]] = {}
    waiting = [("", get_command(app))]
    while waiting:
        name, command = waiting.pop()
        waiting += [
            (f"{name} {sub}".strip(), one) for sub, one in getattr(command, "commands", {}).items()
        ]
        named = [one for one in command.params if one.opts[-1].startswith("--")]
        found[name] = {one.opts[-1]: one for one in named if one.opts[-1] != "--help"}
    return found


def test_an_option_reads_the_same_in_every_command():
    helps: dict[str, set[str]] = {}
    for options in all_options().values():
        for name, option in options.items():
            helps.setdefault(name, set()).add(option.help)

    # Each command that writes files says which files --out names. monitor colors by a trait and has
    # a table by a key; inspect labels measures a trait, and compares within each value of a key.
    different = {name for name, texts in helps.items() if len(texts) > 1}
    assert different == {"--out", "--trait", "--by"}


def test_the_help_of_an_option_has_a_description_and_then_its_default():
    for command, options in all_options().items():
        for name, option in options.items():
            where = f"{command} {name}"
            assert option.help[0].isupper(), where
            assert option.help.endswith("."), where
            if option.default not in (None, False):
                default = getattr(option.default, "value", option.default)
                shown = f"{default:g}" if isinstance(default, float) else str(default)
                assert f"(default: {shown})." in option.help, where


def test_commands_that_read_a_config_take_overrides():
    for command, options in all_options().items():
        assert ("--config" in options) == ("--set" in options), command


def test_the_version_loads_nothing_heavy(tmp_path):
    ended = run(tmp_path, "--version")

    assert (ended.code, ended.out.split()[0]) == (0, "traitcli")
    assert ended.loaded & HEAVY == set()


@pytest.mark.parametrize(
    ("arguments", "traits"),
    [
        (["inspect", "vectors", "-c", "tiny.yaml", "--json"], ["evil"]),
        (["inspect", "traits", "evil", "refusal", "--json"], ["evil", "refusal"]),
        (["inspect", "run", "-c", "tiny.yaml", "--json"], ["evil"]),
    ],
)
def test_inspect_works_without_torch(folder, arguments, traits):
    ended = run(folder, *arguments)

    assert [row["trait"] for row in json.loads(ended.out)] == traits
    assert ended.loaded & {"torch", "transformers", "openai"} == set()


@pytest.mark.parametrize("what", ["vectors", "traits", "run"])
def test_inspect_prints_its_tables_without_torch(folder, what):
    ended = run(folder, "inspect", what, "-c", "tiny.yaml")

    assert (ended.code, "evil" in ended.out) == (0, True)
    assert ended.loaded & {"torch", "transformers", "openai"} == set()


def test_report_works_without_torch(folder):
    ended = run(folder, "report")

    assert ended.out == "runs/report.html\n"
    page = (folder / "runs" / "report.html").read_text(encoding="utf-8")
    assert '"tokens":["a"," b"]' in page
    assert '"trait":"evil"' in page
    assert ended.loaded & {"torch", "transformers", "openai"} == set()
