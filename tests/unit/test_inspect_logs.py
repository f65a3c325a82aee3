"""Logs of Inspect: a real one, the package as oracle if it is installed, and hostile archives."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest

from traitcli.errors import UserError
from traitcli.monitoring import eval_archives, inspect_logs
from traitcli.monitoring.log_folders import find_logs, read_logs
from traitcli.monitoring.transcripts import read_transcript

LOG = Path(__file__).parent / "logs" / "2026-11-28_facts.eval"
"""Written by inspect_ai 0.3.285: two samples, two epochs, a tool call, an answer in the input."""
EVAL = {"task": "facts", "model": "org/model", "created": "2025-01-31T10:00:00+00:00"}
USER = {"role": "user", "content": "Why?", "source": "input"}
ANSWER = {"role": "assistant", "content": "Because.", "source": "generate"}
SAMPLE = {"id": "a", "epoch": 1, "messages": [USER, ANSWER]}

needs_zstandard = pytest.mark.skipif(
    not eval_archives.importlib.util.find_spec("zstandard"), reason="zstandard is not installed"
)


@pytest.fixture
def write(tmp_path):
    """Writes an archive: names -> JSON values, texts or bytes."""

    def write(members, name="x.eval", method=zipfile.ZIP_DEFLATED, header=EVAL):
        path = tmp_path / name
        found = {"header.json": {"version": 2, "eval": header}} if header else {}
        with zipfile.ZipFile(path, "w", method) as archive:
            for own, value in (found | members).items():
                is_raw = isinstance(value, str | bytes)
                archive.writestr(own, value if is_raw else json.dumps(value))
        return path

    return write


def parts(exchanges):
    return [(one.about["id"], one.about["epoch"], one.prompt, one.response) for one in exchanges]


def test_a_log_from_stdin_is_refused_with_what_to_do(monkeypatch):
    piped = io.TextIOWrapper(io.BytesIO(LOG.read_bytes()))
    monkeypatch.setattr("sys.stdin", piped)

    with pytest.raises(UserError) as caught:
        read_transcript(Path("-"))

    assert str(caught.value).splitlines() == [
        "error: cannot read stdin",
        "cause: it is a zip archive, such as a .eval log of Inspect, not text",
        "fix:   name the file: traitcli monitor --input LOG.eval",
    ]


@needs_zstandard
def test_a_real_log_is_read_with_samples_epochs_roles_and_tool_calls():
    found = read_transcript(LOG, group_by="customer")

    called, summed = "tool call for tool add", "The sum is 2. " + "Long text. " * 40
    assert found.description == f"read {LOG.name} as an Inspect log: 4 × sample"
    assert parts(found.exchanges) == [
        ("sum", 1, "What is 1 + 1?", called),
        ("sum", 1, "", summed),
        ("sum", 2, "What is 1 + 1?", called),
        ("sum", 2, "", summed),
        ("why", 1, "Why?", "Because of you, 0."),
        ("why", 2, "Why?", "Because of you, 1."),
    ]
    first, second, *_, last = (dict(one.about) for one in found.exchanges)
    assert first == {
        "file": LOG.name,
        "line": 1,
        "turn": 2,
        "id": "sum",
        "epoch": 1,
        "task": "facts",
        "model": "mockllm/model",
        "time": "2026-11-28T03:38:30Z",
        "roles": {"system": 1, "user": 2, "assistant": 1},
        "tool_calls": [{"function": "add", "arguments": '{"x": 1, "y": 1}'}],
        "message": "NrTy4GYPzudiKvH9JHcJYK",
    }
    assert second["roles"] == {"system": 1, "user": 2, "assistant": 2, "tool": 1}
    assert "tool_calls" not in second
    assert last["keys"] == {"customer": "shop"}
    # An answer in the sample's input is not one of this model's.
    assert found.exchanges[0].history[-1]["content"] == "Hello, in the input."


@needs_zstandard
@pytest.mark.filterwarnings("ignore")
def test_the_answers_are_those_that_the_package_reads():
    log = pytest.importorskip("inspect_ai.log").read_eval_log(str(LOG), resolve_attachments=True)

    found = parts(read_transcript(LOG).exchanges)

    wanted = [
        (sample.id, sample.epoch, message.text)
        for sample in sorted(log.samples, key=lambda one: (one.id, one.epoch))
        for message in sample.messages
        if message.role == "assistant" and message.source == "generate" and message.text
    ]
    assert [(own, epoch, text) for own, epoch, _, text in found] == wanted


def test_a_log_with_zstandard_and_without_the_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(eval_archives.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(eval_archives.sys, "version_info", (3, 11))

    with pytest.raises(UserError) as error:
        read_transcript(LOG)

    assert error.value.fix == "pip install 'traitcli[inspect]'"


@pytest.mark.parametrize("name", ["x.eval", "x", "x.json"])
def test_the_content_says_that_it_is_a_log(write, name):
    found = read_transcript(write({"samples/a_epoch_1.json": SAMPLE}, name)).exchanges

    assert parts(found) == [("a", 1, "Why?", "Because.")]
    assert found[0].about["time"] == "2025-01-31T10:00:00Z"


def test_a_log_in_json_and_an_unfinished_one_are_read(write, tmp_path):
    (tmp_path / "log.json").write_text(json.dumps({"eval": EVAL, "samples": [SAMPLE]}))
    start = {"_journal/start.json": {"version": 2, "eval": EVAL}, "samples/a.json": SAMPLE}
    unfinished = write(start, header=None)

    for path in (tmp_path / "log.json", unfinished):
        assert parts(read_transcript(path).exchanges) == [("a", 1, "Why?", "Because.")]


def test_texts_that_are_stored_apart_are_put_back(write):
    message = {**ANSWER, "content": [{"type": "text", "text": "attachment://ab"}]}
    asked = {**USER, "content": "attachment://ab"}
    sample = {**SAMPLE, "messages": [asked, message], "attachments": {"ab": "Long."}}

    [found] = read_transcript(write({"samples/a.json": sample})).exchanges

    assert (found.prompt, found.response) == ("Long.", "Long.")


def test_a_small_sample_cannot_name_a_large_text_many_times(write, monkeypatch):
    monkeypatch.setattr(inspect_logs, "LARGEST_SAMPLE", 10)
    many = [{**USER, "content": "attachment://ab"}] * 3
    sample = {**SAMPLE, "messages": [*many, ANSWER], "attachments": {"ab": "Long."}}

    found = read_transcript(write({"samples/a.json": sample, "samples/b.json": SAMPLE})).exchanges

    assert [one.problem for one in found] == ["its attachments are too large", ""]


def test_a_broken_sample_is_a_failure_and_the_others_are_read(write):
    path = write(
        {
            "samples/a.json": "{",
            "samples/b.json": b"\xff{}",
            "samples/c.json": [],
            "samples/d.json": {"messages": [7]},
            "samples/e.json": {"messages": [USER], "error": {"message": "out of time"}},
            "samples/f.json": {"messages": [USER, {**ANSWER, "source": "input"}]},
            "samples/g.json": "[" * 100_000,
            "samples/z.json": SAMPLE,
        }
    )

    found = read_transcript(path).exchanges

    assert [one.problem for one in found][1:] == [
        "it is not text in UTF-8",
        "the sample is not a JSON object",
        "its messages are not a list of messages with a role",
        "the sample failed: out of time",
        "the model generated no text",
        "nested too deep",
        "",
    ]
    assert found[0].problem.startswith("not JSON: ")


def test_a_sample_that_unpacks_to_too_much_is_not_unpacked(write, monkeypatch):
    bomb = json.dumps(SAMPLE | {"store": "0" * 10_000})
    path = write({"samples/a.json": bomb, "samples/b.json": SAMPLE})
    monkeypatch.setattr(eval_archives, "LARGEST_SAMPLE", 5000)

    found = read_transcript(path).exchanges

    assert found[0].problem == "it has 0 MiB, and the limit is 256"
    assert found[1].response == "Because."


def test_an_archive_that_unpacks_to_too_much_is_an_error(write, monkeypatch):
    monkeypatch.setattr(eval_archives, "LARGEST_TOTAL", 100)

    with pytest.raises(UserError) as error:
        read_transcript(write({"samples/a.json": SAMPLE}))

    assert "and the limit is 32" in error.value.cause


@needs_zstandard
def test_a_size_that_lies_does_not_unpack_more(tmp_path):
    data = bytearray(LOG.read_bytes())
    start = data.index(b"PK\x01\x02", data.index(b"samples/sum_epoch_1.json") + 30)
    while b"samples/sum_epoch_1" not in data[start : start + 80]:
        start = data.index(b"PK\x01\x02", start + 1)
    data[start + 24 : start + 28] = (100).to_bytes(4, "little")
    (tmp_path / "x.eval").write_bytes(data)

    found = read_transcript(tmp_path / "x.eval").exchanges

    wrong = "its content does not have the size or sum that the archive says"
    assert [one.problem for one in found if one.problem] == [wrong]
    assert len(found) == 5


def test_every_cut_and_every_flipped_byte_is_an_error_or_a_failure(write, tmp_path):
    data = write({"samples/a.json": SAMPLE, "samples/b.json": SAMPLE}).read_bytes()
    path = tmp_path / "damaged.eval"
    damaged = [data[:end] for end in range(4, len(data), 7)]
    damaged += [
        data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]
        for at in range(4, len(data))
        for bit in (1, 0x80)
    ]
    outcomes = set()
    for one in damaged:
        path.write_bytes(one)
        try:
            read_transcript(path)
            outcomes.add("read")
        except UserError:
            outcomes.add("error")

    assert outcomes == {"read", "error"}


def test_another_zip_file_is_an_error_and_in_a_folder_a_row(write, tmp_path):
    write({"word/document.xml": "<a/>"}, "a.eval", header=None)
    write({"samples/a.json": SAMPLE}, "b.eval")

    [batch] = read_logs(find_logs(tmp_path))

    assert [(one.about["file"], one.problem) for one in batch] == [
        ("a.eval", "it is a zip file without the log of an evaluation"),
        ("b.eval", ""),
    ]
