"""Shows a scored answer that is complete: as text, or as HTML in a notebook."""

from __future__ import annotations

from html import escape

from rich.text import Text

from traitcli.records import TokenScores
from traitcli.views.formatting import format_score
from traitcli.views.monitor.token_styles import TokenStyler
from traitcli.views.palette import background, is_colored, palette_for
from traitcli.views.printable import one_line, printable


def answer_text(
    scores: TokenScores, color_system: str | None = None, *, no_color: bool = False
) -> Text:
    """The answer with marked or colored tokens, and below it the mean score of each trait.

    Tokens follow the strongest trait. Without colors, `⟨…⟩⁺` encloses tokens beyond a class mean.
    """
    palette = palette_for(color_system, no_color=no_color)
    styler, text = TokenStyler(palette), Text()
    for token, score in zip(scores.tokens, _colors(scores), strict=True):
        for part, style in styler.style(token, score):
            text.append(part, style)
    for part, style in styler.end():
        text.append(part, style)
    if not scores.tokens:
        text.append(printable(scores.response))

    width = max((len(one_line(trait)) for trait in scores.raw), default=0)
    for trait in scores.raw:
        mean = scores.mean(trait)
        line = f"{one_line(trait):<{width}}  {format_score(mean):>6}  {_unit(scores, trait)}"
        text.append("\n" if trait != next(iter(scores.raw)) else "\n\n")
        text.append(line.rstrip(), palette.foreground(mean))
    return text


def answer_html(scores: TokenScores) -> str:
    """The same as HTML: every text of a model or a user is escaped."""
    strongest = strongest_trait(scores)
    colors = _colors(scores)
    tokens = "".join(
        _token_html(token, colors[index], _tip(scores, index))
        for index, token in enumerate(scores.tokens)
    )
    rows = "".join(
        f"<tr><td>{_html(one_line(trait))}{' ●' if trait == strongest else ''}</td>"
        f"<td style='text-align:right'>{format_score(scores.mean(trait))}</td>"
        f"<td>{_html(_unit(scores, trait))}</td></tr>"
        for trait in scores.raw
    )
    table = f"<table><tr><th>trait</th><th>mean</th><th></th></tr>{rows}</table>" if rows else ""
    body = tokens or _html(printable(scores.response or getattr(scores, "error", "")))
    return f"<div style='white-space:pre-wrap;line-height:1.6'>{body}</div>{table}"


def strongest_trait(scores: TokenScores) -> str | None:
    """The trait whose mean calibrated score is farthest from zero; None without one."""
    means = {trait: abs(scores.mean(trait) or 0.0) for trait in scores.calibrated}
    return max(means, key=lambda trait: means[trait], default=None)


def _colors(scores: TokenScores) -> list[float | None]:
    """The score that colors each token; massive tokens have none."""
    trait = strongest_trait(scores)
    if trait is None:
        return [None] * len(scores.tokens)
    massive = scores.massive.get(trait, ())
    return [
        None if index in massive else score for index, score in enumerate(scores.calibrated[trait])
    ]


def _tip(scores: TokenScores, index: int) -> str:
    shown = (f"{one_line(t)} {format_score(scores.shown(t)[index])}" for t in scores.raw)
    return ", ".join(shown)


def _token_html(token: str, score: float | None, tip: str) -> str:
    style = ""
    if is_colored(score):
        red, green, blue = background(score).get_truecolor()
        style = f" style='background:rgb({red},{green},{blue});color:#101418'"
    return f"<span title='{_html(tip)}'{style}>{_html(printable(token))}</span>"


def _unit(scores: TokenScores, trait: str) -> str:
    layer = f"layer {scores.layers[trait]}" if trait in scores.layers else ""
    return layer if trait in scores.calibrated else f"{layer} raw".strip()


def _html(text: str) -> str:
    return escape(text, quote=True)
