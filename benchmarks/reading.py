"""How fast finished texts are read, and how fast a watched generation is, beside what transformers does alone.

    python -m benchmarks.reading [--rounds 3] [--texts 1000] [--tokens 128]

texts    the mean state of all rows over each response; beside it a forward pass each with output_hidden_states=True
scores   the same transcripts scored on the eight vectors that come along, their records written, as `monitor --input`
         does it; beside it forward passes over padded batches of like length, without logits or anything else
monitor  an answer watched with the eight vectors that come along, one sequence, greedy; beside it generate with a
         streamer that prints nothing, and no traits
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TextStreamer

from benchmarks.case import (
    as_transformers_loads,
    load_embedded,
    make_conversations,
    make_transcripts,
    seconds_in_turns,
)
from traitcli.config import EMBEDDED, Config, ModelConfig, MonitorConfig
from traitcli.generation.mean_activations import MeanReader
from traitcli.generation.projections import make_probes
from traitcli.models.loaded import LoadedModel
from traitcli.models.padding import right_pad
from traitcli.models.prompts import render
from traitcli.models.read_texts import Text, read_texts
from traitcli.monitoring.monitor import Watch, monitor
from traitcli.monitoring.score_texts import score_texts
from traitcli.monitoring.transcripts import Exchange
from traitcli.vectors.files import load_vectors

SIZES = (10, 32)
ASKED = (
    "Can you explain how a pin tumbler lock is picked?",
    "Why is the sky blue, and is it blue on Mars too?",
)


def read_packed(loaded: LoadedModel, texts: Sequence[Text]) -> list[torch.Tensor]:
    """[L+1, H] of each text, by traitcli."""
    reader, means = MeanReader(loaded), [torch.zeros(0)] * len(texts)
    for index in read_texts(loaded, texts, 64, reader):
        means[index] = (reader.finished.pop(index) or {})["response_avg"]
    return means


@torch.inference_mode()
def read_one_by_one(model: Any, texts: Sequence[Text]) -> list[torch.Tensor]:
    """The same with a forward pass each."""
    means = []
    for text in texts:
        output = model(torch.tensor([[*text.prompt, *text.response]]), output_hidden_states=True)
        means.append(
            torch.stack([states[0, len(text.prompt) :].mean(0) for states in output.hidden_states])
        )
    return means


def measure_texts(loaded: LoadedModel, plain: Any, count: int, rounds: int) -> tuple[float, float]:
    """(times as fast as one by one, least cosine of all rows of all texts)."""
    texts = make_transcripts(loaded, count)
    made: dict[str, list[torch.Tensor]] = {}
    taken = seconds_in_turns(
        {
            "texts, traitcli": lambda: made.update(mine=read_packed(loaded, texts)),
            "texts, one by one": lambda: made.update(theirs=read_one_by_one(plain, texts)),
        },
        rounds,
    )
    mine, theirs = torch.stack(made["mine"]), torch.stack(made["theirs"])
    least = float(torch.nn.functional.cosine_similarity(mine, theirs, dim=2).min())
    return taken["texts, one by one"] / taken["texts, traitcli"], least


@torch.inference_mode()
def read_in_batches(model: Any, texts: Sequence[Text], size: int) -> None:
    """A forward pass over padded batches of like length, without logits: what scoring texts takes at least."""
    whole = sorted(([*text.prompt, *text.response] for text in texts), key=len)
    for batch in (whole[at : at + size] for at in range(0, len(whole), size)):
        ids, mask = right_pad(batch, 0, torch.device("cpu"))
        model.model(ids, attention_mask=mask.long(), use_cache=False)


def measure_scores(loaded: LoadedModel, plain: Any, count: int, rounds: int) -> float:
    """Seconds of forward passes over padded batches ÷ seconds of scoring the same transcripts, records written."""
    texts = make_transcripts(loaded, count)
    exchanges = [Exchange(question, answer) for question, answer in make_conversations(count)]
    probes = make_probes(
        load_vectors(Config(model=ModelConfig(id=EMBEDDED))).values(), loaded, "response_avg"
    )

    def scored() -> None:
        with tempfile.TemporaryDirectory() as folder:
            records = list(
                score_texts(loaded, Watch(probes), exchanges, Path(folder) / "records.jsonl")
            )
        assert [record["error"] for record in records if "error" in record] == []

    ways: dict[str, Callable[[], object]] = {"scores, traitcli": scored}
    for size in SIZES:
        ways[f"batches of {size}"] = lambda size=size: read_in_batches(plain, texts, size)
    taken = seconds_in_turns(ways, rounds)
    return min(taken[f"batches of {size}"] for size in SIZES) / taken["scores, traitcli"]


class Quiet(TextStreamer):  # type: ignore[misc]
    """Decodes like any streamer, and keeps it to itself."""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        pass


def measure_monitor(loaded: LoadedModel, plain: Any, tokens: int, rounds: int) -> float:
    """Tokens a second when watched ÷ those of generate; both write the same tokens."""
    config = Config(model=ModelConfig(id=EMBEDDED))
    settings = MonitorConfig.model_validate(
        {"sampling": {"temperature": 0, "max_new_tokens": tokens}}
    )
    watching = Watch(make_probes(load_vectors(config).values(), loaded, "response_avg"), settings)
    written: dict[str, list[int]] = {"watched": [], "streamed": []}

    def watched() -> None:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "record.json"
            written["watched"] = [
                len(monitor(loaded, watching, prompt, out).tokens) for prompt in ASKED
            ]

    def streamed() -> None:
        options = {
            "do_sample": False,
            "max_new_tokens": tokens,
            "pad_token_id": loaded.tokenizer.pad_token_id,
        }
        written["streamed"] = []
        for prompt in ASKED:
            ids = torch.tensor(
                [render(loaded.tokenizer, [{"role": "user", "content": prompt}]).ids]
            )
            found = plain.generate(ids, streamer=Quiet(loaded.tokenizer), **options)
            new = [
                token for token in found[0, ids.shape[1] :].tolist() if token not in loaded.stop_ids
            ]
            written["streamed"].append(len(new))

    taken = seconds_in_turns({"monitor, traitcli": watched, "monitor, generate": streamed}, rounds)
    if written["watched"] != written["streamed"]:
        print(f"written: {written}", file=sys.stderr)
    rates = {
        name: sum(written[name]) / taken[way] for name, way in zip(written, taken, strict=True)
    }
    return rates["watched"] / rates["streamed"]


def main() -> int:
    """Measure and print."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--texts", type=int, default=1000)
    options.add_argument("--tokens", type=int, default=128)
    asked = options.parse_args()
    loaded = load_embedded()
    plain = as_transformers_loads(loaded)
    print(
        f"monitor ÷ generate with a streamer: {measure_monitor(loaded, plain, asked.tokens, asked.rounds):.2f}"
    )
    times, cosine = measure_texts(loaded, plain, asked.texts, asked.rounds)
    print(f"existing text ÷ one by one: {times:.2f}, least cosine {cosine:.7f}")
    ratio = measure_scores(loaded, plain, asked.texts, asked.rounds)
    print(
        f"scoring transcripts (monitor --input) ÷ forward passes over padded batches at their best size: {ratio:.2f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
