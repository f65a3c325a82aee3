"""GGUF files that lack tensors or have a damaged header: refused, or read as what they hold."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.gguf_models import BLOCKS, make_gguf
from traitcli.config import ModelConfig
from traitcli.errors import ModelError
from traitcli.models.load import load_model

pytestmark = pytest.mark.slow

fuzz = settings(
    max_examples=40,
    deadline=timedelta(seconds=20),
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NAMES = ["token_embd", "output", "output_norm"] + [
    f"blk.{block}.{name}"
    for block in range(BLOCKS)
    for name in [
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_output",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
        "attn_norm",
        "ffn_norm",
    ]
]
SAME_ORDER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output.weight": "lm_head.weight",
    "output_norm.weight": "model.norm.weight",
    "blk.0.ffn_down.weight": "model.layers.0.mlp.down_proj.weight",
    "blk.1.ffn_up.weight": "model.layers.1.mlp.up_proj.weight",
    "blk.1.attn_v.weight": "model.layers.1.self_attn.v_proj.weight",
    "blk.0.attn_norm.weight": "model.layers.0.input_layernorm.weight",
}
"""Tensors that llama.cpp stores in the same order as transformers; it permutes queries and keys."""


@pytest.fixture(autouse=True)
def own_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return make_gguf(tmp_path_factory.mktemp("whole") / "tiny.gguf")


@pytest.fixture(scope="module")
def stored(whole) -> dict[str, np.ndarray]:
    return {tensor.name: np.array(tensor.data) for tensor in GGUFReader(whole).tensors}


def fields(path: Path) -> Iterator[tuple[int, int]]:
    """Position and size of each entry of the header: its counts, settings and tensors."""
    reader = GGUFReader(path)
    for field in reader.fields.values():
        yield field.offset, sum(part.nbytes for part in field.parts)
    for tensor in reader.tensors:
        yield tensor.field.offset, sum(part.nbytes for part in tensor.field.parts)


def load(path: Path) -> dict[str, torch.Tensor] | None:
    """The weights of a file, or None if it is refused; any other error is raised."""
    try:
        loaded = load_model(ModelConfig(id=str(path), device="cpu"))
    except ModelError:
        return None
    return dict(loaded.model.state_dict())


@settings(fuzz, max_examples=15)
@given(st.sets(st.sampled_from(NAMES)))
@example(set())
@example({"output"})
@example({"output", "blk.1.ffn_up"})
def test_a_file_without_some_tensors_is_refused_unless_they_are_the_embeddings(
    stored, tmp_path, missing
):
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        path = make_gguf(Path(folder) / "tiny.gguf", keep=lambda name: name not in missing)
        weights = load(path)

    assert (weights is not None) == (missing <= {"output"})
    for name, named in SAME_ORDER.items() if weights else ():
        expected = stored["token_embd.weight" if name[:-7] in missing else name]
        np.testing.assert_array_equal(weights[named].numpy(), expected)


@fuzz
@given(st.data())
def test_a_damaged_header_is_refused_or_its_weights_are_those_of_the_file(
    whole, stored, tmp_path, data
):
    content = bytearray(whole.read_bytes())
    entries = sorted(fields(whole))
    for _ in range(data.draw(st.integers(1, 3), label="changes")):
        position, size = data.draw(st.sampled_from(entries), label="entry")
        at = position + data.draw(st.integers(0, min(size, 80) - 1), label="at")
        new = data.draw(
            st.sampled_from([bytes(8), b"\xff" * 8, b"\x7f" * 4, b"\x01" + bytes(7), b"\x02"])
            | st.binary(min_size=1, max_size=8),
            label="new bytes",
        )
        content[at : at + len(new)] = new

    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        path = Path(folder) / "tiny.gguf"
        path.write_bytes(content)
        weights = load(path)

    for name, named in SAME_ORDER.items() if weights else ():
        np.testing.assert_array_equal(weights[named].numpy(), stored[name])
