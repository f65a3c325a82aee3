"""Plays a monitoring record again, as the events of its generation and at its pace."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from traitcli.events import (
    AlarmRaised,
    Listener,
    MonitorFinished,
    MonitorStarted,
    PromptScored,
    TokenScored,
)
from traitcli.records import Crossing, Intervention

USUAL_PACE = 0.05
"""Seconds a token, where a record does not tell its pace."""


def replay(
    record: Mapping[str, Any],
    on_event: Listener,
    speed: float = 1.0,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Tell the events of a record again, `speed` times as fast as it was written."""
    raw = record.get("trait_scores") or record["projections"]
    calibrated = record.get("calibrated_scores", {})
    steering = tuple(Intervention(**push) for push in record.get("steering", ()))
    traits, about = tuple(raw), record.get("about", {})
    model = record.get("model", "")
    on_event(
        MonitorStarted(
            record["prompt"], model, traits, record.get("layers", {}), (), steering, about
        )
    )
    rows = _rows(record.get("layer_scores"))
    if "prompt_scores" in record:
        told = record["prompt_scores"]
        on_event(
            PromptScored(tuple(told["tokens"]), told["trait_scores"], told["calibrated_scores"])
        )
    crossings = [Crossing(**crossing) for crossing in record.get("alarms", ())]
    told = record.get("seconds")
    pace = told or [USUAL_PACE * (index + 1) for index in range(len(record["tokens"]))]
    before = 0.0
    for index, text in enumerate(record["tokens"]):
        sleep(max(pace[index] - before, 0.0) / speed)
        before = pace[index]
        now, scaled = (
            {name: row[index] for name, row in kind.items()} for kind in (raw, calibrated)
        )
        on_event(TokenScored(index, text, now, scaled, tuple(row[index] for row in rows)))
        for crossing in crossings:
            if crossing.token == index:
                on_event(AlarmRaised(crossing))
    on_event(
        MonitorFinished(
            "", len(record["tokens"]), before if told else 0.0, record.get("finish_reason", "")
        )
    )


def _rows(told: Mapping[str, Any] | None) -> list[list[float]]:
    return (told["calibrated_scores"] or told["trait_scores"]) if told else []
