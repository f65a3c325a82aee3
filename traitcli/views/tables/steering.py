"""Prints what pushing along trait vectors does: a table of coefficients for each trait, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.style import Style
from rich.text import Text

from traitcli.views.printable import one_line, printable
from traitcli.views.tables.base import (
    NONE,
    PLAIN,
    QUIET,
    VERDICTS,
    Cell,
    Row,
    caption,
    heading,
    labelled_line,
    number,
    print_table,
)

_STYLES = {
    "pushes both ways": VERDICTS["good"],
    "pushes up only": VERDICTS["good"],
    "pushes down only": VERDICTS["good"],
    "pushes": VERDICTS["good"],
    "pushes the wrong way": VERDICTS["unusable"],
    "falls apart": VERDICTS["unusable"],
}
"""All others are doubtful."""


def steering_table(console: Console, rows: Sequence[Row], *, show: bool = False) -> None:
    """For each trait a table of coefficients and the verdict; with `show`, an answer under each of them."""
    for row in rows:
        heading(
            console, f"{one_line(row['trait'])}  {one_line(row['model'])}, layer {row['layer']}"
        )
        by_judge = row["coherence_by"] == "judge"
        print_table(
            console, [*_COLUMNS, *(_JUDGED if by_judge else _STOOD_IN), *_COUNTS], row["steps"]
        )
        _say(console, row)
        if show:
            _show(console, row)
        console.line()
    for judge in dict.fromkeys(row["judge"] for row in rows):
        caption(console, f"judge: {one_line(judge)}")
    kinds = [
        _COHERENCE_TOLD[row["coherence_by"]].format(least=row["least_coherence"]) for row in rows
    ]
    for told in dict.fromkeys([_SCORE_TOLD, *kinds]):
        caption(console, told)


def _say(console: Console, row: Row) -> None:
    """The verdict, and what it rests on."""
    style = _STYLES.get(row["verdict"], VERDICTS["weak"])
    labelled_line(
        console, f"{row['verdict']}: ", f"{_rise_text(row)}; {_kept_text(row)}", label_style=style
    )
    missing = [f"{count} × {printable(reason)}" for reason, count in row["missing_reasons"].items()]
    if missing:
        labelled_line(
            console, "without a score: ", ", ".join(missing), label_style=VERDICTS["weak"]
        )
    for note in row["notes"]:
        labelled_line(console, "note: ", printable(note), QUIET)


def _rise_text(row: Row) -> str:
    """`score 31 → 69 (+38 ± 4) from dose −0.40 to +0.40, rising all the way`."""
    steps = {step["coefficient"]: step for step in row["steps"]}
    if row["rising"] is None:
        return "unsteered answers are no measure of it"
    if row["rise"] is None:
        return "too few questions have a score on both ends"
    low, high = (steps[end] for end in row["rising"])
    if low is high:
        return (
            "the score rises nowhere"
            if row["kept"] != row["rising"]
            else "no push leaves answers whole"
        )
    way = "rising all the way" if row["monotone"] else "rising so far and not beyond"
    if row["verdict"] not in _STYLES:
        way = "which may be chance"
    rise = f"{row['rise']['mean']:+.0f} ± {row['rise']['error']:.0f}".replace("-", "−")
    return f"score {low['score']:.0f} → {high['score']:.0f} ({rise}) from dose {_span(low, high, 'dose')}, {way}"


def _kept_text(row: Row) -> str:
    """`coherent from dose −0.80 to +0.40 (coefficient −5.9 to +3)`."""
    what = "coherent" if row["coherence_by"] == "judge" else "whole"
    if row["kept"] is None:
        return f"not {what} even unsteered"
    low, high = (step for end in row["kept"] for step in row["steps"] if step["coefficient"] == end)
    if low is high:
        return f"{what} at no dose tried"
    return f"{what} from dose {_span(low, high, 'dose')} (coefficient {_span(low, high, 'coefficient')})"


def _span(low: Row, high: Row, key: str) -> str:
    return f"{_signed(low, key)} to {_signed(high, key)}"


def _signed(step: Row, key: str) -> str:
    if not step["coefficient"]:
        return "0"
    return (f"{step[key]:+.2f}" if key == "dose" else f"{step[key]:+.3g}").replace("-", "−")


def _show(console: Console, row: Row) -> None:
    """What was written to the first question."""
    question = row["written"][0]["question"]
    labelled_line(console, "asked: ", printable(question), label_style=QUIET)
    for answer, step in (
        (a, s) for s in row["steps"] for a in row["written"] if _belongs(a, s, question)
    ):
        label = f"{_signed(step, 'dose'):>7} "
        labelled_line(
            console,
            label,
            printable(answer["response"]).strip() or "(empty)",
            label_style=_style(step),
        )


def _belongs(answer: Row, step: Row, question: str) -> bool:
    return bool(answer["coefficient"] == step["coefficient"] and answer["question"] == question)


def _style(step: Row) -> Style:
    return PLAIN if step["kept"] else QUIET


def _quiet(cell: Cell) -> Cell:
    """Figures of what has fallen apart stand back."""

    def styled(step: Row) -> Text:
        text = cell(step)
        text.stylize(_style(step))
        return text

    return styled


def _score(step: Row) -> Text:
    if step["score"] is None:
        return Text(NONE)
    error = NONE if step["error"] is None else f"{step['error']:.0f}"
    return Text(f"{step['score']:.0f} ± {error}")


def _figure(key: str) -> Callable[[Row], Text]:
    return lambda step: Text(_signed(step, key))


_COLUMNS: tuple[tuple[str, Cell], ...] = (
    ("", lambda step: Text("✓" if step["kept"] else "", VERDICTS["good"])),
    ("coefficient", _quiet(_figure("coefficient"))),
    ("dose", _quiet(_figure("dose"))),
    ("score", _quiet(_score)),
)
_JUDGED: tuple[tuple[str, Cell], ...] = (("coherence", _quiet(number("coherence", "{:.0f}"))),)
_STOOD_IN: tuple[tuple[str, Cell], ...] = (
    ("perplexity", _quiet(number("perplexity", "{:.1f}"))),
    ("repeats", _quiet(number("repetition", "{:.0%}"))),
)
_COUNTS: tuple[tuple[str, Cell], ...] = (
    ("answers", _quiet(number("answers", "{}"))),
    ("empty", _quiet(number("empty", "{}"))),
    ("missing", _quiet(number("missing", "{}"))),
)
_SCORE_TOLD = "dose: coefficient · ‖vector‖ / ‖state‖ · score: of the trait, mean, 0–100, ± its standard error"
_COHERENCE_TOLD = {
    "judge": "✓ coherent: the judge gives a coherence of {least:g} or more, at all doses nearer to 0 too",
    "stand-ins": "✓ whole: nearly as likely to the unsteered model as unsteered answers (perplexity), and with hardly "
    "more loops (three-token runs that were there before), at all doses nearer to 0 too; this stands in for "
    "coherence, which the judge does not give",
}
