"""What an engine offers that continues prompts and gives no hidden states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from traitcli.config import SamplingConfig
from traitcli.generation.request import FinishReason, Request

Answer = tuple[tuple[int, ...], FinishReason]
"""The tokens of an answer, without the one that ended it, and why it ended."""


class Writer(Protocol):
    """An engine that continues prompts and gives no hidden states."""

    @property
    def beside(self) -> bool:
        """Whether it writes in processes of its own, so that the model can read meanwhile."""
        ...

    def start(self) -> None:
        """Take the memory that it needs, if it has not. Called in the thread that reads."""
        ...

    def write(
        self, requests: Sequence[Request], sampling: SamplingConfig, on_step: Callable[[int], None]
    ) -> list[Answer]:
        """The answer to each request.

        Calls `on_step` at every step with the number of tokens it can count since the last. What
        that raises ends the writing, and is raised.
        """
        ...
