"""Do vectors hold outside? Two tables: labelled answers of other sources, and neutral readings.

Usage: python -m benchmarks.outside DATA [OPTIONS]     or: make bench-outside DATA=DIR

DATA is a folder of labelled answers, one file for each set, named TRAIT-SET.jsonl; see
docs/labelled-answers.md. A key `harmful` splits a set into groups. The vectors are those of the
embedded model: those of --vectors FOLDER, else those that ship. `--asked` adds the model's own
answer to yes or no, which takes minutes a set.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import numpy as np

from benchmarks.traits import print_table
from traitcli.vector_quality import VectorQuality
from traitcli.vectors.verdict import Verdict, with_verdict

CONFIG = "smollm2-135m"
GROUP = "harmful"
NONE = "–"
Row = dict[str, Any]


def traitcli(*arguments: str) -> Any:
    """What a command prints with --json; its progress goes to the terminal."""
    command = [sys.executable, "-m", "traitcli", *arguments, "-c", CONFIG, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout)


def compare(file: Path, options: argparse.Namespace) -> Row:
    """The result of one set, as `inspect labels` keeps it."""
    trait = file.stem.partition("-")[0]
    with file.open(encoding="utf-8") as lines:
        has_groups = GROUP in json.loads(next(lines))
    by = ["--by", GROUP] if has_groups else []
    asks = [] if options.asked else ["--no-ask"]
    result: Row = traitcli(
        "inspect", "labels", str(file), "--trait", trait, *by, *asks, *options.own
    )
    return result | {"set": file.stem.partition("-")[2] or file.stem}


def number(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """`.92 (.90–.94)`"""
    if value is None:
        return NONE
    bounds = "" if low is None or high is None else f" ({short(low)}–{short(high)})"
    return f"{short(value)}{bounds}"


def short(value: float) -> str:
    return f"{value:.2f}".removeprefix("0")


def print_sets(results: Sequence[Row]) -> None:
    """A row for each set: every way to sum up, and the baselines."""
    columns: dict[str, str] = {}
    for row in (row for result in results for row in result["rows"]):
        if row["part"] in ("summary", "baseline"):
            columns[row["name"]] = row["part"]
    lines = []
    for result in results:
        found = {row["name"]: row for row in result["rows"]}
        cells = [
            number(*(found[name][key] for key in ("value", "low", "high")))
            if part == "summary"
            else number(found[name]["value"])
            for name, part in columns.items()
        ]
        named = (result["trait"], result["set"], f"{result['texts']:,}", str(result["layer"]))
        lines.append(f"| {' | '.join([*named, *cells])} |")
    print_table(f"| trait | set | n | layer | {' | '.join(columns)} |", lines)


def print_groups(results: Sequence[Row]) -> None:
    """AUROC within groups, and of groups among answers of equal label."""
    lines = [
        f"| {result['set']} | {row['part']} | {row['name']} | {row['count'] or 0:,.0f} | "
        f"{number(row['value'], row['low'], row['high'])} |"
        for result in results
        for row in result["rows"]
        if row["part"] in ("group", "topic", "tokens")
    ]
    print_table("| set | what | which | n | AUROC |", lines)


def by_own_answers(row: Row) -> Row:
    """The row of a vector with the verdict that it has without labelled answers.

    With them, a vector that separates them is called so, and would correlate with itself.
    """
    measured = {field.name: row[field.name] for field in fields(VectorQuality)}
    return row | {"verdict": with_verdict(VectorQuality(**measured)).verdict}


def print_contexts(vectors: Sequence[Row]) -> None:
    """Every trait's AUROC with and without the persona."""
    print_table(
        "| trait | verdict | layer | with persona | without | gap |",
        (f"| {' | '.join(cells)} |" for cells in map(context_cells, vectors)),
    )


def context_cells(row: Row) -> Iterator[str]:
    auroc, neutral = row["auroc"], row["neutral_auroc"]
    yield from (row["trait"], row["verdict"], str(row["layer"]))
    for key in ("auroc", "neutral_auroc"):
        yield number(row[key], row[f"{key}_low"], row[f"{key}_high"])
    yield NONE if auroc is None or neutral is None else f"{auroc - neutral:+.2f}"


def print_correlation(vectors: Sequence[Row], results: Sequence[Row]) -> None:
    """Spearman's rank correlation between the rung by own answers and the AUROC outside."""
    from scipy.stats import spearmanr

    rungs = {row["trait"]: get_args(Verdict).index(row["verdict"]) for row in vectors}
    pairs = [(rungs[one["trait"]], one["auroc"]) for one in results if one["trait"] in rungs]
    ranks, aurocs = np.array(pairs, dtype=float).T
    if len(set(ranks)) < 2 or len(set(aurocs)) < 2:
        found = "not defined: all traits with a set are on one rung"
    else:
        found = f"{spearmanr(ranks, aurocs).statistic:.2f}"
    traits = len({one["trait"] for one in results})
    print(
        f"rank correlation of rung and AUROC outside: {found} ({len(pairs)} sets, {traits} traits)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--vectors", type=Path)
    parser.add_argument("--asked", action="store_true")
    options = parser.parse_args()
    files = sorted(options.data.glob("*-*.jsonl"))
    if not files:
        parser.error(f"no file TRAIT-SET.jsonl in {options.data}")
    options.own = ["--vectors", str(options.vectors)] if options.vectors else []
    results = [compare(file, options) for file in files]
    paths = [str(path) for path in options.vectors.glob("*.safetensors")] if options.vectors else []
    vectors = list(map(by_own_answers, traitcli("inspect", "vectors", *paths)))
    print("\nLabelled answers of other sources: AUROC\n")
    print_sets(results)
    print("\nWithin groups, of groups among equals (topic), and of tokens in spans\n")
    print_groups(results)
    print("\nHeld-out answers of the run: AUROC with and without the persona\n")
    print_contexts(vectors)
    print()
    print_correlation(vectors, results)


if __name__ == "__main__":
    main()
