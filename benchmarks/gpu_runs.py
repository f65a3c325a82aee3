"""Measures whole tasks: a run, existing texts, a monitored answer, transformers' own loops."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.gpu_models import (
    PAD,
    Sizes,
    answer,
    make_prompts,
    make_requests,
    random_tokens,
    vocabulary_of,
)
from benchmarks.gpu_parts import Parts
from benchmarks.gpu_steps import step_milliseconds
from benchmarks.gpu_timing import seconds_of
from traitcli.config import MonitorConfig, SamplingConfig
from traitcli.generation.mean_activations import MeanReader
from traitcli.generation.projections import Probe, ProjectionReader
from traitcli.models.loaded import LoadedModel
from traitcli.models.padding import left_pad
from traitcli.models.read_texts import Text, log_probabilities, read_texts
from traitcli.models.reader import NullReader, Reader
from traitcli.records import Position, TraitVector

if TYPE_CHECKING:
    from traitcli.models.reader import Floats

_FIRST_STOP = 10
_PROBES = 8
_MOST_SECONDS = 90
"""Time of `generate_batch`."""
_FEW_TOKENS, _MANY_TOKENS = 6, 26
"""`generate` is timed with both: the difference is that of single tokens, without the prompts."""


def measure_run(loaded: LoadedModel, sizes: Sizes, parts: Parts) -> None:
    """Many more requests than slots; answers end at random, and waiting requests take over."""
    count, batch, mean_tokens = sizes.run
    # Tokens of a random model are all nearly as likely: so many of them end answers of this length.
    stops = range(_FIRST_STOP, _FIRST_STOP + vocabulary_of(loaded) // mean_tokens)
    ending = replace(loaded, stop_ids=frozenset(stops))
    requests = make_requests(loaded, count)
    sampling = SamplingConfig(max_new_tokens=2 * mean_tokens)
    lengths: list[int] = []

    def run() -> None:
        lengths.extend(len(one.ids) for one in answer(ending, requests, sampling, batch))

    seconds = seconds_of(loaded.device, run)
    parts.at_least(f"of {count} answers at batch {batch}, complete", len(lengths), count)
    parts.found("tokens of an answer, on average", sum(lengths) / count)
    parts.found("seconds", seconds, "s")
    parts.found("tokens per second", sum(lengths) / seconds)


def measure_generate(loaded: LoadedModel, sizes: Sizes, parts: Parts, batch: int) -> None:
    """A step of transformers' `generate`, sampled, without capture."""
    ids, mask = left_pad(make_prompts(loaded, batch), PAD, loaded.device)

    def write(tokens: int) -> None:
        loaded.model.generate(
            ids,
            attention_mask=mask.long(),
            max_new_tokens=tokens,
            do_sample=True,
            top_k=0,
            pad_token_id=PAD,
        )

    write(2)
    few = seconds_of(loaded.device, lambda: write(_FEW_TOKENS))
    many = seconds_of(loaded.device, lambda: write(_MANY_TOKENS))
    step = (many - few) / (_MANY_TOKENS - _FEW_TOKENS)
    parts.found(f"a step of `generate` at batch {batch}", 1000 * step, "ms")
    parts.found("tokens per second", batch / step)


def measure_generate_batch(loaded: LoadedModel, sizes: Sizes, parts: Parts) -> None:
    """transformers' continuous batching, sampled, without capture."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    count, tokens = sizes.continuous
    prompts = [list(ids) for ids in make_prompts(loaded, count)]
    generation = GenerationConfig(
        do_sample=True, top_k=0, max_new_tokens=tokens, eos_token_id=-1, pad_token_id=PAD
    )
    settings = {"max_batch_tokens": 4096, "num_blocks": 1024, "page_size": 256}
    if loaded.device.type == "cpu":
        settings = {"max_batch_tokens": 256, "num_blocks": 64, "page_size": 16}
    if "page_size" not in inspect.signature(ContinuousBatchingConfig).parameters:
        # Older versions of transformers call it so.
        settings["block_size"] = settings.pop("page_size")
    batching = ContinuousBatchingConfig(**settings)
    written: dict[str, Any] = {}

    def write() -> None:
        written.update(
            loaded.model.generate_batch(
                inputs=prompts,
                generation_config=generation,
                continuous_batching_config=batching,
                progress_bar=False,
            )
        )

    attention = loaded.model.config._attn_implementation
    try:
        seconds = seconds_of(loaded.device, lambda: run_within(_MOST_SECONDS, write))
    finally:
        # It leaves its own attention behind.
        loaded.model.set_attn_implementation(attention)
    # It logs its errors and goes on: only the number of answers shows that it has failed.
    parts.at_least(f"of {count} answers, complete", len(written), count)
    found = sum(len(one.generated_tokens) for one in written.values())
    parts.found("seconds, prompts and its own warm-up included", seconds, "s")
    parts.found("tokens per second", found / seconds)


def run_within(seconds: float, run: Callable[[], None]) -> None:
    """Call `run`; raise its error, or TimeoutError if it does not end in time.

    `generate_batch` waits for its own threads without end, and later parts need their time.
    """
    errors: list[Exception] = []

    def keep_error() -> None:
        try:
            run()
        except Exception as error:  # noqa: BLE001 - it is raised below, in the thread that waits
            errors.append(error)

    running = Thread(target=keep_error, daemon=True)
    running.start()
    running.join(seconds)
    if errors:
        raise errors[0]
    if running.is_alive():
        raise TimeoutError(f"no end within {seconds:.0f} s")


def measure_reading(loaded: LoadedModel, sizes: Sizes, parts: Parts) -> None:
    """Existing texts: their mean activations, and the log-probabilities of their tokens."""
    count, tokens = sizes.texts
    generator = torch.Generator().manual_seed(5)
    texts = [
        Text(prompt, random_tokens(loaded, tokens, generator))
        for prompt in make_prompts(loaded, count)
    ]
    batch = sizes.profiled

    def read() -> None:
        for _ in read_texts(loaded, texts, batch, MeanReader(loaded)):
            pass

    def score() -> None:
        for _ in log_probabilities(loaded, texts, batch):
            pass

    for name, run in {"mean activations": read, "log-probabilities": score}.items():
        run()
        seconds = seconds_of(loaded.device, run)
        parts.found(f"{name}, response tokens per second", count * tokens / seconds)


def measure_monitor(loaded: LoadedModel, sizes: Sizes, parts: Parts) -> None:
    """A step of one monitored answer."""
    middle = loaded.blocks // 2
    layers = {
        f"{_PROBES} probes at two layers": [middle + index % 2 for index in range(_PROBES)],
        "a probe at every layer": list(range(loaded.layer_count)),
    }
    readers: dict[str, Reader] = {"no probe": NullReader()}
    for name, chosen in layers.items():
        readers[name] = ProjectionReader(make_probes(loaded, chosen), loaded)

    from_all = SamplingConfig(temperature=0.7, max_new_tokens=sizes.answer_tokens)
    for name, reader in readers.items():
        step = step_milliseconds(loaded, 1, from_all, reader, sizes.steps)
        parts.found(f"a step, {name}", step, "ms")
    # The tokens of a random model are all nearly as likely, so its nucleus is as large as can be.
    nucleus = MonitorConfig().sampling.model_copy(update={"max_new_tokens": sizes.answer_tokens})
    step = step_milliseconds(loaded, 1, nucleus, NullReader(), sizes.steps)
    parts.found(f"a step, no probe, top-p {nucleus.top_p} of nearly equal tokens", step, "ms")


def make_probes(loaded: LoadedModel, layers: list[int]) -> list[Probe]:
    """A probe of one random vector at each of the layers."""
    numbers = np.random.default_rng(0).standard_normal((loaded.layer_count, loaded.hidden_size))
    directions: dict[Position, Floats] = {"response_avg": numbers.astype(np.float32)}
    vector = TraitVector("random", loaded.name, "random", layers[0], directions, {})
    return [Probe(vector, "response_avg", layer) for layer in layers]
