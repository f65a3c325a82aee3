"""How long other libraries take to record the activations that an extraction keeps, on the same finished texts.

    python -m benchmarks.peers --texts FILE.json --model FOLDER [--venvs DIR] [--rounds 2]

The texts are a JSON list of [prompt ids, response ids]; recorded is the mean over the response of all rows: the
embedding, each block's output but the last, the final norm's. CPU, float32, two threads; nothing is generated.
Each library is used as it documents, in an environment of its own, where this file runs too. They take turns,
each with several batch sizes, and the fastest counts.
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
Recorder = Callable[[list[Text]], list[Any]]  # of a batch: for each text a tensor [rows, hidden]
BASELINE = "transformers"
SIZES = (1, 8, 32)


@dataclass(frozen=True)
class Row:
    """What one library took and gave; no seconds where it failed, and then the note says why."""

    name: str
    seconds: float | None = None
    batch_size: int | None = None
    least_cosine: float | None = None
    versions: str = ""
    note: str = ""

    def __str__(self) -> str:
        found = f"{self.seconds:7.2f} s  batch {self.batch_size:2}" if self.seconds else "failed"
        found += f"  {self.least_cosine:.7f}" if self.least_cosine else ""
        return "  ".join(
            part for part in (f"{self.name:17}", found, self.versions, self.note) if part
        )


def load(folder: str) -> Any:
    """The model; transformers 4 does not read the rope base where transformers 5 writes it, so it is told."""
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
    rows = [prompt + response for prompt, response in batch]
    width = max(map(len, rows))
    ids = tensor([[*row, *[0] * (width - len(row))] for row in rows])
    mask = tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def response_means(states: Sequence[Any], batch: list[Text]) -> list[Any]:
    """The mean over each response of all rows, given as tensors [batch, tokens, hidden]."""
    spans = [slice(len(prompt), len(prompt) + len(response)) for prompt, response in batch]
    stack = import_module("torch").stack
    return [stack([state[i, span].mean(0) for state in states]) for i, span in enumerate(spans)]


def plain_transformers(folder: str) -> Recorder:
    """What is compared with: a forward pass with output_hidden_states=True."""
    model = load(folder)
    return lambda batch: response_means(
        model(**whole(batch), output_hidden_states=True).hidden_states, batch
    )


def steering_vectors(folder: str) -> Recorder:
    """record_activations, with a layer matcher of our own for the rows beside the decoder blocks."""
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
    """batched_get_hiddens, which gives the last token of each text; it tokenises, so a padder of ids stands in."""
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
    """A trace of a padded batch that takes the means inside, saves them alone, and stops before the logits."""
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
    "repeng": "gives the last token only, and is compared with that; no embedding row"
}


def inside(name: str, texts: list[Text], folder: str) -> dict[str, Any]:
    """In the library's environment: seconds by batch size, and what was recorded of the first text."""
    torch = import_module("torch")
    torch.set_num_threads(2)
    record = RECORDERS[name](folder)
    seconds, first = {}, []
    with torch.no_grad():
        for size in SIZES:
            record(texts[:2])
            start = time.perf_counter()
            made = [
                one for at in range(0, len(texts), size) for one in record(texts[at : at + size])
            ]
            seconds[size] = time.perf_counter() - start
            first.append(made[0].tolist())
        last = record([(texts[0][0] + texts[0][1][:-1], texts[0][1][-1:])])[0].tolist()
    versions = ", ".join(
        f"{one} {version(one)}" for one in dict.fromkeys([name, "torch", "transformers"])
    )
    return {"seconds": seconds, "first": first, "last": last, "versions": versions}


def run(*command: str | Path) -> str:
    """What a command prints; RuntimeError with the end of its complaint if it fails."""
    settings = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        command, capture_output=True, text=True, env=settings, timeout=1800, check=False
    )
    if done.returncode != 0:
        raise RuntimeError("".join(done.stderr.strip().splitlines()[-1:]) or "no message")
    return done.stdout


def environment(name: str, home: Path) -> Path:
    """The Python of the library's environment, with our torch and transformers where the library allows them."""
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
            run(*install, pins[0])
        ready.touch()
    return python


def cosine(one: list[float], other: list[float]) -> float:
    """Of two vectors."""
    return sum(map(float.__mul__, one, other)) / math.hypot(*one) / math.hypot(*other)


def to_row(name: str, found: list[dict[str, Any]], base: dict[str, Any]) -> Row:
    """The fastest of all rounds and batch sizes, and the least cosine; rows are matched from the last one."""
    seconds, size = min(
        (float(took), int(size)) for one in found for size, took in one["seconds"].items()
    )
    wanted = base["last"] if name in LAST_TOKEN_ONLY else base["first"][0]
    given = [zip(rows[::-1], wanted[::-1], strict=False) for one in found for rows in one["first"]]
    least = min(cosine(*pair) for pairs in given for pair in pairs)
    return Row(name, seconds, size, least, found[0]["versions"], LAST_TOKEN_ONLY.get(name, ""))


def measure(texts: Sequence[Text], model: Path, home: Path, rounds: int = 2) -> list[Row]:
    """A row for transformers, in this environment, and one for each library, in its own under home."""
    home.mkdir(parents=True, exist_ok=True)
    listed = home / "texts.json"
    listed.write_text(
        json.dumps([[list(prompt), list(response)] for prompt, response in texts]), encoding="utf-8"
    )
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in RECORDERS}
    failed: dict[str, str] = {}
    for name in list(RECORDERS) * rounds:
        try:
            said = run(
                environment(name, home),
                "-P",
                __file__,
                "--inside",
                name,
                "--texts",
                listed,
                "--model",
                model,
            )
            found[name].append(json.loads(said.splitlines()[-1]))
        except (RuntimeError, OSError, ValueError, subprocess.SubprocessError) as error:
            if name == BASELINE:
                raise
            failed[name] = str(error)[:200]
    base = found[BASELINE][0]
    return [
        to_row(name, found[name], base) if found[name] else Row(name, note=failed[name])
        for name in RECORDERS
    ]


def main() -> int:
    """Measure and print the table, or measure one library where this runs."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--texts", type=Path, required=True)
    options.add_argument("--model", type=Path, required=True)
    options.add_argument("--venvs", type=Path, default=Path("runs/peers"))
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--inside", choices=list(RECORDERS))
    asked = options.parse_args()
    texts = [
        (prompt, response)
        for prompt, response in json.loads(asked.texts.read_text(encoding="utf-8"))
    ]
    if asked.inside:
        print(json.dumps(inside(asked.inside, texts, str(asked.model))))
    else:
        print(*measure(texts, asked.model.resolve(), asked.venvs.resolve(), asked.rounds), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
