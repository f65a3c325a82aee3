"""One request of a live batch on its way from the queue to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from traitcli.errors import TraitError
from traitcli.generation.detokenize import Detokenizer
from traitcli.generation.live_picks import Picked
from traitcli.generation.live_request import (
    EndReason,
    LiveEnd,
    LiveEvent,
    LiveRequest,
    LiveToken,
    OnEvent,
)
from traitcli.generation.sampling import NOT_FINITE, uniforms
from traitcli.generation.stop_strings import StopStrings
from traitcli.models.finite import not_finite
from traitcli.models.loaded import LoadedModel
from traitcli.models.sequence_edits import SequenceSteering

if TYPE_CHECKING:
    from torch import Tensor

    from traitcli.generation.live_request import Floats


class LiveAnswer:
    """The answer to a request while it waits and while it is written.

    Only the thread of the batch changes it. `cancel` may be called from any thread.
    """

    def __init__(self, loaded: LoadedModel, request: LiveRequest, on_event: OnEvent) -> None:
        self.request = request
        self.steering = SequenceSteering(request.edits)
        self.length = len(request.ids)
        """Tokens in its slot."""
        self.written = 0
        self.next = Picked(NOT_FINITE)
        """The next token to feed."""
        self.is_cancelled = False
        self.has_ended = False
        self.has_failed = False
        """Whether it ended with an error, so that its keys may not be finite."""
        self._loaded = loaded
        self._on_event = on_event
        self._detokenizer = Detokenizer(loaded.tokenizer)
        self._stop: StopStrings[tuple[Picked, Floats]] = StopStrings(request.stop)
        self._draws: Tensor | None = None

    def cancel(self) -> None:
        """Let the answer end before the next step; its slot is then free."""
        self.is_cancelled = True

    @property
    def is_last(self) -> bool:
        """Whether the next token is the last one that its length limit allows."""
        return self.written + 1 >= self.request.sampling.max_new_tokens

    def draws(self, number: int) -> Tensor:
        """float32 [3], the random numbers of a token of the answer, counted from 0."""
        if self._draws is None:
            [self._draws] = uniforms([self.request.seed], self.request.sampling.max_new_tokens)
        return self._draws[number]

    def choose(self, picked: Picked) -> None:
        """Take the token that was picked; it may end the answer."""
        if self.has_ended:
            return
        self.next = picked
        if picked.token == NOT_FINITE:
            self.end("error", not_finite(self._loaded, self._loaded.layer_count))
        elif picked.token in self._loaded.stop_ids:
            self.end("stop")

    def add(self, projections: Floats) -> None:
        """Give out the token that was fed, with what was read of it; it may end the answer."""
        self.length += 1
        self.written += 1
        text = self._detokenizer.feed(self.next.token)
        self._give(self._stop.feed(text, (self.next, projections)))
        if self._stop.found:
            self._finish(LiveEnd("stop", self.written))

    def end(self, reason: EndReason, error: TraitError | None = None) -> None:
        """End the answer, once."""
        if self.has_ended:
            return
        self.has_failed = reason == "error"
        self._give(self._stop.flush())
        self._finish(LiveEnd(reason, self.written, self._detokenizer.flush(), error))

    def _give(self, released: list[tuple[str, tuple[Picked, Floats]]]) -> None:
        for text, (picked, projections) in released:
            self._tell(LiveToken(picked.token, text, projections, picked.log_probs))

    def _finish(self, end: LiveEnd) -> None:
        if not self.has_ended:
            self.has_ended = True
            self._tell(end)

    def _tell(self, event: LiveEvent) -> None:
        try:
            self._on_event(event)
        # Its receiver is broken, whatever the reason: nobody reads on, and others must go on.
        except Exception:  # noqa: BLE001
            self.has_ended = True
