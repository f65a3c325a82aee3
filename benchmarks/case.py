"""What the measurements of the engine share: the model, its prompts and transcripts, and timing."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
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
    """The eight definitions that are part of the package."""
    return [load_trait(path) for path in find_traits(Path("traits")).values()]


def find_prompts(loaded: LoadedModel, count: int) -> list[Ids]:
    """Prompts of refusal: all pairs of one question, both polarities in turn, then the next one."""
    trait = load_trait(find_traits(Path("traits"))["refusal"])
    prompts: list[Ids] = []
    for question in range(len(trait.questions)):
        for pair in range(len(trait.pairs)):
            for polarity in ("positive", "negative"):
                persona = trait.persona(polarity, pair)
                text = trait.question("extraction", question)
                messages = persona_messages(persona, text, "user")
                prompts.append(render(loaded.tokenizer, messages).ids)
    return prompts[:count]


def prompt_ids(loaded: LoadedModel, question: str) -> Ids:
    """A question alone, in the chat template."""
    return render(loaded.tokenizer, [{"role": "user", "content": question}]).ids


def make_conversations(count: int) -> list[tuple[str, str]]:
    """Questions of all traits without a persona, answered with the words of instructions."""
    questions: list[str] = []
    answers: list[str] = []
    for trait in built_in_traits():
        questions += [*trait.questions, *trait.evaluation_questions]
        for pair in trait.pairs:
            answers += [pair.positive, pair.negative]
    # One answer less, so that a question that comes again gets another answer.
    return list(islice(zip(cycle(questions), cycle(answers[:-1]), strict=False), count))


def make_transcripts(loaded: LoadedModel, count: int) -> list[Text]:
    """Short conversations as the model reads them."""
    texts = []
    for question, answer in make_conversations(count):
        prompt = render(loaded.tokenizer, [{"role": "user", "content": question}])
        texts.append(Text(prompt.ids, tuple(encode_response(loaded.tokenizer, answer))))
    return texts


def median_seconds(candidates: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median seconds of each candidate; they take turns, so that all meet the same noise."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(1, rounds + 1):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
            print(f"round {number}, {name}: {seconds[name][-1]:.1f} s", file=sys.stderr)
    return {name: statistics.median(each) for name, each in seconds.items()}
