"""How fast the decode-and-capture loop is, beside what a user would put together from transformers.

    python -m benchmarks.engine [--rounds 3] [--prompts 100] [--tokens 64] [--no-peers]

Everything runs on the embedded model, CPU, float32, two threads, in one process, beside the same weights
as transformers loads them; ways take turns, and medians are shown. It takes three quarters of an hour.
The prompts are those of a real trait, both polarities. Tokens are counted up to the end of each answer,
in every way alike.

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

from benchmarks.case import (
    Ids,
    as_transformers_loads,
    find_prompts,
    load_embedded,
    make_transcripts,
)
from benchmarks.memory import measure_memory
from benchmarks.peers import Row, measure
from benchmarks.reading import measure_monitor, measure_texts, read_packed
from traitcli.config import SamplingConfig
from traitcli.generation.batch_size import BatchSize
from traitcli.generation.decode import generate
from traitcli.generation.request import Request
from traitcli.models.loaded import LoadedModel

Table = dict[str, tuple[float, str]]
"""Measure -> what was found, and what was wanted."""
Rates = dict[str, list[float]]


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
    """Prompts, how to continue them, and in which way each is drawn; `plain` is the model as transformers loads it."""

    loaded: LoadedModel
    plain: Any
    prompts: list[Ids]
    sampling: SamplingConfig

    def cut(self, tokens: Sequence[int]) -> Ids:
        """An answer up to its end."""
        end = next(
            (i for i, token in enumerate(tokens) if token in self.loaded.stop_ids), len(tokens)
        )
        return tuple(tokens[:end])

    def options(self) -> dict[str, Any]:
        """The same for transformers."""
        drawn = {"do_sample": True, "temperature": self.sampling.temperature, "top_k": 0}
        greedy = {"do_sample": False}
        return {"max_new_tokens": self.sampling.max_new_tokens} | (
            drawn if self.sampling.temperature else greedy
        )


def ours(case: Case) -> Made:
    start = time.perf_counter()
    requests = [Request(ids, seed) for seed, ids in enumerate(case.prompts)]
    made = dict(generate(case.loaded, requests, case.sampling, BatchSize(len(requests))))
    seconds = time.perf_counter() - start
    ordered = [made[index] for index in range(len(requests))]
    means = [
        one.activations["response_avg"] if one.activations else torch.zeros(0) for one in ordered
    ]
    return Made([one.ids for one in ordered], means, seconds)


def plain(case: Case, size: int) -> Made:
    pad, answers, start = case.loaded.tokenizer.pad_token_id, [], time.perf_counter()
    for batch in (case.prompts[at : at + size] for at in range(0, len(case.prompts), size)):
        width = max(map(len, batch))
        ids = torch.tensor([[pad] * (width - len(one)) + list(one) for one in batch])
        mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in batch])
        written = case.plain.generate(ids, attention_mask=mask, pad_token_id=pad, **case.options())
        answers += [case.cut(row) for row in written[:, width:].tolist()]
    return Made(answers, None, time.perf_counter() - start)


@torch.inference_mode()
def reference(case: Case) -> Made:
    start = time.perf_counter()
    answers = plain(case, 20).answers
    means = []
    for prompt, answer in zip(case.prompts, answers, strict=True):
        output = case.plain(torch.tensor([[*prompt, *answer]]), output_hidden_states=True)
        means.append(
            torch.stack([states[0, len(prompt) :].mean(0) for states in output.hidden_states])
        )
    return Made(answers, means, time.perf_counter() - start)


def continuous(case: Case) -> Made:
    from transformers import ContinuousBatchingConfig, GenerationConfig

    start = time.perf_counter()
    config = GenerationConfig(**case.options(), eos_token_id=sorted(case.loaded.stop_ids))
    settings = ContinuousBatchingConfig(
        num_blocks=2048, max_batch_tokens=1024, page_size=16
    )  # the best of several
    found = case.plain.generate_batch(
        inputs=[list(ids) for ids in case.prompts],
        generation_config=config,
        continuous_batching_config=settings,
        progress_bar=False,
    )
    by_prompt = sorted(found.values(), key=lambda one: int(one.request_id.rpartition("_")[2]))
    return Made(
        [case.cut(one.generated_tokens) for one in by_prompt], None, time.perf_counter() - start
    )


class Products:
    """The linear layers alone, on batches of as many rows as a run has fed them."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._layers = [
            module for module in loaded.model.modules() if isinstance(module, torch.nn.Linear)
        ]
        self.fed: list[list[int]] = [[] for _ in self._layers]

    def watch(self, run: Callable[[], Made]) -> None:
        hooks = [
            layer.register_forward_pre_hook(
                lambda _, args, fed=fed: fed.append(args[0].numel() // args[0].shape[-1])
            )
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
            print(
                f"round {turn + 1}, {name}: {last.rate:.0f} tokens/s, {last.seconds:.1f} s",
                file=sys.stderr,
            )
    return made


def rate(made: Sequence[Made]) -> float:
    return statistics.median(one.rate for one in made)


def measure_generation(
    loaded: LoadedModel, plain_model: Any, asked: argparse.Namespace
) -> tuple[Table, Rates]:
    """The rows on decoding, and every way's tokens a second."""
    prompts = find_prompts(loaded, asked.prompts)
    greedy = Case(
        loaded, plain_model, prompts, SamplingConfig(temperature=0, max_new_tokens=asked.tokens)
    )
    often = [ids for ids in prompts[:10] for _ in range(10)]
    repeats = Case(loaded, plain_model, often, SamplingConfig(max_new_tokens=asked.tokens))
    sizes = (50, 100)
    made = take_turns(
        {"traitcli": lambda: ours(greedy), "reference": lambda: reference(greedy)}
        | {f"generate at {size}": lambda size=size: plain(greedy, size) for size in sizes}
        | {"generate_batch": lambda: continuous(greedy)}
        | {
            "traitcli, repeats": lambda: ours(repeats),
            "reference, repeats": lambda: reference(repeats),
        },
        asked.rounds,
    )
    products = Products(loaded)
    products.watch(lambda: ours(greedy))
    share = statistics.median(
        products.seconds() / ours(greedy).seconds for _ in range(asked.rounds)
    )
    mine, mine_often = rate(made["traitcli"]), rate(made["traitcli, repeats"])
    best = max(rate(made[f"generate at {size}"]) for size in sizes)
    cosine = float(vector_cosines(made["traitcli"][0], made["reference"][0]).min())
    table: Table = {
        "÷ reference procedure": (mine / rate(made["reference"]), "≥ 4"),
        "÷ reference, 10 repeats of 10 prompts": (
            mine_often / rate(made["reference, repeats"]),
            "≥ 5",
        ),
        "÷ generate, no capture": (mine / best, "≥ 1.3"),
        "÷ generate_batch, no capture": (mine / rate(made["generate_batch"]), "≥ 2"),
        "matrix products ÷ whole": (share, "≥ 0.6"),
        "least cosine with the reference": (cosine, "≥ 0.9999"),
    }
    return table, {name: [one.rate for one in each] for name, each in made.items()}


def measure_identity(loaded: LoadedModel, tokens: int) -> float:
    """How many of 100 sampled answers come out the same with 1, 7 and 64 under way."""
    asked = [Request(ids, seed) for seed, ids in enumerate(find_prompts(loaded, 100))]
    sampling = SamplingConfig(max_new_tokens=tokens)
    made = [dict(generate(loaded, asked, sampling, BatchSize(size))) for size in (1, 7, 64)]
    return sum(len({each[index].ids for each in made}) == 1 for index in range(len(asked)))


def measure_peers(loaded: LoadedModel) -> list[Row]:
    """What it takes to record the same of 100 finished texts, by us and by other libraries."""
    texts = make_transcripts(loaded, 100)
    read_packed(loaded, texts[:2])
    start = time.perf_counter()
    read_packed(loaded, texts)
    mine = Row("traitcli", time.perf_counter() - start, 64)
    listed = [(list(text.prompt), list(text.response)) for text in texts]
    return [
        mine,
        *measure(listed, Path(loaded.model.name_or_path), Path("runs/peers").absolute(), 1),
    ]


def measure_rest(loaded: LoadedModel, plain_model: Any, asked: argparse.Namespace) -> Table:
    """The rows on finished text, on watching and on memory."""
    times, cosine = measure_texts(loaded, plain_model, asked.texts, 1)
    watched = measure_monitor(loaded, plain_model, 2 * asked.tokens, asked.rounds)
    few, many = measure_memory(asked.tokens)
    return {
        f"{asked.texts} finished texts ÷ one by one": (times, "≥ 1.7"),
        "least cosine of their means": (cosine, "≥ 0.9999"),
        "monitor, 8 traits ÷ generate, streamed": (watched, "≥ 1.0"),
        "answers of 100 alike at sizes 1, 7, 64": (
            measure_identity(loaded, asked.tokens // 2),
            "≥ 99",
        ),
        f"peak memory, 1000 rollouts ÷ 100 ({few / 2**20:.0f} MiB)": (many / few, "≤ 1.05"),
    }


def main() -> int:
    """Measure, print the table and keep it as JSON."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--prompts", type=int, default=100)
    options.add_argument("--tokens", type=int, default=64)
    options.add_argument("--texts", type=int, default=1000)
    options.add_argument(
        "--no-peers",
        action="store_true",
        help="leave out other libraries, which are installed first",
    )
    options.add_argument("--out", type=Path, default=Path("runs/bench.json"))
    asked = options.parse_args()

    loaded = load_embedded()
    plain_model = as_transformers_loads(loaded)
    table, rates = measure_generation(loaded, plain_model, asked)
    table |= measure_rest(loaded, plain_model, asked)
    print(f"{'measure':46}{'found':>9}  wanted")
    for name, (value, wanted) in table.items():
        print(f"{name:46}{value:9.4f}  {wanted}", flush=True)
    peers = [] if asked.no_peers else measure_peers(loaded)
    print(*peers, sep="\n")
    kept = {"table": table, "tokens a second": rates, "peers": [vars(row) for row in peers]}
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(kept, indent=1, ensure_ascii=False), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
