"""Random models of real shape and prompts for them: a benchmark of speed needs no true weights."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from traitcli.config import SamplingConfig
from traitcli.generation.decode import Generation, generate
from traitcli.generation.request import Request
from traitcli.models.batch_size import BatchSize
from traitcli.models.loaded import LoadedModel
from traitcli.models.massive import measure_massive

Ids = tuple[int, ...]

PAD = 5
_FIRST_TOKEN = 6
"""The tokens below it are special in all these models."""
_BEGINNINGS = 10
_BEGINNING_TOKENS = 60
_OWN_TOKENS = range(28, 53)
"""Prompts of a trait: personas are shared by many, questions differ in length."""


@dataclass(frozen=True)
class Family:
    """A model by its shape.

    attention  of transformers, to compare with
    tiny       what differs in the tiny model
    """

    name: str
    kind: str
    shape: Mapping[str, Any]
    attention: str
    tiny: Mapping[str, Any]


_TINY_SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1500,
}
_LLAMA = Family(
    name="Llama 3.1 8B",
    kind="llama",
    shape={
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
    attention="sdpa",
    tiny=_TINY_SHAPE,
)
_GEMMA = Family(
    name="Gemma 2 2B",
    kind="gemma2",
    shape={
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 256000,
        "max_position_embeddings": 8192,
        "sliding_window": 4096,
        "query_pre_attn_scalar": 256,
    },
    # Some versions of transformers leave out the cap of its attention scores in `sdpa`.
    attention="eager",
    tiny={**_TINY_SHAPE, "head_dim": 16, "sliding_window": 24, "query_pre_attn_scalar": 16},
)
FAMILIES = {family.kind: family for family in (_LLAMA, _GEMMA)}


@dataclass(frozen=True)
class Sizes:
    """How much each part measures.

    batches        batch sizes of steps
    answer_tokens  most tokens of an answer, where not all are written
    steps          steps that are timed
    checked        prompts that are compared with transformers, and tokens of each answer
    repeated       prompts that are answered at all `repeat_batches`, and tokens of each answer
    run            requests of a whole run, its batch size, and the mean tokens of an answer
    generate       batch sizes of transformers' `generate`
    continuous     prompts of `generate_batch`, and tokens of each answer
    texts          texts that are read, and tokens of each response
    profiled       batch size of the profile, of the count of synchronisations, and of reading
    check_layers   blocks of the models that are compared with transformers; none: all
    """

    batches: tuple[int, ...]
    answer_tokens: int
    steps: int
    checked: tuple[int, int]
    repeated: tuple[int, int]
    repeat_batches: tuple[int, ...]
    run: tuple[int, int, int]
    generate: tuple[int, ...]
    continuous: tuple[int, int]
    texts: tuple[int, int]
    profiled: int
    check_layers: int | None


FULL = Sizes(
    batches=(1, 64, 256, 512),
    answer_tokens=128,
    steps=15,
    checked=(16, 24),
    repeated=(32, 32),
    repeat_batches=(1, 7, 32),
    run=(1024, 256, 100),
    generate=(64, 256),
    continuous=(256, 64),
    texts=(128, 200),
    profiled=64,
    # Of the real width, so that float32 takes little time and memory.
    check_layers=4,
)
TINY = Sizes(
    batches=(1, 4),
    answer_tokens=32,
    steps=3,
    checked=(4, 6),
    repeated=(6, 6),
    repeat_batches=(1, 4, 6),
    run=(12, 4, 6),
    generate=(4,),
    continuous=(4, 4),
    texts=(6, 12),
    profiled=4,
    check_layers=None,
)


class WordTokenizer:
    """Stands in for a tokenizer: the self-test needs the tokens of two texts, and nothing else."""

    pad_token_id = PAD

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {
            "input_ids": [
                _FIRST_TOKEN + zlib.crc32(word.encode()) % (self._vocabulary - _FIRST_TOKEN)
                for word in text.split()
            ]
        }


def make_model(
    family: Family,
    device: torch.device,
    dtype: torch.dtype,
    *,
    tiny: bool,
    layers: int | None = None,
    spread: float = 0.02,
) -> LoadedModel:
    """A random model; no token ends its answers, so that all have the same length.

    Args:
        family: its shape.
        device: where it is made, at once: there may be little memory elsewhere.
        dtype: of its weights.
        tiny: whether to make a tiny one of the same kind instead.
        layers: number of blocks; default: all.
        spread: standard deviation of its weights. Larger ones make likely tokens clearly likelier.
    """
    torch.manual_seed(0)
    # So narrow a model needs larger weights for its tokens to differ.
    config = _make_config(family, 0.3 if tiny else spread, layers, tiny=tiny)
    with device:
        model = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=family.attention
        )
    model = model.eval().requires_grad_(False)
    model.generation_config.eos_token_id = None

    text = config.get_text_config()
    loaded = LoadedModel(
        name=family.name,
        revision="",
        model=model,
        tokenizer=WordTokenizer(text.vocab_size),
        device=device,
        blocks=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        context=text.max_position_embeddings,
        persona_in="user",
        stop_ids=frozenset(),
        last_logits=True,
        packs=True,
    )
    return replace(loaded, massive_above=measure_massive(loaded))


def _make_config(family: Family, spread: float, layers: int | None, *, tiny: bool) -> Any:
    """The configuration of transformers; `layers` is the number of blocks, if it is another."""
    shape = {**family.shape, **(family.tiny if tiny else {})}
    if layers is not None:
        shape["num_hidden_layers"] = layers
    return AutoConfig.for_model(
        family.kind,
        **shape,
        initializer_range=spread,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=PAD,
        # If they were tied, as Gemma's are, each token of a random model would follow itself.
        tie_word_embeddings=False,
    )


def vocabulary_of(loaded: LoadedModel) -> int:
    """Number of tokens in the model's vocabulary."""
    size: int = loaded.model.config.get_text_config().vocab_size
    return size


def random_tokens(loaded: LoadedModel, count: int, generator: torch.Generator) -> Ids:
    """Tokens that are not special."""
    ids = torch.randint(_FIRST_TOKEN, vocabulary_of(loaded), (count,), generator=generator)
    return tuple(ids.tolist())


def make_prompts(loaded: LoadedModel, count: int) -> list[Ids]:
    """Prompts of about 100 tokens; every tenth begins with the same 60."""
    generator = torch.Generator().manual_seed(3)
    beginnings = [random_tokens(loaded, _BEGINNING_TOKENS, generator) for _ in range(_BEGINNINGS)]
    prompts = []
    for number in range(count):
        own = _OWN_TOKENS[number % len(_OWN_TOKENS)]
        beginning = beginnings[number % _BEGINNINGS]
        prompts.append(beginning + random_tokens(loaded, own, generator))
    return prompts


def make_requests(loaded: LoadedModel, count: int) -> list[Request]:
    """One request for each prompt, the index of which is its seed."""
    return [Request(ids, seed) for seed, ids in enumerate(make_prompts(loaded, count))]


def answer(
    loaded: LoadedModel, requests: list[Request], sampling: SamplingConfig, size: int
) -> list[Generation]:
    """traitcli's answers, in the order of the requests."""
    answers = dict(generate(loaded, requests, sampling, BatchSize(size)))
    found = [answers[index] for index in range(len(requests))]
    return [generation for generation in found if generation is not None]
