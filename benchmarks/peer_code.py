"""Compares the code and the seconds that libraries need for the work of a notebook.

The work: load the embedded model, train a vector at all layers on 30 positive and 30 negative
texts, apply it to 10 answers of 32 greedy tokens, score 20 finished texts, save and read it. The
code of each library is in notebook_code/, as its documentation shows it. It is that code that is
counted and timed, in the library's own environment, on a CPU in float32 with two threads. The
libraries take turns, each time in a new process; medians are reported.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

CODE = Path(__file__).with_name("notebook_code")
LIBRARIES = ("traitcli", "steering-vectors", "repeng")
STEPS = ("load", "train", "apply", "apply in a batch", "score", "save")
BATCH = "apply in a batch"
"""Not in the total: it is the work of apply in another way."""


@dataclass(frozen=True)
class CodeResult:
    """What one library needed; without seconds it failed, and the note says why.

    lines    step -> lines of code, without comments and empty lines
    seconds  step -> median seconds
    tokens   tokens of the ten answers, which may end early
    auroc    how well the scores separate the finished texts, ten of each side
    """

    name: str
    lines: Mapping[str, int]
    seconds: Mapping[str, float] = field(default_factory=dict)
    tokens: int = 0
    auroc: float | None = None
    versions: str = ""
    note: str = ""


def read_code(name: str) -> dict[str, str]:
    """Step -> its code, as it stands behind the comment with its name."""
    source = CODE.joinpath(f"{name.replace('-', '_')}.py").read_text(encoding="utf-8")
    steps = re.split(rf"^# ({'|'.join(STEPS)})\n", source, flags=re.MULTILINE)[1:]
    return dict(zip(steps[::2], steps[1::2], strict=True))


def count_lines(code: str) -> int:
    """The lines that are neither empty nor a comment."""
    lines = map(str.strip, code.splitlines())
    return sum(bool(line) and not line.startswith("#") for line in lines)


def inside(name: str, folder: Path, out: Path) -> dict[str, Any]:
    """In the library's environment: seconds by step, the answers' tokens, and the scores."""
    import_module("torch").set_num_threads(2)
    given = json.loads((CODE / "texts.json").read_text(encoding="utf-8"))
    texts = [tuple(text) for text in given["texts"]]
    names = given | {"texts": texts, "folder": str(folder), "out": out}
    seconds = {}
    for step, code in read_code(name).items():
        compiled = compile(code, f"{name}: {step}", "exec")
        start = time.perf_counter()
        exec(compiled, names)
        seconds[step] = time.perf_counter() - start
    tokenizer = import_module("transformers").AutoTokenizer.from_pretrained(folder)
    answers = tokenizer(names["answers"], add_special_tokens=False)["input_ids"]
    packages = dict.fromkeys([name, "torch", "transformers"])
    return {
        "seconds": seconds,
        "tokens": sum(map(len, answers)),
        "scores": names["scores"],
        "versions": ", ".join(f"{package} {version(package)}" for package in packages),
    }


def auroc(scores: Sequence[float]) -> float:
    """The share of pairs in which a positive text, at an even index, has the higher score."""
    pairs = list(product(scores[::2], scores[1::2]))
    return sum((one > other) + (one == other) / 2 for one, other in pairs) / len(pairs)


def readable_by_all(model: Path, home: Path) -> Path:
    """A folder with the same model, which transformers 4 can read too: it knows other keys."""
    folder = home / "model"
    folder.mkdir(parents=True, exist_ok=True)
    for file in model.iterdir():
        link = folder / file.name
        link.unlink(missing_ok=True)
        link.symlink_to(file)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    changes: dict[str, dict[str, Any]] = {
        "config.json": {"rope_theta": config["rope_parameters"]["rope_theta"]},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": ["input_ids", "attention_mask"],
        },
    }
    for name, change in changes.items():
        settings = json.loads((model / name).read_text(encoding="utf-8")) | change
        (folder / name).unlink()
        (folder / name).write_text(json.dumps(settings), encoding="utf-8")
    return folder


def measure_code(model: Path, home: Path, rounds: int) -> list[CodeResult]:
    """A result for each library; one that cannot be installed or fails has a note instead."""
    import subprocess

    from benchmarks.peers import environment, run

    folder = readable_by_all(model, home)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in LIBRARIES}
    failures: dict[str, str] = {}
    for name in LIBRARIES * rounds:
        if name in failures:
            continue
        # Without -P, this folder's modules would hide those of the library.
        options = ["-P", __file__, "--inside", name, "--model", folder, "--out", home]
        try:
            python = Path(sys.executable) if name == "traitcli" else environment(name, home)
            runs[name].append(json.loads(run(python, *options).splitlines()[-1]))
        except (RuntimeError, OSError, ValueError, subprocess.SubprocessError) as error:
            failures[name] = str(error)[:200]

    results = []
    for name in LIBRARIES:
        lines = {step: count_lines(code) for step, code in read_code(name).items()}
        if name in failures:
            results.append(CodeResult(name, lines, note=failures[name]))
            continue
        last = runs[name][-1]
        seconds = {
            step: statistics.median(each["seconds"][step] for each in runs[name]) for step in lines
        }
        found = seconds, last["tokens"], auroc(last["scores"]), last["versions"]
        results.append(CodeResult(name, lines, *found))
    return results


def code_table(results: Sequence[CodeResult]) -> str:
    """Lines and seconds of each step and library, as a Markdown table; then the versions."""
    rows = [["", *(result.name for result in results)], ["---"] * (len(results) + 1)]
    for step in STEPS:
        rows.append([step, *(_cell(result, [step]) for result in results)])
    total = [step for step in STEPS if step != BATCH]
    rows.append(["all but the batch", *(_cell(result, total) for result in results)])
    rows.append(["tokens of the answers", *(str(result.tokens or "–") for result in results)])
    quality = ["–" if result.auroc is None else f"{result.auroc:.2f}" for result in results]
    rows.append(["AUROC of the scores", *quality])
    notes = [f"{result.name}: {result.versions or result.note}" for result in results]
    return "\n".join([*(f"| {' | '.join(row)} |" for row in rows), "", *notes])


def _cell(result: CodeResult, steps: Sequence[str]) -> str:
    if not set(steps) <= set(result.lines):
        return "–"
    count = sum(result.lines[step] for step in steps)
    lines = f"{count} line{'s' * (count != 1)}"
    if not result.seconds:
        return f"{lines}, not measured"
    return f"{lines}, {sum(result.seconds[step] for step in steps):.2f} s"


def main() -> int:
    """Do the work with one library, where this runs."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--inside", choices=LIBRARIES, required=True)
    options.add_argument("--model", type=Path, required=True)
    options.add_argument("--out", type=Path, required=True)
    arguments = options.parse_args()
    print(json.dumps(inside(arguments.inside, arguments.model, arguments.out)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
