"""Merge reasons of missing scores that differ only in a detail."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain, zip_longest

_DETAIL = re.compile(r"""((?<!\w)(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|\w*\d\w*(?:[.,:-]\w+)*)""")
"""Quoted text, and words with a digit in them: numbers, times, request ids."""


def merge_reasons(reasons: Iterable[str]) -> dict[str, int]:
    """Count reasons, the most common first, and merge those that differ only in details.

    Details that differ become a range of numbers, such as `0.02–0.19`, or `…`.
    """
    details_by_text: dict[tuple[str, ...], list[tuple[str, ...]]] = defaultdict(list)
    for reason in reasons:
        # `split` with one group returns texts and details in turn; both ends are texts.
        parts = _DETAIL.split(reason)
        details_by_text[tuple(parts[::2])].append(tuple(parts[1::2]))

    counts: Counter[str] = Counter()
    for texts, details in details_by_text.items():
        merged = [_merge(values) for values in zip(*details, strict=True)]
        alternating = chain.from_iterable(zip_longest(texts, merged, fillvalue=""))
        counts["".join(alternating)] += len(details)
    return dict(counts.most_common())


def _merge(values: Sequence[str]) -> str:
    if len(set(values)) == 1:
        return values[0]
    try:
        numbers = sorted(values, key=float)
    except ValueError:
        return "…"
    return f"{numbers[0]}–{numbers[-1]}"
