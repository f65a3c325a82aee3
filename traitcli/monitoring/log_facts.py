"""Finds what an entry of a log says about itself: its id, its time and the values of some keys."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from traitcli.files import join_surrogates

_IDS = ("sample_id", "custom_id", "id", "uuid", "_id", "conversation_id")
_TIMES = (
    *("time", "timestamp", "created_at", "createdat", "created", "date", "started_at"),
    *("completed_at", "start_time", "datetime", "create_time"),
)
_UNIX = re.compile(r"\d{10}(\d{3})?(\.\d+)?", re.ASCII)
"""Seconds or milliseconds since 1970, of this century."""
_DATE = re.compile(r"(?<!\d)(20\d\d)[-_]?(0[1-9]|1[0-2])[-_]?(0[1-9]|[12]\d|3[01])(?!\d)")
_EARLIEST, _LATEST = 946_684_800, 4_102_444_800
"""2000 and 2100 in Unix time: a number outside is not a time."""
_LONGEST = 200
"""Characters of an id or of a value that are kept."""


def read_facts(entry: Any, name: str, keys: Sequence[str] = ()) -> dict[str, Any]:
    """What `about` says of an entry besides its place in the file.

    Args:
        entry: The entry as JSON; the keys of its `metadata` count as its own.
        name: The file's name: its date is the time of entries without one.
        keys: Other keys to keep.

    Returns:
        `id` (text or a whole number), `time` (UTC, ISO 8601; a date alone if no time of day is
        known) and `keys` (key -> text or number), each only if the entry has it.
    """
    places = [entry] if isinstance(entry, Mapping) else []
    if places and isinstance(entry.get("metadata"), Mapping):
        places.append(entry["metadata"])
    found: dict[str, Any] = {}
    # A list or a mapping is no id; another key may have one.
    ids = [one for one in _values(places, _IDS) if type(one) in {str, int} and one != ""]
    if ids:
        found["id"] = short(ids[0])
    times = map(as_time, _values(places, _TIMES))
    if time := next((one for one in times if one), "") or _date_in(name):
        found["time"] = time
    kept = {key: short(value) for key in keys for value in _values(places, [key])}
    return found | ({"keys": kept} if kept else {})


def short(value: Any) -> str | int | float:
    """A number as it is; anything else as a text that is not long."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        # JSON holds whole numbers of any size, and a table's column does not.
        return value if abs(value) < 2**63 else str(value)[:_LONGEST]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return join_surrogates(text[:_LONGEST])


def as_time(value: Any) -> str:
    """A time in UTC, from ISO 8601 or Unix seconds or milliseconds; "" for anything else.

    A time without a zone is taken as UTC.
    """
    if isinstance(value, str) and _UNIX.fullmatch(value.strip()):
        # A column of a CSV file has no numbers.
        value = float(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        # Compared before it is divided: a whole number of JSON has no limit.
        milli = 1000 if _LATEST <= value < 1000 * _LATEST else 1
        is_time = _EARLIEST * milli <= value < _LATEST * milli
        return _in_utc(datetime.fromtimestamp(value / milli, UTC)) if is_time else ""
    try:
        text = value.strip()
        time = datetime.fromisoformat(text)
    except (AttributeError, ValueError):
        return ""
    if not 2000 <= time.year < 2100:
        return ""
    has_clock = len(text) > len("2025-01-31")
    return _in_utc(time) if has_clock else time.date().isoformat()


def _in_utc(time: datetime) -> str:
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    return time.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _date_in(name: str) -> str:
    """The date in a file's name, such as chats-2025-01-31.jsonl; "" without one."""
    match = _DATE.search(name)
    return as_time("-".join(match.groups())) if match else ""


def _values(places: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[Any]:
    """The values of some keys that are not null, in the order of the keys."""
    found = []
    for key in keys:
        for place in places:
            spelled = key if key in place else key.lower()
            if place.get(spelled) is not None:
                found.append(place[spelled])
                break
    return found
