"""One answer of a server on its way from the live batch to its client."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from traitcli.generation.live_request import LiveEnd, LiveEvent, LiveRequest, LiveToken
from traitcli.models.loaded import LoadedModel
from traitcli.models.prompts import Prompt
from traitcli.monitoring.answer_so_far import AnswerSoFar
from traitcli.monitoring.watch import Watch
from traitcli.serving.record_store import RecordStore, new_id
from traitcli.serving.served import (
    OnServed,
    ServedEnd,
    ServedEvent,
    ServedReason,
    ServedRequest,
    ServedToken,
)
from traitcli.steering.interventions import block_edits, measure_doses

if TYPE_CHECKING:
    from traitcli.records import TokenScores

Clock = Callable[[], float]
"""Seconds since any moment."""

_RECORDED: dict[ServedReason, str] = {
    "cancelled": "interrupted",
    "time": "interrupted",
    "error": "failed",
}
"""What a record calls the reason of an end, if it has a name of its own."""


@dataclass(frozen=True, slots=True)
class Timing:
    """When an answer was asked for, and when its time is up, on its clock; none: never."""

    clock: Clock
    started: float
    deadline: float | None


class ServedAnswer:
    """The answer to a request. Its client reads `id` and `prompt_tokens`, and may call `cancel`.

    id             under which its record is kept; it cannot be guessed
    prompt_tokens  number of tokens of the prompt
    """

    def __init__(
        self,
        loaded: LoadedModel,
        request: ServedRequest,
        rendered: Prompt,
        watch: Watch,
        timing: Timing,
    ) -> None:
        self.id = new_id()
        self.prompt_tokens = len(rendered.ids)
        self._loaded = loaded
        self._request = request
        self._rendered = rendered
        self._watch = watch
        self._timing = timing
        self._steering = watch.steering
        self._answer = AnswerSoFar(loaded, watch, rendered)
        self._is_cancelled = False
        self._is_late = False
        self._is_broken = False
        self._has_dropped = False

    def cancel(self) -> None:
        """Let the answer end before its next token; may be called from any thread, at any time."""
        self._is_cancelled = True

    def live_request(self) -> LiveRequest:
        """What the live batch gets."""
        request = self._request
        return LiveRequest(
            self._rendered.ids,
            self._watch.config.seed,
            # Not that of the request: an open-ended one has no limit of its own.
            self._watch.config.sampling,
            list(self._watch.probes.values()),
            block_edits(self._loaded, self._watch.steering),
            request.stop,
            request.log_probs,
            request.client,
            self._measure_doses if self._watch.steering else None,
            self._is_over,
        )

    def listener(self, on_event: OnServed, records: RecordStore) -> Callable[[LiveEvent], None]:
        """What the live batch calls: passes tokens on, and keeps the record at the end."""

        def receive(event: LiveEvent) -> None:
            if isinstance(event, LiveToken):
                token = self._add(event)
                if token is not None:
                    self._tell(on_event, token)
                return
            end = self._end(event)
            records.keep(self.id, end.record)
            self._tell(on_event, end)

        return receive

    def _measure_doses(self) -> None:
        # The pass that `monitor` makes too, so that the record has its numbers.
        self._steering = measure_doses(self._loaded, self._watch.steering, self._rendered.ids)

    def _is_over(self) -> bool:
        deadline = self._timing.deadline
        self._is_late = deadline is not None and self._timing.clock() >= deadline
        return self._is_late or self._is_cancelled or self._answer.is_stopped

    def _add(self, event: LiveToken) -> ServedToken | None:
        if self._answer.is_stopped:
            # It was held back, because it might have begun a stop string.
            self._has_dropped = True
            return None
        seconds = self._timing.clock() - self._timing.started
        token, _ = self._answer.add(event.text, event.projections, seconds)
        return ServedToken(
            token.index,
            event.token,
            event.text,
            token.raw,
            token.calibrated,
            not token.skipped,
            token.braked,
            event.log_probs,
        )

    def _end(self, event: LiveEnd) -> ServedEnd:
        # An incomplete character belongs to the last token that the batch gave.
        text = "" if self._has_dropped else event.text
        self._answer.end(text)
        reason = self._reason(event)
        return ServedEnd(reason, self._record(reason), self.id, text, event.error)

    def _reason(self, event: LiveEnd) -> ServedReason:
        if event.reason == "error":
            return "error"
        if self._answer.is_stopped:
            return "alarm"
        if event.reason == "cancelled" and self._is_late:
            return "time"
        return event.reason

    def _record(self, reason: ServedReason) -> TokenScores:
        prompt = self._request.prompt
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        interventions = tuple(one.intervention for one in self._steering)
        return self._answer.record(text, interventions, _RECORDED.get(reason, reason))

    def _tell(self, on_event: OnServed, event: ServedEvent) -> None:
        if self._is_broken:
            return
        try:
            on_event(event)
        # Nobody reads on, whatever the reason; the record of what was written is kept.
        except Exception:  # noqa: BLE001
            self._is_broken = self._is_cancelled = True
