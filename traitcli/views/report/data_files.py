"""Writes the numbers of a report as one JSON file or as CSV tables."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from traitcli.events import STAGES
from traitcli.files import write_atomic
from traitcli.records import POLARITIES
from traitcli.report_records import Report
from traitcli.vector_quality import SCALARS
from traitcli.views.report.contents import contents, scores_of

Row = dict[str, Any]

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet reads a cell that starts with one of these as a formula."""


def write_json(path: Path, report: Report) -> None:
    """Write {made_at, findings, records, drift, sets, runs} as strict ASCII JSON.

    Each record also has a `summary`. Raises StorageError.
    """
    data = contents(report)
    data["records"] = [record | {"summary": summarize(record)} for record in data["records"]]
    write_atomic(path, json.dumps(data, allow_nan=False) + "\n")


def write_csv(folder: Path, report: Report) -> list[Path]:
    """Write each table that has rows to its own file, and return the files in order.

    A column named `…_json` holds text of a model or a person as an ASCII JSON string. So no reader
    mistakes the text for a number, a missing value or a formula. Raises StorageError.
    """
    data = contents(report)
    written = []
    for name, (columns, rows) in _TABLES.items():
        path = folder / f"{name}.csv"
        if text := _table(columns, rows(data)):
            write_atomic(path, text)
            written.append(path)
    return written


def summarize(record: Mapping[str, Any]) -> dict[str, Row]:
    """Trait -> {layer, raw, calibrated}.

    `raw` and `calibrated` are {mean, min, max, at}, or None without any score. `at` is the index of
    the first token with the maximum.
    """
    scores = scores_of(record)
    layers = record.get("layers") or {}
    summary: dict[str, Row] = {}
    for trait in _traits(scores):
        stats = {unit: _stats(table.get(trait, [])) for unit, table in scores.items()}
        summary[trait] = {"layer": layers.get(trait), **stats}
    return summary


def _stats(scores: Sequence[float | None]) -> Row | None:
    known = {index: score for index, score in enumerate(scores) if score is not None}
    if not known:
        return None
    at = max(known, key=known.__getitem__)
    # In units of the largest, because a sum of scores near the largest float would overflow.
    unit = max(map(abs, known.values())) or 1.0
    mean = unit * (math.fsum(score / unit for score in known.values()) / len(known))
    return {"mean": mean, "min": min(known.values()), "max": known[at], "at": at}


def _traits(scores: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(trait for table in scores.values() for trait in table))


# Cells


def _table(columns: Sequence[str], rows: Iterable[Row]) -> str:
    """The table as CSV text; empty without rows."""
    file = io.StringIO()
    writer = csv.DictWriter(file, columns)
    writer.writeheader()
    # The rows come from a generator, so only the length of the text tells whether there are any.
    header = file.tell()
    for row in rows:
        writer.writerow({column: _cell(column, row.get(column)) for column in columns})
    return file.getvalue() if file.tell() > header else ""


def _cell(column: str, value: Any) -> Any:
    if column.endswith("_json"):
        return None if value is None else json.dumps(value)
    if isinstance(value, str):
        # A lone surrogate, half of an emoji, cannot be encoded as UTF-8.
        text = value.encode("utf-8", "backslashreplace").decode()
        # After an apostrophe, a spreadsheet takes the rest of the cell as text.
        return f"'{text}" if text.startswith(_FORMULA) else text
    return value


# Records


def _summary(data: Row) -> Iterator[Row]:
    for record in data["records"]:
        for trait, summary in summarize(record).items():
            for unit in ("raw", "calibrated"):
                stats = summary[unit]
                if stats is None:
                    continue
                yield {
                    "record": record.get("name"),
                    "model": record.get("model"),
                    "trait": trait,
                    "layer": summary["layer"],
                    "unit": unit,
                    **stats,
                    "max_token_index": stats["at"],
                    "max_token_json": record["tokens"][stats["at"]],
                }


def _tokens(data: Row) -> Iterator[Row]:
    for record in data["records"]:
        scores = scores_of(record)
        layers = record.get("layers") or {}
        for index, token in enumerate(record.get("tokens", ())):
            for trait in _traits(scores):
                raw, calibrated = scores["raw"].get(trait), scores["calibrated"].get(trait)
                yield {
                    "record": record.get("name"),
                    "index": index,
                    "token_json": token,
                    "trait": trait,
                    "layer": layers.get(trait),
                    "raw": raw[index] if raw else None,
                    "calibrated": calibrated[index] if calibrated else None,
                }


def _drift(data: Row) -> Iterator[Row]:
    for each in data["drift"]:
        for trait, means in each["means"].items():
            for day, texts, mean in zip(each["days"], each["texts"], means, strict=True):
                key = {"model": each["model"], "day": day, "trait": trait, "unit": each["unit"]}
                yield key | {"texts": texts, "mean": mean}


# Vectors


def _vectors(data: Row) -> Iterator[Row]:
    """Each vector, with the name of its set."""
    for each in data["sets"]:
        for vector in each["vectors"]:
            yield {"set": each.get("name"), **vector}


def _vector_layers(data: Row) -> Iterator[Row]:
    for vector in _vectors(data):
        magnitudes = vector.get("magnitude_by_layer") or ()
        aurocs = vector.get("auroc_by_layer") or ()
        last = vector.get("layer_count", len(magnitudes)) - 1
        # A vector file of another tool has magnitudes and no AUROC.
        for layer, (magnitude, auroc) in enumerate(zip_longest(magnitudes, aurocs)):
            yield {
                "set": vector["set"],
                "trait": vector["trait"],
                "layer": layer,
                "magnitude": magnitude,
                "auroc": auroc,
                "is_chosen": layer == vector.get("layer"),
                "is_final_norm": layer == last,
            }


def _cosines(data: Row) -> Iterator[Row]:
    for each in data["sets"]:
        vectors = each["vectors"]
        for vector, line in zip(vectors, each.get("cosines") or (), strict=False):
            key = {"set": each.get("name"), "trait": vector["trait"], "layer": vector.get("layer")}
            for other, cosine in zip(vectors, line, strict=True):
                yield key | {"other": other["trait"], "cosine": cosine}


def _histograms(data: Row) -> Iterator[Row]:
    for vector in _vectors(data):
        for polarity, counts in (vector.get("histogram") or {}).items():
            key = {"set": vector["set"], "trait": vector["trait"], "polarity": polarity}
            for number, count in enumerate(counts):
                low, high = (100 * edge // len(counts) for edge in (number, number + 1))
                yield key | {"low": low, "high": high, "count": count}


def _filter(data: Row) -> Iterator[Row]:
    for vector in _vectors(data):
        for polarity in POLARITIES:
            key = {"set": vector["set"], "trait": vector["trait"], "polarity": polarity}
            if vector.get(f"{polarity}_kept") is not None:
                yield key | {"kept": True, "reason": "", "count": vector[f"{polarity}_kept"]}

            dropped = (vector.get("dropped") or {}).get(polarity) or {}
            for reason, count in dropped.items():
                yield key | {"kept": False, "reason": reason, "count": count}


def _rollouts(data: Row) -> Iterator[Row]:
    for vector in _vectors(data):
        for example in vector.get("examples") or ():
            key = {"set": vector["set"], "trait": vector["trait"], **example}
            yield key | {
                "question_json": example.get("question"),
                "response_json": example.get("response"),
            }


# Runs


def _runs(data: Row) -> Iterator[Row]:
    for run in data["runs"]:
        for trait in run.get("traits") or ():
            seconds = trait.get("seconds") or {}
            yield {
                "run": run.get("name"),
                "model": run.get("model"),
                **trait,
                **{f"{stage}_seconds": seconds.get(stage) for stage in STAGES},
                **_judge_usage(trait.get("usage")),
            }


def _commands(data: Row) -> Iterator[Row]:
    for run in data["runs"]:
        for number, command in enumerate(run.get("commands") or (), start=1):
            model_devices = [model.get("device") for model in command.get("models", ())]
            devices = [*command.get("devices", ()), *model_devices]
            copied = ("started", "seconds", "tokens", "ending", "problem", "machine")
            yield {
                **{key: command.get(key) for key in copied},
                "run": run.get("name"),
                "command": number,
                "stages": ", ".join(command.get("stages", ())),
                "traits": ", ".join(command.get("traits", ())),
                "devices": ", ".join(dict.fromkeys(filter(None, devices))),
                **_judge_usage(command.get("used")),
            }


def _failures(data: Row) -> Iterator[Row]:
    for run in data["runs"]:
        counts: Counter[tuple[Any, Any, str]] = Counter()
        for command in run.get("commands") or ():
            for failure in command.get("failures", ()):
                counts[failure.get("trait"), failure.get("stage"), _problem(failure)] += 1
        for trait in run.get("traits") or ():
            for reason, count in (trait.get("missing_reasons") or {}).items():
                counts[trait.get("trait"), "judgements", f"score missing: {reason}"] += count

        for (name, stage, problem), count in counts.items():
            yield {
                "run": run.get("name"),
                "trait": name,
                "stage": stage,
                "problem": problem,
                "count": count,
            }


def _problem(failure: Mapping[str, Any]) -> str:
    return ": ".join(part for part in (failure.get("problem"), failure.get("cause")) if part)


def _judge_usage(usage: Mapping[str, Any] | None) -> Row:
    """Requests, tokens and cost of judging; the cost is empty if no price is known."""
    return {f"judge_{key}": (usage or {}).get(key) for key in _USAGE}


_USAGE = ("requests", "cached", "prompt_tokens", "completion_tokens", "usd")
_JUDGE_USAGE = tuple(f"judge_{key}" for key in _USAGE)
_TABLES: dict[str, tuple[Sequence[str], Callable[[Row], Iterator[Row]]]] = {
    "summary": (
        (
            "record",
            "model",
            "trait",
            "layer",
            "unit",
            "mean",
            "min",
            "max",
            "max_token_index",
            "max_token_json",
        ),
        _summary,
    ),
    "tokens": (("record", "index", "token_json", "trait", "layer", "raw", "calibrated"), _tokens),
    "drift": (("model", "day", "trait", "unit", "texts", "mean"), _drift),
    "vectors": (("set", "trait", "model", "method", *SCALARS, "note"), _vectors),
    "vector_layers": (
        ("set", "trait", "layer", "magnitude", "auroc", "is_chosen", "is_final_norm"),
        _vector_layers,
    ),
    "cosines": (("set", "trait", "other", "layer", "cosine"), _cosines),
    "histograms": (("set", "trait", "polarity", "low", "high", "count"), _histograms),
    "filter": (("set", "trait", "polarity", "kept", "reason", "count"), _filter),
    "rollouts": (
        (
            "set",
            "trait",
            "rollout",
            "polarity",
            "kept",
            "why",
            "score",
            "reason",
            "coherence",
            "finish_reason",
            "question_json",
            "response_json",
        ),
        _rollouts,
    ),
    "runs": (
        (
            "run",
            "model",
            "trait",
            "rollouts_done",
            "rollouts_total",
            "empty",
            "judge",
            "judged",
            "missing",
            "judge_auroc",
            "positive_score",
            "negative_score",
            "kept_positive",
            "kept_negative",
            "built",
            "prompt_tokens",
            "response_tokens",
            *(f"{stage}_seconds" for stage in STAGES),
            *_JUDGE_USAGE,
            "note",
        ),
        _runs,
    ),
    "commands": (
        (
            "run",
            "command",
            "started",
            "stages",
            "traits",
            "devices",
            "machine",
            "seconds",
            "tokens",
            "ending",
            "problem",
            *_JUDGE_USAGE,
        ),
        _commands,
    ),
    "failures": (("run", "trait", "stage", "problem", "count"), _failures),
}
"""File name -> (columns, function that yields the rows)."""
