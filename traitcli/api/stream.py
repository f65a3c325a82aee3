"""The tokens of an answer, one by one while the model writes."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Self

from traitcli.api.answer import Answer
from traitcli.errors import UserError
from traitcli.events import Event, Listener, TokenScored

if TYPE_CHECKING:
    from types import TracebackType


class Stream:
    """Yields each token of an answer as it is written: with `for`, or with `async for`.

    A token has text, raw and calibrated (trait -> score), and index; `str(token)` is its text. Its
    scores are those at the token, so it comes one step after the model chose it. Until the stream
    ends or is closed, the model can do nothing else.

    Example:
        >>> stream = model.stream("Hello!", watch="evil", max_new_tokens=4)
        >>> scores = [token.calibrated["evil"] for token in stream]
        >>> scores == list(stream.answer.calibrated["evil"])
        True
    """

    def __init__(self, steps: Generator[Event, None, Answer], on_event: Listener) -> None:
        self._steps = steps
        self._on_event = on_event
        self._answer: Answer | None = None

    @property
    def answer(self) -> Answer:
        """The answer with all its scores; raises UserError before the last token."""
        if self._answer is None:
            raise UserError(
                "the answer is not complete",
                cause="the stream has more tokens, or it was closed",
                fix="read it to its end first",
            )
        return self._answer

    def close(self) -> None:
        """End the answer here; the model is free again."""
        self._steps.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TokenScored:
        token = self._next()
        if token is None:
            raise StopIteration
        return token

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TokenScored:
        import anyio

        # In a thread, so that the event loop goes on while the model computes.
        token = await anyio.to_thread.run_sync(self._next)
        if token is None:
            raise StopAsyncIteration
        return token

    def _next(self) -> TokenScored | None:
        """The next token; None after the last one."""
        while True:
            try:
                event = next(self._steps)
            except StopIteration as end:
                self._answer = end.value or self._answer
                return None
            if isinstance(event, TokenScored):
                return event
            self._on_event(event)
