"""Tells in lines of text how far a judge's scores of a trait can be believed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from traitcli.records import Usage
from traitcli.views.cells import fit, wrap_labelled
from traitcli.views.palette import Palette
from traitcli.views.printable import one_line
from traitcli.views.words import usage_text

Row = Mapping[str, Any]

_QUIET = Style(dim=True)
_NAME = Style(bold=True)
_INDENT = "  "
_LABEL = 12
_LEVELS = "▁▂▃▄▅▆▇█"
_CELL = 3
"""Width of a bar."""
_REASONS_TOLD = 5
_SIGNS = {"positive": "+", "negative": "−"}


def judge_lines(row: Row, width: int, palette: Palette) -> list[Text]:
    """A blank line, then the block of one trait: its judge, the scores, what is missing, what to read.

    The second line may be wider than `width`, so that the judge's name stays in one piece.
    """
    quality = row["judge_quality"]
    heading = Text.assemble((one_line(row["trait"]), _NAME), "  ", (one_line(row["judge"]), _QUIET))
    facts = [
        ("AUROC", _separation(row)),
        *_under("missing", _missing(quality["missing_reasons"])),
        *_under(
            "coherence", [f"missing {told}" for told in _missing(quality["missing_coherence"])]
        ),
        *_under("scored by", _methods(quality["methods"])),
        *_under("took", _usage(quality["usage"], shared=bool(quality["agreement"]))),
        *(fact for other in quality["agreement"] for fact in _under("compared", _agreement(other))),
    ]
    told = [line for label, text in facts for line in wrap_labelled(_labelled(label), text, width)]
    return [
        Text(),
        heading,
        *_histogram(quality["histogram"], palette),
        *told,
        *_doubtful(quality["doubtful"], width),
    ]


def _labelled(label: str) -> str:
    return f"{_INDENT}{label}".ljust(_LABEL)


def _under(label: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    """The label stands before the first text alone."""
    return [("" if number else label, text) for number, text in enumerate(texts)]


def _separation(row: Row) -> str:
    auroc, judged, missing = row["judge_auroc"], row["judged"], row["missing"]
    separates = (
        "needs scores of both polarities"
        if auroc is None
        else f"{auroc:.2f} against the instructions"
    )
    share = f" ({missing / (judged + missing):.1%})" if missing else ""
    return f"{separates} · {judged:,} scored · {missing:,} missing{share}"


def _missing(reasons: Mapping[str, Row]) -> list[str]:
    told = [
        f"{one['count']:,} ({one['share']:.1%}) {one_line(reason)}"
        for reason, one in reasons.items()
    ]
    if len(told) > _REASONS_TOLD:
        rest = sum(one["count"] for one in list(reasons.values())[_REASONS_TOLD:])
        told[_REASONS_TOLD:] = [f"{rest:,} for other reasons"]
    return told


def _methods(methods: Mapping[str, int]) -> list[str]:
    told = " · ".join(f"{one_line(method)} {count:,}" for method, count in methods.items())
    return [told] if len(methods) > 1 else []


def _usage(usage: Row, *, shared: bool) -> list[str]:
    told = usage_text(Usage(**usage))
    return [f"{told} · all judges together" if told and shared else told] if told else []


def _agreement(other: Row) -> list[str]:
    told = _agreement_text(other) if other["both"] else "no rollout is scored by both"
    return [f"with {one_line(other['judge'])}", told]


def _agreement_text(other: Row) -> str:
    spearman, kappa = (
        "–" if other[key] is None else f"{other[key]:.2f}" for key in ("spearman", "kappa")
    )
    side, apart = (
        f"{other['same_side']:.0%} on the same side of 50",
        f"{other['mean_difference']:.0f} apart on average",
    )
    return (
        f"{other['both']:,} scored by both · Spearman {spearman} · {side} · kappa {kappa} · {apart}"
    )


def _histogram(counts: Mapping[str, Sequence[int]], palette: Palette) -> Iterator[Text]:
    """A row of bars for each polarity, both to one measure, over an axis; a dot where there is no score."""
    most = max((count for side in counts.values() for count in side), default=0)
    for polarity, side in counts.items():
        line = Text(_labelled(f"told {_SIGNS[polarity]}"))
        for count in side:
            bar = _LEVELS[max(-(-count * len(_LEVELS) // most) - 1, 0)] if count else "·"
            line.append(
                bar * _CELL,
                palette.foreground(1.0 if polarity == "positive" else -1.0) if count else _QUIET,
            )
        line.append(f"  {_summary(polarity, side)}")
        yield line
    half = len(next(iter(counts.values()))) * _CELL // 2
    yield Text(" " * _LABEL + "0".ljust(half) + "50".ljust(half) + "100", _QUIET)


def _summary(polarity: str, side: Sequence[int]) -> str:
    half = len(side) // 2
    below, above = sum(side[:half]), sum(side[half:])
    strays = f"{below:,} below 50" if polarity == "positive" else f"{above:,} at 50 or more"
    return f"{below + above:,} scores, {strays}"


def _doubtful(doubtful: Row, width: int) -> Iterator[Text]:
    """Two lines for each: why it is doubtful, and what was asked and answered, as much as fits."""
    listed, total = doubtful["rollouts"], doubtful["total"]
    if not listed:
        yield Text(f"{_INDENT}no doubtful scores: each is on its instruction's side of 50", _QUIET)
        return
    all_told = f"doubtful: {total} rollout{'' if total == 1 else 's'}"
    most = (
        f"the {len(listed)} most doubtful of {total:,} rollouts"
        if len(listed) < total
        else all_told
    )
    yield Text(f"{_INDENT}{most} (score, instruction, question → response)", _QUIET)
    for one in listed:
        label = f"{_INDENT}{one['score']:>6.0f} {_SIGNS[one['polarity']]}  "
        yield from wrap_labelled(
            label, f"{one_line(one['rollout'])}  {one_line(one['why'])}", width
        )
        yield _excerpt(one, len(label), width)


def _excerpt(one: Row, indent: int, width: int) -> Text:
    room = max(width - indent, 10)
    question = (
        fit(one_line(one["question"]), room * 2 // 5).rstrip() + " → " if one["question"] else ""
    )
    answer = fit(one_line(one["response"]), room - cell_len(question)).rstrip()
    return Text.assemble(" " * indent, (question, _QUIET), answer, no_wrap=True)
