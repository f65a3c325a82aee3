"""Merges the reasons of missing scores that differ in a detail only."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

_VARYING = re.compile(
    r"""((?<!\w)(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|\w*\d\w*(?:[.,:-]\w+)*)"""
)
"""Quoted text, and words with a digit in them: figures, times, request ids."""


def merge_reasons(reasons: Iterable[str]) -> dict[str, int]:
    """Reason -> count, the commonest first; what differs between alike ones becomes a range of figures, or `…`."""
    alike: dict[tuple[str, ...], list[tuple[str, ...]]] = defaultdict(list)
    for reason in reasons:
        parts = _VARYING.split(reason)
        alike[tuple(parts[::2])].append(tuple(parts[1::2]))
    counts: Counter[str] = Counter()
    for fixed, varying in alike.items():
        merged = [_merge(said) for said in zip(*varying, strict=True)]
        counts[
            "".join(part for pair in zip(fixed, [*merged, ""], strict=True) for part in pair)
        ] += len(varying)
    return dict(counts.most_common())


def _merge(said: Sequence[str]) -> str:
    """What stands in one place of alike reasons, as one: `0.02–0.19` for figures, `…` for words."""
    if len(set(said)) == 1:
        return said[0]
    try:
        ordered = sorted(said, key=float)
    except ValueError:
        return "…"
    return f"{ordered[0]}–{ordered[-1]}"
