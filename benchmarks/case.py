"""What all measurements of the engine share: the model, its prompts and transcripts, and a way of timing."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch

from traitcli.config import EMBEDDED, ModelConfig
from traitcli.models.load import load_model
from traitcli.models.loaded import LoadedModel
from traitcli.models.prompts import encode_response, persona_messages, render
from traitcli.models.read_texts import Text
from traitcli.records import Trait
from traitcli.traits.definitions import find_traits, load_trait

Ids = tuple[int, ...]


def load_embedded() -> LoadedModel:
    """SmolLM2-135M on the CPU in float32, with two threads."""
    torch.set_num_threads(2)
    return load_model(ModelConfig(id=EMBEDDED, device="cpu"))


def as_transformers_loads(loaded: LoadedModel) -> Any:
    """The same weights, without anything that traitcli does to a model."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        loaded.model.name_or_path, dtype=torch.float32
    ).eval()


def built_in_traits() -> list[Trait]:
    """The eight definitions that come along."""
    return [load_trait(path) for path in find_traits(Path("traits")).values()]


def find_prompts(loaded: LoadedModel, count: int) -> list[Ids]:
    """Prompts of refusal: both polarities in turn, all pairs, as many questions as it takes."""
    trait = load_trait(find_traits(Path("traits"))["refusal"])
    asked = [
        (polarity, pair, question)
        for question in range(len(trait.questions))
        for pair in range(len(trait.pairs))
        for polarity in ("positive", "negative")
    ]
    return [
        render(
            loaded.tokenizer,
            persona_messages(
                trait.persona(polarity, pair), trait.question("extraction", question), "user"
            ),
        ).ids
        for polarity, pair, question in asked[:count]
    ]


def make_conversations(count: int) -> list[tuple[str, str]]:
    """The questions of all traits without a persona, answered with their instructions' words."""
    traits = built_in_traits()
    questions = [
        question for trait in traits for question in (*trait.questions, *trait.evaluation_questions)
    ]
    said = [
        text for trait in traits for pair in trait.pairs for text in (pair.positive, pair.negative)
    ]
    # One answer less, so that no question meets the same answer again.
    return list(islice(zip(cycle(questions), cycle(said[:-1]), strict=False), count))


def make_transcripts(loaded: LoadedModel, count: int) -> list[Text]:
    """Short conversations as the model reads them."""
    return [
        Text(
            render(loaded.tokenizer, [{"role": "user", "content": question}]).ids,
            tuple(encode_response(loaded.tokenizer, answer)),
        )
        for question, answer in make_conversations(count)
    ]


def seconds_in_turns(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median of each way's seconds; they take turns."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            taken[name].append(time.perf_counter() - start)
            print(f"round {turn + 1}, {name}: {taken[name][-1]:.1f} s", file=sys.stderr)
    return {name: statistics.median(each) for name, each in taken.items()}


def longest(texts: Sequence[Text]) -> int:
    """Tokens of the longest one."""
    return max(len(text.prompt) + len(text.response) for text in texts)
