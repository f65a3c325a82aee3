"""A model that overflows in half precision stops every command, and nothing of it is stored."""

from __future__ import annotations

import shutil

import pytest
import torch

OVERFLOWS = (
    "error: overflow gives values that are not finite\n"
    "cause: the states of layer {layer} contain NaN or infinity in float16\n"
    "fix:   set model.dtype to bfloat16 or float32: float16 ends at 65504\n"
)
HALF = ("--set", "name=half", "--set", "model.id=overflow", "--set", "model.dtype=float16")


@pytest.fixture
def overflowing(copied):
    """A workspace with a model whose MLPs are 2,000 times too large."""
    from transformers import AutoModelForCausalLM

    folder = copied.folder / "overflow"
    shutil.copytree(copied.folder / "model", folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "mlp" in name:
                parameter.mul_(2000)
    model.save_pretrained(folder)
    return copied


@pytest.mark.parametrize("devices", ["cpu", "cpu,cpu"], ids=["one worker", "two workers"])
def test_extract_stops_at_once_and_writes_no_vector(overflowing, devices):
    ended = overflowing.run("extract", "evil", "refusal", "--devices", devices, *HALF)

    assert ended.code == 2
    assert any(OVERFLOWS.format(layer=layer) in ended.err for layer in range(6)), ended.err
    assert "restart" not in ended.err
    assert not (overflowing.folder / "vectors" / "overflow").exists()


@pytest.mark.parametrize("command", [["monitor", "hi"], ["inspect", "model"]])
def test_monitor_and_inspect_stop(overflowing, command):
    more = ["--set", "monitor.sampling.temperature=0", "--fail-on", "evil<100"]
    if command[0] == "monitor":
        shutil.copytree(
            overflowing.folder / "vectors" / "model", overflowing.folder / "vectors" / "overflow"
        )

    ended = overflowing.run(*command, *(more if command[0] == "monitor" else []), *HALF)

    assert ended.code == 2
    assert any(OVERFLOWS.format(layer=layer) in ended.err for layer in range(6)), ended.err
