"""A scored answer as Python users have it: shown by itself, and as a pandas frame."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from traitcli.record_json import FailedRecord
from traitcli.records import TokenScores
from traitcli.views.answer import answer_text
from traitcli.views.notebook import answer_html

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console, ConsoleOptions, RenderResult


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Answer(TokenScores):
    """An answer with the scores of its tokens.

    `print(answer)` shows it as text, a notebook shows colored tokens and a panel, and rich colors
    it on a terminal.

    error  why an existing text could not be scored; it has no tokens then
    """

    error: str = ""

    @classmethod
    def of(cls, record: TokenScores | FailedRecord) -> Answer:
        """An answer from a record of the monitor."""
        if isinstance(record, Answer):
            return record
        if isinstance(record, FailedRecord):
            return cls(
                tokens=(),
                raw={},
                calibrated={},
                prompt=record.prompt,
                response="",
                layers={},
                model="",
                seed=None,
                prompt_tokens=None,
                finish_reason="failed",
                about=record.about,
                error=record.error,
            )
        return cls(**{each.name: getattr(record, each.name) for each in fields(TokenScores)})

    @property
    def text(self) -> str:
        """What the model wrote."""
        return self.response

    @property
    def scores(self) -> dict[str, float]:
        """Trait -> the mean score of the answer: calibrated, or raw if the vector has no scale.

        Tokens that mean nothing are left out, as in `traitcli report`.
        """
        means = {trait: self.mean(trait) for trait in self.raw}
        return {trait: mean for trait, mean in means.items() if mean is not None}

    def to_frame(self) -> pd.DataFrame:
        """One row for each token and trait.

        Returns:
            A frame with these columns: token (its index), text, trait, layer, raw (projection, in
            activation units), calibrated (−1 and +1 at the class means; NaN without a scale), and
            counted (whether means and alarms count the token).

        Example:
            >>> answer = model.generate("Hello!", watch="evil", max_new_tokens=4)
            >>> list(answer.to_frame().columns)
            ['token', 'text', 'trait', 'layer', 'raw', 'calibrated', 'counted']
        """
        import pandas as pd

        count = len(self.tokens)
        unknown = (float("nan"),) * count
        parts = []
        for trait, raw in self.raw.items():
            counted = set(self.counted(trait))
            columns = {
                "token": range(count),
                "text": self.tokens,
                "trait": trait,
                "layer": self.layers.get(trait),
                "raw": raw,
                "calibrated": self.calibrated.get(trait, unknown),
                "counted": [index in counted for index in range(count)],
            }
            parts.append(pd.DataFrame(columns))
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)

    def __str__(self) -> str:
        return self.error or str(answer_text(self))

    def __repr__(self) -> str:
        means = "".join(f", {trait}={mean:+.2f}" for trait, mean in self.scores.items())
        shown = f"error={self.error!r}" if self.error else f"{self.response!r:.70}"
        return f"<Answer {shown}{means}>"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield answer_text(self, console.color_system, no_color=console.no_color)

    def _repr_html_(self) -> str:
        return answer_html(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What IPython shows on a terminal: the text; inside of a list, one line."""
        printer.text(str(self) if len(printer.stack) == 1 else repr(self))


COLUMNS = ("token", "text", "trait", "layer", "raw", "calibrated", "counted")


def to_frame(answers: TokenScores | Iterable[TokenScores]) -> pd.DataFrame:
    """The scores of several answers in one frame.

    Args:
        answers: What `Model.score` returned, or one answer.

    Returns:
        The frames of `Answer.to_frame` below each other, with a column more in front: answer, the
        index of the answer.

    Example:
        >>> scores = model.score([("Hi!", "Hello."), ("Bye!", "See you.")], "evil")
        >>> sorted(tc.to_frame(scores).answer.unique().tolist())
        [0, 1]
    """
    import pandas as pd

    if isinstance(answers, TokenScores):
        answers = [answers]
    parts: list[Any] = []
    for number, answer in enumerate(answers):
        frame = Answer.of(answer).to_frame()
        frame.insert(0, "answer", number)
        parts.append(frame)
    shown = [part for part in parts if len(part)]
    if not shown:
        return pd.DataFrame(columns=["answer", *COLUMNS])
    return pd.concat(shown, ignore_index=True)
