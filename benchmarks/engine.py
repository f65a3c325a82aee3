"""Measures the decode-and-capture loop against what a user would build with transformers.

    python -m benchmarks.engine [--rounds 3] [--prompts 100] [--tokens 64] [--no-peers | --only-api]

Everything runs on the embedded model, on a CPU in float32 with two threads, in one process. The
others use the same weights as transformers loads them. They take turns; medians are printed. It
takes three quarters of an hour. The prompts are those of a real trait, both polarities. Tokens are
counted up to the end of each answer, for all alike.

reference       the published procedure: generate in batches of 20, then one forward pass per
                finished text with output_hidden_states=True, and the means of all layers
generate        generate alone, without capture, at the best of several batch sizes
generate_batch  transformers' continuous batching alone, without capture
products        the linear layers of the model alone, with the batches of our own run

With --only-api, it measures only the Python API beside other libraries; see peer_code.py.
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
from benchmarks.peer_code import CodeResult, code_table, measure_code
from benchmarks.peers import PeerResult, measure
from benchmarks.reading import measure_monitor, measure_texts, read_packed
from benchmarks.stages import measure_readings
from traitcli.config import SamplingConfig
from traitcli.generation.decode import generate
from traitcli.generation.request import Request
from traitcli.models.batch_size import BatchSize
from traitcli.models.loaded import LoadedModel
from traitcli.models.padding import left_pad

Table = dict[str, tuple[float, str]]
"""Measure -> what was found, and the goal."""
Rates = dict[str, list[float]]


@dataclass(frozen=True)
class Result:
    """What a candidate wrote.

    answers  tokens of each answer
    means    mean response activations [L+1, H] of each answer; none without capture
    """

    answers: list[Ids]
    means: list[torch.Tensor] | None
    seconds: float

    @property
    def rate(self) -> float:
        """Response tokens per second."""
        return sum(map(len, self.answers)) / self.seconds


@dataclass(frozen=True)
class Case:
    """Prompts, and how to continue them; `plain` is the model as transformers loads it."""

    loaded: LoadedModel
    plain: Any
    prompts: list[Ids]
    sampling: SamplingConfig

    def cut(self, tokens: Sequence[int]) -> Ids:
        """An answer up to its end."""
        for index, token in enumerate(tokens):
            if token in self.loaded.stop_ids:
                return tuple(tokens[:index])
        return tuple(tokens)

    def options(self) -> dict[str, Any]:
        """The same sampling for transformers."""
        options: dict[str, Any] = {"max_new_tokens": self.sampling.max_new_tokens}
        if not self.sampling.temperature:
            return options | {"do_sample": False}
        return options | {
            "do_sample": True,
            "temperature": self.sampling.temperature,
            "top_k": 0,
        }


def ours(case: Case) -> Result:
    start = time.perf_counter()
    requests = [Request(ids, seed) for seed, ids in enumerate(case.prompts)]
    generations = dict(generate(case.loaded, requests, case.sampling, BatchSize(len(requests))))
    seconds = time.perf_counter() - start

    answers, means = [], []
    for index in range(len(requests)):
        generation = generations[index]
        answers.append(generation.ids)
        activations = generation.activations
        means.append(activations["response_avg"] if activations else torch.zeros(0))
    return Result(answers, means, seconds)


def plain(case: Case, size: int) -> Result:
    start = time.perf_counter()
    pad, answers = case.loaded.tokenizer.pad_token_id, []
    for first in range(0, len(case.prompts), size):
        ids, mask = left_pad(case.prompts[first : first + size], pad, torch.device("cpu"))
        written = case.plain.generate(
            ids, attention_mask=mask.long(), pad_token_id=pad, **case.options()
        )
        answers += [case.cut(tokens) for tokens in written[:, ids.shape[1] :].tolist()]
    return Result(answers, None, time.perf_counter() - start)


@torch.inference_mode()
def reference(case: Case) -> Result:
    start = time.perf_counter()
    answers = plain(case, 20).answers
    means = []
    for prompt, answer in zip(case.prompts, answers, strict=True):
        output = case.plain(torch.tensor([[*prompt, *answer]]), output_hidden_states=True)
        by_layer = [states[0, len(prompt) :].mean(0) for states in output.hidden_states]
        means.append(torch.stack(by_layer))
    return Result(answers, means, time.perf_counter() - start)


def continuous(case: Case) -> Result:
    from transformers import ContinuousBatchingConfig, GenerationConfig

    start = time.perf_counter()
    config = GenerationConfig(**case.options(), eos_token_id=sorted(case.loaded.stop_ids))
    # The fastest of several settings.
    settings = ContinuousBatchingConfig(num_blocks=2048, max_batch_tokens=1024, page_size=16)
    found = case.plain.generate_batch(
        inputs=[list(ids) for ids in case.prompts],
        generation_config=config,
        continuous_batching_config=settings,
        progress_bar=False,
    )
    by_prompt = sorted(found.values(), key=lambda one: int(one.request_id.rpartition("_")[2]))
    answers = [case.cut(one.generated_tokens) for one in by_prompt]
    return Result(answers, None, time.perf_counter() - start)


class Products:
    """The linear layers alone, with as many input vectors as they had in a run."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._layers = [
            module for module in loaded.model.modules() if isinstance(module, torch.nn.Linear)
        ]
        # For each layer, the number of input vectors of each call.
        self._sizes: list[list[int]] = [[] for _ in self._layers]

    def record(self, run: Callable[[], Result]) -> None:
        hooks = []
        for layer, sizes in zip(self._layers, self._sizes, strict=True):

            def note_size(_: Any, args: tuple[Any, ...], sizes: list[int] = sizes) -> None:
                sizes.append(args[0].numel() // args[0].shape[-1])

            hooks.append(layer.register_forward_pre_hook(note_size))
        run()
        for hook in hooks:
            hook.remove()

    @torch.inference_mode()
    def seconds(self) -> float:
        inputs = {}
        for layer, sizes in zip(self._layers, self._sizes, strict=True):
            for size in set(sizes):
                inputs[size, layer.in_features] = torch.randn(size, layer.in_features)

        start = time.perf_counter()
        for one_pass in zip(*self._sizes, strict=True):
            for layer, size in zip(self._layers, one_pass, strict=True):
                layer(inputs[size, layer.in_features])
        return time.perf_counter() - start


def vector_cosines(one: Result, other: Result) -> torch.Tensor:
    """[L+1]: cosines of their vectors, mean of positive answers − mean of negative ones."""

    def direction(result: Result) -> torch.Tensor:
        means = result.means or []
        return torch.stack(means[::2]).mean(0) - torch.stack(means[1::2]).mean(0)

    return torch.nn.functional.cosine_similarity(direction(one), direction(other), dim=1)


def take_turns(candidates: dict[str, Callable[[], Result]], rounds: int) -> dict[str, list[Result]]:
    results: dict[str, list[Result]] = {name: [] for name in candidates}
    for number in range(1, rounds + 1):
        for name, run in candidates.items():
            last = run()
            results[name].append(last)
            print(
                f"round {number}, {name}: {last.rate:.0f} tokens/s, {last.seconds:.1f} s",
                file=sys.stderr,
            )
    return results


def rate(results: Sequence[Result]) -> float:
    return statistics.median(result.rate for result in results)


def measure_generation(
    loaded: LoadedModel, plain_model: Any, arguments: argparse.Namespace
) -> tuple[Table, Rates]:
    """The measures of decoding, and each candidate's tokens per second."""
    prompts = find_prompts(loaded, arguments.prompts)
    greedy_sampling = SamplingConfig(temperature=0, max_new_tokens=arguments.tokens)
    greedy = Case(loaded, plain_model, prompts, greedy_sampling)
    repeated = [ids for ids in prompts[:10] for _ in range(10)]
    sampled = SamplingConfig(max_new_tokens=arguments.tokens)
    repeats = Case(loaded, plain_model, repeated, sampled)

    sizes = (50, 100)
    candidates: dict[str, Callable[[], Result]] = {
        "traitcli": lambda: ours(greedy),
        "reference": lambda: reference(greedy),
    }
    for size in sizes:
        candidates[f"generate at {size}"] = lambda size=size: plain(greedy, size)
    candidates["generate_batch"] = lambda: continuous(greedy)
    candidates["traitcli, repeats"] = lambda: ours(repeats)
    candidates["reference, repeats"] = lambda: reference(repeats)
    results = take_turns(candidates, arguments.rounds)

    products = Products(loaded)
    products.record(lambda: ours(greedy))
    shares = [products.seconds() / ours(greedy).seconds for _ in range(arguments.rounds)]

    own_rate, own_repeats = rate(results["traitcli"]), rate(results["traitcli, repeats"])
    best_generate = max(rate(results[f"generate at {size}"]) for size in sizes)
    over_reference = own_rate / rate(results["reference"])
    over_repeats = own_repeats / rate(results["reference, repeats"])
    over_batching = own_rate / rate(results["generate_batch"])
    cosines = vector_cosines(results["traitcli"][0], results["reference"][0])
    table: Table = {
        "÷ reference procedure": (over_reference, "≥ 4"),
        "÷ reference, 10 repeats of 10 prompts": (over_repeats, "≥ 5"),
        "÷ generate, no capture": (own_rate / best_generate, "≥ 1.3"),
        "÷ generate_batch, no capture": (over_batching, "≥ 2"),
        "matrix products ÷ whole": (statistics.median(shares), "≥ 0.6"),
        "lowest cosine with the reference": (float(cosines.min()), "≥ 0.9999"),
    }
    rates = {}
    for name, each in results.items():
        rates[name] = [result.rate for result in each]
    return table, rates


def measure_identity(loaded: LoadedModel, tokens: int) -> float:
    """How many of 100 sampled answers are the same at batch sizes 1, 7 and 64."""
    requests = [Request(ids, seed) for seed, ids in enumerate(find_prompts(loaded, 100))]
    sampling = SamplingConfig(max_new_tokens=tokens)
    runs = [dict(generate(loaded, requests, sampling, BatchSize(size))) for size in (1, 7, 64)]
    equal = 0
    for index in range(len(requests)):
        answers = {run[index].ids for run in runs}
        equal += len(answers) == 1
    return equal


def measure_peers(loaded: LoadedModel) -> list[PeerResult]:
    """What traitcli and other libraries need to record the same of 100 finished texts."""
    texts = make_transcripts(loaded, 100)
    read_packed(loaded, texts[:2])
    start = time.perf_counter()
    read_packed(loaded, texts)
    own = PeerResult("traitcli", time.perf_counter() - start, 64)

    pairs = [(list(text.prompt), list(text.response)) for text in texts]
    model, environments = Path(loaded.model.name_or_path), Path("runs/peers").absolute()
    return [own, *measure(pairs, model, environments, 1)]


def measure_api(loaded: LoadedModel, rounds: int) -> list[CodeResult]:
    """The code and the seconds of a notebook's work, beside other libraries."""
    return measure_code(Path(loaded.model.name_or_path), Path("runs/peers").absolute(), rounds)


def measure_rest(loaded: LoadedModel, plain_model: Any, arguments: argparse.Namespace) -> Table:
    """The measures of finished text, of monitoring, of memory and of neutral readings."""
    tokens, rounds = arguments.tokens, arguments.rounds
    speedup, cosine = measure_texts(loaded, plain_model, arguments.texts, 1)
    monitored = measure_monitor(loaded, plain_model, 2 * tokens, rounds)
    few, many = measure_memory(tokens)
    equal = measure_identity(loaded, tokens // 2)
    of_both, of_generating = measure_readings("refusal", tokens, rounds)
    return {
        f"{arguments.texts} finished texts ÷ one by one": (speedup, "≥ 1.7"),
        "lowest cosine of their means": (cosine, "≥ 0.9999"),
        "monitor, 8 traits ÷ generate, streamed": (monitored, "≥ 1.0"),
        "answers of 100 alike at sizes 1, 7, 64": (equal, "≥ 99"),
        f"peak memory, 1000 rollouts ÷ 100 ({few / 2**20:.0f} MiB)": (many / few, "≤ 1.05"),
        "neutral readings ÷ generating and judging": (of_both, "≤ 0.25"),
        "neutral readings ÷ generating": (of_generating, "for judges at an endpoint"),
    }


def main() -> int:
    """Measure, print the table and store it as JSON."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--prompts", type=int, default=100)
    options.add_argument("--tokens", type=int, default=64)
    options.add_argument("--texts", type=int, default=1000)
    which = options.add_mutually_exclusive_group()
    which.add_argument(
        "--no-peers", action="store_true", help="skip other libraries, which need an installation"
    )
    which.add_argument(
        "--only-api", action="store_true", help="measure only the Python API beside other libraries"
    )
    options.add_argument("--out", type=Path, default=Path("runs/bench.json"))
    arguments = options.parse_args()

    loaded = load_embedded()
    report: dict[str, Any] = {}
    if not arguments.only_api:
        plain_model = as_transformers_loads(loaded)
        table, rates = measure_generation(loaded, plain_model, arguments)
        table |= measure_rest(loaded, plain_model, arguments)
        print(f"{'measure':46}{'found':>9}  goal")
        for name, (value, goal) in table.items():
            print(f"{name:46}{value:9.4f}  {goal}", flush=True)
        peers = [] if arguments.no_peers else measure_peers(loaded)
        print(*peers, sep="\n", flush=True)
        report |= {
            "table": table,
            "tokens a second": rates,
            "peers": [vars(peer) for peer in peers],
        }
    if not arguments.no_peers:
        compared = measure_api(loaded, arguments.rounds)
        print(code_table(compared))
        report["api"] = [vars(one) for one in compared]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
