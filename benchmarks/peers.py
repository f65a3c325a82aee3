"""Measures how fast other libraries record the activations that an extraction stores.

    python -m benchmarks.peers --texts FILE.json --model FOLDER [--venvs DIR] [--rounds 2]

The texts are a JSON list of [prompt ids, response ids]. Each library records the mean over the
response of all layers: the embeddings, each block's output except the last, the final norm's
output. It runs on a CPU in float32 with two threads; nothing is generated. Each library is used as
its documentation shows, in its own environment, where this file runs too. They take turns, each
with several batch sizes, and the fastest one counts.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

Text = tuple[list[int], list[int]]
Recorder = Callable[[list[Text]], list[Any]]  # a batch -> for each text a tensor [layers, hidden]
BASELINE = "transformers"
SIZES = (1, 8, 32)


@dataclass(frozen=True)
class PeerResult:
    """What one library needed; without seconds it failed, and the note says why."""

    name: str
    seconds: float | None = None
    batch_size: int | None = None
    lowest_cosine: float | None = None
    versions: str = ""
    note: str = ""

    def __str__(self) -> str:
        found = f"{self.seconds:7.2f} s  batch {self.batch_size:2}" if self.seconds else "failed"
        found += f"  {self.lowest_cosine:.7f}" if self.lowest_cosine else ""
        return "  ".join(
            part for part in (f"{self.name:17}", found, self.versions, self.note) if part
        )


def load(folder: str) -> Any:
    """The model; transformers 4 does not find the rope base where transformers 5 stores it."""
    torch, transformers = map(import_module, ("torch", "transformers"))
    config = transformers.AutoConfig.from_pretrained(folder)
    if transformers.__version__.startswith("4."):
        written = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
        config.rope_theta = written["rope_parameters"]["rope_theta"]
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=torch.float32
    ).eval()


def whole(batch: list[Text]) -> dict[str, Any]:
    """Prompts and responses together, padded on the right: ids and attention mask."""
    tensor = import_module("torch").tensor
    texts = [prompt + response for prompt, response in batch]
    width = max(map(len, texts))
    ids = tensor([text + [0] * (width - len(text)) for text in texts])
    mask = tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts])
    return {"input_ids": ids, "attention_mask": mask}


def response_means(states: Sequence[Any], batch: list[Text]) -> list[Any]:
    """The mean over each response; `states` has a tensor [batch, tokens, hidden] for each layer."""
    spans = [slice(len(prompt), len(prompt) + len(response)) for prompt, response in batch]
    stack = import_module("torch").stack
    means = []
    for index, span in enumerate(spans):
        by_layer = [state[index, span].mean(0) for state in states]
        means.append(stack(by_layer))
    return means


def plain_transformers(folder: str) -> Recorder:
    """The baseline: a forward pass with output_hidden_states=True."""
    model = load(folder)
    return lambda batch: response_means(
        model(**whole(batch), output_hidden_states=True).hidden_states, batch
    )


def steering_vectors(folder: str) -> Recorder:
    """record_activations, with a layer matcher that finds the embeddings and the norm too."""
    library = import_module("steering_vectors")
    model = load(folder)
    names = [
        "model.embed_tokens",
        *(f"model.layers.{i}" for i in range(len(model.model.layers) - 1)),
        "model.norm",
    ]
    matcher = {
        "decoder_block": lambda _, number: names[number] if number < len(names) else "no such layer"
    }

    def record(batch: list[Text]) -> list[Any]:
        with library.record_activations(
            model, layer_config=matcher, clone_activations=False
        ) as recorded:
            model(**whole(batch), logits_to_keep=1)
        return response_means([recorded[number][0] for number in range(len(names))], batch)

    return record


def repeng(folder: str) -> Recorder:
    """batched_get_hiddens, which returns the last token of each text.

    It tokenizes texts itself, so a function that pads token ids replaces its tokenizer.
    """
    torch, encoding = import_module("torch"), import_module("transformers").BatchEncoding
    get_hiddens = import_module("repeng.extract").batched_get_hiddens
    model = load(folder)
    layers = range(
        model.config.num_hidden_layers
    )  # from the first block's output to the final norm's

    def record(batch: list[Text]) -> list[Any]:
        hiddens = get_hiddens(
            model, lambda part, **_: encoding(whole(part)), batch, layers, len(batch)
        )
        return list(torch.stack([torch.from_numpy(hiddens[layer]) for layer in layers], 1))

    return record


def nnsight(folder: str) -> Recorder:
    """A trace of a padded batch that saves only the means, and stops before the logits."""
    library = import_module("nnsight")
    tokenizer = import_module("transformers").AutoTokenizer.from_pretrained(folder)
    model = library.TransformersModel(load(folder), task="text-generation", tokenizer=tokenizer)

    def record(batch: list[Text]) -> list[Any]:
        with model.trace(whole(batch)) as tracer:
            body = model.model  # its parts have to be named in the order in which they run
            states = [
                body.embed_tokens.output,
                *[layer.output for layer in body.layers[:-1]],
                body.norm.output,
            ]
            means = library.save(response_means(states, batch))
            tracer.stop()
        return list(means)

    return record


def transformer_lens(folder: str) -> Recorder:
    """TransformerBridge.run_with_cache, with only the hooks that are needed."""
    library = import_module("transformer_lens.model_bridge")
    bridge = library.TransformerBridge.boot_transformers(folder, device="cpu")
    blocks = (f"blocks.{i}.hook_out" for i in range(bridge.cfg.n_layers - 1))
    names = ["embed.hook_out", *blocks, "ln_final.hook_out"]

    def record(batch: list[Text]) -> list[Any]:
        ids, mask = whole(batch).values()
        _, cache = bridge.run_with_cache(
            ids, attention_mask=mask, names_filter=names, return_type=None
        )
        return response_means([cache[name] for name in names], batch)

    return record


RECORDERS: dict[str, Callable[[str], Recorder]] = {
    BASELINE: plain_transformers,
    "steering-vectors": steering_vectors,
    "repeng": repeng,
    "nnsight": nnsight,
    "transformer-lens": transformer_lens,
}
LAST_TOKEN_ONLY = {
    "repeng": "records the last token only, and is compared with that; no embeddings"
}


def inside(name: str, texts: list[Text], folder: str) -> dict[str, Any]:
    """In the library's environment: seconds by batch size, and the first text's activations."""
    torch = import_module("torch")
    torch.set_num_threads(2)
    record = RECORDERS[name](folder)
    seconds, first = {}, []
    with torch.no_grad():
        for size in SIZES:
            record(texts[:2])
            start = time.perf_counter()
            recorded = []
            for index in range(0, len(texts), size):
                recorded += record(texts[index : index + size])
            seconds[size] = time.perf_counter() - start
            first.append(recorded[0].tolist())
        # As if the last token alone were the response: its mean is that token's state.
        prompt, response = texts[0]
        last = record([(prompt + response[:-1], response[-1:])])[0].tolist()
    packages = dict.fromkeys([name, "torch", "transformers"])
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return {"seconds": seconds, "first": first, "last": last, "versions": versions}


def run(*command: str | Path) -> str:
    """What a command prints; RuntimeError with the last line of its stderr if it fails."""
    settings = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        command, capture_output=True, text=True, env=settings, timeout=1800, check=False
    )
    if done.returncode != 0:
        raise RuntimeError("".join(done.stderr.strip().splitlines()[-1:]) or "no message")
    return done.stdout


def environment(name: str, home: Path) -> Path:
    """The Python of the library's environment, with our torch and transformers if possible."""
    if name == BASELINE:
        return Path(sys.executable)
    python, ready = home / name / "bin/python", home / name / ".ready"
    if not ready.exists():
        ours = (Path(__file__).parents[1] / "constraints.txt").read_text(encoding="utf-8").split()
        pins = [pin for pin in ours if pin.startswith(("torch==", "transformers=="))]
        run(sys.executable, "-m", "venv", home / name)
        install = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", name)
        try:
            run(*install, *pins)
        except RuntimeError:
            run(*install, pins[0])  # the library wants another version of transformers
        ready.touch()
    return python


def cosine(one: list[float], other: list[float]) -> float:
    """The cosine of two vectors."""
    return sum(map(float.__mul__, one, other)) / math.hypot(*one) / math.hypot(*other)


def summarize(name: str, runs: list[dict[str, Any]], base: dict[str, Any]) -> PeerResult:
    """The fastest of all rounds and batch sizes, and the lowest cosine with the baseline."""
    timings = []
    for run in runs:
        timings += [(float(seconds), int(size)) for size, seconds in run["seconds"].items()]
    seconds, size = min(timings)

    wanted = base["last"] if name in LAST_TOKEN_ONLY else base["first"][0]
    cosines = []
    for run in runs:
        for layers in run["first"]:
            # From the last layer on: a library may not record the first one.
            pairs = zip(layers[::-1], wanted[::-1], strict=False)
            cosines += [cosine(one, other) for one, other in pairs]
    note = LAST_TOKEN_ONLY.get(name, "")
    return PeerResult(name, seconds, size, min(cosines), runs[0]["versions"], note)


def measure(texts: Sequence[Text], model: Path, home: Path, rounds: int = 2) -> list[PeerResult]:
    """A result for transformers, in this environment, and for each library, in its own."""
    home.mkdir(parents=True, exist_ok=True)
    text_file = home / "texts.json"
    pairs = [[list(prompt), list(response)] for prompt, response in texts]
    text_file.write_text(json.dumps(pairs), encoding="utf-8")
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in RECORDERS}
    failures: dict[str, str] = {}

    for name in list(RECORDERS) * rounds:
        # Without -P, this folder's modules would hide those of the library.
        options = ["-P", __file__, "--inside", name, "--texts", text_file, "--model", model]
        try:
            output = run(environment(name, home), *options)
            runs[name].append(json.loads(output.splitlines()[-1]))
        except (RuntimeError, OSError, ValueError, subprocess.SubprocessError) as error:
            if name == BASELINE:
                raise
            failures[name] = str(error)[:200]

    results = []
    for name in RECORDERS:
        if runs[name]:
            results.append(summarize(name, runs[name], runs[BASELINE][0]))
        else:
            results.append(PeerResult(name, note=failures[name]))
    return results


def main() -> int:
    """Measure and print the table, or measure one library where this runs."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--texts", type=Path, required=True)
    options.add_argument("--model", type=Path, required=True)
    options.add_argument("--venvs", type=Path, default=Path("runs/peers"))
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--inside", choices=list(RECORDERS))
    arguments = options.parse_args()
    pairs = json.loads(arguments.texts.read_text(encoding="utf-8"))
    texts = [(prompt, response) for prompt, response in pairs]
    if arguments.inside:
        print(json.dumps(inside(arguments.inside, texts, str(arguments.model))))
    else:
        model, home = arguments.model.resolve(), arguments.venvs.resolve()
        print(*measure(texts, model, home, arguments.rounds), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
