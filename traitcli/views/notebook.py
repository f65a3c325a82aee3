"""Shows a scored answer that is complete as HTML, in a notebook."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from string import Template

from traitcli.records import TokenScores
from traitcli.views.answer import (
    TraitSummary,
    braked_tokens,
    notes,
    strongest_trait,
    summaries,
    token_colors,
)
from traitcli.views.formatting import format_score
from traitcli.views.palette import (
    BLUE,
    CLASS_MEAN,
    FAINT,
    LIMIT,
    ON_COLOR,
    ORANGE,
    background,
    is_colored,
)
from traitcli.views.printable import one_line, printable
from traitcli.views.words import count_text, ending_text

_PROMPT_SHOWN = 480
"""Characters of a prompt; a longer one is cut."""
_TOP = 3.0
"""Calibrated scores beyond this are cut in the charts of tokens."""
_MOST_COLUMNS = 160
"""Columns of a chart; of more tokens, the one farthest from zero stands for its neighbors."""
_ALARM_TRAIT = re.compile(r"(?:\w+\()?([^,()<>@]+)")
_BRAKE_TRAIT = re.compile(r"[^<>=]+")
_STRIP = 0.14
"""Height of the strip below a chart that marks brakes, as a share of the chart."""


def answer_html(scores: TokenScores) -> str:
    """The answer with colored tokens, and a panel with a row for each trait, as HTML.

    There is no script in it, and nothing is loaded. Every text of a model or a user is escaped, and
    characters that hide or reorder text are written as escapes, as on a terminal.
    """
    parts = [f"<style>{_style()}</style>", _prompt(scores)]
    error = getattr(scores, "error", "")
    if error:
        parts.append(f'<div class="tc-error">{_html(printable(error))}</div>')
    elif scores.tokens:
        parts.append(f'<div class="tc-text">{"".join(_tokens(scores))}</div>')
    else:
        parts.append(f'<div class="tc-text">{_html(printable(scores.response))}</div>')
    if scores.raw:
        parts += [_table(scores), _list(notes(scores))]
    if not error:
        parts.append(_facts(scores))
    return f'<div class="traitcli-answer">{"".join(filter(None, parts))}</div>'


@cache
def _style() -> str:
    text = files(__package__).joinpath("notebook.css").read_text(encoding="utf-8")
    # Every answer of a notebook has a copy.
    text = re.sub(r"/\*.*?\*/|\n\s*", " ", text, flags=re.DOTALL).strip()
    return Template(text).substitute(up=ORANGE, down=BLUE, scale=_scale())


def _scale() -> str:
    """The stops of a gradient from −LIMIT to +LIMIT, without a color near zero."""
    scores = (-LIMIT, -CLASS_MEAN, -FAINT, FAINT, CLASS_MEAN, LIMIT)
    stops = [
        f"{background(score).get_truecolor().hex} {(score + LIMIT) / (2 * LIMIT):.1%}"
        for score in scores
    ]
    near = f"var(--track) {(LIMIT - FAINT) / (2 * LIMIT):.1%} {(LIMIT + FAINT) / (2 * LIMIT):.1%}"
    return ", ".join([*stops[:3], near, *stops[3:]])


def _prompt(scores: TokenScores) -> str:
    prompt = printable(scores.prompt.strip())
    if len(prompt) > _PROMPT_SHOWN:
        prompt = f"{prompt[:_PROMPT_SHOWN].rstrip()} …"
    return f'<div class="tc-prompt">{_html(prompt)}</div>' if prompt else ""


# Tokens


def _tokens(scores: TokenScores) -> Iterator[str]:
    braked = braked_tokens(scores)
    alarmed = {crossing.token for crossing in scores.crossings}
    before = ""
    for index, score in enumerate(token_colors(scores)):
        text = printable(scores.tokens[index])
        word = text.strip(" \n")
        space, _, rest = text.partition(word) if word else ("", "", text)
        style = ""
        # White space alone has no color: a line break would be a thin line.
        if word and is_colored(score):
            # Not in the style sheet alone: a viewer may remove that, and keep the background.
            style = f"background:{background(score).get_truecolor().hex};color:{ON_COLOR}"
        # As on a terminal, a color starts at the word. Between two colored words, the space has the
        # color of the first: at the end of a line it would stand there alone.
        joins = before if style and "\n" not in space else ""
        classes = ["tc-braked"] * (index in braked) + ["tc-alarm"] * (index in alarmed)
        name = f' class="{" ".join(classes)}"' if classes else ""
        tip = _html(_tip(scores, index))
        shown = f"{_colored(space, joins)}{_colored(word, style)}{_html(rest)}"
        yield f'<span{name} title="{tip}">{shown}</span>'
        before = "" if rest else style


def _colored(text: str, style: str) -> str:
    return f'<i style="{style}">{_html(text)}</i>' if text and style else _html(text)


def _tip(scores: TokenScores, index: int) -> str:
    lines = []
    for trait in scores.raw:
        score = format_score(scores.shown(trait)[index])
        massive = index in scores.massive.get(trait, ())
        lines.append(f"{one_line(trait)} {score}{' (massive, not counted)' if massive else ''}")
    lines += [f"brake {one_line(brake)}" for brake, at in scores.braked.items() if index in at]
    lines += [f"alarm {one_line(one.rule)}" for one in scores.crossings if one.token == index]
    return "\n".join([f"token {index}", *lines])


# The panel


def _table(scores: TokenScores) -> str:
    strongest = strongest_trait(scores)
    rows = "".join(_row(scores, row, row.trait == strongest) for row in summaries(scores))
    return (
        '<table aria-label="Scores by trait"><thead><tr><th scope="col">trait</th>'
        '<th scope="col" class="tc-number">mean</th><th class="tc-wide" scope="col">'
        '<div class="tc-ends"><i>−2</i><i>0</i><i>+2</i></div></th>'
        '<th scope="col" class="tc-number">max</th><th scope="col" class="tc-at">at</th>'
        f'<th scope="col">token by token</th></tr></thead><tbody>{rows}</tbody></table>'
    )


def _row(scores: TokenScores, row: TraitSummary, colors: bool) -> str:
    name = _html(one_line(row.trait))
    unit = [] if row.layer is None else [f"layer {row.layer}"]
    unit += [] if row.calibrated else ["raw"]
    unit += ["colors the text"] if colors else []
    at = _html(one_line(scores.tokens[row.at])) if row.at >= 0 else ""
    return (
        f'<tr{" class=tc-first" if colors else ""}><th scope="row">{name}'
        f"<small>{' · '.join(unit)}</small></th>"
        f'<td class="tc-number">{format_score(row.mean)}</td>'
        f'<td class="tc-wide">{_bar(row.mean) if row.calibrated else ""}</td>'
        f'<td class="tc-number">{format_score(row.highest)}</td>'
        f'<td class="tc-at"><div>{at or "–"}</div></td><td>{_chart(scores, row)}</td></tr>'
    )


def _bar(mean: float | None) -> str:
    """A bar from zero, in the middle, to the mean; both ends are at ±LIMIT."""
    score = mean if mean is not None and math.isfinite(mean) else 0.0
    size = min(abs(score), LIMIT)
    side, left = ("tc-up", 0.0) if score > 0 else ("tc-down", -size)
    means = f"M{-CLASS_MEAN:g} 0v1M{CLASS_MEAN:g} 0v1"
    return (
        f'<svg class="tc-bar" viewBox="{-LIMIT:g} 0 {2 * LIMIT:g} 1" preserveAspectRatio="none" '
        f'aria-hidden="true"><path class="tc-faint" d="{means}"/>'
        f'<path class="{side}" d="M{left:.3g} .22h{size:.3g}v.56h{-size:.3g}z"/>'
        '<path class="tc-zero" d="M0 0v1"/></svg>'
    )


def _chart(scores: TokenScores, row: TraitSummary) -> str:
    """One column for each token, from zero to its score; below it where brakes held."""
    shown, counted = scores.shown(row.trait), set(scores.counted(row.trait))
    known = [
        score if index in counted and math.isfinite(score) else 0.0
        for index, score in enumerate(shown)
    ]
    if not known:
        return ""
    top = _TOP if row.calibrated else max(map(abs, known)) or 1.0
    step = math.ceil(len(known) / _MOST_COLUMNS)
    columns = [max(known[at : at + step], key=abs) for at in range(0, len(known), step)]
    # In units of the class means the charts of several traits can be compared.
    means = "".join(f"M0 {y:g}h{len(columns)}" for y in (-CLASS_MEAN, CLASS_MEAN))
    held, lines = _marks(scores, row.trait, top, step)
    height = top * 2 * (1 + (1.4 * _STRIP if held else 0))
    label = (
        f"{one_line(row.trait)}, token by token: {format_score(min(known))} to "
        f"{format_score(max(known))}"
    )
    paths = [
        ("tc-faint", means if row.calibrated else ""),
        ("tc-up", _columns(columns, top, 1)),
        ("tc-down", _columns(columns, top, -1)),
        ("tc-zero", f"M0 0h{len(columns)}"),
        ("tc-hold", held),
        ("tc-line", lines),
    ]
    drawn = "".join(f'<path class="{name}" d="{path}"/>' for name, path in paths if path)
    box = f"0 {-top:.4g} {len(columns)} {height:.4g}"
    return (
        f'<svg class="tc-chart{" tc-marked" if held else ""}" viewBox="{box}" '
        f'preserveAspectRatio="none" role="img" aria-label="{_html(label)}">{drawn}</svg>'
    )


def _columns(scores: Sequence[float], top: float, side: int) -> str:
    """The columns above zero (`side` 1) or below it, as one path."""
    parts = []
    for x, score in enumerate(scores):
        size = min(score * side, top)
        # y grows downwards.
        if size > 0:
            parts.append(f"M{x} 0v{-side * size:.3g}h1v{side * size:.3g}z")
    return "".join(parts)


def _marks(scores: TokenScores, trait: str, top: float, step: int) -> tuple[str, str]:
    """Where brakes held, below the columns, and where alarms lie, across them, as two paths."""
    strip, low = top * 2 * _STRIP, top * (1 + 0.4 * _STRIP)
    brakes = scores.braked.items()
    alarms = [(one.rule, (one.token,)) for one in scores.crossings]
    held = _columns_of(trait, _BRAKE_TRAIT, brakes, step)
    found = _columns_of(trait, _ALARM_TRAIT, alarms, step)
    return (
        "".join(f"M{x} {low:.4g}h1v{strip:.4g}h-1z" for x in held),
        "".join(f"M{x + 0.5:g} {-top:.4g}v{2 * top:.4g}" for x in found),
    )


def _columns_of(
    trait: str, pattern: re.Pattern[str], marks: Iterable[tuple[str, Sequence[int]]], step: int
) -> list[int]:
    """The columns with marks of a trait, which the text of an alarm or a brake begins with."""
    found: set[int] = set()
    for text, indices in marks:
        name = pattern.match(text)
        if name and name[name.lastindex or 0] == trait:
            found.update(index // step for index in indices)
    return sorted(found)


# Below the panel


def _list(lines: Sequence[str]) -> str:
    items = "".join(f"<li>{_html(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def _facts(scores: TokenScores) -> str:
    facts = [count_text(len(scores.tokens), "token") if scores.tokens else ""]
    facts += [ending_text(scores.finish_reason)]
    facts += ["" if scores.seed is None else f"seed {scores.seed}", one_line(scores.model)]
    legend = ""
    if scores.calibrated:
        legend = (
            '<b class="tc-key" aria-hidden="true"></b>'
            "−1 and +1 are the means of a trait’s negative and positive examples"
        )
    if scores.braked:
        legend += ' · <u class="tc-braked">underlined</u>, ▪ in a chart: a brake held'
    if scores.crossings:
        legend += ' · <u class="tc-alarm">framed</u>, line in a chart: an alarm'
    text = _html(" · ".join(fact for fact in facts if fact))
    return f'<div class="tc-facts"><div>{legend}</div><div>{text}</div></div>'


def _html(text: str) -> str:
    return escape(text, quote=True)
