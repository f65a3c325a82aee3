"""The report's figures as data: one JSON file, or tables as CSV."""

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
from traitcli.records import POLARITIES, Report
from traitcli.vector_quality import SCALARS
from traitcli.views.report.contents import contents, scores_of

Row = dict[str, Any]

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What makes a spreadsheet take a cell for a formula, when it begins with one."""


def write_json(path: Path, report: Report) -> None:
    """Write {made_at, records, sets, runs} as strict JSON in ASCII; each record has its `summary` too.

    Raises StorageError.
    """
    told = contents(report)
    told["records"] = [record | {"summary": summarise(record)} for record in told["records"]]
    write_atomic(path, json.dumps(told, allow_nan=False) + "\n")


def write_csv(folder: Path, report: Report) -> list[Path]:
    """Write each table that has rows to a file of its own; gives the files in order. Raises StorageError.

    Text that a model or a person wrote stands as a JSON string in ASCII, in columns named `…_json`: `json.loads`
    gives it back, and no reader takes it for a number, a missing value or a formula.
    """
    told = contents(report)
    written = []
    for name, (columns, rows) in _TABLES.items():
        path = folder / f"{name}.csv"
        if text := _table(columns, rows(told)):
            write_atomic(path, text)
            written.append(path)
    return written


def summarise(record: Mapping[str, Any]) -> dict[str, Row]:
    """Trait -> layer, and raw and calibrated: {mean, min, max, at}, or none without any score.

    `at` is the index of the token of the maximum, of the first such.
    """
    scores = scores_of(record)
    layers = record.get("layers") or {}
    return {
        trait: {"layer": layers.get(trait)}
        | {unit: _sum_up(rows.get(trait, [])) for unit, rows in scores.items()}
        for trait in _traits(scores)
    }


def _sum_up(scores: Sequence[float | None]) -> Row | None:
    known = {index: score for index, score in enumerate(scores) if score is not None}
    if not known:
        return None
    at = max(known, key=known.__getitem__)
    mean = math.fsum(score / len(known) for score in known.values())
    return {"mean": mean, "min": min(known.values()), "max": known[at], "at": at}


def _traits(scores: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(trait for rows in scores.values() for trait in rows))


# Cells


def _table(columns: Sequence[str], rows: Iterable[Row]) -> str:
    """The rows below their columns' names; nothing without rows."""
    file = io.StringIO()
    writer = csv.DictWriter(file, columns)
    writer.writeheader()
    header = file.tell()
    writer.writerows({column: _cell(column, row.get(column)) for column in columns} for row in rows)
    return file.getvalue() if file.tell() > header else ""


def _cell(column: str, value: Any) -> Any:
    if column.endswith("_json"):
        return None if value is None else json.dumps(value)
    if isinstance(value, str):
        told = value.encode("utf-8", "backslashreplace").decode()  # half an emoji cannot be written
        return f"'{told}" if told.startswith(_FORMULA) else told
    return value


# Records


def _summary(told: Row) -> Iterator[Row]:
    for record in told["records"]:
        for trait, found in summarise(record).items():
            for unit in ("raw", "calibrated"):
                if figures := found[unit]:
                    own = {"record": record.get("name"), "model": record.get("model")}
                    own |= {"trait": trait, "layer": found["layer"], "unit": unit}
                    own |= {key: figures[key] for key in ("mean", "min", "max")}
                    yield own | {
                        "max_token_index": figures["at"],
                        "max_token_json": record["tokens"][figures["at"]],
                    }


def _tokens(told: Row) -> Iterator[Row]:
    for record in told["records"]:
        scores = scores_of(record)
        layers = record.get("layers") or {}
        known = [
            (trait, [rows.get(trait) for rows in scores.values()]) for trait in _traits(scores)
        ]
        for index, token in enumerate(record.get("tokens", ())):
            own = {"record": record.get("name"), "index": index, "token_json": token}
            for trait, rows in known:
                raw, calibrated = (row[index] if row else None for row in rows)
                yield own | {
                    "trait": trait,
                    "layer": layers.get(trait),
                    "raw": raw,
                    "calibrated": calibrated,
                }


# Vectors


def _vectors(told: Row) -> Iterator[Row]:
    """Each vector, with the name of its set."""
    for each in told["sets"]:
        for vector in each["vectors"]:
            yield {"set": each.get("name"), **vector}


def _vector_rows(told: Row) -> Iterator[Row]:
    for vector in _vectors(told):
        magnitudes, aurocs = (
            vector.get("magnitude_by_layer") or (),
            vector.get("auroc_by_layer") or (),
        )
        last = vector.get("layer_count", len(magnitudes)) - 1
        for row, (magnitude, auroc) in enumerate(zip_longest(magnitudes, aurocs)):
            own = {
                "set": vector["set"],
                "trait": vector["trait"],
                "row": row,
                "magnitude": magnitude,
                "auroc": auroc,
            }
            yield own | {"is_chosen": row == vector.get("layer"), "is_final_norm": row == last}


def _cosines(told: Row) -> Iterator[Row]:
    for each in told["sets"]:
        vectors = each["vectors"]
        for vector, line in zip(vectors, each.get("cosines") or (), strict=False):
            own = {"set": each.get("name"), "trait": vector["trait"], "layer": vector.get("layer")}
            for other, cosine in zip(vectors, line, strict=True):
                yield own | {"other": other["trait"], "cosine": cosine}


def _histograms(told: Row) -> Iterator[Row]:
    for vector in _vectors(told):
        for polarity, counts in (vector.get("histogram") or {}).items():
            own = {"set": vector["set"], "trait": vector["trait"], "polarity": polarity}
            for number, count in enumerate(counts):
                low, high = (100 * edge // len(counts) for edge in (number, number + 1))
                yield own | {"low": low, "high": high, "count": count}


def _filter(told: Row) -> Iterator[Row]:
    for vector in _vectors(told):
        for polarity in POLARITIES:
            own = {"set": vector["set"], "trait": vector["trait"], "polarity": polarity}
            if vector.get(f"{polarity}_kept") is not None:
                yield own | {"kept": True, "reason": "", "count": vector[f"{polarity}_kept"]}
            for reason, count in ((vector.get("dropped") or {}).get(polarity) or {}).items():
                yield own | {"kept": False, "reason": reason, "count": count}


def _rollouts(told: Row) -> Iterator[Row]:
    for vector in _vectors(told):
        for example in vector.get("examples") or ():
            own = {"set": vector["set"], "trait": vector["trait"], **example}
            yield own | {
                "question_json": example.get("question"),
                "response_json": example.get("response"),
            }


# Runs


def _runs(told: Row) -> Iterator[Row]:
    for run in told["runs"]:
        for trait in run.get("traits") or ():
            took = trait.get("seconds") or {}
            seconds = {f"{stage}_seconds": took.get(stage) for stage in STAGES}
            yield {
                "run": run.get("name"),
                "model": run.get("model"),
                **trait,
                **seconds,
                **_used(trait.get("usage")),
            }


def _commands(told: Row) -> Iterator[Row]:
    for run in told["runs"]:
        for number, command in enumerate(run.get("commands") or (), start=1):
            devices = [
                *command.get("devices", ()),
                *(model.get("device") for model in command.get("models", ())),
            ]
            yield {
                **{
                    key: command.get(key)
                    for key in ("started", "seconds", "tokens", "ending", "problem", "machine")
                },
                "run": run.get("name"),
                "command": number,
                "stages": ", ".join(command.get("stages", ())),
                "traits": ", ".join(command.get("traits", ())),
                "devices": ", ".join(dict.fromkeys(filter(None, devices))),
                **_used(command.get("used")),
            }


def _failures(told: Row) -> Iterator[Row]:
    for run in told["runs"]:
        failures = [
            failure
            for command in run.get("commands") or ()
            for failure in command.get("failures", ())
        ]
        counts = Counter(
            (failure.get("trait"), failure.get("stage"), _problem(failure)) for failure in failures
        )
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


def _used(usage: Mapping[str, Any] | None) -> Row:
    """What judging took; the price is empty where it is not known."""
    return {f"judge_{key}": (usage or {}).get(key) for key in _USED}


_USED = ("requests", "cached", "prompt_tokens", "completion_tokens", "usd")
_JUDGE_USED = tuple(f"judge_{key}" for key in _USED)
_TABLES: dict[str, tuple[Sequence[str], Callable[[Row], Iterator[Row]]]] = {
    "summary": (
        (
            *("record", "model", "trait", "layer", "unit", "mean", "min", "max"),
            *("max_token_index", "max_token_json"),
        ),
        _summary,
    ),
    "tokens": (("record", "index", "token_json", "trait", "layer", "raw", "calibrated"), _tokens),
    "vectors": (("set", "trait", "model", "method", *SCALARS, "note"), _vectors),
    "vector_rows": (
        ("set", "trait", "row", "magnitude", "auroc", "is_chosen", "is_final_norm"),
        _vector_rows,
    ),
    "cosines": (("set", "trait", "other", "layer", "cosine"), _cosines),
    "histograms": (("set", "trait", "polarity", "low", "high", "count"), _histograms),
    "filter": (("set", "trait", "polarity", "kept", "reason", "count"), _filter),
    "rollouts": (
        (
            *("set", "trait", "rollout", "polarity", "kept", "why", "score", "reason", "coherence"),
            *("finish_reason", "question_json", "response_json"),
        ),
        _rollouts,
    ),
    "runs": (
        (
            *(
                "run",
                "model",
                "trait",
                "rollouts_done",
                "rollouts_total",
                "empty",
                "judge",
                "judged",
                "missing",
            ),
            *(
                "judge_auroc",
                "positive_score",
                "negative_score",
                "kept_positive",
                "kept_negative",
                "built",
            ),
            *(
                "prompt_tokens",
                "response_tokens",
                *(f"{stage}_seconds" for stage in STAGES),
                *_JUDGE_USED,
                "note",
            ),
        ),
        _runs,
    ),
    "commands": (
        (
            *(
                "run",
                "command",
                "started",
                "stages",
                "traits",
                "devices",
                "machine",
                "seconds",
                "tokens",
            ),
            *("ending", "problem", *_JUDGE_USED),
        ),
        _commands,
    ),
    "failures": (("run", "trait", "stage", "problem", "count"), _failures),
}
"""File -> its columns, and what gives its rows."""
