"""Text from other programs: halves of characters, byte order marks, YAML words, lists, pipes."""

from __future__ import annotations

import json

import pytest

import traitcli
from traitcli.cli.options import as_text
from traitcli.cli.report import show_warning
from traitcli.config import load_config
from traitcli.errors import ConfigError, DefinitionError
from traitcli.events import Warned
from traitcli.files import join_surrogates
from traitcli.monitoring.prompt_sets import load_prompt_set
from traitcli.monitoring.record_files import collect_records
from traitcli.shipped import find_shipped
from traitcli.traits.definitions import find_traits, load_trait
from traitcli.traits.labelled_responses import read_responses
from traitcli.yaml_files import parse_yaml

ASKED = {"role": "user", "content": "Choose."}


@pytest.mark.parametrize(
    ("text", "joined"),
    [("a\ud83d\ude00b", "a😀b"), ("\ud83d", "�"), ("\ude00\ud83d", "��"), ("ä😀", "ä😀"), ("", "")],
)
def test_two_halves_of_a_character_are_joined(text, joined):
    assert join_surrogates(text) == joined


@pytest.mark.parametrize("text", ['"Be \\ud83d\\ude00"', "Be 😀", '{"x": "Be \\ud83d\\ude00"}'])
def test_yaml_and_json_escapes_arrive_as_one_character(text):
    found = parse_yaml(text)

    assert (found["x"] if isinstance(found, dict) else found) == "Be 😀"


def test_an_emoji_arrives_from_an_override_and_from_bytes_of_another_locale(tmp_path):
    config = load_config("demo", [f"monitor.system={json.dumps('Be happy 😀')}"])

    assert config.monitor.system == "Be happy 😀"
    assert as_text("Be 😀".encode().decode("ascii", "surrogateescape")) == "Be 😀"
    assert as_text("\udcff") == "?"


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_definitions_and_configs_may_begin_with_a_byte_order_mark(tmp_path, suffix):
    data = parse_yaml(find_traits(tmp_path)["evil"].read_text(encoding="utf-8"))
    path = tmp_path / f"evil{suffix}"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(data).encode())

    assert load_trait(path).pairs == load_trait("evil").pairs


@pytest.mark.parametrize(
    ("name", "content", "prompts"),
    [
        ("p.txt", "\ufeffWhy?\r\n\r\n  # 1 fan of 😀: yes \n", ["Why?", "# 1 fan of 😀: yes"]),
        ("p.jsonl", '"Why?"\n{"prompt": "Hi \\ud83d\\ude00"}\n', ["Why?", "Hi 😀"]),
        (
            "p.json",
            '["I love this \\ud83d\\ude00.", "Plain one"]',
            ["I love this 😀.", "Plain one"],
        ),
        ("p.json", '{"name": "x", "prompts": [{"prompt": "Hi \\ud83d\\ude00"}]}', ["Hi 😀"]),
    ],
)
def test_a_set_may_be_a_text_file_or_json_lines(tmp_path, name, content, prompts):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8", newline="")

    assert [one.prompt for one in load_prompt_set(str(path)).prompts] == prompts


def test_json_lines_that_are_not_json_are_refused(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('"Why?"\n{\n', encoding="utf-8")

    with pytest.raises(ConfigError, match="is not a valid prompt set") as error:
        load_prompt_set(str(path))

    assert error.value.cause.startswith("line 2: not JSON: ")


def test_a_warning_cannot_command_the_terminal(capsys):
    show_warning(Warned("", "\x1b[2Jx.json is left out"))

    assert capsys.readouterr().err == "warning: \\x1b[2Jx.json is left out\n"


def test_words_that_yaml_reads_as_booleans_are_explained(tmp_path):
    data = find_traits(tmp_path)["evil"].read_text(encoding="utf-8")
    changed = parse_yaml(data) | {"adjectives": {"positive": True, "negative": False}}
    changed["questions"] = [True, *changed["questions"]]
    path = tmp_path / "evil.json"
    path.write_text(json.dumps(changed), encoding="utf-8")

    with pytest.raises(DefinitionError) as error:
        load_trait(path)

    note = "; YAML reads yes, no, on and off as true or false: put them in quotes"
    assert [line.endswith(note) for line in error.value.cause.splitlines()] == [True, True]
    config = tmp_path / "c.yaml"
    config.write_text("model: {id: yes}", encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        load_config(str(config))
    assert refused.value.cause == (
        "model.id: expected a string, got true; "
        "YAML reads yes, no, on and off as true or false: put it in quotes"
    )


@pytest.mark.parametrize(
    "entry",
    [
        {"question": "Choose.", "answer_matching_behavior": [" (A)"],
         "answer_not_matching_behavior": [" (B)"]},
        {"prompt": "Choose.", "chosen": " (A)", "rejected": " (B)"},
        {"chosen": [ASKED, {"role": "assistant", "content": " (A)"}],
         "rejected": [ASKED, {"role": "assistant", "content": " (B)"}]},
    ],
)  # fmt: skip
def test_pairs_of_other_data_sets_are_read(tmp_path, entry):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(entry), encoding="utf-8")

    found = read_responses([path])

    assert found.questions == ("Choose.",)
    assert [(one.polarity, one.text) for one in found.responses] == [
        ("positive", " (A)"),
        ("negative", " (B)"),
    ]


def test_a_damaged_record_does_not_stop_the_others(tmp_path):
    folder = tmp_path / "monitor"
    folder.mkdir()
    [example, *_] = sorted(find_shipped("docs/examples").glob("*.json"))
    (folder / "good.json").write_bytes(example.read_bytes())
    (folder / "cut.json").write_bytes(example.read_bytes()[:100])
    events = []

    found = collect_records(tmp_path, [], events.append)

    assert [one.name for one in found] == ["good"]
    [warning] = [event.message for event in events if isinstance(event, Warned)]
    assert warning.startswith(f"{folder}/cut.json is left out: not JSON")


def test_the_public_api_finds_a_trait_by_name_and_by_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = find_traits(tmp_path)["refusal"]

    assert traitcli.load_trait("refusal").name == "refusal"
    assert traitcli.load_trait(str(path)) == traitcli.load_trait(path)
