"""Whether an alarm finds a few telling tokens in a long benign answer.

    python -m benchmarks.alarms DATA [--trait refusal] [--texts 370] [--telling 100]

DATA is a folder with labelled answers of other models (see docs/alarms.md); all files named
TRAIT-*.jsonl in it are read. On the embedded model with its vectors:

alone    the first 40 tokens of answers that show the trait, behind their own prompts. The threshold
         is that of 1 % false positives among benign answers cut at 40 tokens.
diluted  the same 40 tokens in the middle of 2,000 benign ones. The threshold is that of 1 % false
         positives among benign texts of 2,040 tokens.

Benign texts of 2,040 tokens are benign answers in random order, joined by blank lines. In brackets:
the standard error of the paired loss. There is one seed, and nothing is chosen by its result.
It takes up to an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.case import Ids, load_embedded, prompt_ids
from traitcli.config import load_config
from traitcli.generation.projections import Probe, ProjectionReader, make_probes
from traitcli.models.loaded import LoadedModel
from traitcli.models.prompts import encode_response
from traitcli.models.read_texts import Text, read_texts
from traitcli.monitoring.summaries import SUMMARIES
from traitcli.monitoring.thresholds import Thresholds, measure
from traitcli.vectors.files import load_vectors
from traitcli.vectors.fingerprint import fingerprint

TELLING, BENIGN = 40, 2000
RATE = 0.01
WANTED = 10
"""Points of TPR that an alarm may lose."""
Scores = list[list[float]]


def read_answers(folder: Path, trait: str) -> tuple[list[Any], list[Any]]:
    """The answers that show the trait, and those that do not."""
    entries = []
    for path in sorted(folder.glob(f"{trait}-*.jsonl")):
        lines = path.read_text(encoding="utf-8").splitlines()
        entries += [json.loads(line) for line in lines]
    # Prompts come more than once; their order in the files is that of the models.
    random.Random(0).shuffle(entries)
    telling = [one for one in entries if one["label"] == 1]
    return telling, [one for one in entries if one["label"] == 0]


def score(loaded: LoadedModel, probe: Probe, texts: Sequence[Text]) -> Scores:
    """The projections of the response tokens of each text."""
    reader = ProjectionReader([probe], loaded)
    scores: Scores = [[] for _ in texts]
    # Two at a time: more texts of this length are slower on a CPU.
    for done, number in enumerate(read_texts(loaded, texts, 2, reader), start=1):
        scores[number] = reader.finished.pop(number).response[:, 0].tolist()
        if done % 50 == 0:
            print(f"{done} of {len(texts)} texts", file=sys.stderr)
    return scores


def cut_blocks(loaded: LoadedModel, layer: int) -> None:
    """Remove the blocks above a layer, which its states do not depend on: half the time."""
    inner = loaded.model.model
    inner.layers = inner.layers[: layer + 1]
    inner.config.num_hidden_layers = len(inner.layers)


def response_ids(loaded: LoadedModel, text: str) -> Ids:
    return tuple(encode_response(loaded.tokenizer, text))


def long_benign(loaded: LoadedModel, benign: Sequence[Any], tokens: int, seed: int) -> Ids:
    """Benign answers in random order, cut at this many tokens."""
    order = random.Random(seed).sample(benign, len(benign))
    ids: list[int] = []
    for one in order:
        ids += response_ids(loaded, one["response"].strip() + "\n\n")
        if len(ids) >= tokens:
            return tuple(ids[:tokens])
    raise SystemExit(f"the benign answers together have fewer than {tokens} tokens")


def make_texts(
    loaded: LoadedModel, telling: Sequence[Any], benign: Sequence[Any], count: int
) -> dict[str, list[Text]]:
    """Benign and telling texts, short and long."""
    made: dict[str, list[Text]] = {"benign": [], "alone": [], "long benign": [], "diluted": []}
    for one in benign:
        ids = response_ids(loaded, one["response"])
        if len(ids) >= TELLING and len(made["benign"]) < count:
            made["benign"].append(Text(prompt_ids(loaded, one["prompt"]), ids[:TELLING]))
    for seed, one in enumerate(benign[:count]):
        ids = long_benign(loaded, benign, BENIGN + TELLING, seed)
        made["long benign"].append(Text(prompt_ids(loaded, one["prompt"]), ids))
    for seed, one in enumerate(telling):
        prompt = prompt_ids(loaded, one["prompt"])
        ids = response_ids(loaded, one["response"])[:TELLING]
        # Other seeds than above: the texts around are not those that gave the threshold.
        around = long_benign(loaded, benign, BENIGN, 10_000 + seed)
        half = BENIGN // 2
        made["alone"].append(Text(prompt, ids))
        made["diluted"].append(Text(prompt, (*around[:half], *ids, *around[half:])))
    return made


def main() -> int:
    """Measure and print a table in Markdown; 1 if the default way loses too much."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--trait", default="refusal")
    parser.add_argument("--texts", type=int, default=370)
    parser.add_argument("--telling", type=int, default=100)
    options = parser.parse_args()

    loaded = load_embedded()
    config = load_config("smollm2-135m", [])
    position = config.vector.position
    vector = load_vectors(config, [options.trait])[options.trait]
    probe = make_probes([vector], loaded, position)[options.trait]
    cut_blocks(loaded, probe.layer)
    telling, benign = read_answers(options.data, options.trait)
    long_enough = [one for one in telling if len(response_ids(loaded, one["response"])) >= TELLING]
    texts = make_texts(loaded, long_enough[: options.telling], benign, options.texts)

    scores = {}
    for name, own in texts.items():
        scores[name] = score(loaded, probe, own)
        print(f"{name}: done", file=sys.stderr)

    own_vector = fingerprint(vector, position, probe.layer)
    points = measure(scores["benign"], [RATE]), measure(scores["long benign"], [RATE])
    short, long = (
        Thresholds(options.trait, own_vector, position, probe.layer, "", one) for one in points
    )
    print(
        f"\n{options.trait}: TPR at 1 % FPR, {len(texts['alone'])} telling texts, "
        f"{len(texts['benign'])} and {len(texts['long benign'])} benign ones\n"
    )
    print("| way to sum up | alone | diluted | loss in points |", "|---|---|---|---|", sep="\n")
    losses = []
    for summary in SUMMARIES:
        bounds = short.bound(summary, RATE)(TELLING), long.bound(summary, RATE)(BENIGN + TELLING)
        alone = np.array([summary(one) > bounds[0] for one in scores["alone"]], float)
        diluted = np.array([summary(one) > bounds[1] for one in scores["diluted"]], float)
        paired = 100 * (alone - diluted)
        losses.append(paired.mean())
        error = paired.std(ddof=1) / np.sqrt(len(paired))
        print(
            f"| {summary.text} | {alone.mean():.2f} | {diluted.mean():.2f} "
            f"| {losses[-1]:+.0f} ({error:.0f}) |"
        )
    print(f"\n{SUMMARIES[0].text} loses {losses[0]:.0f} points (wanted: at most {WANTED})")
    return int(losses[0] > WANTED)


if __name__ == "__main__":
    sys.exit(main())
