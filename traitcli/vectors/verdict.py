"""States how far a vector can be trusted, given what was measured on it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal

from traitcli.vector_quality import VectorQuality

Verdict = Literal["good", "weak", "unusable"]

GOOD, WEAK = 0.8, 0.65
"""Lowest held-out AUROC of a good vector, and of a weak one; below WEAK a vector is unusable."""
GOOD_CONTRAST = 40.0
MAX_NULL_P = 0.05
"""A vector is no better than chance when shuffled labels do as well in a larger share of trials."""
STABLE = 0.7
"""Lowest split-half cosine of a stable vector."""
MASSIVE_SHARE = 0.5
"""Largest share of the squared norm that massive dimensions may have."""
NEAR_DUPLICATE = 0.8
"""From this absolute cosine on, two traits may share one direction."""


def with_verdict(quality: VectorQuality) -> VectorQuality:
    """The same record with `verdict`, `verdict_reason` and `doubts`.

    All reasons are listed, most severe first, as `label: detail`; tables show the label alone.
    A measurement that is None never counts against a vector, except a missing held-out AUROC.
    """
    unusable, weak = list(_unusable(quality)), list(_weak(quality))
    doubts = (*unusable, *weak)
    if not doubts:
        reason = f"held-out AUROC {_auroc_text(quality)}"
        return replace(quality, verdict="good", verdict_reason=reason, doubts=())
    verdict: Verdict = "unusable" if unusable else "weak"
    return replace(quality, verdict=verdict, verdict_reason=doubts[0], doubts=doubts)


def nearest_trait(cosines: Mapping[str, float]) -> str | None:
    """The trait whose vector is most alike or most opposed; None without other traits."""
    return max(cosines, key=lambda name: abs(cosines[name]), default=None)


def with_near_duplicates(quality: VectorQuality, cosines: Mapping[str, float]) -> VectorQuality:
    """The same record, with a doubt if another trait's vector is nearly the same or its opposite.

    `cosines` holds trait -> cosine at this vector's layer. A good vector becomes weak.
    """
    nearest = nearest_trait(cosines)
    if nearest is None or abs(cosines[nearest]) < NEAR_DUPLICATE:
        return quality
    relation = "near-duplicate of" if cosines[nearest] > 0 else "opposite of"
    cosine = f"cosine {cosines[nearest]:.2f}"
    doubt = f"{relation} {nearest}: {cosine}; one of the two may measure the other"
    doubts = (*quality.doubts, doubt)
    if quality.verdict == "good":
        return replace(quality, verdict="weak", verdict_reason=doubt, doubts=doubts)
    # a weak or unusable vector keeps its reason, which is more severe
    return replace(quality, doubts=doubts)


def _unusable(quality: VectorQuality) -> Iterator[str]:
    if quality.auroc is not None and quality.auroc < WEAK:
        yield f"near chance: held-out AUROC {_auroc_text(quality)} on unseen questions and pairs"
    # elif: a vector near chance is near shuffled labels too, and one reason is enough
    elif quality.null_p is not None and quality.null_p > MAX_NULL_P:
        yield (
            f"may be chance: vectors of shuffled labels separate as well in {quality.null_p:.0%} "
            f"of trials (AUROC {_auroc_text(quality)})"
        )


def _weak(quality: VectorQuality) -> Iterator[str]:
    yield from _weak_separation(quality)
    yield from _weak_controls(quality)
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


def _weak_separation(quality: VectorQuality) -> Iterator[str]:
    auroc, low = quality.auroc, quality.auroc_low
    may_be_chance = low is not None and low <= 0.5
    if auroc is None:
        yield "not measured: there are no held-out rollouts"
    elif WEAK <= auroc < GOOD:
        chance = " and may be chance" if may_be_chance else ""
        yield f"low AUROC: held-out {_auroc_text(quality)} is below {GOOD:.2f}{chance}"
    elif auroc >= GOOD and may_be_chance:
        yield f"may be chance: held-out AUROC {_auroc_text(quality)} of too few held-out rollouts"


def _weak_controls(quality: VectorQuality) -> Iterator[str]:
    """Controls within two standard errors of the vector's AUROC, on the same rollouts."""
    if quality.length_does_as_well:
        compared = _compared(quality.length_auroc, quality.auroc)
        yield f"may be length: the length of the answer separates about as well{compared}"
    if quality.embedding_layer_does_as_well:
        compared = _compared(quality.embedding_layer_auroc, quality.auroc)
        yield f"may be lexical: the embedding layer separates about as well{compared}"


def _compared(control: float | None, auroc: float | None) -> str:
    """` (0.70 against 0.75)`; empty for a file that has the flag without the numbers."""
    return "" if control is None or auroc is None else f" ({control:.2f} against {auroc:.2f})"


def _auroc_text(quality: VectorQuality) -> str:
    """`0.94 (0.88–0.97)`; `not known` for a file that has the rest without it."""
    if quality.auroc is None:
        return "not known"
    shown = f"{_round_below(quality.auroc, 2, WEAK, GOOD):.2f}"
    low, high = quality.auroc_low, quality.auroc_high
    return shown if low is None or high is None else f"{shown} ({low:.2f}–{high:.2f})"


def _round_below(value: float, digits: int, *bounds: float) -> float:
    """Round, but down if a value below a bound would otherwise read as if it reached the bound."""
    rounded = round(value, digits)
    reaches = any(value < bound <= rounded for bound in bounds)
    return math.floor(value * 10**digits) / 10**digits if reaches else rounded
