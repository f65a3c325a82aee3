"""Shows a scored answer that is complete as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.style import Style
from rich.text import Text

from traitcli.events import AlarmRaised
from traitcli.records import TokenScores
from traitcli.views.formatting import QUIET, format_score
from traitcli.views.monitor.token_styles import TokenStyler
from traitcli.views.palette import Palette, palette_for
from traitcli.views.printable import one_line, printable
from traitcli.views.words import alarm_text, count_text, steering_text

BRAKED = Style(underline=True)
"""Tokens at which a cap or a gate held."""
_SCORE = 6
"""Width of a number, in cells; see `format_score`."""


@dataclass(frozen=True, slots=True)
class TraitSummary:
    """One row of the panel.

    mean        over the tokens that count; None without one
    highest     the highest score of such a token, calibrated or raw as `mean`; None without one
    at          index of that token
    calibrated  whether the scores have a scale
    """

    trait: str
    layer: int | None
    mean: float | None
    highest: float | None
    at: int
    calibrated: bool


def summaries(scores: TokenScores) -> list[TraitSummary]:
    """One row for each trait, in the order of the record."""
    rows = []
    for trait in scores.raw:
        shown = scores.shown(trait)
        at = max(scores.counted(trait), key=lambda index: shown[index], default=-1)
        highest = shown[at] if at >= 0 else None
        layer, calibrated = scores.layers.get(trait), trait in scores.calibrated
        rows.append(TraitSummary(trait, layer, scores.mean(trait), highest, at, calibrated))
    return rows


def notes(scores: TokenScores) -> list[str]:
    """Lines on steering, alarms and brakes: `brake evil<=0.5@22 held at 12 of 40 tokens`."""
    lines = [steering_text(scores.steering)]
    lines += [alarm_text(AlarmRaised(crossing)) for crossing in scores.crossings]
    total = count_text(len(scores.tokens), "token")
    lines += [
        f"brake {one_line(brake)} held at {len(indices):,} of {total}"
        for brake, indices in scores.braked.items()
    ]
    return [line for line in lines if line]


def braked_tokens(scores: TokenScores) -> set[int]:
    """The indices of the tokens at which any brake held."""
    return {index for indices in scores.braked.values() for index in indices}


def strongest_trait(scores: TokenScores) -> str | None:
    """The trait whose mean calibrated score is farthest from zero; None without one."""
    means = {trait: abs(scores.mean(trait) or 0.0) for trait in scores.calibrated}
    return max(means, key=lambda trait: means[trait], default=None)


def token_colors(scores: TokenScores) -> list[float | None]:
    """The score that colors each token: the strongest trait's. Massive tokens have none."""
    trait = strongest_trait(scores)
    if trait is None:
        return [None] * len(scores.tokens)
    massive = scores.massive.get(trait, ())
    return [
        None if index in massive else score for index, score in enumerate(scores.calibrated[trait])
    ]


def answer_text(
    scores: TokenScores, color_system: str | None = None, *, no_color: bool = False
) -> Text:
    """The answer with marked or colored tokens, and below it a row for each trait, and notes.

    Tokens follow the strongest trait. Without colors, `⟨…⟩⁺` encloses tokens beyond a class mean.
    """
    palette = palette_for(color_system, no_color=no_color)
    text = _tokens_text(scores, palette) if scores.tokens else Text(printable(scores.response))
    rows = summaries(scores)
    if rows:
        width = max(len("trait"), *(len(one_line(row.trait)) for row in rows))
        text.append(f"\n\n{'trait':<{width}}  {'mean':>6}  {'max':>6}  at", QUIET)
        for row in rows:
            _append_row(text, row, scores.tokens, palette, width)
    lines = notes(scores)
    if palette.depth == "none" and "⟩" in text.plain and (trait := strongest_trait(scores)):
        name = one_line(trait)
        lines = [
            f"⟨…⟩⁺ and ⟨…⟩⁻ hold tokens where {name} reaches +1 or −1, its class means",
            *lines,
        ]
    if lines:
        text.append("\n" + "".join(f"\n{line}" for line in lines), QUIET)
    return text


def _tokens_text(scores: TokenScores, palette: Palette) -> Text:
    styler, text, braked = TokenStyler(palette), Text(), braked_tokens(scores)
    for index, (token, score) in enumerate(zip(scores.tokens, token_colors(scores), strict=True)):
        for part, style in styler.style(token, score):
            text.append(part, (style or Style()) + BRAKED if index in braked else style)
    for part, style in styler.end():
        text.append(part, style)
    return text


def _append_row(
    text: Text, row: TraitSummary, tokens: Sequence[str], palette: Palette, width: int
) -> None:
    # The colors are made for calibrated scores; they would mean nothing for raw projections.
    colors = palette if row.calibrated else Palette("none")
    text.append(f"\n{one_line(row.trait):<{width}}")
    for score in (row.mean, row.highest):
        text.append(f"  {format_score(score):>{_SCORE}}", colors.foreground(score))
    at = one_line(tokens[row.at]) if row.at >= 0 else ""
    unit = "" if row.calibrated else "raw"
    text.append(f"  {'  '.join(filter(None, [at or '–', unit]))}", QUIET)
