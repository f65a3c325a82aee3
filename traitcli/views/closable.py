"""Lets a view be used in a `with` statement, which closes it."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class ClosableView:
    """A view that is closed at the end of its `with` block, also after an error."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Draw what is not drawn yet, and give the terminal back."""
        raise NotImplementedError
