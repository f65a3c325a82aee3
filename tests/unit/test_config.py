"""Settings: valid config files and overrides, and the errors of invalid ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from traitcli.config import DEFAULT, ModelConfig, find_config, flatten, load_config
from traitcli.errors import ConfigError
from traitcli.shipped import list_shipped

PRESETS = [path.stem for path in list_shipped("configs", "*.yaml")]
MODEL = "model: {id: org/tiny}\n"


@pytest.fixture
def write_config(tmp_path):
    """Write a config file; returns its path as text."""

    def write(text):
        path = tmp_path / "my.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    """Use an empty working folder, so that only the shipped configs exist."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fault_in(source, *overrides):
    with pytest.raises(ConfigError) as caught:
        load_config(source, overrides)
    return caught.value


def test_an_unknown_key_is_refused_with_a_suggestion(write_config):
    path = write_config(MODEL + "extract: {reepats: 2}\n")

    error = fault_in(path)

    assert str(error) == (
        f"error: {path} is not valid\n"
        "cause: extract.reepats: unknown key; did you mean repeats?\n"
        "fix:   correct the key, or see docs/configs.md"
    )


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("extracts: {}\n", "extracts: unknown key; did you mean extract?"),
        ("extract: {batch-size: 3}\n", "extract.batch-size: unknown key; did you mean batch_size?"),
        (
            "extract: {sampling: {tempreature: 1}}\n",
            "extract.sampling.tempreature: unknown key; did you mean temperature?",
        ),
        ("zzz: 1\n", "zzz: unknown key"),
    ],
)
def test_an_unknown_key_is_named_with_its_whole_path(write_config, text, cause):
    assert fault_in(write_config(MODEL + text)).cause == cause


def test_every_fault_is_reported_at_once(write_config):
    path = write_config(
        "model: {revision: main}\nextract: {repeats: 0, reepats: 2}\nfilter: {threshold: 101}\n"
    )

    error = fault_in(path)

    assert error.cause.splitlines() == [
        "model.id: required but missing",
        "extract.repeats: expected a number of at least 1, got 0",
        "extract.reepats: unknown key; did you mean repeats?",
        "filter.threshold: expected a number of at most 100, got 101",
    ]


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (
            "extract: {repeats: many}\n",
            "extract.repeats: expected a whole number, got 'many'",
        ),
        (
            "judge: {backend: gpt}\n",
            "judge.backend: expected 'likelihood', 'openai', 'local' or 'fake', got 'gpt'",
        ),
        ("model: {id: 7}\n", "model.id: expected a string, got 7"),
        (
            "extract: {seed: 99999999999999999999}\n",
            "extract.seed: expected a number of at most 9.22337e+18, got 99999999999999999999",
        ),
        (
            "extract: {sampling: {temperature: 1.0e-40}}\n",
            "extract.sampling.temperature: expected 0, which is greedy, or a number from 0.001 to "
            "100, got 1e-40",
        ),
        (
            "extract: {sampling: {temperature: .nan}}\n",
            "extract.sampling.temperature: expected a finite number, got nan",
        ),
        (
            "workers: {heartbeat_timeout: .inf}\n",
            "workers.heartbeat_timeout: expected a finite number, got inf",
        ),
        (
            "extract: {repeats: 10000000000}\n",
            "extract.repeats: expected a number of at most 1e+09, got 10000000000",
        ),
        ("traits: evil\n", "traits: expected a list, got 'evil'"),
        ("extract: 3\n", "extract: expected a section of settings, got 3"),
        ("extract:\n", "extract: expected a section of settings, got null"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(write_config, text, cause):
    path = write_config(text if text.startswith("model") else MODEL + text)

    assert fault_in(path).cause == cause


def test_a_layer_that_is_neither_number_nor_auto_names_both_choices(write_config):
    error = fault_in(write_config(MODEL + "vector: {layer: last}\n"))

    assert error.cause.splitlines() == [
        "vector.layer: expected a whole number or 'auto', got 'last'",
    ]


def test_broken_yaml_names_its_line(write_config):
    path = write_config(MODEL + "extract:\n  repeats: [1, 2\njudge: {}\n")

    error = fault_in(path)

    assert str(error) == (
        f"error: {path} is not YAML\n"
        "cause: line 4, column 6: expected ',' or ']', but got ':'\n"
        "fix:   correct that line"
    )


def test_a_file_that_is_not_utf_8_is_refused(tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes("model: {id: müller}".encode("latin-1"))

    error = fault_in(str(path))

    assert (error.problem, error.fix) == (f"{path} is not YAML", "save it as UTF-8 YAML")


@pytest.mark.parametrize("text", ["", "- model\n", "just words\n", "3\n"])
def test_a_config_must_be_a_mapping(write_config, text):
    path = write_config(text)

    error = fault_in(path)

    assert str(error) == (
        f"error: {path} is not a valid config\n"
        "cause: it is not a mapping of sections\n"
        "fix:   see docs/configs.md"
    )


def test_the_file_names_the_run(write_config):
    assert load_config(write_config(MODEL)).name == "my"


def test_the_defaults_are_the_published_procedure(write_config):
    config = load_config(write_config(MODEL))

    assert (
        config.extract.sampling.temperature,
        config.extract.sampling.top_p,
        config.extract.sampling.top_k,
    ) == (
        1,
        1,
        0,
    )
    assert (
        config.extract.repeats,
        config.extract.questions,
        config.extract.evaluation_questions,
    ) == (1, None, None)
    assert (config.filter.threshold, config.filter.coherence, config.filter.pairing) == (
        50,
        50,
        "paired",
    )
    assert (config.vector.method, config.vector.position) == ("mean_difference", "response_avg")


def test_a_loaded_config_cannot_be_edited(write_config):
    config = load_config(write_config(MODEL))

    with pytest.raises(ValidationError, match="frozen"):
        config.name = "other"


def test_the_scale_0_10_stays_a_text_where_yaml_1_1_reads_the_number_8(write_config):
    config = load_config(write_config(MODEL + "judge: {openai: {scale: 0_10}}\n"))

    assert config.judge.openai.scale == "0_10"


def test_a_name_that_looks_like_a_date_stays_a_text(write_config):
    assert load_config(write_config(MODEL + "name: 2025-13-31\n")).name == "2025-13-31"


@pytest.mark.parametrize("preset", PRESETS)
def test_every_shipped_config_loads(empty_folder, preset):
    config = load_config(preset)

    assert config.name == preset


def test_a_preset_is_found_by_its_name(empty_folder):
    assert load_config("gemma-2-2b-it").model.id == "google/gemma-2-2b-it"


def test_the_default_is_the_embedded_model(empty_folder):
    assert load_config().model.id == "embedded"


def test_a_typo_in_a_preset_gets_a_suggestion(empty_folder):
    error = fault_in("gema-2-2b-it")

    assert str(error) == (
        "error: config gema-2-2b-it not found\n"
        "cause: neither a file nor a preset\n"
        f"fix:   did you mean gemma-2-2b-it? presets: {', '.join(PRESETS)}"
    )


def test_a_missing_path_is_not_taken_for_a_preset(empty_folder):
    error = fault_in("../configs/default")

    assert error.problem == "config ../configs/default not found"


def test_a_local_config_wins_over_the_shipped_one_of_that_name(empty_folder):
    (empty_folder / "configs").mkdir()
    (empty_folder / "configs" / "default.yaml").write_text("model: {id: org/mine}\n")

    config = load_config(DEFAULT)

    assert (config.model.id, config.name) == ("org/mine", "default")


def test_a_file_wins_over_a_preset_of_that_name(empty_folder):
    (empty_folder / "default").write_text(MODEL)

    assert str(find_config("default")) == "default"


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("extract.repeats=7", "extract", "repeats", 7),
        ("filter.threshold=62.5", "filter", "threshold", 62.5),
        ("vector.layer=auto", "vector", "layer", "auto"),
        ("extract.questions=null", "extract", "questions", None),
        ("monitor.system=a = b", "monitor", "system", "a = b"),
        ("model.id=org/other", "model", "id", "org/other"),
    ],
)
def test_an_override_wins_over_the_file(write_config, override, section, key, value):
    path = write_config(MODEL + "extract: {repeats: 2, questions: 3}\n")

    config = load_config(path, [override])

    assert getattr(getattr(config, section), key) == value


def test_an_override_does_not_change_other_keys(write_config):
    path = write_config(MODEL + "extract: {repeats: 2, questions: 3}\n")

    config = load_config(path, ["extract.repeats=7"])

    assert config.extract.questions == 3


def test_the_last_override_of_a_key_counts(write_config):
    config = load_config(write_config(MODEL), ["extract.repeats=2", "extract.repeats=3"])

    assert config.extract.repeats == 3


def test_an_override_makes_the_sections_it_needs(write_config):
    config = load_config(write_config(MODEL), ["judge.openai.scale=0_10"])

    assert config.judge.openai.scale == "0_10"


@pytest.mark.parametrize("override", ["extract.repeats", "=3", ""])
def test_an_override_without_key_or_value_is_refused(write_config, override):
    error = fault_in(write_config(MODEL), override)

    assert str(error) == (
        f"error: invalid --set {override}\n"
        "cause: expected KEY=VALUE\n"
        "fix:   for example --set extract.repeats=2"
    )


def test_an_override_needs_a_yaml_value(write_config):
    error = fault_in(write_config(MODEL), "traits=[evil")

    assert (
        str(error)
        == "error: invalid --set traits=[evil\ncause: '[evil' is not YAML\nfix:   quote the value"
    )


def test_an_override_below_a_value_is_refused(write_config):
    error = fault_in(write_config(MODEL), "model.id.x=1")

    assert str(error) == (
        "error: invalid --set model.id.x=1\n"
        "cause: id is a value, not a section\n"
        "fix:   see docs/configs.md"
    )


@pytest.mark.parametrize(
    ("override", "cause"),
    [
        ("extract.reepats=2", "extract.reepats: unknown key; did you mean repeats?"),
        ("exract.repeats=2", "exract: unknown key; did you mean extract?"),
        ("workers.tries=3", "workers.tries: renamed; use workers.max_crashes"),
        ("extract.repeats=abc", "extract.repeats: expected a whole number, got 'abc'"),
        ("filter=3", "filter: expected a section of settings, got 3"),
    ],
)
def test_a_fault_of_an_override_names_the_override_and_not_the_file(write_config, override, cause):
    error = fault_in(write_config(MODEL), override)

    assert str(error) == (
        f"error: invalid --set {override}\n"
        f"cause: {cause}\n"
        "fix:   correct the option, or see docs/configs.md"
    )


def test_of_two_overrides_of_one_key_the_last_one_is_named(write_config):
    error = fault_in(write_config(MODEL), "extract.repeats=2", "extract.repeats=0")

    assert error.problem == "invalid --set extract.repeats=0"


def test_a_fault_of_the_file_is_not_blamed_on_an_override(write_config):
    path = write_config(MODEL + "extract: {repeats: 0}\n")

    error = fault_in(path, "extract.questions=2")

    assert error.problem == f"{path} is not valid"


def test_faults_of_the_file_and_of_an_override_name_both(write_config):
    path = write_config(MODEL + "extract: {repeats: 0}\n")

    error = fault_in(path, "filter.threshold=300")

    assert error.problem == f"{path} and --set filter.threshold=300 are not valid"
    assert error.cause.splitlines() == [
        "extract.repeats: expected a number of at least 1, got 0",
        "filter.threshold: expected a number of at most 100, got 300",
    ]


def test_a_choice_that_is_nearly_right_gets_a_suggestion(write_config):
    error = fault_in(write_config(MODEL + "judge: {backend: opnai}\n"))

    assert error.cause.endswith("got 'opnai'; did you mean openai?")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("google/gemma-2-2b-it", "gemma-2-2b-it"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b-instruct"),
        ("embedded", "smollm2-135m-instruct"),
        ("gpt2", "gpt2"),
        ("some/folder/My Model/", "my-model"),
        ("some/folder/SmolLM2.Q4_1.gguf", "smollm2.q4_1"),
        ("../../etc/passwd", "passwd"),
        ("..", "model"),
        (".", "model"),
        ("/", "model"),
        ("org/..", "model"),
        ("org/.hidden", "hidden"),
        ("org/a\\..\\b\0c\n", "a-..-b-c"),
        ("org/模型", "model"),
        ("org/--rm", "rm"),
    ],
)
def test_a_model_id_gives_a_folder_name(model, name):
    assert ModelConfig(id=model).name == name


@pytest.mark.parametrize(
    "model", ["../../x", "a/b/../..", "C:\\x\\..", " / / ", "~/.ssh", "x" * 50 + "/..gguf"]
)
def test_no_model_id_makes_a_name_outside_the_folder(model):
    assert re.fullmatch(r"[a-z0-9_][a-z0-9._-]*", ModelConfig(id=model).name)


def test_flatten_names_every_leaf_by_its_path():
    assert flatten({"a": {"b": 1, "c": {"d": None}}, "e": [2]}) == {
        "a.b": 1,
        "a.c.d": None,
        "e": [2],
    }


def test_a_repeated_key_is_refused_with_its_line(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text(
        "model:\n  id: embedded\nextract:\n  repeats: 1\nextract:\n  seed: 3\n", encoding="utf-8"
    )

    with pytest.raises(ConfigError) as raised:
        load_config(str(path))

    assert raised.value.cause == "line 5, column 1: duplicate key extract"


def test_setting_one_key_of_a_section_leaves_the_section_s_other_defaults():
    usual = load_config("default").monitor.sampling

    short = load_config("default", ["monitor.sampling.max_new_tokens=7"]).monitor.sampling

    assert short == usual.model_copy(update={"max_new_tokens": 7})


@pytest.mark.parametrize(
    ("old", "new"),
    [("tries", "workers.max_crashes"), ("patience", "workers.heartbeat_timeout")],
)
def test_a_renamed_key_is_refused_with_its_new_name(write_config, old, new):
    error = fault_in(write_config(MODEL + f"workers: {{{old}: 3}}\n"))

    assert error.cause == f"workers.{old}: renamed; use {new}"


def test_a_home_folder_in_a_config_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")

    config = load_config("default", ("model.id=~/models/tiny", "paths.runs=~/runs"))

    assert config.model.id == "/home/ada/models/tiny"
    assert config.paths.runs == Path("/home/ada/runs")
