"""Mistakes of users: a three-line error and exit code 2, or a failed trait and exit code 1."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import yaml

from traitcli.records import TraitVector
from traitcli.shipped import find_shipped
from traitcli.vectors.files import write_vector

ALL_TRAITS = (
    "corrigibility, evil, hallucinating, overconfidence, refusal, sycophantic, uncertainty, "
    "verbosity"
)
SEE = "see docs/configs.md"
NEEDS = (
    "check the id, the folder or your access to the hub; a folder needs config.json, weights and "
    "a tokenizer"
)


@dataclass(frozen=True)
class Mistake:
    """A command line and its error. `worked`: the error comes after the model is loaded."""

    command: Sequence[str]
    problem: str
    cause: str
    fix: str
    config: str = "tiny.yaml"
    worked: bool = False

    @property
    def message(self) -> str:
        return f"error: {self.problem}\ncause: {self.cause}\nfix:   {self.fix}\n"


MISTAKES = {
    "an unknown trait": Mistake(
        ["extract", "evli"],
        "trait evli not found",
        "neither a shipped trait nor a file in traits/",
        f"did you mean evil? traits: {ALL_TRAITS}",
    ),
    "an unknown trait to inspect": Mistake(
        ["inspect", "traits", "kind"],
        "trait kind not found",
        "neither a shipped trait nor a file in traits/",
        f"traits: {ALL_TRAITS}",
    ),
    "an unknown trait of a run": Mistake(
        ["inspect", "run", "evli"],
        "no trait evli in the run tiny",
        "it has evil, refusal",
        "did you mean evil?",
    ),
    "a judge that a run has no scores of": Mistake(
        ["inspect", "run", "--judge", "openai"],
        "no judge 'openai' in the run tiny",
        "the run has scores by\n       fake",
        "name one of these judges, or a part of the name that no other has",
    ),
    "a run named as a trait": Mistake(
        ["inspect", "run", "tiny", "evil", "--run", "fresh"],
        "tiny is a run, not a trait",
        "a trait is expected here",
        "traitcli inspect run --run tiny",
    ),
    "a config named as a trait": Mistake(
        ["build-vector", "demo"],
        "demo is a config, not a trait",
        "a trait is expected here",
        "traitcli build-vector -c demo",
    ),
    "an option of an earlier version": Mistake(
        ["inspect", "steering", "--tokens", "40"],
        "no option --tokens",
        "it was renamed to --max-new-tokens",
        "use --max-new-tokens 40",
    ),
    "an option of another command": Mistake(
        ["judge", "--verbose"],
        "no option --verbose",
        "it is an option of traitcli inspect methods and traitcli inspect vectors",
        "see traitcli judge --help",
    ),
    "a setting typed as an option": Mistake(
        ["extract", "--model", "gpt2"],
        "no option --model",
        "it is a setting",
        "--set model.id=gpt2",
    ),
    "a setting of two sections typed as an option": Mistake(
        ["build-vector", "--temperature=0"],
        "no option --temperature",
        "it is a setting",
        "--set extract.sampling.temperature=0 or --set monitor.sampling.temperature=0",
    ),
    "a word in place of a number": Mistake(
        ["inspect", "steering", "--questions", "few"],
        "invalid --questions few",
        "expected a whole number, got 'few'",
        "see traitcli inspect steering --help",
    ),
    "an unknown format": Mistake(
        ["build-vector", "--export=npz"],
        "invalid --export npz",
        "expected gguf, pt, safetensors, vllm-lens, lm-eval or csv, got 'npz'",
        "see traitcli build-vector --help",
    ),
    "an unknown key": Mistake(
        ["extract"],
        "typo.yaml is not valid",
        "extract.reepats: unknown key; did you mean repeats?",
        f"correct the key, or {SEE}",
        config="typo.yaml",
    ),
    "a value that makes no sense": Mistake(
        ["build-vector", "--threshold", "400"],
        "invalid --threshold 400",
        "filter.threshold: expected a number of at most 100, got 400",
        f"correct the option, or {SEE}",
    ),
    "broken YAML": Mistake(
        ["extract"],
        "broken.yaml is not YAML",
        "line 4, column 2: expected <block end>, but found '<block mapping start>'",
        "correct that line",
        config="broken.yaml",
    ),
    "an unknown preset": Mistake(
        ["extract"],
        "config defualt not found",
        "neither a file nor a preset",
        "did you mean default? presets: default, demo, gemma-2-2b-it, llama-3.1-8b-instruct, "
        "smollm2-135m",
        config="defualt",
    ),
    "no vectors": Mistake(
        ["monitor", "Why?", "--set", "paths.vectors=none"],
        "no vector of any trait for model",
        "looked in none/model",
        "build with: traitcli extract, with the same -c and --set",
    ),
    "no vector of that trait": Mistake(
        ["monitor", "Why?", "--traits", "evil,verbosity"],
        "no vector of verbosity for model",
        "looked in vectors/model; found: evil, refusal",
        "build with: traitcli extract verbosity, with the same -c and --set",
    ),
    "an empty prompt": Mistake(
        ["monitor", "  "],
        "the prompt is empty",
        "there is nothing to answer",
        'try traitcli monitor "What should I read?"',
    ),
    "an unknown run": Mistake(
        ["judge", "--run", "tidy"],
        "no run tidy",
        "runs/tidy/run.json does not exist; runs: tiny",
        "did you mean tiny?",
    ),
    "both ways to choose devices": Mistake(
        ["extract", "--gpus", "2", "--devices", "cpu,cpu"],
        "--gpus and --devices exclude each other",
        "both choose the devices",
        "use one of them",
    ),
    "a device that is not there": Mistake(
        ["extract", "--devices", "cpu,cuda:0"],
        "no device cuda:0",
        "this machine has 1 cpu, 0 cuda, 0 mps",
        "name one of these, or auto",
    ),
    "a device that is none": Mistake(
        ["extract", "--devices", "cuda:first"],
        "no device cuda:first",
        "this machine has 1 cpu, 0 cuda, 0 mps",
        "name one of these, or auto",
    ),
    "a judge without a key": Mistake(
        ["extract", "verbosity", "--run", "keyless", "--set", "judge.backend=openai"],
        "the judge has no key",
        "OPENAI_API_KEY is not set",
        "export OPENAI_API_KEY=…, or set judge.openai.base_url to a server that needs none",
    ),
    "a model that is not found": Mistake(
        ["extract", "verbosity", "--run", "new", "--set", "model.id=no-such/model"],
        "cannot load the model no-such/model",
        "We couldn't connect to 'https://huggingface.co' to load the files, "
        "and couldn't find them in the cached files.",
        "check the network and the id; files that were downloaded before work offline",
        worked=True,
    ),
    "a model folder that does not exist": Mistake(
        ["extract", "verbosity", "--run", "gone", "--set", "model.id=/no/such/model"],
        "no model folder /no/such/model",
        "the folder does not exist",
        "check the path",
        worked=True,
    ),
    "a folder without a model": Mistake(
        ["extract", "verbosity", "--run", "other", "--set", "model.id=empty"],
        "empty is not a model folder",
        "it has no config.json",
        NEEDS,
        worked=True,
    ),
    "a prompt that is too long": Mistake(
        ["monitor", "x" * 600],
        "the prompt is too long",
        "615 prompt tokens and 12 new ones exceed the 512 tokens of model",
        "shorten it by 115 tokens, or lower max_new_tokens",
        worked=True,
    ),
    "a layer out of range": Mistake(
        ["monitor", "Why?", "--layer", "5"],
        "no layer 5",
        "model has layers 0 to 4",
        "choose one of them",
        worked=True,
    ),
    "vectors of another model": Mistake(
        ["monitor", "Why?", "--set", "paths.vectors=foreign"],
        "the vector of evil does not fit model",
        "its shape is [7, 16]; the model needs [5, 32]",
        "use vectors built from this model",
        worked=True,
    ),
}


def foreign_vector() -> TraitVector:
    return TraitVector(
        "evil", "model", "mean_difference", 3, {"response_avg": np.ones((7, 16), np.float32)}, {}
    )


@pytest.fixture(scope="module")
def mistaken(open_workspace) -> Any:
    """The folder in which the mistakes are made."""
    return open_workspace()


@pytest.fixture(scope="module")
def results(mistaken, finished) -> dict[str, Any]:
    """The result of each mistake, in a folder with a finished run."""
    for name in ("runs", "vectors"):
        shutil.copytree(finished[0].folder / name, mistaken.folder / name)
    (mistaken.folder / "empty").mkdir()
    (mistaken.folder / "typo.yaml").write_text(
        "model: {id: model}\nextract: {reepats: 2}\n", encoding="utf-8"
    )
    broken = "model: {id: model}\nextract:\n  repeats: 2\n batch_size: 4\n"
    (mistaken.folder / "broken.yaml").write_text(broken, encoding="utf-8")
    write_vector(mistaken.folder / "foreign" / "model", foreign_vector())
    ended = mistaken.run_all(
        [[*mistake.command, "--config", mistake.config] for mistake in MISTAKES.values()]
    )
    return dict(zip(MISTAKES, ended, strict=True))


@pytest.mark.parametrize("name", [name for name in MISTAKES if not MISTAKES[name].worked])
def test_a_mistake_gets_three_lines_and_nothing_else(results, name):
    ended = results[name]

    assert (ended.code, ended.out, ended.err) == (2, "", MISTAKES[name].message)


@pytest.mark.parametrize("name", [name for name in MISTAKES if MISTAKES[name].worked])
def test_a_mistake_found_while_working_ends_with_three_lines(results, name):
    before, error, message = results[name].err.partition("error: ")

    assert (results[name].code, results[name].out) == (2, "")
    assert error + message == MISTAKES[name].message
    assert "Traceback" not in before


def test_a_missing_key_is_noticed_before_a_run_folder_is_made(mistaken, results):
    assert results["a judge without a key"].code == 2
    assert not (mistaken.folder / "runs" / "keyless").exists()


def test_a_model_that_cannot_be_reached_is_an_error_without_the_retries_of_the_hub(results):
    assert "etrying" not in results["a model that is not found"].err


def test_failed_traits_give_exit_code_1_and_an_error_each(copied):
    ended = copied.run("build-vector", "--threshold", "100", "--json")

    assert ended.code == 1
    assert [(f["trait"], f["stage"], f["problem"]) for f in ended.json["failures"]] == [
        (trait, "vectors", f"too few rollouts of {trait} pass the filter")
        for trait in ("evil", "refusal")
    ]
    lines = [line.partition("] ")[2] for line in ended.err.splitlines()]
    at = lines.index("evil failed at vectors: too few rollouts of evil pass the filter")
    assert lines[at + 1 : at + 3] == [
        "  cause: 0 positive and 0 negative of 10 a side (paired, threshold 100, coherence 50); "
        "each side needs 2",
        "  fix: lower filter.threshold, set filter.pairing to independent, or raise "
        "extract.repeats",
    ]
    assert lines[-1].endswith(": 0 vectors built, 2 traits failed, in runs/tiny")


def test_a_failed_trait_does_not_affect_the_others(workspace):
    definition = yaml.safe_load((find_shipped("traits") / "evil.yaml").read_text(encoding="utf-8"))
    definition |= {"name": "wordy", "questions": ["x" * 600, "Why?"]}
    (workspace.folder / "traits").mkdir()
    (workspace.folder / "traits" / "wordy.yaml").write_text(
        yaml.safe_dump(definition), encoding="utf-8"
    )

    ended = workspace.run("extract", "wordy", "evil", "--json")

    assert ended.code == 1
    assert [(f["trait"], f["stage"], f["problem"]) for f in ended.json["failures"]] == [
        ("wordy", "rollouts", "the prompt is too long")
    ]
    assert [vector["trait"] for vector in ended.json["vectors"]] == ["evil"]
    assert len(workspace.lines("evil")) == 30
