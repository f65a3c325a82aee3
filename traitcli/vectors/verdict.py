"""Which row to read, and how far a vector can be trusted, from what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Verdict = Literal["good", "weak", "unusable"]

GOOD, WEAK = 0.8, 0.65
"""HeldOutScores-out AUROC from which a vector is called good, and weak."""
GOOD_CONTRAST = 40.0
CHANCE = 0.05
"""A vector is no better than chance when shuffled labels do as well this often."""
STEADY = 0.7
"""Cosine of the vectors of two halves of the rollouts, at least."""
MASSIVE_SHARE = 0.5
"""Share of the squared norm that single massive dimensions may have."""
TWIN = 0.8
"""Cosine from which two traits' vectors are hardly two."""


def middle_rows(rows: int) -> range:
    """Those between 25 % and 75 % of the depth of a model with so many rows, row 0 counted."""
    blocks = rows - 1
    return range(math.ceil(blocks * 0.25), math.floor(blocks * 0.75) + 1)


def choose_row(
    auroc: Sequence[float] | NDArray[np.floating[Any]] | None,
    error: Sequence[float] | None,
    rows: int,
) -> int:
    """The earliest row between 25 % and 75 % of depth whose AUROC is within one standard error of the best one's.

    `error` is that of each row's AUROC. Without any to go by: the middle.
    """
    inside = middle_rows(rows)
    if auroc is None or error is None or not inside:
        return (rows - 1) // 2 or 1
    best = max(inside, key=lambda row: auroc[row])
    return next(row for row in inside if auroc[row] >= auroc[best] - error[best])


def quality_fault(quality: Mapping[str, Any]) -> str:
    """What of a quality that was read from a file is not what it should be, "" if nothing is: views format it."""
    for key, value in quality.items():
        name = key if key.isidentifier() else repr(key[:40])
        if key.endswith(("_rows", "_pairs")) or key == "rows_given":
            fits = value is None or (
                isinstance(value, list) and all(_is_number(each) for each in value)
            )
            wanted = "a list of numbers"
        elif key == "doubts":
            fits, wanted = (
                isinstance(value, list) and all(isinstance(each, str) for each in value),
                "a list of texts",
            )
        elif key in _TEXTS:
            fits, wanted = value is None or isinstance(value, str), "a text"
        elif key in _FLAGS:
            fits, wanted = value is None or isinstance(value, bool), "true or false"
        elif key in _NUMBERS:
            fits, wanted = _is_number(value), "a number"
        else:
            continue
        if not fits:
            return f"its quality's {name} is not {wanted}"
    return ""


_TEXTS = {
    "verdict",
    "verdict_reason",
    "judge",
    "filter",
    "coherence",
    "layer_choice",
    "position",
    "file",
}
_FLAGS = {"judge_trusted", "length_does_as_well", "words_do_as_well"}
_NUMBERS = {
    *(
        "rows",
        "hidden_size",
        "layer",
        "positive_total",
        "negative_total",
        "positive_kept",
        "negative_kept",
    ),
    *("empty", "missing", "positive_score", "negative_score", "contrast", "judge_auroc"),
    *("magnitude", "relative_magnitude", "massive_share", "massive_dimensions"),
    *(
        "auroc",
        "auroc_low",
        "auroc_high",
        "d",
        "d_low",
        "d_high",
        "evaluation_rollouts",
        "evaluation_questions",
    ),
    *("length_auroc", "words_auroc", "null_p", "null_auroc", "null_auroc_95"),
    *("split_half_cosine", "difference_cosine"),
}


def _is_number(value: Any) -> bool:
    """None too; of a sensible size, which infinity and what is no number are not."""
    is_one = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or (is_one and -1e15 < value < 1e15)


def verdict_on(quality: Mapping[str, Any]) -> tuple[Verdict, str, list[str]]:
    """Verdict, the reason in words, and all that speaks against the vector, the worst first.

    `quality` is what `build_vector` measures; what is missing or None is not held against it.
    """
    unusable, weak = list(_unusable(quality)), list(_weak(quality))
    doubts = unusable + weak
    if not doubts:
        return "good", f"held-out AUROC {_ranged(quality)}", []
    return ("unusable" if unusable else "weak"), doubts[0], doubts


def with_near_duplicates(
    quality: Mapping[str, Any], cosines: Mapping[str, float]
) -> dict[str, Any]:
    """The same with what the vectors of other traits add: name -> cosine at this vector's layer.

    `cosines` and `nearest`, the name of the one that is most alike or opposed; a doubt if it is hardly another.
    """
    nearest = max(cosines, key=lambda name: abs(cosines[name]), default=None)
    told = {**quality, "cosines": dict(cosines), "nearest": nearest}
    if nearest is None or abs(cosines[nearest]) < TWIN:
        return told
    way = "of" if cosines[nearest] > 0 else "against"
    doubt = f"it points the way {way} {nearest} (cosine {cosines[nearest]:.2f}): one of the two may measure the other"
    was_good = quality.get("verdict") == "good"
    changed = {"verdict": "weak", "verdict_reason": doubt} if was_good else {}
    return {**told, **changed, "doubts": [*quality.get("doubts", ()), doubt]}


def _unusable(quality: Mapping[str, Any]) -> Iterator[str]:
    found, chance = quality.get("auroc"), quality.get("null_p")
    if found is not None and found < WEAK:
        yield f"held-out AUROC {_ranged(quality)}: near chance on questions and pairs it has not seen"
    elif chance is not None and chance > CHANCE:
        yield f"vectors of shuffled labels separate as well in {chance:.0%} of all trials (AUROC {_ranged(quality)})"


def _weak(quality: Mapping[str, Any]) -> Iterator[str]:
    found, low = quality.get("auroc"), quality.get("auroc_low")
    if found is None:
        yield "no held-out rollouts: nothing shows that it separates what it has not seen"
    if found is not None and WEAK <= found < GOOD:
        chance = ", and may be chance" if low is not None and low <= 0.5 else ""
        yield f"held-out AUROC {_ranged(quality)} is below {GOOD}{chance}"
    elif found is not None and found >= GOOD and low is not None and low <= 0.5:
        yield f"held-out AUROC {_ranged(quality)}: too few held-out rollouts to tell it from chance"
    yield from _controls(quality)
    if not quality.get("judge_trusted", True):
        yield "the judge cannot tell the polarities apart, so nothing was filtered"
    contrast = quality.get("contrast")
    if contrast is not None and contrast < GOOD_CONTRAST:
        seen = f"contrast {_below(contrast, 0, GOOD_CONTRAST):.0f} is below {GOOD_CONTRAST:.0f}"
        yield f"{seen}: the judge sees little of the trait"
    steady = quality.get("split_half_cosine")
    if steady is not None and steady < STEADY:
        yield f"halves of its rollouts give other vectors (cosine {steady:.2f}): it needs more of them"
    share = quality.get("massive_share")
    if share is not None and share > MASSIVE_SHARE:
        count = quality.get("massive_dimensions")
        yield f"{share:.0%} of it lies in {count} dimensions that are large in all activations"


def _controls(quality: Mapping[str, Any]) -> Iterator[str]:
    """What does as well, within two standard errors of the difference on the same rollouts."""
    if quality.get("length_does_as_well"):
        yield (
            f"it may measure length: the length of the answer alone is not clearly behind "
            f"(AUROC {quality['length_auroc']:.2f}, the vector {quality['auroc']:.2f})"
        )
    if quality.get("words_do_as_well"):
        yield (
            f"it may measure words: the vector of row 0, which sees no context, is not clearly behind "
            f"(AUROC {quality['words_auroc']:.2f}, the vector {quality['auroc']:.2f})"
        )


def _ranged(quality: Mapping[str, Any]) -> str:
    """`0.94 (0.88–0.97)`."""
    low, high = quality.get("auroc_low"), quality.get("auroc_high")
    found = f"{_below(quality['auroc'], 2, WEAK, GOOD):.2f}"
    return found if low is None or high is None else f"{found} ({low:.2f}–{high:.2f})"


def _below(value: float, digits: int, *bounds: float) -> float:
    """Rounded, but down where what is below a bound would read as if it reached it."""
    shown = round(value, digits)
    reaches = any(value < bound <= shown for bound in bounds)
    return math.floor(value * 10**digits) / 10**digits if reaches else shown
