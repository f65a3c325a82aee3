"""Measures single steps of the decode loop, and what the device cannot do faster."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_models import Sizes, make_prompts, make_requests
from benchmarks.gpu_parts import NotThereError, Parts
from benchmarks.gpu_timing import milliseconds, wait
from traitcli.config import SamplingConfig
from traitcli.generation.decode import decode
from traitcli.generation.mean_activations import MeanReader
from traitcli.models.loaded import LoadedModel
from traitcli.models.reader import NullReader, Reader

if TYPE_CHECKING:
    from collections.abc import Generator

    from traitcli.generation.request import Step

_FIRST_STEPS = 3
"""Steps that are not timed: libraries choose their kernels in the first ones."""
_TOP_KERNELS = 14
_NAME_LENGTH = 52


def begin_steps(
    loaded: LoadedModel, batch: int, sampling: SamplingConfig, reader: Reader
) -> Generator[Step, None, None]:
    """The steps of a decode loop whose prompts are read."""
    steps = decode(loaded, make_requests(loaded, batch), sampling, batch, reader)
    for _ in range(1 + _FIRST_STEPS):
        next(steps)
    return steps


def step_milliseconds(
    loaded: LoadedModel, batch: int, sampling: SamplingConfig, reader: Reader, count: int
) -> float:
    """Milliseconds of a step, the mean of `count` in a row."""
    steps = begin_steps(loaded, batch, sampling, reader)
    try:
        return milliseconds(loaded.device, lambda: next(steps), count, warmups=0)
    finally:
        steps.close()


def measure_step(loaded: LoadedModel, sizes: Sizes, parts: Parts, batch: int) -> None:
    """A step at one batch size beside its matrix products and its reading of keys and values."""
    sampled = SamplingConfig(max_new_tokens=sizes.answer_tokens)
    greedy = SamplingConfig(temperature=0, max_new_tokens=sizes.answer_tokens)
    count = sizes.steps
    whole = step_milliseconds(loaded, batch, sampled, MeanReader(loaded), count)
    parts.found("a step, sampled", whole, "ms")
    parts.found("tokens per second", 1000 * batch / whole)
    best = step_milliseconds(loaded, batch, greedy, MeanReader(loaded), count)
    parts.found("a step, greedy", best, "ms")
    bare = step_milliseconds(loaded, batch, sampled, NullReader(), count)
    parts.found("a step, sampled, without capture", bare, "ms")
    parts.found("share of the capture", 100 * (1 - bare / whole), "%")

    products = products_milliseconds(loaded, batch)
    parts.found("its matrix products alone", products, "ms")
    prompts = make_prompts(loaded, batch)
    tokens = sum(map(len, prompts)) + batch * (1 + _FIRST_STEPS + count // 2)
    reading = kv_milliseconds(loaded, tokens)
    parts.found("reading its keys and values alone", reading, "ms")
    parts.found("both ÷ a step", 100 * (products + reading) / whole, "%")


@torch.inference_mode()
def products_milliseconds(loaded: LoadedModel, batch: int) -> float:
    """All linear layers, with one vector for each sequence; in a CUDA graph if there are any."""
    model, device = loaded.model, loaded.device
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    inputs = {
        layer.in_features: torch.randn(batch, layer.in_features, device=device, dtype=model.dtype)
        for layer in layers
    }

    def multiply() -> None:
        for layer in layers:
            layer(inputs[layer.in_features])

    if device.type != "cuda":
        return milliseconds(device, multiply, 3)
    # Without a graph, launching small products takes longer than computing them.
    multiply()
    wait(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        multiply()
    return milliseconds(device, graph.replay, 10)


@torch.inference_mode()
def kv_milliseconds(loaded: LoadedModel, tokens: int) -> float:
    """Reading the keys and values of so many tokens once, in all layers."""
    text = loaded.model.config.get_text_config()
    heads = text.num_key_value_heads
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    shape = (2, tokens, heads, head_size)
    of_layer = torch.zeros(shape, device=loaded.device, dtype=loaded.model.dtype)
    return loaded.blocks * milliseconds(loaded.device, of_layer.sum, 10)


def count_synchronisations(loaded: LoadedModel, sizes: Sizes, parts: Parts) -> None:
    """How often, and where, the CPU waits for the device in one step."""
    if loaded.device.type != "cuda":
        raise NotThereError(f"no synchronisations on {loaded.device}")
    sampling = SamplingConfig(max_new_tokens=sizes.answer_tokens)
    steps = begin_steps(loaded, sizes.profiled, sampling, MeanReader(loaded))
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            next(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        steps.close()
    # Switching the mode on warns too, that it is new.
    waits = [one for one in caught if "synchronizing" in str(one.message)]
    places = Counter(f"{Path(one.filename).name}:{one.lineno}" for one in waits)
    parts.found(f"synchronisations in a step at batch {sizes.profiled}", len(waits))
    for place, count in places.most_common():
        parts.found(f"  at {place}", count)


def profile_step(loaded: LoadedModel, sizes: Sizes, parts: Parts) -> None:
    """The kernels that take the most time in one step; on a CPU, its operations."""
    is_cuda = loaded.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if is_cuda else [])
    sampling = SamplingConfig(max_new_tokens=sizes.answer_tokens)
    steps = begin_steps(loaded, sizes.profiled, sampling, MeanReader(loaded))
    try:
        with profile(activities=activities) as profiler:
            next(steps)
            wait(loaded.device)
    finally:
        steps.close()

    found = []
    for event in profiler.key_averages():
        # Operations contain the time of their kernels: only the kernels are counted.
        is_kernel = str(event.device_type).endswith("CUDA")
        time = event.self_device_time_total if is_cuda else event.self_cpu_time_total
        if is_kernel == is_cuda and time > 0:
            found.append((time / 1000, event.count, event.key))
    found.sort(reverse=True)
    parts.found(f"kernels in a step at batch {sizes.profiled}", sum(count for _, count, _ in found))
    parts.found("their time", sum(time for time, _, _ in found), "ms")
    for time, count, name in found[:_TOP_KERNELS]:
        parts.found(f"{count:5} × {name[:_NAME_LENGTH]}", time, "ms")
