"""Replays a monitoring record as the events of its generation, at its pace."""

from __future__ import annotations

import time
from collections.abc import Callable

from traitcli.events import (
    AlarmRaised,
    Listener,
    MonitorFinished,
    MonitorStarted,
    PromptScored,
    TokenScored,
)
from traitcli.records import TokenScores

USUAL_PACE = 0.05
"""Seconds per token when a record has no times."""


def replay(
    record: TokenScores,
    on_event: Listener,
    speed: float = 1.0,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Send the events of a record again, `speed` times as fast as the text was generated."""
    on_event(
        MonitorStarted(
            record.prompt,
            record.model,
            tuple(record.raw),
            record.layers,
            steering=record.steering,
            about=record.about,
        )
    )
    if prompt := record.prompt_scores:
        on_event(PromptScored(prompt.tokens, prompt.raw, prompt.calibrated, prompt.massive))

    times = record.seconds or [USUAL_PACE * number for number in range(1, len(record.tokens) + 1)]
    before = 0.0
    for index, text in enumerate(record.tokens):
        # Times of an edited record may go back, and a sleep must not be negative.
        sleep(max(times[index] - before, 0.0) / speed)
        before = times[index]
        on_event(_token_scored(record, index, text))
        for crossing in record.crossings:
            if crossing.token == index:
                on_event(AlarmRaised(crossing))

    # A usual pace is not the speed of the model, and no view should report it.
    seconds = before if record.seconds else 0.0
    on_event(MonitorFinished("", len(record.tokens), seconds, record.finish_reason))


def _token_scored(record: TokenScores, index: int, text: str) -> TokenScored:
    raw = {trait: scores[index] for trait, scores in record.raw.items()}
    calibrated = {trait: scores[index] for trait, scores in record.calibrated.items()}
    layer_rows = record.layer_scores.shown if record.layer_scores else ()
    by_layer = tuple(scores[index] for scores in layer_rows)
    skipped = record.skips_thinking and index < record.thinking
    massive = frozenset(trait for trait, indices in record.massive.items() if index in indices)
    braked = tuple(brake for brake, indices in record.braked.items() if index in indices)
    return TokenScored(index, text, raw, calibrated, by_layer, skipped, massive, braked)
