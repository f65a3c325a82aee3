"""Compares a replayed graph of the decode step with the step itself, before any answer needs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from traitcli.config import SamplingConfig
from traitcli.generation.fixed_decode import Capture, FixedLoop, HowToRun, capture_cuda_graph
from traitcli.generation.mean_activations import Activations, MeanReader
from traitcli.generation.request import Request, release_none
from traitcli.models.loaded import DecodeLoop, LoadedModel
from traitcli.models.memory import ran_out_of_memory

_TEXTS = ("The river was high that spring, and", "Why do leaves fall?")
_SAMPLING = SamplingConfig(max_new_tokens=8)
_TOLERANCE = 1e-3
"""Largest relative difference of a mean: the same kernels run on the same numbers."""

_Answer = tuple[list[int], Activations | None]


def choose_loop(
    loaded: LoadedModel, wanted: DecodeLoop, capture: Capture = capture_cuda_graph
) -> tuple[LoadedModel, list[str]]:
    """The model with the loop that it can use, and why that is not the one wanted."""
    if wanted != "moving" and not loaded.packs:
        # How it is read instead has a note of its own.
        return loaded, []
    if wanted != "graph":
        return replace(loaded, decode_loop=wanted), []
    problem = find_graph_problem(loaded, capture)
    if not problem:
        return replace(loaded, decode_loop="graph"), []
    note = f"{loaded.name} writes without a graph, which is slower: {problem}"
    return replace(loaded, decode_loop="fixed"), [note]


@torch.inference_mode()
def find_graph_problem(loaded: LoadedModel, capture: Capture = capture_cuda_graph) -> str:
    """Why a graph of the step cannot be used; empty if it writes two answers as the step does."""
    if capture is capture_cuda_graph and loaded.device.type != "cuda":
        return f"there are no CUDA graphs on {loaded.device}"
    if loaded.is_spread:
        return "the model is on several devices"
    # Answers that go on to the limit, so that every step is compared.
    unending = replace(loaded, stop_ids=frozenset())
    try:
        expected, found = (_answers(unending, one) for one in (None, capture))
    # Whatever a model's code does that a graph cannot hold has its own error.
    except Exception as error:
        if ran_out_of_memory(error):
            raise
        first, *_ = str(error).strip().splitlines() or [""]
        return f"its capture fails: {type(error).__name__}: {first}"
    return _difference(expected, found)


def _answers(loaded: LoadedModel, capture: Capture | None) -> list[_Answer]:
    encode = loaded.tokenizer
    prompts = [
        tuple(encode(text, add_special_tokens=False)["input_ids"]) or (0,) for text in _TEXTS
    ]
    requests = [Request(ids, seed) for seed, ids in enumerate(prompts)]
    reader = MeanReader(loaded)
    tokens: list[list[int]] = [[] for _ in requests]
    loop = FixedLoop(loaded, requests, _SAMPLING, len(requests), reader, HowToRun(capture))
    for step in loop.steps(release_none):
        for request, token in step.written:
            tokens[request].append(token)
    return [(ids, reader.finished[index]) for index, ids in enumerate(tokens)]


def _difference(expected: Sequence[_Answer], found: Sequence[_Answer]) -> str:
    for (ids, means), (other_ids, other_means) in zip(expected, found, strict=True):
        if ids != other_ids:
            return f"it writes other tokens: {other_ids} instead of {ids}"
        for position, mean in (means or {}).items():
            other = (other_means or {})[position]
            error = float((mean - other).norm() / mean.norm())
            if not error <= _TOLERANCE:
                return f"its {position} differs by {error:.2%}"
    return ""
