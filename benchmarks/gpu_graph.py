"""The decode loop with fixed slots: checked against the moving one, and timed, as a graph too."""

from __future__ import annotations

from dataclasses import replace

import torch

from benchmarks.gpu_models import Sizes, answer, make_requests
from benchmarks.gpu_parts import NotThereError, Parts
from benchmarks.gpu_runs import measure_monitor, measure_run
from benchmarks.gpu_steps import step_milliseconds
from benchmarks.gpu_timing import milliseconds
from traitcli.config import SamplingConfig
from traitcli.generation.graph_test import choose_loop
from traitcli.generation.mean_activations import MeanReader
from traitcli.models.attention import AttentionRule, fused_attention
from traitcli.models.loaded import DecodeLoop, LoadedModel
from traitcli.models.masks import see_keys
from traitcli.models.reader import NullReader
from traitcli.models.step_kernels import KERNELS, Lengths

_MOST_STEPS = 40
_HEAD_SIZE = 64
"""Where the configuration says nothing else."""


def check_loops(loaded: LoadedModel, sizes: Sizes, parts: Parts) -> None:
    """Whether fixed slots, and a graph if there can be one, write the answers of moving slots."""
    count, tokens = sizes.checked
    requests = make_requests(loaded, count)
    sampling = SamplingConfig(max_new_tokens=tokens)
    expected = [one.ids for one in answer(loaded, requests, sampling, count)]
    loops: list[DecodeLoop] = ["fixed"]
    if loaded.device.type == "cuda":
        # What `model.decode_loop: graph` does when the model loads.
        chosen, notes = choose_loop(loaded, "graph")
        parts.found("loop after the comparison with a graph", chosen.decode_loop, "".join(notes))
        loops.append("graph")
    for loop in loops:
        made = answer(replace(loaded, decode_loop=loop), requests, sampling, count)
        found = [one.ids for one in made]
        alike = sum(one == other for one, other in zip(found, expected, strict=True))
        parts.at_least(f"of {count} answers of the {loop} loop, as expected", alike, 0.9 * count)


def measure_fixed(loaded: LoadedModel, sizes: Sizes, parts: Parts, batch: int) -> None:
    """Milliseconds of a sampled step with fixed slots, with capture and without."""
    _measure_steps(replace(loaded, decode_loop="fixed"), sizes, parts, batch)


def measure_graph(loaded: LoadedModel, sizes: Sizes, parts: Parts, batch: int) -> None:
    """The same as a CUDA graph, beside the moving loop."""
    _need_cuda(loaded)
    graph = _measure_steps(replace(loaded, decode_loop="graph"), sizes, parts, batch)
    sampling = SamplingConfig(max_new_tokens=sizes.answer_tokens)
    moving = step_milliseconds(loaded, batch, sampling, MeanReader(loaded), sizes.steps)
    parts.found("a step ÷ a step of the moving loop", graph / moving)


def _measure_steps(loaded: LoadedModel, sizes: Sizes, parts: Parts, batch: int) -> float:
    """Milliseconds of a step with capture."""
    # Steps must not go on beyond the answers.
    count = min(_MOST_STEPS, sizes.answer_tokens - 8)
    sampling = SamplingConfig(max_new_tokens=sizes.answer_tokens)
    whole = step_milliseconds(loaded, batch, sampling, MeanReader(loaded), count)
    bare = step_milliseconds(loaded, batch, sampling, NullReader(), count)
    parts.found("a step, sampled", whole, "ms")
    parts.found("tokens per second", 1000 * batch / whole)
    parts.found("a step, sampled, without capture", bare, "ms")
    parts.found("with capture ÷ without", whole / bare)
    return whole


def measure_whole(loaded: LoadedModel, sizes: Sizes, parts: Parts) -> None:
    """A run with refills and a monitored answer, as graphs; without CUDA, with fixed slots."""
    loop: DecodeLoop = "graph" if loaded.device.type == "cuda" else "fixed"
    chosen = replace(loaded, decode_loop=loop)
    measure_run(chosen, sizes, parts)
    measure_monitor(chosen, sizes, parts)


@torch.inference_mode()
def measure_kernels(loaded: LoadedModel, sizes: Sizes, parts: Parts, batch: int) -> None:
    """One layer's attention of a step by each kernel, beside our own with a mask."""
    text = loaded.model.config.get_text_config()
    heads = text.num_attention_heads
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    width = getattr(text, "head_dim", None) or _HEAD_SIZE
    capacity = sizes.answer_tokens * 5
    new = {"device": loaded.device, "dtype": loaded.model.dtype}
    query = torch.randn(batch, heads, width, **new)
    keys = torch.randn(batch, capacity, kv_heads, width, **new).transpose(1, 2)
    values = torch.randn(batch, capacity, kv_heads, width, **new).transpose(1, 2)
    positions = torch.arange(batch, device=loaded.device) % (capacity // 5) + capacity * 4 // 5
    lengths = Lengths.of(positions, capacity)
    rule = AttentionRule(width**-0.5, None, getattr(text, "attn_logit_softcapping", None), None)

    plain = replace(rule, cap=None)
    groups = query.view(batch, kv_heads, -1, width)
    mask = see_keys(positions[:, None], capacity, None)[:, None].repeat(1, 1, groups.shape[2], 1)
    ours = milliseconds(
        loaded.device, lambda: fused_attention(groups, keys, values, mask, plain), sizes.steps
    )
    parts.found(f"with a mask at batch {batch}, no soft cap", ours, "ms")
    for kernel in KERNELS:
        name = getattr(kernel, "__name__", "kernel")
        try:
            time = milliseconds(
                loaded.device,
                lambda kernel=kernel: kernel(query, keys, values, lengths, rule),  # type: ignore[misc]
                sizes.steps,
            )
        except Exception as error:  # noqa: BLE001 - each library has its own
            first, *_ = str(error).splitlines() or [""]
            parts.found(name, f"not there: {type(error).__name__}: {first[:80]}")
        else:
            parts.found(name, time, "ms")


def _need_cuda(loaded: LoadedModel) -> None:
    if loaded.device.type != "cuda":
        raise NotThereError(f"no CUDA graphs on {loaded.device}")
