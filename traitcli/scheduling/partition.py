"""Divides work among workers. It is pure arithmetic, so a dry run can show the plan."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar

from traitcli.pipeline.messages import GenerateTask, ReadTask, ScoreTask, Task

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Partition:
    """Rollouts of one trait for one worker; `part` of `parts`, counted from 1."""

    trait: str
    rollouts: int
    part: int
    parts: int


def count_parts(sizes: Mapping[str, int], workers: int) -> dict[str, int]:
    """The number of parts for each trait, longest trait first, so that every worker has a part.

    With fewer workers than traits no trait is split: the traits queue. A trait without work is
    left out. Raises ValueError without workers.
    """
    if workers < 1:
        raise ValueError("no worker to divide work among")
    order = sorted((name for name in sizes if sizes[name] > 0), key=lambda name: -sizes[name])
    parts = dict.fromkeys(order, 1)

    # Each further worker halves, thirds, ... the trait whose parts are largest now. The index
    # decides ties, so that the plan is the same every time.
    heap: list[tuple[float, int, str]] = []
    for index, name in enumerate(order):
        heapq.heappush(heap, (-sizes[name], index, name))
    for _ in range(workers - len(order)):
        if not heap:
            break
        _, index, name = heapq.heappop(heap)
        if parts[name] < sizes[name]:
            parts[name] += 1
            heapq.heappush(heap, (-sizes[name] / parts[name], index, name))
    return parts


def plan_partitions(sizes: Mapping[str, int], workers: int) -> list[list[Partition]]:
    """The partitions of each worker if all are equally fast: the largest are assigned first."""
    partitions = []
    for name, parts in count_parts(sizes, workers).items():
        for part, items in enumerate(split_evenly(range(sizes[name]), parts), start=1):
            partitions.append(Partition(name, len(items), part, parts))

    plan: list[list[Partition]] = [[] for _ in range(workers)]
    loads = [(0, worker) for worker in range(workers)]
    for partition in sorted(partitions, key=lambda partition: -partition.rollouts):
        load, worker = heapq.heappop(loads)
        plan[worker].append(partition)
        heapq.heappush(loads, (load + partition.rollouts, worker))
    return plan


def split_evenly(items: Sequence[T], parts: int) -> list[Sequence[T]]:
    """Split into runs of neighbors that differ in size by at most one; no part is empty."""
    parts = max(1, min(parts, len(items)))
    edges = [len(items) * edge // parts for edge in range(parts + 1)]
    return [items[start:end] for start, end in pairwise(edges)] if items else []


def split_task(task: Task, parts: int) -> list[Task]:
    """The same work in parts."""
    if isinstance(task, GenerateTask):
        return [replace(task, keys=tuple(keys)) for keys in split_evenly(task.keys, parts)]
    if isinstance(task, ReadTask):
        return [replace(task, rollouts=tuple(some)) for some in split_evenly(task.rollouts, parts)]

    # A judge reads the answers to one question together, so they stay in one part.
    questions = list(dict.fromkeys(answer.question for answer in task.answers))
    tasks: list[Task] = []
    for part in map(set, split_evenly(questions, parts)):
        answers = tuple(answer for answer in task.answers if answer.question in part)
        tasks.append(ScoreTask(task.trait, answers))
    return tasks


def remaining_task(task: Task, unfinished: set[str]) -> Task:
    """The part of a task that still has to be done."""
    if isinstance(task, GenerateTask):
        return replace(task, keys=tuple(key for key in task.keys if key.id in unfinished))
    if isinstance(task, ReadTask):
        return replace(task, rollouts=tuple(one for one in task.rollouts if one.id in unfinished))
    answers = tuple(answer for answer in task.answers if answer.rollout in unfinished)
    return replace(task, answers=answers)
