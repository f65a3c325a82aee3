"""Moves loaded models to the pretend accelerator, whole or spread over two devices."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from accelerate.hooks import attach_align_device_hook_on_blocks

from tests.sim_device import SimTensor
from traitcli.models.hooks import find_blocks
from traitcli.models.loaded import LoadedModel, SelfTest
from traitcli.models.self_test import run_self_test

FIRST, SECOND = "sim:0", "sim:1"
_TESTS: dict[Any, SelfTest] = {}
"""Model -> its self-test, which takes a while."""


def on_sim(loaded: LoadedModel) -> LoadedModel:
    """A copy of the model on `sim:0`."""
    return _described(loaded, _on_one(loaded.model))


def spread_over_two(loaded: LoadedModel) -> LoadedModel:
    """A copy whose second half is on `sim:1`; accelerate moves it there, as it does with GPUs."""
    return _described(loaded, _on_two(loaded.model))


def _described(loaded: LoadedModel, model: Any) -> LoadedModel:
    moved = replace(loaded, model=model, device=torch.device(FIRST), self_test=None)
    # As after loading: what the test of the original found does not fit another device.
    return replace(moved, self_test=_test(model, moved))


@cache
def _on_one(original: Any) -> Any:
    model = copy.deepcopy(original)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                moved = SimTensor(parameter.data, torch.device(FIRST))
                module._parameters[name] = torch.nn.Parameter(moved, requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = SimTensor(buffer, torch.device(FIRST))
    return model


@cache
def _on_two(original: Any) -> Any:
    model = copy.deepcopy(original)
    device_map = _halves(model)
    # What `accelerate.dispatch_model` does for devices that it knows.
    attach_align_device_hook_on_blocks(
        model,
        execution_device={"": FIRST, **device_map},
        offload=dict.fromkeys(device_map, False),
        skip_keys=model._skip_keys_device_placement,
    )
    model.hf_device_map = device_map
    return model


def _test(model: Any, loaded: LoadedModel) -> SelfTest:
    if model not in _TESTS:
        _TESTS[model] = run_self_test(loaded)
    return _TESTS[model]


def _halves(model: Any) -> dict[str, str]:
    """Module -> device: what comes before the blocks and half of them first, then the rest."""
    blocks = find_blocks(model)
    names = {module: name for name, module in model.named_modules()}
    decoder_name = names[blocks].rpartition(".")[0]
    device_map, device = {}, FIRST
    for name, module in model.get_submodule(decoder_name).named_children():
        if module is not blocks:
            device_map[f"{decoder_name}.{name}"] = device
            continue
        for number, block in enumerate(blocks):
            device = FIRST if number < len(blocks) // 2 else SECOND
            device_map[names[block]] = device
    return {**device_map, "lm_head": SECOND}
