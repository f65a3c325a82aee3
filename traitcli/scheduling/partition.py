"""Cuts work into shares for places to work at: pure arithmetic, so that a plan can be shown before it is made."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar

from traitcli.pipeline.messages import Generating, Scoring, Task

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Share:
    """Rollouts of one trait for one place; `part` of `parts`, counted from 1."""

    trait: str
    rollouts: int
    part: int
    parts: int


def share_out(sizes: Mapping[str, int], places: int) -> dict[str, int]:
    """In how many parts each trait is cut, so that every place has one; the longest traits come first.

    With no more places than traits nothing is cut: they queue. A trait without work has no part.
    Raises ValueError where there is no place.
    """
    if places < 1:
        raise ValueError("no place to work at")
    order = sorted((name for name in sizes if sizes[name] > 0), key=lambda name: -sizes[name])
    parts = dict.fromkeys(order, 1)
    largest: list[tuple[float, int, str]] = [
        (-sizes[name], place, name) for place, name in enumerate(order)
    ]
    heapq.heapify(largest)
    for _ in range(places - len(order)):
        if not largest:
            break
        _, place, name = heapq.heappop(largest)
        if parts[name] < sizes[name]:
            parts[name] += 1
            heapq.heappush(largest, (-sizes[name] / parts[name], place, name))
    return parts


def assign(sizes: Mapping[str, int], places: int) -> list[list[Share]]:
    """The shares of each place as they are handed out where all places are equally fast: longest first."""
    shares = [
        Share(name, len(piece), part, parts)
        for name, parts in share_out(sizes, places).items()
        for part, piece in enumerate(cut(range(sizes[name]), parts), start=1)
    ]
    plan: list[list[Share]] = [[] for _ in range(places)]
    free = [(0, place) for place in range(places)]
    for share in sorted(shares, key=lambda share: -share.rollouts):
        load, place = heapq.heappop(free)
        plan[place].append(share)
        heapq.heappush(free, (load + share.rollouts, place))
    return plan


def cut(items: Sequence[T], parts: int) -> list[Sequence[T]]:
    """Neighbours stay together; no part is empty, and none is larger by more than one."""
    parts = max(1, min(parts, len(items)))
    edges = [len(items) * edge // parts for edge in range(parts + 1)]
    return [items[start:end] for start, end in pairwise(edges)] if items else []


def cut_task(task: Task, parts: int) -> list[Task]:
    """The same work in parts; a judge reads the answers to a question together, so they are not torn apart."""
    if isinstance(task, Generating):
        return [replace(task, keys=tuple(piece)) for piece in cut(task.keys, parts)]
    questions = list(dict.fromkeys(answer.question for answer in task.answers))
    pieces = [set(piece) for piece in cut(questions, parts)]
    return [
        Scoring(task.trait, tuple(a for a in task.answers if a.question in piece))
        for piece in pieces
    ]


def rest_of(task: Task, left: set[str]) -> Task:
    """What of a task is not finished."""
    if isinstance(task, Generating):
        return replace(task, keys=tuple(key for key in task.keys if key.id in left))
    return replace(task, answers=tuple(answer for answer in task.answers if answer.rollout in left))
