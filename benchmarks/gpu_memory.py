"""Compares estimated with real memory, and lets memory run out on purpose."""

from __future__ import annotations

import gc

import torch

from benchmarks.gpu_models import Sizes, make_requests
from benchmarks.gpu_parts import NotThereError, Parts
from traitcli.config import SamplingConfig
from traitcli.generation.batch_size import estimate_size
from traitcli.generation.decode import decode, generate
from traitcli.generation.mean_activations import MeanReader
from traitcli.models.batch_size import BatchSize
from traitcli.models.footprint import pass_bytes, sequence_bytes
from traitcli.models.loaded import LoadedModel

_STEPS = 4
_MOST_OF_ESTIMATE = 1.15
"""The batch size is chosen for 85 % of the free memory: so much more still fits."""
_GIB = 2**30


def measure_memory(loaded: LoadedModel, sizes: Sizes, parts: Parts, tokens: int) -> None:
    """The memory of the batch that traitcli would choose for answers of so many tokens."""
    prompt = max(len(request.ids) for request in make_requests(loaded, 64))
    capacity = prompt + tokens
    size = estimate_size(loaded, capacity)
    parts.found(f"sequences of {capacity} tokens that are decoded together", size)
    estimated = _estimated_bytes(loaded, size, capacity)
    parts.found("their memory, estimated", estimated / _GIB, "GiB")
    if loaded.device.type != "cuda":
        raise NotThereError(f"no peak is measured on {loaded.device}")

    peak = _peak_bytes(loaded, size, tokens)
    parts.found("their memory, real peak", peak / _GIB, "GiB")
    parts.at_most("real ÷ estimated", peak / estimated, _MOST_OF_ESTIMATE)
    total = torch.cuda.get_device_properties(loaded.device).total_memory
    parts.found("real peak with the model ÷ all memory", 100 * _share(peak, total), "%")


def run_out_of_memory(loaded: LoadedModel, sizes: Sizes, parts: Parts) -> None:
    """Answer with 60 % of the memory that the batch needs: it must shrink, and lose nothing."""
    if loaded.device.type != "cuda":
        raise NotThereError(f"memory of {loaded.device} cannot be limited")
    tokens, size = 4, sizes.batches[-1]
    peak = _peak_bytes(loaded, size, tokens)
    _free()
    before = torch.cuda.memory_allocated(loaded.device)
    total = torch.cuda.get_device_properties(loaded.device).total_memory
    changes: list[str] = []
    chosen = BatchSize(size, size, lambda old, new: changes.append(f"{old} → {new}"))
    torch.cuda.set_per_process_memory_fraction((before + 0.6 * peak) / total, loaded.device)
    try:
        sampling = SamplingConfig(max_new_tokens=tokens)
        answers = dict(generate(loaded, make_requests(loaded, size), sampling, chosen))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, loaded.device)
    parts.at_least(f"of {size} answers, complete", len(answers), size)
    parts.at_least("changes of the batch size", len(changes), 1)
    parts.found("the changes", ", ".join(changes))


def _estimated_bytes(loaded: LoadedModel, size: int, capacity: int) -> float:
    text, item = loaded.model.config.get_text_config(), loaded.model.dtype.itemsize
    return pass_bytes(text, item) + size * sequence_bytes(text, item, capacity)


def _peak_bytes(loaded: LoadedModel, size: int, tokens: int) -> int:
    """The peak of reading prompts and a few steps, without the model.

    Later steps need hardly more: keys and values have their full capacity from the beginning.
    """
    _free()
    before = torch.cuda.memory_allocated(loaded.device)
    torch.cuda.reset_peak_memory_stats(loaded.device)
    sampling = SamplingConfig(max_new_tokens=tokens)
    requests = make_requests(loaded, size)
    steps = decode(loaded, requests, sampling, size, MeanReader(loaded))
    for _ in range(min(_STEPS, tokens)):
        next(steps)
    steps.close()
    return torch.cuda.max_memory_allocated(loaded.device) - before


def _share(peak: int, total: int) -> float:
    return (torch.cuda.memory_allocated() + peak) / total


def _free() -> None:
    gc.collect()
    torch.cuda.empty_cache()
