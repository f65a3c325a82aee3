"""States what is known about a vector, given what was measured on it.

The verdict is one of four rungs. Each says on which texts the vector separates:

    not shown            not even on answers whose prompt holds the instruction
    reads its instruction    only while the instruction is in the prompt, as far as is known
    reads its own texts  on the same held-out answers behind their bare questions too
    carries over         on labelled answers of another source too, better than words and length
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from traitcli.vector_quality import VectorQuality
from traitcli.vectors.labelled import MIN_ANSWERS, MIN_PROMPTS, LabelledTest

Verdict = Literal["not shown", "reads its instruction", "reads its own texts", "carries over"]

SHOWN: tuple[Verdict, ...] = ("reads its own texts", "carries over")
"""The rungs of a vector that separates without its instruction."""
CHANCE = 0.5
"""An AUROC is shown when its 95 % interval lies above this."""
MAX_NULL_P = 0.05
"""A vector is no better than chance when shuffled labels do as well in a larger share of trials."""
MIN_LEAD = 1.0
"""Standard errors by which a vector must be ahead of length and of the embedding layer."""
GOOD_CONTRAST = 40.0
STABLE = 0.7
"""Lowest split-half cosine of a stable vector."""
MASSIVE_SHARE = 0.5
"""Largest share of the squared norm that massive dimensions may have."""
NEAR_DUPLICATE = 0.8
"""From this absolute cosine on, two traits may share one direction."""

_EXTRACT = "run traitcli extract"
_MORE = "collect more rollouts (extract.repeats) or ask more questions"
_LABELS = (
    "test on labelled answers of another source with "
    "traitcli inspect labels FILE --trait TRAIT --keep NAME"
)
_WORDS = "run traitcli extract, then measure again: words are learned from rollouts"


def with_verdict(quality: VectorQuality, tests: Sequence[LabelledTest] = ()) -> VectorQuality:
    """The same record with `verdict`, `verdict_reason`, `to_raise` and `doubts`.

    Args:
        quality: The measurements. One that is None was not made: it neither shows nor doubts.
        tests: The labelled answers that were kept for this vector.
    """
    verdict, reason, to_raise = _rung(quality)
    failed: list[str] = []
    unclear: list[tuple[str, str]] = []
    passed: list[LabelledTest] = []
    for test in tests:
        if fault := _fault(test):
            failed.append(fault)
        elif gap := _gap(test):
            unclear.append(gap)
        else:
            passed.append(test)
    if passed and not failed:
        others = f" and {len(passed) - 1} more" if len(passed) > 1 else ""
        label = f"{passed[0].name}{others}"
        verdict, reason = "carries over", f"{label}: {'; '.join(map(_passed, passed))}"
        to_raise = "test on answers of more sources"
    elif failed and verdict == "reads its own texts":
        reason = failed[0]
        to_raise = "use a larger model, or a trait that this one shows more clearly"
    elif unclear and verdict == "reads its own texts":
        reason, to_raise = unclear[0]
    return replace(
        quality,
        verdict=verdict,
        verdict_reason=reason,
        to_raise=to_raise,
        doubts=tuple(
            doubt
            for doubt in (*failed, *(gap for gap, _ in unclear), *_doubts(quality))
            if _label(doubt) != _label(reason)
        ),
    )


def nearest_trait(cosines: Mapping[str, float]) -> str | None:
    """The trait whose vector is most alike or most opposed; None without other traits."""
    return max(cosines, key=lambda name: abs(cosines[name]), default=None)


def with_near_duplicates(quality: VectorQuality, cosines: Mapping[str, float]) -> VectorQuality:
    """The same record, with a doubt if another trait's vector is nearly the same or its opposite.

    `cosines` holds trait -> cosine at this vector's layer.
    """
    nearest = nearest_trait(cosines)
    if nearest is None or abs(cosines[nearest]) < NEAR_DUPLICATE:
        return quality
    relation = "near-duplicate of" if cosines[nearest] > 0 else "opposite of"
    cosine = f"cosine {cosines[nearest]:.2f}"
    doubt = f"{relation} {nearest}: {cosine}; one of the two may measure the other"
    return replace(quality, doubts=(*quality.doubts, doubt))


def _rung(quality: VectorQuality) -> tuple[Verdict, str, str]:
    """The rung by the run's own answers, its reason, and what would raise it."""
    fault = _neutral_fault(quality)
    if fault is None:
        reason = f"not tested elsewhere: AUROC {_neutral_text(quality)} without the persona"
        return "reads its own texts", reason, _LABELS
    if persona_fault := _persona_fault(quality):
        return "not shown", *persona_fault
    return "reads its instruction", *fault


def _persona_fault(quality: VectorQuality) -> tuple[str, str] | None:
    """Why it is not shown to separate even with the persona, and what would help."""
    if quality.auroc is None:
        return "not measured: there are no held-out rollouts", f"{_EXTRACT}, or {_LABELS}"
    # A file of an earlier version may lack the interval.
    if (quality.auroc if quality.auroc_low is None else quality.auroc_low) <= CHANCE:
        shown = _auroc_text(quality)
        return f"may be chance: the interval of AUROC {shown} with the persona reaches 0.5", _MORE
    if quality.null_p is not None and quality.null_p > MAX_NULL_P:
        share = f"{quality.null_p:.0%}"
        reason = f"may be chance: vectors of shuffled labels do as well in {share} of trials"
        return reason, _MORE
    return None


def _neutral_fault(quality: VectorQuality) -> tuple[str, str] | None:
    """Why it is not shown to separate without the persona, and what would help."""
    if quality.neutral_auroc is None:
        reason = f"no neutral readings: AUROC {_auroc_text(quality)} is with the persona"
        return reason, f"{_EXTRACT}: it reads the stored answers again"
    shown = _neutral_text(quality)
    if quality.neutral_auroc_low is None or quality.neutral_auroc_low <= CHANCE:
        reason = f"the interval of AUROC {shown} reaches 0.5"
        return f"may be chance without the persona: {reason}", _MORE
    null = quality.neutral_null_p
    if null is not None and null > MAX_NULL_P:
        reason = f"vectors of shuffled labels do as well in {null:.0%} of trials"
        return f"may be chance without the persona: {reason}", _MORE
    controls = (
        ("length", "length", "the length", quality.length_auroc, quality.neutral_length_lead),
        (
            "lexical",
            "single words",
            "the embedding layer",
            quality.embedding_layer_auroc,
            quality.neutral_embedding_lead,
        ),
    )
    for label, what, control, auroc, lead in controls:
        if lead is not None and lead < MIN_LEAD:
            reason = f"{control} separates about as well ({_number(auroc)} against {shown})"
            return f"may be {label}: {reason}", f"ask questions whose answers differ less in {what}"
    return None


def _fault(test: LabelledTest) -> str | None:
    """Why a kept test does not show that the vector carries over; None if it does."""
    if test.low is None or test.high is None or not test.is_large_enough:
        return None
    shown = f"AUROC {_interval_text(test.auroc, test.low, test.high)}"
    label = f"does not carry over to {test.name}"
    if test.high < CHANCE:
        return f"{label}: {shown} is the wrong way round"
    if test.low <= CHANCE:
        return f"{label}: {shown} may be chance"
    if test.length_lead_low is not None and test.length_lead_low <= 0:
        return f"{label}: {shown} is not shown to be better than length ({test.length_auroc:.2f})"
    if test.words_lead_low is not None and test.words_lead_low <= 0:
        words = _number(test.words_auroc)
        return f"{label}: {shown} is not shown to be better than words ({words})"
    return None


def _gap(test: LabelledTest) -> tuple[str, str] | None:
    """Why a kept test without a fault says nothing, and what would help; None if it passes."""
    if not test.is_large_enough:
        positive, negative = test.positive, test.texts - test.positive
        prompts = "1 prompt" if test.prompts == 1 else f"{test.prompts:,} prompts"
        counts = f"{positive:,} with the trait, {negative:,} without, {prompts}"
        needs = f"{MIN_ANSWERS} of each and {MIN_PROMPTS} prompts"
        return f"too few answers in {test.name}: {counts}; it needs {needs}", _LABELS
    if None in (test.words_auroc, test.words_lead_low):
        return f"not compared on {test.name}: there are no rollouts to learn words from", _WORDS
    return None


def _passed(test: LabelledTest) -> str:
    shown = f"AUROC {_interval_text(test.auroc, test.low, test.high)}"
    others = f"words {_number(test.words_auroc)}, length {test.length_auroc:.2f}"
    return f"{shown} on {test.texts:,} answers, {others}"


def _doubts(quality: VectorQuality) -> Iterator[str]:
    """What else limits the vector, most severe first."""
    if quality.length_does_as_well:
        compared = _compared(quality.length_auroc, quality.auroc)
        yield f"may be length: the length of the answer separates about as well{compared}"
    if quality.embedding_layer_does_as_well:
        compared = _compared(quality.embedding_layer_auroc, quality.auroc)
        yield f"may be lexical: the embedding layer separates about as well{compared}"
    # None means that it was not measured
    if quality.judge_trusted is False:
        yield "not filtered: the judge cannot tell the polarities apart"

    contrast = quality.contrast
    if contrast is not None and contrast < GOOD_CONTRAST:
        shown = _round_below(contrast, 0, GOOD_CONTRAST)
        limit = f"is below {GOOD_CONTRAST:.0f}"
        yield f"low contrast: {shown:.0f} {limit}; the judge sees little of the trait"

    cosine = quality.split_half_cosine
    if cosine is not None and cosine < STABLE:
        shown = _round_below(cosine, 2, STABLE)
        limit = f"is below {STABLE:.2f}"
        yield f"unstable: split-half cosine {shown:.2f} {limit}; collect more rollouts"

    share = quality.massive_share
    if share is not None and share > MASSIVE_SHARE:
        dimensions = f"{quality.massive_dimensions} that are large in all activations"
        yield f"few dimensions: {share:.0%} of its squared norm is in {dimensions}"


def _label(reason: str) -> str:
    return reason.partition(":")[0]


def _compared(control: float | None, auroc: float | None) -> str:
    """` (0.70 against 0.75)`; empty for a file that has the flag without the numbers."""
    return "" if control is None or auroc is None else f" ({control:.2f} against {auroc:.2f})"


def _auroc_text(quality: VectorQuality) -> str:
    return _interval_text(quality.auroc, quality.auroc_low, quality.auroc_high)


def _neutral_text(quality: VectorQuality) -> str:
    bounds = quality.neutral_auroc_low, quality.neutral_auroc_high
    return _interval_text(quality.neutral_auroc, *bounds)


def _interval_text(value: float | None, low: float | None, high: float | None) -> str:
    """`0.94 (0.88–0.97)`, or the value alone."""
    bounds = "" if low is None or high is None else f" ({low:.2f}–{high:.2f})"
    return f"{_number(value)}{bounds}"


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:.2f}"


def _round_below(value: float, digits: int, *bounds: float) -> float:
    """Round, but down if a value below a bound would otherwise read as if it reached the bound."""
    rounded = round(value, digits)
    reaches = any(value < bound <= rounded for bound in bounds)
    return math.floor(value * 10**digits) / 10**digits if reaches else rounded
