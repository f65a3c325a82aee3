"""How fast the decode-and-capture loop is, beside what a user would put together from transformers.

    python -m benchmarks.engine [--rounds 3] [--prompts 100] [--tokens 64]

Everything runs on the embedded model, CPU, float32, two threads, in one process; ways take turns, and
medians are shown. The prompts are those of a real trait, both polarities. Tokens are counted up to
the end of each answer, in every way alike.

reference       generate in batches of 20, then a forward pass over each finished text with
                output_hidden_states=True, and the means of all rows: the published procedure
generate        generate alone, no capture, at the best of several batch sizes
generate_batch  transformers' continuous batching alone, no capture
products        the linear layers of the model alone, on the batches of our own run
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from traitcli.config import EMBEDDED, ModelConfig, SamplingConfig
from traitcli.generation.batch_size import BatchSize
from traitcli.generation.decode import generate
from traitcli.generation.steps import Request
from traitcli.models.load import LoadedModel, load_model
from traitcli.models.prompts import persona_messages, render
from traitcli.traits import find_traits, load_trait

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Made:
    """What a way made: the answers, the mean response activations [L+1, H] of each if it captures, and seconds."""

    answers: list[Ids]
    means: list[torch.Tensor] | None
    seconds: float

    @property
    def rate(self) -> float:
        """Response tokens a second."""
        return sum(map(len, self.answers)) / self.seconds


@dataclass(frozen=True)
class Case:
    """Prompts, how to continue them, and in which way each is drawn."""

    loaded: LoadedModel
    prompts: list[Ids]
    sampling: SamplingConfig

    def cut(self, tokens: Sequence[int]) -> Ids:
        """An answer up to its end."""
        end = next((i for i, token in enumerate(tokens) if token in self.loaded.stop_ids), len(tokens))
        return tuple(tokens[:end])

    def options(self) -> dict[str, Any]:
        """The same for transformers."""
        drawn = {"do_sample": True, "temperature": self.sampling.temperature, "top_k": 0}
        greedy = {"do_sample": False}
        return {"max_new_tokens": self.sampling.max_new_tokens} | (drawn if self.sampling.temperature else greedy)


def ours(case: Case) -> Made:
    start = time.perf_counter()
    requests = [Request(ids, seed) for seed, ids in enumerate(case.prompts)]
    made = dict(generate(case.loaded, requests, case.sampling, BatchSize(len(requests))))
    seconds = time.perf_counter() - start
    ordered = [made[index] for index in range(len(requests))]
    means = [one.activations["response_avg"] if one.activations else torch.zeros(0) for one in ordered]
    return Made([one.ids for one in ordered], means, seconds)


def plain(case: Case, size: int) -> Made:
    pad, answers, start = case.loaded.tokenizer.pad_token_id, [], time.perf_counter()
    for batch in (case.prompts[at : at + size] for at in range(0, len(case.prompts), size)):
        width = max(map(len, batch))
        ids = torch.tensor([[pad] * (width - len(one)) + list(one) for one in batch])
        mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in batch])
        written = case.loaded.model.generate(ids, attention_mask=mask, pad_token_id=pad, **case.options())
        answers += [case.cut(row) for row in written[:, width:].tolist()]
    return Made(answers, None, time.perf_counter() - start)


@torch.inference_mode()
def reference(case: Case) -> Made:
    start = time.perf_counter()
    answers = plain(case, 20).answers
    means = []
    for prompt, answer in zip(case.prompts, answers, strict=True):
        output = case.loaded.model(torch.tensor([[*prompt, *answer]]), output_hidden_states=True)
        means.append(torch.stack([states[0, len(prompt) :].mean(0) for states in output.hidden_states]))
    return Made(answers, means, time.perf_counter() - start)


def continuous(case: Case) -> Made:
    from transformers import ContinuousBatchingConfig, GenerationConfig

    start = time.perf_counter()
    config = GenerationConfig(**case.options(), eos_token_id=sorted(case.loaded.stop_ids))
    settings = ContinuousBatchingConfig(num_blocks=2048, max_batch_tokens=1024, page_size=16)  # the best of several
    found = case.loaded.model.generate_batch(
        inputs=[list(ids) for ids in case.prompts],
        generation_config=config,
        continuous_batching_config=settings,
        progress_bar=False,
    )
    by_prompt = sorted(found.values(), key=lambda one: int(one.request_id.rpartition("_")[2]))
    return Made([case.cut(one.generated_tokens) for one in by_prompt], None, time.perf_counter() - start)


class Products:
    """The linear layers alone, on batches of as many rows as a run has fed them."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._layers = [module for module in loaded.model.modules() if isinstance(module, torch.nn.Linear)]
        self.fed: list[list[int]] = [[] for _ in self._layers]

    def watch(self, run: Callable[[], Made]) -> None:
        hooks = [
            layer.register_forward_pre_hook(lambda _, args, fed=fed: fed.append(args[0].numel() // args[0].shape[-1]))
            for layer, fed in zip(self._layers, self.fed, strict=True)
        ]
        run()
        for hook in hooks:
            hook.remove()

    @torch.inference_mode()
    def seconds(self) -> float:
        inputs = {
            (rows, layer.in_features): torch.randn(rows, layer.in_features)
            for layer, fed in zip(self._layers, self.fed, strict=True)
            for rows in set(fed)
        }
        start = time.perf_counter()
        for turn in zip(*self.fed, strict=True):
            for layer, rows in zip(self._layers, turn, strict=True):
                layer(inputs[rows, layer.in_features])
        return time.perf_counter() - start


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
            persona_messages(trait.persona(polarity, pair), trait.question("extraction", question), "user"),
        ).ids
        for polarity, pair, question in asked[:count]
    ]


def vector_cosines(mine: Made, theirs: Made) -> torch.Tensor:
    """[L+1]: cosine of the two vectors, mean of the positive answers − mean of the negative ones."""

    def direction(made: Made) -> torch.Tensor:
        means = made.means or []
        return torch.stack(means[::2]).mean(0) - torch.stack(means[1::2]).mean(0)

    return torch.nn.functional.cosine_similarity(direction(mine), direction(theirs), dim=1)


def take_turns(ways: dict[str, Callable[[], Made]], rounds: int) -> dict[str, list[Made]]:
    made: dict[str, list[Made]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name, way in ways.items():
            made[name].append(way())
            last = made[name][-1]
            print(f"round {turn + 1}, {name}: {last.rate:.0f} tokens/s, {last.seconds:.1f} s", file=sys.stderr)
    return made


def rate(made: Sequence[Made]) -> float:
    return statistics.median(one.rate for one in made)


def main() -> int:
    """Measure, print the table and keep it as JSON."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--prompts", type=int, default=100)
    options.add_argument("--tokens", type=int, default=64)
    options.add_argument("--out", type=Path, default=Path("runs/bench.json"))
    asked = options.parse_args()

    torch.set_num_threads(2)
    loaded = load_model(ModelConfig(id=EMBEDDED, device="cpu"))
    prompts = find_prompts(loaded, asked.prompts)
    greedy = Case(loaded, prompts, SamplingConfig(temperature=0, max_new_tokens=asked.tokens))
    few = prompts[:10]
    repeats = Case(loaded, [ids for ids in few for _ in range(10)], SamplingConfig(max_new_tokens=asked.tokens))
    sizes = (20, 50, 100)

    made = take_turns(
        {"traitcli": lambda: ours(greedy), "reference": lambda: reference(greedy)}
        | {f"generate at {size}": lambda size=size: plain(greedy, size) for size in sizes}
        | {"generate_batch": lambda: continuous(greedy)}
        | {"traitcli, repeats": lambda: ours(repeats), "reference, repeats": lambda: reference(repeats)},
        asked.rounds,
    )
    products = Products(loaded)
    products.watch(lambda: ours(greedy))
    shares = []
    for _ in range(asked.rounds):
        alone = products.seconds()
        shares.append(alone / ours(greedy).seconds)
    mine = rate(made["traitcli"])
    table = {
        "÷ reference procedure": (mine / rate(made["reference"]), "≥ 4"),
        "÷ reference, 10 repeats of 10 prompts": (
            rate(made["traitcli, repeats"]) / rate(made["reference, repeats"]),
            "≥ 5",
        ),
        "÷ generate, no capture": (mine / max(rate(made[f"generate at {size}"]) for size in sizes), "≥ 1.3"),
        "÷ generate_batch, no capture": (mine / rate(made["generate_batch"]), "≥ 2"),
        "matrix products ÷ whole": (statistics.median(shares), "≥ 0.6"),
        "least cosine with the reference": (
            float(vector_cosines(made["traitcli"][0], made["reference"][0]).min()),
            "≥ 0.9999",
        ),
    }
    print(f"{'measure':40}{'found':>9}  wanted")
    for name, (value, wanted) in table.items():
        print(f"{name:40}{value:9.4f}  {wanted}")
    rates = {name: {"tokens/s": [one.rate for one in each]} for name, each in made.items()}
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps({"table": table, "rates": rates, "shares": shares}, indent=1, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
