"""Random and damaged files: read, or refused with a short error, fast and in bounded memory."""

from __future__ import annotations

import io
import json
import resource
import struct
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from gguf import GGUFWriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save

from traitcli.config import load_config
from traitcli.errors import TraitError, VectorError
from traitcli.monitoring.prompt_sets import load_prompt_set
from traitcli.monitoring.record_files import read_records
from traitcli.monitoring.transcripts import read_exchanges
from traitcli.records import ClassStats, TraitVector
from traitcli.traits.definitions import find_traits, load_trait
from traitcli.traits.lint import lint_trait
from traitcli.vector_quality import VectorQuality
from traitcli.vectors.files import write_vector
from traitcli.vectors.formats.read_any import read_any

pytestmark = pytest.mark.slow

MEMORY_LIMIT = 2**30
"""The most bytes that reading a small file may add to the address space."""
fuzz = settings(
    max_examples=60,  # derandomized: 150 found nothing that 60 did not
    deadline=timedelta(seconds=5),
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    """Make allocations beyond the bound fail; no reader catches that error."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(
        resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY_LIMIT, before[1])
    )
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def read_or_refuse(read: Callable[[], Any]) -> Any:
    """Return what is read, or the TraitError that refuses it. Every other error is a failure."""
    try:
        return read()
    except TraitError as error:
        refused = error
    assert refused.problem
    assert refused.cause
    assert len(str(refused)) < 20_000
    return refused


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


def trees_with(*keys: str) -> st.SearchStrategy[Any]:
    """Mappings with some of the keys that a reader expects and arbitrary values."""
    return st.dictionaries(st.sampled_from(keys) | st.text(max_size=6), trees, max_size=8)


def damaged(whole: bytes) -> st.SearchStrategy[bytes]:
    """A valid file with a part overwritten, removed or inserted."""

    def damage(drawn: tuple[int, int, bytes]) -> bytes:
        offset, cut, put = drawn
        return whole[:offset] + put + whole[offset + cut :]

    near_the_start = st.integers(0, min(len(whole), 400)) | st.integers(0, len(whole))
    return st.tuples(near_the_start, st.integers(0, 64), st.binary(max_size=24)).map(damage)


# Configs and definitions

SECTIONS = (
    "model",
    "extract",
    "judge",
    "filter",
    "vector",
    "monitor",
    "workers",
    "paths",
    "traits",
    "name",
)
YAMLS = [
    "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
    + "".join(
        f"{k}: &{k} [{','.join(['*' + b] * 10)}]\n"
        for b, k in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "model: *i\n",
    "a: &a [*a]\nmodel: *a\n",
    "[" * 20_000,
    "? " * 5_000,
    "model: {id: " + "9" * 6_000 + "}",
    "model: !!python/object/apply:os.system ['true']",
    "model: !!binary '!'",
    "\x00",
    "model: {id: x, id: y}",
    "- " * 5_000,
]


@fuzz
@given(data=trees_with(*SECTIONS))
def test_any_tree_is_a_config_or_is_refused(tmp_path, data):
    path = tmp_path / "fuzz.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")

    read_or_refuse(lambda: load_config(str(path)))


@fuzz
@given(content=st.binary(max_size=300))
def test_any_bytes_are_a_config_or_are_refused(tmp_path, content):
    path = tmp_path / "fuzz.yaml"
    path.write_bytes(content)

    read_or_refuse(lambda: load_config(str(path)))


@pytest.mark.parametrize("content", YAMLS)
def test_malicious_yaml_is_refused(tmp_path, content):
    path = tmp_path / "harm.yaml"
    path.write_text(content, encoding="utf-8")

    for read in (
        lambda: load_config(str(path)),
        lambda: load_trait(path),
        lambda: load_prompt_set(str(path)),
    ):
        assert isinstance(read_or_refuse(read), TraitError)


@fuzz
@given(
    override=st.text(max_size=60)
    | st.sampled_from(SECTIONS).flatmap(
        lambda key: st.text(max_size=40).map(lambda text: f"{key}{text}")
    )
)
def test_any_override_is_taken_or_refused(override):
    read_or_refuse(lambda: load_config("demo", [override]))


DEFINITION = (
    "name",
    "description",
    "positive",
    "negative",
    "adjectives",
    "pairs",
    "questions",
    "evaluation_questions",
)
MORE = ("judge_prompt", "instruction", "eval_prompt", "responses", "evaluation_responses")


@fuzz
@given(data=trees_with(*DEFINITION, *MORE), suffix=st.sampled_from([".yaml", ".json"]))
def test_any_tree_is_a_trait_or_is_refused(tmp_path, data, suffix):
    path = tmp_path / f"fuzz{suffix}"
    path.write_text(
        json.dumps(data) if suffix == ".json" else yaml.safe_dump(data), encoding="utf-8"
    )

    found = read_or_refuse(lambda: load_trait(path))

    if not isinstance(found, TraitError):
        lint_trait(found)


@fuzz
@given(content=damaged(find_traits(Path("nowhere"))["evil"].read_bytes()))
def test_a_damaged_definition_is_a_trait_or_is_refused(tmp_path, content):
    path = tmp_path / "evil.yaml"
    path.write_bytes(content)

    read_or_refuse(lambda: load_trait(path))


PAIR = {"question": "Why?", "positive": "Because it is so.", "negative": "Nobody knows it."}
CAA = {
    "question": "Why? (A) So (B) No",
    "answer_matching_behavior": " (A)",
    "answer_not_matching_behavior": " (B)",
}
TABLE = """question,prompt,answer,question_id,evil,coherence
Why?,<u>Why?<a>,So.,evil_0_pos_0,90.5,80
Why?,<u>Why?<a>,No.,evil_0_neg_0,1,90
"""
LABELLED = {
    "lines.jsonl": (
        json.dumps(PAIR) + "\n" + json.dumps(PAIR | {"question": "When?"}) + "\n"
    ).encode(),
    "list.json": json.dumps([CAA, CAA | {"question": "Who?"}]).encode(),
    "table.csv": TABLE.encode(),
    "deep.json": b"[" * 50_000,
    "wide.csv": b"question," + b"x," * 50_000,
}


@pytest.mark.parametrize("name", LABELLED)
def test_labelled_responses_that_are_damaged_are_read_or_refused(tmp_path, name):
    definition = tmp_path / "mine.yaml"
    definition.write_text(f"name: mine\nresponses: {name}\n", encoding="utf-8")

    @fuzz
    @given(content=damaged(LABELLED[name]))
    def check(content):
        (tmp_path / name).write_bytes(content)
        read_or_refuse(lambda: load_trait(definition))

    (tmp_path / name).write_bytes(LABELLED[name])
    assert isinstance(read_or_refuse(lambda: load_trait(definition)), TraitError) == (
        name in ("deep.json", "wide.csv")
    )
    check()


# Vectors


SPREAD = np.ones(4, np.float32)
DIRECTION = np.random.default_rng(0).normal(0, 1, (4, 8)).astype(np.float32)
VECTOR = TraitVector(
    trait="evil",
    model="tiny",
    method="mean_difference",
    layer=2,
    directions={"response_avg": DIRECTION},
    stats={"response_avg": ClassStats(SPREAD, -SPREAD, SPREAD, SPREAD)},
    quality=VectorQuality(auroc=0.9),
)


def vector_files(folder: Path) -> dict[str, bytes]:
    """A valid file of each format, small."""
    native, direction = write_vector(folder, VECTOR), DIRECTION
    by_layer, plain = io.BytesIO(), io.BytesIO()
    torch.save({layer - 1: torch.from_numpy(direction[layer]) for layer in range(1, 4)}, by_layer)
    torch.save(torch.from_numpy(direction), plain)
    writer = GGUFWriter(folder / "evil.gguf", "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", 2)
    for layer in (1, 2):
        writer.add_tensor(f"direction.{layer}", direction[layer + 1])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {
        "native.safetensors": native.read_bytes(),
        "layers.pt": by_layer.getvalue(),
        "evil_response_avg_diff.pt": plain.getvalue(),
        "evil.gguf": (folder / "evil.gguf").read_bytes(),
    }


@pytest.mark.parametrize(
    "name", ["native.safetensors", "layers.pt", "evil_response_avg_diff.pt", "evil.gguf"]
)
def test_vector_files_that_are_damaged_are_read_or_refused(tmp_path, name):
    whole = vector_files(tmp_path / "made")[name]
    path = tmp_path / name

    @fuzz
    @given(content=damaged(whole))
    def check(content):
        path.write_bytes(content)
        found = read_or_refuse(lambda: read_any(path))
        if isinstance(found, TraitVector):
            assert all(np.isfinite(direction).all() for direction in found.directions.values())
            assert 0 <= found.layer < found.layer_count

    path.write_bytes(whole)
    assert read_any(path).layer_count == 4
    check()


@fuzz
@given(
    value=st.sampled_from([np.nan, np.inf, -np.inf]),
    place=st.integers(0, 4 * 8 - 1),
    name=st.sampled_from(["response_avg", "response_avg.positive_mean", "response_avg.spread"]),
)
def test_a_vector_file_with_a_number_that_is_not_finite_is_refused(tmp_path, value, place, name):
    path = write_vector(tmp_path, VECTOR)
    tensors, metadata = {}, {}
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
        for key in file.keys():  # noqa: SIM118 -- not a mapping
            tensors[key] = file.get_tensor(key).copy()
    name = name if name in tensors else "response_avg"
    tensors[name].flat[place % tensors[name].size] = value
    path.write_bytes(save(tensors, metadata))

    assert isinstance(read_or_refuse(lambda: read_any(path)), VectorError)


@fuzz
@given(
    start=st.sampled_from(
        [b"", b"GGUF", b"PK\x03\x04", b"\x80\x02", struct.pack("<Q", 2**40) + b"{"]
    ),
    rest=st.binary(max_size=200),
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".gguf", ".bin"])
def test_bytes_without_a_vector_are_refused(tmp_path, suffix, start, rest):
    path = tmp_path / f"fuzz{suffix}"
    path.write_bytes(start + rest)

    assert isinstance(read_or_refuse(lambda: read_any(path)), TraitError)


# Monitoring records

RECORD = {
    "prompt": "p",
    "response": "a b",
    "tokens": ["a", " b"],
    "trait_scores": {"evil": [0.5, -1.0]},
}


@fuzz
@given(
    content=damaged(json.dumps(RECORD).encode())
    | trees_with(*RECORD).map(lambda tree: json.dumps(tree).encode())
)
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_any_record_is_read_or_refused(tmp_path, suffix, content):
    path = tmp_path / f"fuzz{suffix}"
    path.write_bytes(content)

    read_or_refuse(lambda: read_records(path))


CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}


@fuzz
@given(
    content=damaged((json.dumps(CHAT) + "\n").encode())
    | trees_with("messages", "prompt", "response").map(lambda tree: json.dumps(tree).encode())
)
@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".txt"])
def test_any_transcript_is_read_or_refused(tmp_path, suffix, content):
    path = tmp_path / f"fuzz{suffix}"
    path.write_bytes(content)

    read_or_refuse(lambda: read_exchanges(path))
