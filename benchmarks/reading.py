"""Measures how fast existing texts are read and an answer is monitored, next to transformers.

    python -m benchmarks.reading [--rounds 3] [--texts 1000] [--tokens 128]

texts    the mean hidden state of all layers over each response;
         compared with one forward pass per text with output_hidden_states=True
scores   transcripts scored with the eight built-in vectors and written, as `monitor --input` does;
         compared with bare forward passes over padded batches of similar length, without logits
monitor  one answer at a time, greedy, monitored with the eight built-in vectors;
         compared with `generate` and a streamer that prints nothing, without traits
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
    median_seconds,
)
from traitcli.config import EMBEDDED, Config, ModelConfig, MonitorConfig
from traitcli.generation.mean_activations import MeanReader
from traitcli.generation.projections import make_probes
from traitcli.models.loaded import LoadedModel
from traitcli.models.padding import right_pad
from traitcli.models.prompts import render
from traitcli.models.read_texts import Text, read_texts
from traitcli.monitoring.monitor import monitor
from traitcli.monitoring.score_texts import score_texts
from traitcli.monitoring.transcripts import Exchange
from traitcli.monitoring.watch import Watch
from traitcli.vectors.files import load_vectors

BATCH_SIZES = (10, 32)
QUESTIONS = (
    "Can you explain how a pin tumbler lock is picked?",
    "Why is the sky blue, and is it blue on Mars too?",
)


def read_packed(loaded: LoadedModel, texts: Sequence[Text]) -> list[torch.Tensor]:
    """Mean response activations [L+1, H] of each text, by traitcli."""
    reader = MeanReader(loaded)
    means = [torch.zeros(0)] * len(texts)
    for index in read_texts(loaded, texts, 64, reader):
        means[index] = (reader.finished.pop(index) or {})["response_avg"]
    return means


@torch.inference_mode()
def read_one_by_one(model: Any, texts: Sequence[Text]) -> list[torch.Tensor]:
    """The same by one forward pass per text."""
    means = []
    for text in texts:
        output = model(torch.tensor([[*text.prompt, *text.response]]), output_hidden_states=True)
        start = len(text.prompt)
        by_layer = [states[0, start:].mean(0) for states in output.hidden_states]
        means.append(torch.stack(by_layer))
    return means


def measure_texts(loaded: LoadedModel, plain: Any, count: int, rounds: int) -> tuple[float, float]:
    """(speedup over one by one, lowest cosine over all layers of all texts)."""
    texts = make_transcripts(loaded, count)
    means: dict[str, list[torch.Tensor]] = {}
    seconds = median_seconds(
        {
            "texts, traitcli": lambda: means.update(ours=read_packed(loaded, texts)),
            "texts, one by one": lambda: means.update(theirs=read_one_by_one(plain, texts)),
        },
        rounds,
    )
    ours, theirs = torch.stack(means["ours"]), torch.stack(means["theirs"])
    lowest = float(torch.nn.functional.cosine_similarity(ours, theirs, dim=2).min())
    return seconds["texts, one by one"] / seconds["texts, traitcli"], lowest


@torch.inference_mode()
def read_in_batches(model: Any, texts: Sequence[Text], size: int) -> None:
    """Forward passes over padded batches of similar length, without logits: the least possible."""
    whole = sorted(([*text.prompt, *text.response] for text in texts), key=len)
    for batch in (whole[at : at + size] for at in range(0, len(whole), size)):
        ids, mask = right_pad(batch, 0, torch.device("cpu"))
        model.model(ids, attention_mask=mask.long(), use_cache=False)


def measure_scores(loaded: LoadedModel, plain: Any, count: int, rounds: int) -> float:
    """Seconds of bare padded forward passes ÷ seconds of scoring the same transcripts."""
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

    candidates: dict[str, Callable[[], object]] = {"scores, traitcli": scored}
    for size in BATCH_SIZES:
        candidates[f"batches of {size}"] = lambda size=size: read_in_batches(plain, texts, size)
    seconds = median_seconds(candidates, rounds)
    fastest = min(seconds[f"batches of {size}"] for size in BATCH_SIZES)
    return fastest / seconds["scores, traitcli"]


class Quiet(TextStreamer):  # type: ignore[misc]
    """Decodes like any streamer, but prints nothing."""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        pass


def measure_monitor(loaded: LoadedModel, plain: Any, tokens: int, rounds: int) -> float:
    """Tokens per second when monitored ÷ those of generate; both write the same tokens."""
    config = Config(model=ModelConfig(id=EMBEDDED))
    settings = MonitorConfig.model_validate(
        {"sampling": {"temperature": 0, "max_new_tokens": tokens}}
    )
    watching = Watch(make_probes(load_vectors(config).values(), loaded, "response_avg"), settings)
    written: dict[str, list[int]] = {"monitored": [], "streamed": []}

    def monitored() -> None:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "record.json"
            written["monitored"] = [
                len(monitor(loaded, watching, prompt, out).tokens) for prompt in QUESTIONS
            ]

    def streamed() -> None:
        options = {
            "do_sample": False,
            "max_new_tokens": tokens,
            "pad_token_id": loaded.tokenizer.pad_token_id,
        }
        written["streamed"] = []
        for prompt in QUESTIONS:
            ids = torch.tensor(
                [render(loaded.tokenizer, [{"role": "user", "content": prompt}]).ids]
            )
            found = plain.generate(ids, streamer=Quiet(loaded.tokenizer), **options)
            new = [
                token for token in found[0, ids.shape[1] :].tolist() if token not in loaded.stop_ids
            ]
            written["streamed"].append(len(new))

    seconds = median_seconds(
        {"monitor, traitcli": monitored, "monitor, generate": streamed}, rounds
    )
    if written["monitored"] != written["streamed"]:
        print(f"written: {written}", file=sys.stderr)
    ours = sum(written["monitored"]) / seconds["monitor, traitcli"]
    theirs = sum(written["streamed"]) / seconds["monitor, generate"]
    return ours / theirs


def main() -> int:
    """Measure and print."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--texts", type=int, default=1000)
    options.add_argument("--tokens", type=int, default=128)
    arguments = options.parse_args()

    loaded = load_embedded()
    plain = as_transformers_loads(loaded)
    ratio = measure_monitor(loaded, plain, arguments.tokens, arguments.rounds)
    print(f"monitor ÷ generate with a streamer: {ratio:.2f}")
    speedup, cosine = measure_texts(loaded, plain, arguments.texts, arguments.rounds)
    print(f"existing text ÷ one by one: {speedup:.2f}, lowest cosine {cosine:.7f}")
    ratio = measure_scores(loaded, plain, arguments.texts, arguments.rounds)
    print(f"scoring transcripts ÷ bare forward passes at their best batch size: {ratio:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
