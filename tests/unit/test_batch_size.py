"""Batch sizes: the estimate, the reaction to out-of-memory errors, and the stored size."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from transformers import LlamaConfig

import traitcli.generation.batch_size as batch_size_module
import traitcli.generation.sampling as sampling_module
from tests.operators import measured_memory
from tests.unit.test_decode import PROMPTS, SAMPLED, assert_same, requests
from traitcli.config import SamplingConfig
from traitcli.errors import TraitError
from traitcli.events import Warned
from traitcli.generation.batch_size import estimate_size
from traitcli.generation.decode import generate
from traitcli.generation.sampling import pick
from traitcli.models.batch_size import BatchSize
from traitcli.models.footprint import sequence_bytes
from traitcli.models.kv_store import KVStore
from traitcli.models.memory import memory_explained, ran_out_of_memory
from traitcli.pipeline.extract import generate_rollouts
from traitcli.pipeline.messages import GenerateTask, RolloutsMade
from traitcli.pipeline.plan import plan_rollouts
from traitcli.pipeline.speed_cache import known_batch_size
from traitcli.pipeline.worker_context import Worker

pytestmark = pytest.mark.usefixtures("few_objects")
MANY = PROMPTS * 3


class SmallDevice:
    """A device with memory for the keys and values of `slots` sequences."""

    def __init__(self, monkeypatch, slots: int) -> None:
        self.slots = slots
        self.seen: list[int] = []
        allocate = KVStore.allocate

        def bounded(store, *args):
            self.seen.append(store.slots)
            if store.slots > self.slots:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return allocate(store, *args)

        monkeypatch.setattr(KVStore, "allocate", bounded)


def answers(loaded, asked, size):
    made = dict(generate(loaded, asked, SAMPLED, size))
    return [made[index] for index in range(len(asked))]


@contextmanager
def before_a_block(model, fail):
    """Call `fail` during every forward pass."""
    hook = model.model.model.layers[2].register_forward_pre_hook(fail)
    try:
        yield
    finally:
        hook.remove()


def test_a_size_halves_and_grows_back_after_more_and_more_answers():
    changes = []
    size = BatchSize(8, 8, lambda old, new: changes.append((old, new)))
    for _ in range(100):
        size.complete()
    assert size.now == 8

    assert size.shrink()
    for _ in range(4 * 2 * 4):
        size.complete()
    assert size.now == 8
    assert size.shrink()
    for _ in range(4 * 2 * 4):
        size.complete()
    assert size.now == 4
    for _ in range(4 * 2 * 4):
        size.complete()

    assert changes == [(8, 4), (4, 8), (8, 4), (4, 8)]


def test_a_fixed_size_and_a_size_of_one_do_not_shrink():
    assert not BatchSize(8).shrink()
    assert not BatchSize(1, 8).shrink()


def test_answers_lost_when_memory_runs_out_are_generated_again(loaded, monkeypatch):
    model = loaded("llama")
    asked = requests(model, MANY)
    expected = answers(model, asked, BatchSize(64))
    device = SmallDevice(monkeypatch, slots=3)

    found = answers(model, asked, size := BatchSize(12, 12))

    assert_same(found, expected)
    assert size.now == 3
    assert max(device.seen) == 12


@pytest.mark.parametrize("fatal", [1, 5, 9])
def test_unfinished_answers_start_again_when_a_pass_fails(loaded, monkeypatch, fatal):
    model = loaded("llama")
    asked = requests(model, MANY)
    expected = answers(model, asked, BatchSize(64))
    passes = 0

    def fail(module, args):
        nonlocal passes
        passes += 1
        if passes == fatal:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with before_a_block(model, fail):
        found = answers(model, asked, size := BatchSize(4, 4))

    assert_same(found, expected)
    assert size.now == 2


def test_a_model_that_is_padded_shrinks_too(loaded, monkeypatch):
    from dataclasses import replace

    model = replace(loaded("llama"), packs=False)
    asked = requests(model, MANY)
    expected = answers(model, asked, BatchSize(64))

    def fail(module, args):
        if len(args[0]) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with before_a_block(model, fail):
        found = answers(model, asked, size := BatchSize(12, 12))

    assert_same(found, expected)
    assert size.now == 3


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        torch.OutOfMemoryError("Allocation on device 0 would exceed allowed memory."),
        torch.OutOfMemoryError("Tried to allocate 2.00 GiB", "a second argument"),
        torch.AcceleratorError(
            "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"
        ),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 17 GB)"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] err == 0. "
            "DefaultCPUAllocator: can't allocate memory: 12"
        ),
        RuntimeError("could not create a primitive"),
        MemoryError(),
    ],
)
def test_the_out_of_memory_error_of_every_device_is_recognized(error):
    assert ran_out_of_memory(error)

    with pytest.raises(TraitError, match="out of memory on cpu"), memory_explained("cpu", "less"):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
        torch.AcceleratorError("CUDA error: device-side assert triggered"),
        ValueError("out of memory"),
    ],
)
def test_the_other_errors_of_a_device_are_not_lack_of_memory(error):
    assert not ran_out_of_memory(error)


def test_other_errors_are_not_recognized_as_out_of_memory(loaded, monkeypatch):
    model = loaded("llama")

    def fail(module, args):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with before_a_block(model, fail), pytest.raises(RuntimeError, match="illegal memory access"):
        answers(model, requests(model), BatchSize(4, 4))


def test_the_estimate_follows_the_free_memory(loaded, monkeypatch):
    model = loaded("llama")
    monkeypatch.setattr(batch_size_module, "free_bytes", lambda device: 2**40)
    assert estimate_size(model, 200) == 128

    monkeypatch.setattr(batch_size_module, "free_bytes", lambda device: 2 * 10_000_000)
    some = estimate_size(model, 200)
    longer = estimate_size(model, 2000)
    monkeypatch.setattr(batch_size_module, "free_bytes", lambda device: 0)

    assert 128 > some > longer >= 1
    assert estimate_size(model, 200) == 1


def test_the_estimate_covers_what_a_sequence_really_keeps(loaded):
    model = loaded("llama")
    store = KVStore(1, 200)
    keys = torch.zeros(1, 2, 8)

    kept = sum(
        tensor.nbytes
        for layer in range(model.blocks)
        for tensor in store.allocate(layer, keys, keys)
    )

    sums = 3 * model.layer_count * model.hidden_size * 4
    assert (
        kept + sums
        < sequence_bytes(model.model.config, model.model.dtype.itemsize, 200)
        < 10 * (kept + sums)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("top_p", [1.0, 0.9])
@pytest.mark.parametrize("top_k", [0, 40])
def test_the_estimate_covers_what_sampling_needs(monkeypatch, top_k, top_p, dtype):
    # As on a GPU: on a CPU, a flat distribution needs more.
    monkeypatch.setattr(sampling_module, "nucleus_threshold", sampling_module._bisect_threshold)
    count, vocabulary = 2, 128_256
    logits = torch.zeros(count, vocabulary, dtype=dtype)
    sampling = SamplingConfig(temperature=0.7, top_k=top_k, top_p=top_p)

    with measured_memory() as memory:
        pick(logits, torch.rand(count, 3), sampling)

    needed = logits.nbytes + memory.peak
    whole, small = (
        sequence_bytes(LlamaConfig(vocab_size=size), dtype.itemsize, 10) for size in (vocabulary, 0)
    )
    assert 0.7 < needed / (count * (whole - small)) < 1.02


@pytest.fixture
def run(loaded, tiny_config):
    """Runs generate_rollouts on the tiny model; returns settings, rollouts made and warnings."""
    from pathlib import Path

    from traitcli.traits.definitions import find_traits, load_trait

    trait = load_trait(find_traits(Path("nowhere"))["refusal"])

    def extract(batch_size):
        messages = []
        settings = tiny_config.model_copy(
            update={"extract": tiny_config.extract.model_copy(update={"batch_size": batch_size})}
        )
        worker = Worker(settings, "cpu", messages.append)
        worker.model()
        generate_rollouts(
            GenerateTask(trait, tuple(plan_rollouts(trait, settings.extract))),
            settings,
            worker,
            messages.append,
        )
        count = sum(
            len(message.rollouts) for message in messages if isinstance(message, RolloutsMade)
        )
        return settings, count, [event.message for event in messages if isinstance(event, Warned)]

    return extract


def test_auto_continues_with_a_smaller_batch_warns_and_stores_the_size(run, monkeypatch):
    SmallDevice(monkeypatch, slots=8)

    settings, count, warnings = run("auto")

    assert count == 30
    assert warnings == [
        "out of memory with 30 sequences at a time: continuing with 15",
        "out of memory with 15 sequences at a time: continuing with 7",
    ]
    assert known_batch_size(settings) == 7


def test_out_of_memory_at_the_smallest_size_names_what_to_change(run, monkeypatch):
    SmallDevice(monkeypatch, slots=0)

    with pytest.raises(TraitError, match="out of memory on cpu") as caught:
        run("auto")

    assert "model.dtype to bfloat16" in caught.value.fix


def test_a_configured_batch_size_is_kept_and_the_error_names_it(run, monkeypatch):
    SmallDevice(monkeypatch, slots=4)

    with pytest.raises(TraitError, match="out of memory on cpu") as caught:
        run(6)

    assert "extract.batch_size to auto, or below 6" in caught.value.fix
