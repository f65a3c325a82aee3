"""The command log of a run."""

from __future__ import annotations

import json

import pytest

from traitcli.errors import JudgeError
from traitcli.events import (
    ModelLoaded,
    Progressed,
    RunFinished,
    RunStarted,
    StageFinished,
    StageStarted,
    TraitFailed,
    VectorBuilt,
    Warned,
)
from traitcli.files import append_lines
from traitcli.records import Usage
from traitcli.runs.command_log import CommandLog, read_commands
from traitcli.runs.run import Run
from traitcli.vector_quality import VectorQuality

STARTED = RunStarted("tiny", "runs/tiny", ("evil", "refusal"), ("cpu",), (), {"rollouts": 12})
WORK = (
    ModelLoaded("tiny", "cpu", 4, 64, 1.5, "abc123", "A GPU"),
    StageStarted("evil", "rollouts", 2, 6),
    Progressed("evil", "rollouts", 4, 6, tokens=20),
    Progressed("evil", "rollouts", 6, 6, tokens=22),
    StageFinished("evil", "rollouts", 3.25),
)
FINISHED = RunFinished("tiny", "runs/tiny", 4.5, 0, Usage(3, 1, 100, 10, 0.25))


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "tiny")


def log_command(run, config, *events, stages=("rollouts", "judgements"), error=None):
    """Log a command that emits these events and then ends, with an error if one is passed."""
    with CommandLog(run, config, stages) as log:
        for event in events:
            log.listen(event)
        if error:
            raise error


def test_a_command_is_logged_with_its_work_and_its_durations(run, tiny_config):
    log_command(run, tiny_config, STARTED, *WORK, FINISHED)

    [command] = read_commands(run)
    assert (command["stages"], command["traits"], command["devices"]) == (
        ["rollouts", "judgements"],
        ["evil", "refusal"],
        ["cpu"],
    )
    assert [(m["revision"], m["hardware"]) for m in command["models"]] == [("abc123", "A GPU")]
    took = [
        (t["trait"], t["stage"], t["seconds"], t["before"], t["total"]) for t in command["took"]
    ]
    assert took == [("evil", "rollouts", 3.25, 2, 6)]
    assert (command["ending"], command["seconds"], command["tokens"], command["used"]["usd"]) == (
        "finished",
        4.5,
        42,
        0.25,
    )


def test_settings_and_versions_are_logged_but_no_paths(run, tiny_config):
    from importlib.metadata import version

    log_command(run, tiny_config, STARTED, *WORK, FINISHED)

    [command] = read_commands(run)
    assert command["settings"]["extract.questions"] == tiny_config.extract.questions
    assert not any(key.startswith("paths") for key in command["settings"])
    assert command["versions"]["torch"] == version("torch")


def test_a_password_in_an_address_is_not_logged(run, tiny_config):
    openai = tiny_config.judge.openai.model_copy(
        update={"base_url": "https://me:secret@host:8000/v1"}
    )
    judge = tiny_config.judge.model_copy(update={"openai": openai})

    log_command(run, tiny_config.model_copy(update={"judge": judge}), STARTED, *WORK)

    assert "secret" not in (run.folder / "commands.jsonl").read_text()
    assert read_commands(run)[0]["settings"]["judge.openai.base_url"] == "https://host:8000/v1"


def test_a_command_without_work_logs_nothing(run, tiny_config):
    done = (
        StageStarted("evil", "rollouts", 6, 6),
        Progressed("evil", "rollouts", 6, 6),
        StageFinished("evil", "rollouts", 0.1),
        Warned("evil", "said before"),
    )

    log_command(run, tiny_config, STARTED, *done, FINISHED)

    assert read_commands(run) == []
    assert not run.folder.exists()


@pytest.mark.parametrize(
    "event",
    [
        Progressed("evil", "judgements", 3, 6),
        VectorBuilt("evil", "vectors/evil.safetensors", VectorQuality()),
        TraitFailed("evil", "vectors", "too few", "because", "more"),
    ],
)
def test_work_without_generated_tokens_is_logged(run, tiny_config, event):
    log_command(
        run, tiny_config, STARTED, StageStarted("evil", "judgements", 2, 6), event, FINISHED
    )

    assert len(read_commands(run)) == 1


def test_a_killed_command_has_no_ending(run, tiny_config):
    log_command(run, tiny_config, STARTED, *WORK)

    log_command(run, tiny_config, STARTED, *WORK, FINISHED)

    first, second = read_commands(run)
    assert (first["ending"], first["seconds"]) == (None, None)
    assert [t["trait"] for t in first["took"]] == ["evil"]
    assert second["ending"] == "finished"


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (SystemExit(143), "interrupted"),
        (JudgeError("the judge refuses", cause="no key", fix="give one"), "the judge refuses"),
        (RuntimeError("boom"), "boom"),
        (ZeroDivisionError(), "ZeroDivisionError"),
    ],
)
def test_the_error_that_ended_a_command_is_logged(run, tiny_config, error, problem):
    with pytest.raises(type(error)):
        log_command(run, tiny_config, STARTED, *WORK, error=error)

    [command] = read_commands(run)
    assert (command["ending"], command["problem"], command["tokens"]) == ("stopped", problem, 42)


def test_failures_and_warnings_are_kept_apart(run, tiny_config):
    failed = TraitFailed("evil", "judgements", "no scores", "it refused", "ask another")

    log_command(
        run, tiny_config, STARTED, *WORK, Warned("", "decoded with padding"), failed, FINISHED
    )

    [command] = read_commands(run)
    assert [(f["trait"], f["stage"], f["problem"]) for f in command["failures"]] == [
        ("evil", "judgements", "no scores")
    ]
    assert [w["message"] for w in command["warnings"]] == ["decoded with padding"]


def test_every_line_is_on_disk_when_its_event_is_emitted(run, tiny_config):
    log = CommandLog(run, tiny_config, ("rollouts",))
    for event in (STARTED, *WORK):
        log.listen(event)

    lines = [json.loads(line) for line in (run.folder / "commands.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["started", "loaded", "began", "finished stage"]


def test_lines_before_any_command_are_ignored(run, tiny_config):
    append_lines(run.folder / "commands.jsonl", [{"event": "finished", "seconds": 1.0}])

    log_command(run, tiny_config, STARTED, *WORK)

    assert len(read_commands(run)) == 1
