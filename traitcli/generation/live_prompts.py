"""What the prompt of a request need not read, because a request in a slot has read it already.

    slot 0    system text | question 0     is there
    slot 1    system text | question 1     joins: the system text is copied from slot 0

Only prompts whose beginnings no steering changes share them. A request that is alone shares
nothing, so it gets the bits that it gets in `monitor`.
"""

from __future__ import annotations

from collections.abc import Sequence

from traitcli.generation.live_answer import LiveAnswer
from traitcli.models.prefix_tree import common_start

_MIN_SHARED = 8
"""Tokens of a beginning that are worth a copy, or one pass more."""


def find_source(answer: LiveAnswer, others: Sequence[LiveAnswer]) -> tuple[int, int]:
    """Find the answer whose prompt begins as this one's for longest.

    Args:
        answer: Its prompt is about to be read.
        others: Those whose prompts have been read; answer i is in slot i.

    Returns:
        The slot, and how many tokens to copy from it, fewer than the prompt has: the last token
        must be read to give logits. (0, 0) if nothing is worth a copy.
    """
    best = (0, 0)
    for slot, other in enumerate(others):
        # One that has failed may have keys that are not finite.
        tokens = 0 if other.has_failed else _shared_tokens(answer, other)
        if tokens > best[1]:
            best = slot, tokens
    return best


def split_leaders(
    answers: Sequence[LiveAnswer], running: Sequence[LiveAnswer]
) -> tuple[list[LiveAnswer], list[LiveAnswer]]:
    """Split answers that join together: those to read first, and those that share with them.

    The latter share clearly more than they do with answers that run.
    """
    leaders: list[LiveAnswer] = []
    others: list[LiveAnswer] = []
    for answer in answers:
        gain = find_source(answer, leaders)[1] - find_source(answer, running)[1]
        (others if gain >= _MIN_SHARED else leaders).append(answer)
    return leaders, others


def _shared_tokens(one: LiveAnswer, other: LiveAnswer) -> int:
    """How many tokens two prompts can share; 0 if that is not worth a copy."""
    if not (one.steering.keeps_prompt and other.steering.keeps_prompt):
        return 0
    # Pushes act at the last token of a prompt.
    first, second = one.request.ids[:-1], other.request.ids[:-1]
    if first[:_MIN_SHARED] != second[:_MIN_SHARED]:
        return 0
    count = len(common_start([first, second]))
    return count if count >= _MIN_SHARED else 0
