"""Prints what steering by trait vectors does: a table of coefficients for each trait."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.style import Style
from rich.text import Text

from traitcli.views.formatting import QUIET, with_minus
from traitcli.views.printable import one_line, printable
from traitcli.views.tables.base import (
    BAD,
    GOOD,
    NONE,
    PLAIN,
    WEAK,
    Cell,
    Row,
    caption,
    heading,
    labelled_line,
    number,
    print_table,
    text_cell,
)

_STYLES = {
    "steers both ways": GOOD,
    "steers up only": GOOD,
    "steers down only": GOOD,
    "steers": GOOD,
    "steers the wrong way": BAD,
    "falls apart": BAD,
}
"""Any other verdict is shown as doubtful."""


def steering_table(console: Console, rows: Sequence[Row], *, show: bool = False) -> None:
    """A table of coefficients and a verdict for each trait; with `show`, one answer at each."""
    for row in rows:
        heading(
            console, f"{one_line(row['trait'])}  {one_line(row['model'])}, layer {row['layer']}"
        )
        coherence = _JUDGED if row["coherence_by"] == "judge" else _SUBSTITUTES
        print_table(console, [*_COLUMNS, *coherence, *_COUNTS], row["steps"])
        _print_verdict(console, row)
        # Results of earlier versions have none.
        if row.get("brakes"):
            console.line()
            print_table(console, [*_BRAKE_COLUMNS, *coherence, _EQUAL_PUSH], row["brakes"])
        if show:
            _print_answers(console, row)
        console.line()

    for judge in dict.fromkeys(row["judge"] for row in rows):
        caption(console, f"judge: {one_line(judge)}")
    # A dict keeps the order and drops repeats: rows of one kind share a caption.
    captions = {_SCORE_CAPTION: None}
    for row in rows:
        text = _COHERENCE_CAPTIONS[row["coherence_by"]].format(least=row["least_coherence"])
        captions[text] = None
        captions[_WRONG_CAPTION] = None
        if row.get("brakes"):
            captions[_BRAKE_CAPTION] = None
    for text in captions:
        caption(console, text)


def _print_verdict(console: Console, row: Row) -> None:
    """The verdict with its reasons, the missing scores and the notes."""
    style = _STYLES.get(row["verdict"], WEAK)
    labelled_line(
        console, f"{row['verdict']}: ", f"{_rise_text(row)}; {_kept_text(row)}", label_style=style
    )
    missing = [f"{count} × {printable(reason)}" for reason, count in row["missing_reasons"].items()]
    if missing:
        labelled_line(console, "without a score: ", ", ".join(missing), label_style=WEAK)
    for note in row["notes"]:
        labelled_line(console, "note: ", printable(note), QUIET)


def _rise_text(row: Row) -> str:
    """`score 31 → 69 (+38 ± 4) from dose −0.40 to +0.40, rising at every step`."""
    steps = {step["coefficient"]: step for step in row["steps"]}
    if row["rising"] is None:
        return "unsteered answers have no score to compare with"
    if row["rise"] is None:
        return "too few questions have a score at both ends"
    low, high = (steps[end] for end in row["rising"])
    # No range of doses over which the score rises: either none keeps answers intact, or none helps.
    if low is high:
        is_broken = row["kept"] == row["rising"]
        return "answers break at every strength" if is_broken else "the score never rises"

    trend = "rising at every step" if row["monotone"] else "rising up to there only"
    # The verdicts without a style are the doubtful ones.
    if row["verdict"] not in _STYLES:
        trend = "which may be chance"
    rise = with_minus(f"{row['rise']['mean']:+.0f} ± {row['rise']['error']:.0f}")
    scores = f"score {low['score']:.0f} → {high['score']:.0f} ({rise})"
    return f"{scores} from dose {_span(low, high, 'dose')}, {trend}"


def _kept_text(row: Row) -> str:
    """`coherent from dose −0.80 to +0.40 (coefficient −5.9 to +3)`."""
    word = "coherent" if row["coherence_by"] == "judge" else "intact"
    if row["kept"] is None:
        return f"not {word} even unsteered"
    steps = {step["coefficient"]: step for step in row["steps"]}
    low, high = (steps[end] for end in row["kept"])
    if low is high:
        return f"{word} at no dose"
    doses, coefficients = _span(low, high, "dose"), _span(low, high, "coefficient")
    return f"{word} from dose {doses} (coefficient {coefficients})"


def _span(low: Row, high: Row, key: str) -> str:
    return f"{_signed(low, key)} to {_signed(high, key)}"


def _signed(step: Row, key: str) -> str:
    # Unsteered: `+0.00` would look like a dose that is rounded.
    if not step["coefficient"]:
        return "0"
    return with_minus(f"{step[key]:+.2f}" if key == "dose" else f"{step[key]:+.3g}")


def _print_answers(console: Console, row: Row) -> None:
    """The answer to the first question at each strength."""
    # The same question at each strength, so that its answers can be compared.
    question = row["written"][0]["question"]
    asked = [answer for answer in row["written"] if answer["question"] == question]
    answers = [answer for answer in asked if not answer.get("brake")]
    labelled_line(console, "question: ", printable(question), label_style=QUIET)
    for step in row["steps"]:
        label = f"{_signed(step, 'dose'):>7} "
        for answer in answers:
            if answer["coefficient"] == step["coefficient"]:
                text = printable(answer["response"]).strip() or "(empty)"
                labelled_line(console, label, text, label_style=_style(step))
    for answer in asked:
        if answer.get("brake"):
            text = printable(answer["response"]).strip() or "(empty)"
            labelled_line(console, f"{one_line(answer['brake'])} ", text)


def _style(step: Row) -> Style:
    return PLAIN if step["kept"] else QUIET


def _quiet(cell: Cell) -> Cell:
    """The cell, dimmed where answers have broken."""

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


def _effect(brake: Row) -> Text:
    effect = brake["effect"]
    if effect is None:
        return Text(NONE)
    return Text(with_minus(f"{effect['mean']:+.0f} ± {effect['error']:.0f}"))


def _equal_push(brake: Row) -> Text:
    """`−3.29: 80`, with a judge's coherence; else `−3.29: 6.8, 1%`: perplexity, repetition."""
    push = brake["equal"]
    if push is None:
        return Text(NONE)
    forms = {"coherence": "{:.0f}", "perplexity": "{:.1f}", "repetition": "{:.0%}"}
    costs = [form.format(push[key]) for key, form in forms.items() if push[key] is not None]
    return Text(with_minus(f"{push['coefficient']:+.3g}: {', '.join(costs)}"))


def _figure(key: str) -> Callable[[Row], Text]:
    return lambda step: Text(_signed(step, key))


_COLUMNS: tuple[tuple[str, Cell], ...] = (
    ("", lambda step: Text("✓" if step["kept"] else "", GOOD)),
    ("coefficient", _quiet(_figure("coefficient"))),
    ("dose", _quiet(_figure("dose"))),
    ("score", _quiet(_score)),
    ("wrong", _quiet(number("wrong", "{:.0%}"))),
)
_JUDGED: tuple[tuple[str, Cell], ...] = (("coherence", _quiet(number("coherence", "{:.0f}"))),)
_SUBSTITUTES: tuple[tuple[str, Cell], ...] = (
    ("perplexity", _quiet(number("perplexity", "{:.1f}"))),
    ("repetition", _quiet(number("repetition", "{:.0%}"))),
)
_COUNTS: tuple[tuple[str, Cell], ...] = (
    ("answers", _quiet(number("answers", "{}"))),
    ("empty", _quiet(number("empty", "{}"))),
    ("missing", _quiet(number("missing", "{}"))),
)
_BRAKE_COLUMNS: tuple[tuple[str, Cell], ...] = (
    ("", lambda step: Text("✓" if step["kept"] else "", GOOD)),
    ("brake", text_cell("text")),
    ("score", _quiet(_score)),
    ("change", _quiet(_effect)),
    ("wrong", _quiet(number("wrong", "{:.0%}"))),
)
_EQUAL_PUSH: tuple[str, Cell] = ("equal push", _quiet(_equal_push))
_WRONG_CAPTION = "wrong: share of the questions whose score moves the wrong way"
_BRAKE_CAPTION = (
    "change: of the score of the same question, against unsteered answers · equal push: the "
    "coefficient that moves the mean score as far, and what it costs, interpolated"
)
_SCORE_CAPTION = (
    "dose: coefficient · ‖vector‖ / ‖hidden state‖ · score: mean trait score, 0–100, "
    "± its standard error"
)
_COHERENCE_CAPTIONS = {
    "judge": "✓ coherent: the mean coherence is {least:g} or more, here and at all doses nearer "
    "to 0",
    "stand-ins": "✓ intact: the unsteered model finds the answers nearly as likely as unsteered "
    "ones (perplexity), and they repeat hardly more (three-token sequences that occurred before), "
    "here and at all doses nearer to 0; this replaces coherence, which the judge does not give",
}
