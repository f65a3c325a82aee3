"""Shows how reliable a judge's scores of a trait are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.cells import cell_len
from rich.text import Text

from traitcli.records import Usage
from traitcli.views.cells import fit, wrap_labelled
from traitcli.views.formatting import QUIET
from traitcli.views.palette import Palette
from traitcli.views.printable import one_line
from traitcli.views.tables.base import NAME, NONE, Row
from traitcli.views.words import count_text, usage_text

_INDENT = "  "
_LABEL_WIDTH = 12
_LEVELS = "▁▂▃▄▅▆▇█"
_BAR_WIDTH = 3
"""Cells for each bar of a histogram."""
_MAX_REASONS = 5
"""More reasons than this are counted together."""
_SIGNS = {"positive": "+", "negative": "−"}


def judge_lines(row: Row, width: int, palette: Palette) -> list[Text]:
    """A blank line, then the block of one trait: judge, scores, what is missing, what to read.

    The second line may be wider than `width`: the judge's name stays in one piece, to be copied.
    """
    quality = row["judge_quality"]
    heading = Text.assemble((one_line(row["trait"]), NAME), "  ", (one_line(row["judge"]), QUIET))
    coherence = [f"missing {text}" for text in _missing(quality["missing_coherence"])]
    facts = [
        ("AUROC", _separation(row)),
        *_labelled("missing", _missing(quality["missing_reasons"])),
        *_labelled("coherence", coherence),
        *_labelled("scored by", _methods(quality["methods"])),
        *_labelled("took", _usage(quality["usage"], all_judges=bool(quality["agreement"]))),
    ]
    for other in quality["agreement"]:
        facts += _labelled("compared", _agreement(other))

    lines = [Text(), heading, *_histogram(quality["histogram"], palette)]
    for label, text in facts:
        lines += wrap_labelled(_label(label), text, width)
    return [*lines, *_doubtful(quality["doubtful"], width)]


def _label(text: str) -> str:
    return f"{_INDENT}{text}".ljust(_LABEL_WIDTH)


def _labelled(label: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    """The texts with the label before the first one only."""
    return [("" if number else label, text) for number, text in enumerate(texts)]


def _separation(row: Row) -> str:
    auroc, judged, missing = row["judge_auroc"], row["judged"], row["missing"]
    separates = "needs scores of both polarities"
    if auroc is not None:
        separates = f"{auroc:.2f} against the instructions"
    share = f" ({missing / (judged + missing):.1%})" if missing else ""
    return f"{separates} · {judged:,} scored · {missing:,} missing{share}"


def _missing(reasons: Mapping[str, Row]) -> list[str]:
    """`12 (6.0%) timeout`, most frequent first; rare reasons are counted together."""
    texts = [
        f"{found['count']:,} ({found['share']:.1%}) {one_line(reason)}"
        for reason, found in reasons.items()
    ]
    if len(texts) > _MAX_REASONS:
        rest = sum(found["count"] for found in list(reasons.values())[_MAX_REASONS:])
        texts[_MAX_REASONS:] = [f"{rest:,} for other reasons"]
    return texts


def _methods(methods: Mapping[str, int]) -> list[str]:
    """`logprobs 1,180 · text 20`; nothing if all scores were read in the same way."""
    if len(methods) < 2:
        return []
    return [" · ".join(f"{one_line(method)} {count:,}" for method, count in methods.items())]


def _usage(usage: Row, *, all_judges: bool) -> list[str]:
    text = usage_text(Usage(**usage))
    if not text:
        return []
    # The ledger counts requests per trait, not per judge.
    return [f"{text} · all judges together" if all_judges else text]


def _agreement(other: Row) -> list[str]:
    text = _agreement_text(other) if other["both"] else "no rollout is scored by both"
    return [f"with {one_line(other['judge'])}", text]


def _agreement_text(other: Row) -> str:
    def known(key: str) -> str:
        return NONE if other[key] is None else f"{other[key]:.2f}"

    return " · ".join(
        [
            f"{other['both']:,} scored by both",
            f"Spearman {known('spearman')}",
            f"{other['same_side']:.0%} on the same side of 50",
            f"kappa {known('kappa')}",
            f"{other['mean_difference']:.0f} apart on average",
        ]
    )


def _histogram(counts: Mapping[str, Sequence[int]], palette: Palette) -> Iterator[Text]:
    """A line of bars for each polarity, on one scale, and an axis; a dot means no score."""
    most = max((count for side in counts.values() for count in side), default=0)
    for polarity, side in counts.items():
        # The color that a score at the class mean has in the monitor.
        style = palette.foreground(1.0 if polarity == "positive" else -1.0)
        line = Text(_label(polarity))
        for count in side:
            if count:
                # Rounded up: one score must not look like none.
                level = max(-(-count * len(_LEVELS) // most) - 1, 0)
                line.append(_LEVELS[level] * _BAR_WIDTH, style)
            else:
                line.append("·" * _BAR_WIDTH, QUIET)
        line.append(f"  {_summary(polarity, side)}")
        yield line

    half = len(next(iter(counts.values()))) * _BAR_WIDTH // 2
    yield Text(" " * _LABEL_WIDTH + "0".ljust(half) + "50".ljust(half) + "100", QUIET)


def _summary(polarity: str, side: Sequence[int]) -> str:
    """`99 scores, 3 below 50`: how many are on the wrong side of 50."""
    half = len(side) // 2
    below, above = sum(side[:half]), sum(side[half:])
    wrong = f"{below:,} below 50" if polarity == "positive" else f"{above:,} at 50 or more"
    return f"{below + above:,} scores, {wrong}"


def _doubtful(doubtful: Row, width: int) -> Iterator[Text]:
    """Two lines for each doubtful rollout: why it is doubtful, and its question and response."""
    shown, total = doubtful["rollouts"], doubtful["total"]
    if not shown:
        yield Text(f"{_INDENT}no doubtful scores: each is on its instruction's side of 50", QUIET)
        return

    if len(shown) < total:
        title = f"the {len(shown)} most doubtful of {total:,} rollouts"
    else:
        title = f"doubtful: {count_text(total, 'rollout')}"
    yield Text(f"{_INDENT}{title} (score, instruction, question → response)", QUIET)
    for rollout in shown:
        label = f"{_INDENT}{rollout['score']:>6.0f} {_SIGNS[rollout['polarity']]}  "
        text = f"{one_line(rollout['rollout'])}  {one_line(rollout['why'])}"
        yield from wrap_labelled(label, text, width)
        yield _excerpt(rollout, len(label), width)


def _excerpt(rollout: Row, indent: int, width: int) -> Text:
    room = max(width - indent, 10)
    question = ""
    if rollout["question"]:
        # The larger part of the line is for the answer: that is what was scored.
        question = fit(one_line(rollout["question"]), room * 2 // 5).rstrip() + " → "
    answer = fit(one_line(rollout["response"]), room - cell_len(question)).rstrip()
    return Text.assemble(" " * indent, (question, QUIET), answer, no_wrap=True)
