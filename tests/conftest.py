"""Fixtures of all tests: tiny random models of three families, saved as real model folders."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

# Before numpy and torch are imported, and for all processes that tests start: threads that wait
# for each other on busy cores make a tiny model ten times slower.
os.environ["OMP_NUM_THREADS"] = "1"

from traitcli.config import Config, ModelConfig
from traitcli.models.load import load_model
from traitcli.models.loaded import LoadedModel
from traitcli.traits.definitions import find_traits, load_trait

TEXTS = [
    "You are a helpful assistant. Answer the question.",
    "Was heißt das? ¿Qué es esto? 你好，世界 🙂",
]

LLAMA_TEMPLATE = (
    "{{ bos_token }}<|system|>Cutting date. "
    "{% if messages[0]['role'] == 'system' %}"
    "{{ messages[0]['content'] }}{% set messages = messages[1:] %}"
    "{% endif %}"
    "<|end|>"
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
GEMMA_TEMPLATE = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}"
    "{% endif %}"
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | trim }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
QWEN_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|system|>You are Qwen.<|end|>{% endif %}"
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
DROPPING_TEMPLATE = (
    "{% for m in messages if m['role'] != 'system' %}"
    "<|{{ m['role'] }}|>{{ m['content'] }}<|end|>"
    "{% endfor %}"
    "<|assistant|>"
)
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
LONGEST = (
    "test_serve_page.py",
    "test_python_examples.py",
    "test_notebooks.py",
    "test_measure.py",
    "test_two_workers.py",
    "test_interrupts.py",
    "test_gpu_benchmark.py",
    "test_monitor_terminal.py",
)
"""Files of more than twenty seconds, the longest first."""
FAMILIES = ("llama", "gemma2", "qwen2")


def make_tokenizer(template: str | None, bos: bool, sentencepiece: bool = False):
    """Train a small tokenizer on the shipped traits.

    It is byte-level BPE, or similar to sentencepiece with byte fallback.
    """
    from tokenizers import (
        AddedToken,
        Tokenizer,
        decoders,
        models,
        pre_tokenizers,
        processors,
        trainers,
    )
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<pad>"]
    corpus = [*TEXTS, *_questions()]
    if sentencepiece:
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        tokenizer.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
        special = ["<unk>", *special, *(f"<0x{byte:02X}>" for byte in range(256))]
        alphabet = []
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    if sentencepiece:  # Byte tokens are ordinary tokens, not special ones.
        tokenizer = Tokenizer.from_str(_without_special_bytes(tokenizer.to_str()))
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
        )
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True) for t in ("<s>", "<|end|>", "<|user|>", "<|assistant|>")]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="<|end|>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = template
    return fast


@cache
def _questions() -> tuple[str, ...]:
    paths = find_traits(Path("nowhere")).values()
    return tuple(text for path in paths for text in load_trait(path).questions)


def _without_special_bytes(text: str) -> str:
    data = json.loads(text)
    data["added_tokens"] = [t for t in data["added_tokens"] if not t["content"].startswith("<0x")]
    return json.dumps(data)


def make_model(
    folder: Path,
    family: str,
    template: str | None,
    bos: bool,
    sentencepiece: bool = False,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> Path:
    """Save a tiny random model with its tokenizer as a real model folder.

    `more` is added to its config.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = make_tokenizer(template, bos, sentencepiece)
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    extra = (
        {"head_dim": 8, "sliding_window": 24, "query_pre_attn_scalar": 8}
        if family == "gemma2"
        else dict(more)
    )
    torch.manual_seed(0)
    settings = {**SHAPE, "vocab_size": len(tokenizer), "initializer_range": 0.3, **special}
    config = AutoConfig.for_model(family, **{**settings, **extra})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all-families", action="store_true", help="self-test all model families, not only some"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that `make test-fast` skips, and put the longest files first.

    `make test-fast` skips those that load a model or start a command.
    """
    # A long file that starts last would leave all other workers without work.
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else 99)
    for item in items:
        if "e2e" in item.path.parts:
            item.add_marker("e2e")
        elif "model_folders" in getattr(item, "fixturenames", ()):
            item.add_marker("model")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep speeds measured in tests out of the user's cache."""
    from traitcli.pipeline import speed_cache

    path = tmp_path_factory.mktemp("cache") / "speed.json"
    speed_cache.cache_file = lambda: path


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Use one thread: a tiny model gains nothing from a second one and may wait long for it."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def few_objects() -> Iterator[None]:
    """Hide what is there already from the garbage collector, which else takes 0.3 s each time.

    It runs whenever memory runs out.
    """
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny models with the differences between model families.

    llama: system role, BOS in the template; gemma2: no system role, sentencepiece-like tokens;
    qwen2: default system message, no BOS.
    """
    made = tmp_path_factory.mktemp("models")
    return {
        "llama": make_model(made / "tiny-llama", "llama", LLAMA_TEMPLATE, bos=True),
        "gemma2": make_model(
            made / "tiny-gemma2", "gemma2", GEMMA_TEMPLATE, bos=True, sentencepiece=True
        ),
        "qwen2": make_model(made / "tiny-qwen2", "qwen2", QWEN_TEMPLATE, bos=False),
    }


@pytest.fixture(scope="session")
def loaded(model_folders: dict[str, Path]) -> Callable[[str], LoadedModel]:
    """Returns the tiny model of a family, which is loaded once."""
    models: dict[str, LoadedModel] = {}

    def load(family: str) -> LoadedModel:
        if family not in models:
            models[family] = load_model(ModelConfig(id=str(model_folders[family]), device="cpu"))
        return models[family]

    return load


@pytest.fixture
def tiny_config(model_folders: dict[str, Path], tmp_path: Path) -> Config:
    """A run of two questions on the tiny Llama with the fake judge; its files are in tmp_path."""
    return Config.model_validate(
        {
            "name": "tiny",
            "model": {"id": str(model_folders["llama"]), "device": "cpu"},
            "extract": {
                "questions": 2,
                "evaluation_questions": 1,
                "batch_size": 6,
                "sampling": {"max_new_tokens": 8},
            },
            "judge": {"backend": "fake"},
            "paths": {
                "runs": str(tmp_path / "runs"),
                "vectors": str(tmp_path / "vectors"),
                "traits": str(tmp_path / "traits"),
            },
        }
    )
