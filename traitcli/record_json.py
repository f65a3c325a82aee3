"""The monitoring record as JSON: how it is written, and how every version of it is read back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import UnionType
from typing import Any, TypeVar

from traitcli.interventions import KINDS, Ablate, Cap, Condition, Gate, Intervention, Push
from traitcli.records import Crossing, LayerScores, Scores, TokenScores

DECIMALS = 5
"""Decimals of a stored score: about what float32 resolves in a projection of some tens."""

Entry = TypeVar("Entry")
_Types = Mapping[str, type | UnionType]
"""Name of a field -> the types that its value may have."""


@dataclass(frozen=True, slots=True)
class FailedRecord:
    """An answer that could not be generated or scored."""

    prompt: str
    error: str
    about: Mapping[str, Any] = field(default_factory=dict)


def to_json(record: TokenScores | FailedRecord, decimals: int | None = DECIMALS) -> dict[str, Any]:
    """Turn a record into its JSON form: the four fixed keys first, then the optional ones.

    Args:
        record: A failure has `prompt`, `error` and `about`, and no scores.
        decimals: Scores are rounded to this many decimals; None keeps them as they are.
            A score that is not finite becomes null, because JSON has no NaN.
    """
    if isinstance(record, FailedRecord):
        return {"prompt": record.prompt, "error": record.error, "about": dict(record.about)}

    # Others parse this: no key changes its name or meaning, and new keys are optional.
    data = {
        "prompt": record.prompt,
        "response": record.response,
        **_scores_to_json(record, decimals),
        "layers": dict(record.layers),
        **_origin_to_json(record),
        "seconds": _row_to_json(record.seconds, 3),
        "history": list(map(dict, record.history)),
        "steering": list(map(_intervention_to_json, record.steering)),
        "alarms": list(map(_crossing_to_json, record.crossings)),
    }

    if record.prompt_scores:
        data["prompt_scores"] = _scores_to_json(record.prompt_scores, decimals)
    if record.layer_scores:
        data["layer_scores"] = _layers_to_json(record.layer_scores, decimals)
    if record.thinking:
        data["thinking_tokens"] = record.thinking
        data["skips_thinking"] = record.skips_thinking
    if record.braked:
        data["braked_tokens"] = {brake: list(found) for brake, found in record.braked.items()}
    if record.about:
        data["about"] = dict(record.about)
    return data


def from_json(data: Any) -> TokenScores | FailedRecord:
    """Read a record that this version or an older one wrote.

    Only the prompt, the tokens and their scores are required. Any other key that is missing, or
    holds something that no version writes, gets its default: a record stays readable when
    somebody edited it or produced it with another tool. A null score becomes NaN.

    Raises ValueError, which names the fault, when `data` is not a record.
    """
    # A failure has no scores, so it is recognized before anything is required.
    if isinstance(data, dict) and "error" in data:
        return FailedRecord(_text(data, "prompt"), str(data["error"]), _mapping(data.get("about")))
    if not isinstance(data, dict) or "prompt" not in data:
        raise ValueError(_NO_SCORES)

    scores = _read_scores(data)
    count = len(scores.tokens)
    return TokenScores(
        tokens=scores.tokens,
        raw=scores.raw,
        calibrated=scores.calibrated,
        massive=scores.massive,
        prompt=_text(data, "prompt"),
        response=_text(data, "response", "".join(scores.tokens)),
        layers=_layers(data.get("layers")),
        model=_text(data, "model"),
        seed=_integer(data.get("seed")),
        prompt_tokens=_integer(data.get("prompt_tokens")),
        finish_reason=_finish_reason(data),
        history=tuple(_messages(data.get("history"))),
        seconds=_read_seconds(data, count),
        steering=tuple(_read_interventions(data.get("steering"))),
        crossings=tuple(_read_crossings(data.get("alarms"))),
        prompt_scores=_read_optional_scores(data.get("prompt_scores")),
        layer_scores=_read_layer_scores(data.get("layer_scores"), count),
        about=_mapping(data.get("about")),
        thinking=max(0, min(count, _integer(data.get("thinking_tokens")) or 0)),
        skips_thinking=data.get("skips_thinking") is True,
        braked=_read_indices(data.get("braked_tokens"), count),
        created=_text(data, "created"),
    )


# Writing


def _origin_to_json(record: TokenScores) -> dict[str, Any]:
    """What produced the record; keys that an older record does not have stay absent."""
    origin = {
        "model": record.model,
        "seed": record.seed,
        "prompt_tokens": record.prompt_tokens,
        "finish_reason": record.finish_reason,
        "created": record.created,
    }
    return {key: value for key, value in origin.items() if value not in (None, "")}


def _scores_to_json(scores: Scores, decimals: int | None) -> dict[str, Any]:
    data: dict[str, Any] = {
        "tokens": list(scores.tokens),
        "trait_scores": _table_to_json(scores.raw, decimals),
        "calibrated_scores": _table_to_json(scores.calibrated, decimals),
    }
    if scores.massive:
        data["massive_tokens"] = {name: list(found) for name, found in scores.massive.items()}
    return data


def _layers_to_json(scores: LayerScores, decimals: int | None) -> dict[str, Any]:
    raw = [_row_to_json(row, decimals) for row in scores.raw]
    calibrated = [_row_to_json(row, decimals) for row in scores.calibrated]
    return {"trait": scores.trait, "trait_scores": raw, "calibrated_scores": calibrated}


def _table_to_json(
    table: Mapping[str, Sequence[float]], decimals: int | None
) -> dict[str, list[float | None]]:
    return {trait: _row_to_json(row, decimals) for trait, row in table.items()}


def _row_to_json(row: Sequence[float], decimals: int | None) -> list[float | None]:
    return [_number_to_json(value, decimals) for value in row]


def _number_to_json(value: float, decimals: int | None) -> float | None:
    # json.dumps would write NaN, which browsers and other languages refuse to parse.
    if not math.isfinite(value):
        return None
    return value if decimals is None else round(value, decimals)


def _intervention_to_json(intervention: Intervention) -> dict[str, Any]:
    data = asdict(intervention)
    if "dose" in data:
        data["dose"] = round(data["dose"], 4)
    # A push has no kind, as in records from before there were others.
    [kind] = [name for name, of in KINDS.items() if type(intervention) is of]
    return data if kind == "push" else {"kind": kind} | data


def _crossing_to_json(crossing: Crossing) -> dict[str, Any]:
    return asdict(crossing) | {"score": round(crossing.score, DECIMALS)}


# Reading


def _read_scores(data: Mapping[str, Any]) -> Scores:
    """Tokens with their scores; raises ValueError when they do not fit together."""
    # Records of the first versions call raw scores `projections`.
    raw = data.get("trait_scores") or data.get("projections")
    if "tokens" not in data or not raw:
        raise ValueError(_NO_SCORES)
    tokens = data["tokens"]
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise ValueError("its tokens are not a list of strings")
    # The first versions had none, and a vector without class means has none.
    calibrated = data.get("calibrated_scores") or {}
    count = len(tokens)
    return Scores(
        tuple(tokens),
        _read_table(raw, count),
        _read_table(calibrated, count),
        massive=_read_indices(data.get("massive_tokens"), count),
    )


def _read_indices(data: Any, count: int) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(one for one in found if isinstance(one, int) and 0 <= one < count)
        for name, found in _mapping(data).items()
        if isinstance(found, list)
    }


def _read_table(table: Any, count: int) -> dict[str, tuple[float, ...]]:
    if not isinstance(table, dict):
        raise ValueError(_NOT_NUMBERS)
    return {trait: _read_row(row, count) for trait, row in table.items()}


def _read_row(row: Any, count: int) -> tuple[float, ...]:
    """`count` numbers; raises ValueError when they are not."""
    if not isinstance(row, list):
        raise ValueError(_NOT_NUMBERS)
    if not all(value is None or isinstance(value, int | float) for value in row):
        raise ValueError(_NOT_NUMBERS)
    # A view reads the scores by the index of the token.
    if len(row) != count:
        raise ValueError("it does not have one score for each token")
    try:
        return tuple(math.nan if value is None else float(value) for value in row)
    except OverflowError:  # a whole number has no limit in JSON
        raise ValueError("one of its scores is too large") from None


def _read_seconds(data: Mapping[str, Any], count: int) -> tuple[float, ...]:
    """The time of each token; () for existing text, and in records of the first versions."""
    return _read_row(data["seconds"], count) if data.get("seconds") else ()


def _read_optional_scores(data: Any) -> Scores | None:
    # Not an error: most records have no scores of their prompt, and the answer can be shown.
    try:
        return _read_scores(_mapping(data))
    except ValueError:
        return None


def _read_layer_scores(data: Any, count: int) -> LayerScores | None:
    data = _mapping(data)
    raw, calibrated = data.get("trait_scores"), data.get("calibrated_scores") or []
    if not isinstance(raw, list) or not isinstance(calibrated, list):
        return None
    try:
        raw_rows = tuple(_read_row(row, count) for row in raw)
        calibrated_rows = tuple(_read_row(row, count) for row in calibrated)
    except ValueError:
        return None
    return LayerScores(_text(data, "trait"), raw_rows, calibrated_rows)


def _finish_reason(data: Mapping[str, Any]) -> str:
    reason = _text(data, "finish_reason")
    return _RENAMED_REASONS.get(reason, reason)


def _read_interventions(entries: Any) -> Iterator[Intervention]:
    for entry in entries if isinstance(entries, list) else ():
        data = dict(_mapping(entry))
        # Records from before there were other kinds than pushes name none.
        kind = KINDS.get(_text(data, "kind", "push"))
        if kind is None:
            continue
        if kind is Gate:
            data["when"] = _entry(Condition, _CONDITION_TYPES, data.get("when"))
        make: Callable[..., Intervention] = kind
        if found := _entry(make, _INTERVENTION_TYPES[kind], data):
            yield found


def _read_crossings(entries: Any) -> Iterator[Crossing]:
    for entry in entries if isinstance(entries, list) else ():
        if found := _entry(Crossing, _CROSSING_TYPES, entry):
            yield found


def _entry(kind: Callable[..., Entry], types: _Types, entry: Any) -> Entry | None:
    """An entry; none unless it has a value of the right type for each required field."""
    found = _mapping(entry)
    # Keys that a later version may add are left out.
    known = {key: found[key] for key, of in types.items() if isinstance(found.get(key), of)}
    try:
        return kind(**known)
    except TypeError:  # a required field is missing
        return None


def _messages(history: Any) -> Iterator[dict[str, str]]:
    for message in history if isinstance(history, list) else ():
        if isinstance(message, dict):
            yield {"role": _text(message, "role"), "content": _text(message, "content")}


def _layers(data: Any) -> dict[str, int]:
    return {trait: layer for trait, layer in _mapping(data).items() if isinstance(layer, int)}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(data: Mapping[str, Any], key: str, default: str = "") -> str:
    value = data.get(key)
    return value if isinstance(value, str) else default


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) else None


_NO_SCORES = "prompt, tokens or trait_scores are missing"
_NOT_NUMBERS = "its scores are not a list of numbers for each trait"
_RENAMED_REASONS = {"given": "provided"}
"""Old finish reason -> the present one."""
_NUMBER = int | float
_CONDITION_TYPES: _Types = {"trait": str, "above": bool, "score": _NUMBER}
_PUSH_TYPES: _Types = {"trait": str, "coefficient": _NUMBER, "layer": int, "dose": _NUMBER}
_INTERVENTION_TYPES: Mapping[type[Intervention], _Types] = {
    Push: _PUSH_TYPES,
    Ablate: {"trait": str, "layer": int | None},
    Cap: {"trait": str, "score": _NUMBER, "at_most": bool, "layer": int},
    Gate: {**_PUSH_TYPES, "when": Condition},
}
_CROSSING_TYPES: _Types = {
    "rule": str,
    "action": str,
    "token": int,
    "score": int | float,
}
