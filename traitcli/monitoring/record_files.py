"""Keeps monitoring records: one in a .json file, several as lines of a .jsonl file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traitcli.errors import UserError
from traitcli.files import append_lines, parse_json, write_atomic
from traitcli.records import LayerScores, Scores, TokenScores
from traitcli.shipped import find_shipped

if TYPE_CHECKING:
    pass


Row = dict[str, Any]


def to_json(record: TokenScores) -> dict[str, Any]:
    """The monitoring record: the four fixed keys, then what stands beside them."""
    told: dict[str, Any] = {
        "prompt": record.prompt,
        "response": record.response,
        **_scores(record),
        "layers": dict(record.layers),
        "model": record.model,
        "seed": record.seed,
        "prompt_tokens": record.prompt_tokens,
        "finish_reason": record.finish_reason,
        "created": record.created,
        "seconds": [round(value, 3) for value in record.seconds],
        "history": [dict(message) for message in record.history],
        "steering": [asdict(push) | {"dose": round(push.dose, 4)} for push in record.steering],
        "alarms": [
            asdict(crossing) | {"score": round(crossing.score, 5)} for crossing in record.crossings
        ],
    }
    if record.prompt_scores:
        told["prompt_scores"] = _scores(record.prompt_scores)
    if record.layer_scores:
        told["layer_scores"] = _by_row(record.layer_scores)
    return told | ({"about": dict(record.about)} if record.about else {})


def failed(prompt: str, problem: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """The record of an answer that could not be made or read: it has an error in place of scores."""
    return {"prompt": prompt, "error": problem, "about": dict(about)}


def keep_record(path: Path, record: TokenScores) -> None:
    """Replace a file by the record at once; a file named *.jsonl gets one line more."""
    if path.suffix == ".jsonl":
        append_records(path, [to_json(record)])
    else:
        write_atomic(path, json.dumps(to_json(record), ensure_ascii=False) + "\n")


def append_records(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Add lines to a .jsonl file; a last line that only lacks its end is kept, one that was torn is cut."""
    if path.is_file() and path.stat().st_size:
        last = path.read_bytes().rpartition(b"\n")[2]
        if last and _is_json(last):
            with path.open("ab") as file:
                file.write(b"\n")
    append_lines(path, records)


def save_chat(
    path: Path,
    system: str | None,
    history: Sequence[Mapping[str, str]],
    turns: Sequence[Mapping[str, Any]],
) -> None:
    """Write what was said as messages, which --input reads, and the record of every turn; replaces the file.

    `read_records` gives the turns.
    """
    messages = [*([{"role": "system", "content": system}] if system else []), *map(dict, history)]
    write_atomic(
        path, json.dumps({"messages": messages, "turns": list(turns)}, ensure_ascii=False) + "\n"
    )


def record_path(runs: Path, name: str, suffix: str = ".json") -> Path:
    """`runs/monitor/<time>-<first words>.json`: sortable, and safe whatever the name says."""
    words = re.sub(r"[^a-z0-9]+", "-", name.lower())[:40].strip("-") or "prompt"
    return runs / "monitor" / f"{datetime.now().strftime('%Y%m%d-%H%M%S-%f')}-{words}{suffix}"


def find_records(runs: Path, names: Sequence[str]) -> list[Path]:
    """The named files, else all that monitoring has left, the latest first."""
    kept = [path for path in (runs / "monitor").glob("*") if path.suffix in {".json", ".jsonl"}]
    return [Path(name) for name in names] or sorted(kept, reverse=True)


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a file, one or several; raises UserError when it holds none."""
    try:
        text = path.read_text(encoding="utf-8")
        found = _lines(text) if path.suffix == ".jsonl" else parse_json(text)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the record {path}", cause=str(error), fix=_FIX) from None
    if isinstance(found, dict):
        found = found.get("turns", [found])  # a chat that was saved
    records = found if isinstance(found, list) else [found]
    if not records:
        raise UserError(f"{path} is no monitoring record", cause="it is empty", fix=_FIX)
    for record in records:
        if fault := _fault(record):
            raise UserError(f"{path} is no monitoring record", cause=fault, fix=_FIX)
    return records


def _lines(text: str) -> list[Any]:
    """One for each line; the last one may be torn, and counts if it is not."""
    *lines, last = text.split("\n")
    return [parse_json(line) for line in [*lines, last if _is_json(last) else ""] if line.strip()]


def _is_json(text: str | bytes) -> bool:
    try:
        parse_json(text)
    except ValueError:
        return False
    return True


def _fault(told: Any) -> str:
    """What a record lacks; empty where it is one, or tells of a failure."""
    if isinstance(told, dict) and "error" in told:
        return ""
    if (
        not isinstance(told, dict)
        or not told.keys() >= {"prompt", "tokens"}
        or not _scores_of(told)
    ):
        return "it lacks tokens or trait_scores"
    tokens, calibrated, seconds = (
        told["tokens"],
        told.get("calibrated_scores") or {},
        told.get("seconds") or [],
    )
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        return "its tokens are not a list of texts"
    tables = (_scores_of(told), calibrated, {"seconds": seconds} if seconds else {})
    if not all(
        isinstance(table, dict) and all(map(_is_numbers, table.values())) for table in tables
    ):
        return "its scores are not lists of numbers by trait"
    rows = [row for table in tables for row in table.values()]
    return (
        ""
        if {len(row) for row in rows} == {len(tokens)}
        else "its scores are not one for each token"
    )


def _is_numbers(row: Any) -> bool:
    """A list of numbers; none stands for one that was not finite."""
    return isinstance(row, list) and all(
        value is None or isinstance(value, int | float) for value in row
    )


def _scores_of(told: Mapping[str, Any]) -> Mapping[str, Sequence[float]]:
    scores: Mapping[str, Sequence[float]] = (
        told.get("trait_scores") or told.get("projections") or {}
    )
    return scores


def _scores(scores: Scores) -> dict[str, Any]:
    return {
        "tokens": list(scores.tokens),
        "trait_scores": {trait: _rounded(values) for trait, values in scores.raw.items()},
        "calibrated_scores": {
            trait: _rounded(values) for trait, values in scores.calibrated.items()
        },
    }


def _by_row(scores: LayerScores) -> dict[str, Any]:
    return {
        "trait": scores.trait,
        "trait_scores": [_rounded(values) for values in scores.raw],
        "calibrated_scores": [_rounded(values) for values in scores.calibrated],
    }


def _rounded(values: Iterable[float]) -> list[float]:
    """Five decimals: about what float32 resolves in a projection of some tens."""
    return [round(value, 5) for value in values]


_FIX = "name a file that traitcli monitor wrote"


def collect_records(runs: Path, names: Sequence[str]) -> list[Row]:
    """Monitoring records: the named files, else all in runs/monitor, else the example that ships.

    Records of what failed are left out. Raises UserError when a named file is no record.
    """
    paths = find_records(runs, names) or sorted(find_shipped("docs/examples").glob("*.json"))
    return [row for path in paths for row in _records_of(path) if "error" not in row]


def _records_of(path: Path) -> list[Row]:
    records = read_records(path)
    numbers = [f" {number}" if len(records) > 1 else "" for number in range(1, len(records) + 1)]
    return [
        {**record, "name": f"{path.stem}{number}"}
        for record, number in zip(records, numbers, strict=True)
    ]
