"""inspect model: the facts about a model, and how each way of reading it compares."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from tests.conftest import make_model
from traitcli.config import ModelConfig
from traitcli.inspection.model_rows import model_row
from traitcli.models.load import open_model
from traitcli.views.tables.model import model_table


def shown(row) -> str:
    out = StringIO()
    model_table(Console(file=out, width=100), [row])
    return out.getvalue()


def test_a_model_that_is_read_correctly(loaded):
    row = model_row(loaded("llama"), "org/tiny")
    lines = shown(row).splitlines()

    assert (row["reads"], row["problem"], row["layers"], row["hidden_size"]) == (
        "packed",
        "",
        5,
        32,
    )
    assert lines[0] == "org/tiny"
    assert "family:        llama (LlamaForCausalLM)" in lines
    assert "layers:        0–4 (embeddings, 4 blocks; 4 is after the final norm)" in lines
    assert "context:       512 tokens" in lines
    assert lines[-1] == "read correctly, packed: many texts in one pass, without padding"


def test_a_thorough_test_compares_padded_texts_too(model_folders):
    found = open_model(ModelConfig(id=str(model_folders["qwen2"]), device="cpu"), thorough=True)

    row = model_row(found, "x")

    ways = ("whole", "after a cached prefix", "one token at a time")
    assert [check["path"] for check in row["checks"]] == [
        "hooks",
        *(f"packed, {way}" for way in ways),
        *(f"padded, {way}" for way in ways),
    ]
    assert all(check["error"] < 1e-4 for check in row["checks"])
    assert {check["verdict"] for check in row["checks"]} == {"agrees"}


def test_a_model_whose_scores_would_be_wrong(tmp_path):
    folder = make_model(tmp_path / "mamba", "mamba", None, True)
    row = model_row(open_model(ModelConfig(id=str(folder), device="cpu")), "mamba")

    text = shown(row)

    assert row["reads"] is None
    assert row["checks"][0]["verdict"] == "differs"
    assert "\nscores would be wrong: hooks: the states of layer 0 differ from a plain pass" in text
