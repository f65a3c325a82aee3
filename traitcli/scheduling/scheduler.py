"""Schedules the traits of a run on a worker pool.

The scheduler runs in the process of the command. Workers only compute; the scheduler is the only
one that writes to the run directory, so a worker may be on any machine.

    jobs ──> TraitPipeline, one a trait ──> tasks, split into partitions
                  ▲                              │
                  │ RolloutsMade                 ▼
                  │ RolloutsJudged      ┌── queue of tasks <── released or lost work
                  │                     ▼
              Scheduler ── task, ReleaseRequest, StopRequest ──> WorkerPool ──> workers
                  ▲                                                               │
                  └── Heartbeat, RolloutsMade, RolloutsReleased, TaskEnded, ... ──┘

Work stealing: if a worker is idle and the queue is empty, the scheduler asks the worker with the
most unstarted rollouts to release half of them, and queues those again. A worker that dies or
sends no heartbeat is replaced, and its unfinished work is queued again.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from traitcli.config import WorkersConfig
from traitcli.errors import TraitError
from traitcli.events import Event, Listener, ModelLoading, TraitFailed, Warned, WorkerSeen
from traitcli.judging import Judge
from traitcli.pipeline.messages import (
    GenerateTask,
    Heartbeat,
    LogWritten,
    Made,
    Message,
    ReleaseRequest,
    ResponsesRead,
    RolloutsJudged,
    RolloutsMade,
    RolloutsReleased,
    RunFailed,
    StopRequest,
    Task,
    TaskEnded,
    TaskStarted,
    WorkerGone,
    WorkerReady,
)
from traitcli.pipeline.trait_pipeline import Job, TraitPipeline
from traitcli.scheduling.logs import WorkerLogs
from traitcli.scheduling.partition import count_parts, remaining_task, split_task
from traitcli.scheduling.pool import WorkerPool, WorkerState

_SEE_LOGS = "the same error would come again; see logs/ in the run folder, and report it as a bug"
_SECONDS_TO_STOP = 2.5
"""Time that workers get to deliver what is finished after Ctrl-C, before they are killed."""


class Scheduler:
    """Runs jobs to their end on a worker pool."""

    def __init__(
        self,
        jobs: Sequence[Job],
        pool: WorkerPool,
        judge: Judge,
        on_event: Listener,
        logs: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`judge` is asked from here if it needs no device; `logs` is the folder of worker logs."""
        self._pool = pool
        self._judge = judge
        self._listener = on_event
        self._event_lock = threading.RLock()
        self._logs = WorkerLogs(logs)
        self._clock = clock
        self._memory_check: Callable[[], None] | None = None

        self._limits: WorkersConfig = jobs[0].config.workers
        self._judging_threads = ThreadPoolExecutor(len(jobs), "judge")
        self._pipelines: dict[str, TraitPipeline] = {}
        for job in jobs:
            pipeline = TraitPipeline(job, judge, self._judging_threads, self._emit)
            self._pipelines[pipeline.name] = pipeline
        missing = {name: pipeline.missing for name, pipeline in self._pipelines.items()}
        self._parts = count_parts(missing, len(pool.devices))

        self._unstarted = deque(self._pipelines[name] for name in self._parts)
        self._queue: deque[Task] = deque()
        self._workers: dict[int, WorkerState] = {}
        self._crashes_by_rollout: Counter[str] = Counter()
        self._crashes_by_worker: Counter[int] = Counter()

    def run(self, check_memory: Callable[[], None] = lambda: None) -> list[TraitFailed]:
        """Return what failed; raise an error that no trait can continue after. All workers end.

        `check_memory` is called while the first workers start, before any loads a model. What it
        raises ends the run.
        """
        self._memory_check = check_memory
        try:
            for pipeline in self._pipelines.values():
                if pipeline.name not in self._parts:
                    self._queue_tasks(pipeline.start())

            while not all(pipeline.is_over for pipeline in self._pipelines.values()):
                self._assign_work()
                # Busy workers wake `poll`. The end of background judging does not: poll often then.
                busy = any(w.task or not w.ready for w in self._workers.values())
                self._pool.poll(self._receive, 1.0 if busy else 0.05)
                self._check_heartbeats()
        except BaseException:
            # Ctrl-C and SIGTERM as well: finished rollouts are kept, whatever ends the run.
            with suppress(KeyboardInterrupt):
                self._shut_down()
            raise
        finally:
            self._dismiss(list(self._workers.values()))
            self._pool.close()
            self._judging_threads.shutdown(cancel_futures=True)
        return [pipeline.failure for pipeline in self._pipelines.values() if pipeline.failure]

    def _emit(self, event: Event) -> None:
        """Pass an event on. Judging threads emit events too, and listeners expect one at a time."""
        with self._event_lock:
            self._listener(event)

    def _queue_tasks(self, tasks: Sequence[Task]) -> None:
        """Split tasks for the workers and queue them.

        Scoring goes to the front: a trait whose rollouts are complete should be finished first.
        """
        for task in tasks:
            if isinstance(task, GenerateTask):
                self._queue.extend(split_task(task, self._parts[task.trait.name]))
            else:
                active = sum(not pipeline.is_over for pipeline in self._pipelines.values())
                parts = -(-len(self._pool.devices) // active)  # rounded up
                self._queue.extendleft(split_task(task, parts))

    # Assigning work

    def _assign_work(self) -> None:
        """Give tasks to idle workers, start more workers, and steal work for those left idle."""
        for worker in self._workers.values():
            if worker.is_idle and (task := self._next_task()):
                self._assign(worker, task)
        self._start_workers()

        idle = [worker for worker in self._workers.values() if worker.is_idle]
        if not idle or self._queue:
            return
        if not any(worker.task for worker in self._workers.values()):
            self._dismiss(idle)  # only judging in this process is left
            return
        # One request for each idle worker at most: a second one would split the same rest again.
        requested = sum(worker.release_requested for worker in self._workers.values())
        if len(idle) > requested and (victim := self._find_victim()):
            victim.release_requested = True
            self._pool.send(victim.number, ReleaseRequest(0.5))

    def _next_task(self) -> Task | None:
        while not self._queue and self._unstarted:
            self._queue_tasks(self._unstarted.popleft().start())
        return self._queue.popleft() if self._queue else None

    def _assign(self, worker: WorkerState, task: Task) -> None:
        if self._memory_check and isinstance(task, GenerateTask):
            self._memory_check()
            self._memory_check = None
        worker.assign(task, self._clock())
        self._pool.send(worker.number, task)
        self._logs.note(worker.number, f"gets {len(task.ids)} {task.stage} of {task.trait.name}")
        self._report(worker)

    def _start_workers(self) -> None:
        """Start as many workers as there is queued work for, not where workers keep crashing."""
        needed = len(self._queue) + sum(self._parts[p.name] for p in self._unstarted)
        needed -= sum(worker.task is None for worker in self._workers.values())
        usable = [
            number
            for number in range(len(self._pool.devices))
            if self._crashes_by_worker[number] < self._limits.max_crashes
        ]
        free = [number for number in usable if number not in self._workers]

        for number in free[: max(0, needed)]:
            self._workers[number] = WorkerState(number, self._clock())
            device = self._pool.devices[number]
            self._logs.note(number, f"starts on {device}")
            self._pool.start(number)
            self._emit(WorkerSeen(number, device, "starting"))
        if needed > 0 and not usable and not self._workers:
            self._fail_remaining()

    def _find_victim(self) -> WorkerState | None:
        """The worker to steal from: the one with the most unstarted rollouts."""
        able = [worker for worker in self._workers.values() if worker.can_release]
        return max(able, key=lambda worker: worker.unstarted, default=None)

    # Messages from workers

    def _receive(self, number: int, message: Message) -> None:
        worker = self._workers.get(number)
        if worker is None:
            return  # a late message of a worker that was given up
        worker.last_message_at = self._clock()

        match message:
            case WorkerReady(location):
                worker.ready = True
                self._logs.note(number, f"is ready on {location}" if location else "is ready")
                self._report(worker)
            case TaskStarted():
                worker.task_started, worker.task_started_at = True, worker.last_message_at
                self._report(worker)
            case Heartbeat(tokens, unstarted, memory):
                worker.unstarted, worker.memory = unstarted, memory
                self._pipeline_of(worker).report_progress(tokens)
                self._report(worker, tokens)
            case RolloutsMade() | ResponsesRead() | RolloutsJudged():
                self._store(worker, message)
            case RolloutsReleased(ids):
                self._queue_released(worker, ids)
            case TaskEnded(failure):
                self._end_task(worker, failure)
            case RunFailed(error):
                self._logs.note(number, f"cannot continue: {error}")
                raise error
            case WorkerGone(cause, permanent):
                self._replace(worker, cause, permanent)
            case LogWritten(text):
                self._logs.write(number, text)
            case event:
                if isinstance(event, ModelLoading):
                    self._report(worker, doing="loading")
                self._logs.note(number, str(event))
                self._emit(event)

    def _pipeline_of(self, worker: WorkerState) -> TraitPipeline:
        assert worker.task  # noqa: S101 - workers send these messages during a task only
        return self._pipelines[worker.task.trait.name]

    def _store(self, worker: WorkerState, made: Made) -> None:
        pipeline = self._pipeline_of(worker)
        worker.has_progress = True
        self._crashes_by_worker[worker.number] = 0
        worker.unfinished -= pipeline.store(made)
        self._report(worker)
        for each in self._pipelines.values():
            each.check_judging()  # a judge that refuses for good ends the run now, not at the end

    def _queue_released(self, worker: WorkerState, ids: Sequence[str]) -> None:
        """Queue rollouts that a worker has released, in parts for the workers that are idle."""
        worker.release_requested = False
        # No ids: nothing is left to release, so do not ask this worker again.
        worker.unstarted = max(0, worker.unstarted - len(ids)) if ids else 0
        if not ids or not worker.task or self._pipeline_of(worker).failure:
            return
        worker.unfinished -= set(ids)
        worker.total -= len(ids)
        idle = sum(other.is_idle for other in self._workers.values())
        self._queue.extend(split_task(remaining_task(worker.task, set(ids)), idle))
        self._logs.note(worker.number, f"released {len(ids)} rollouts to other workers")

    def _end_task(self, worker: WorkerState, failure: TraitError | None) -> None:
        pipeline, task = self._pipeline_of(worker), worker.task
        assert task  # noqa: S101 - as in _pipeline_of
        worker.task, number = None, worker.number

        if failure:
            self._logs.note(number, f"cannot do {task.stage} of {pipeline.name}: {failure}")
            pipeline.fail(task.stage, failure)
        elif worker.unfinished:
            missing = f"{len(worker.unfinished)} of {len(task.ids)} {task.stage} are missing"
            self._logs.note(number, f"ended, but {missing}")
            pipeline.fail(task.stage, TraitError(f"{pipeline.name} is not finished", cause=missing))
        else:
            self._logs.note(number, f"has done {worker.done} {task.stage} of {pipeline.name}")
            seconds = worker.last_message_at - worker.task_started_at
            pipeline.record_time(task.stage, seconds, worker.done)

        self._report(worker)
        self._advance(pipeline)

    def _advance(self, pipeline: TraitPipeline) -> None:
        """Start a trait's next stage when this one has no work left; drop the work of a failure."""
        name = pipeline.name
        running = [w for w in self._workers.values() if w.task and w.task.trait.name == name]
        if pipeline.failure:
            self._queue = deque(task for task in self._queue if task.trait.name != name)
            for worker in running:
                self._pool.send(worker.number, ReleaseRequest(1))
        if not running and not any(task.trait.name == name for task in self._queue):
            self._queue_tasks(pipeline.advance())

    # Lost workers

    def _check_heartbeats(self) -> None:
        """Replace workers that hang, and notice judging that has ended."""
        for worker in list(self._workers.values()):
            silent = self._clock() - worker.last_message_at
            if silent > self._limits.heartbeat_timeout and not worker.is_idle:
                self._replace(worker, f"no heartbeat from its worker for {silent:.0f} seconds")
        for pipeline in self._pipelines.values():
            pipeline.check_judging()

    def _replace(self, worker: WorkerState, cause: str, permanent: bool = False) -> None:
        """Queue what a lost worker has not delivered, unless that crashed workers too often.

        A `permanent` error is not tried again. It fails the worker's trait; before a task, all.
        """
        number = worker.number
        self._pool.end(number)
        del self._workers[number]
        self._crashes_by_worker[number] += 1
        self._logs.note(number, f"is lost: {cause}")
        self._emit(WorkerSeen(number, self._pool.devices[number], "gone"))
        if worker.task is None:
            if permanent:
                raise TraitError("a worker cannot start", cause=cause, fix=_SEE_LOGS)
            return

        # Only a crash without any progress counts against the rollouts: with progress the machine
        # is bad and not the job, and progress is finite, so the run still ends.
        pipeline = self._pipeline_of(worker)
        if worker.task_started and not worker.has_progress:
            self._crashes_by_rollout.update(worker.unfinished)

        crashes = max((self._crashes_by_rollout[name] for name in worker.unfinished), default=0)
        if permanent and worker.unfinished:
            pipeline.fail_unfinished(cause, _SEE_LOGS)
        elif crashes >= self._limits.max_crashes:
            before = f"; {crashes - 1} workers crashed before it" if crashes > 1 else ""
            pipeline.fail_unfinished(cause + before)
        elif worker.unfinished and not pipeline.failure:
            self._emit(Warned(pipeline.name, f"{cause}; another worker continues"))
            self._queue.append(remaining_task(worker.task, worker.unfinished))
        self._advance(pipeline)

    def _fail_remaining(self) -> None:
        """Fail all traits with work left: workers crash on every device."""
        cause = "no worker is left: workers crashed on every device"
        queued = [self._pipelines[task.trait.name] for task in self._queue]
        for pipeline in [*queued, *self._unstarted]:
            pipeline.fail_unfinished(cause)
        self._unstarted.clear()
        self._queue.clear()
        for pipeline in self._pipelines.values():
            if pipeline.failure and not pipeline.is_over:
                pipeline.advance()

    def _shut_down(self) -> None:
        """Store what workers have finished, then end them. A second Ctrl-C ends them at once."""
        for pipeline in self._pipelines.values():
            pipeline.stop()
        try:
            self._judge.close()
            for number in self._workers:
                self._pool.send(number, StopRequest())
            deadline = self._clock() + _SECONDS_TO_STOP
            while self._workers and self._clock() < deadline:
                self._pool.poll(self._receive_last, 0.1)
        finally:
            for number in self._workers:
                self._pool.end(number)
            self._workers.clear()

    def _receive_last(self, number: int, message: Message) -> None:
        if isinstance(message, WorkerGone | RunFailed):
            self._workers.pop(number, None)
            self._pool.end(number)
        elif isinstance(message, Made) and number in self._workers:
            self._store(self._workers[number], message)

    def _dismiss(self, workers: Sequence[WorkerState]) -> None:
        """Let workers end; the pool ends those that do not."""
        for worker in workers:
            self._pool.send(worker.number, StopRequest())
            self._workers.pop(worker.number, None)

    # Reports

    def _report(self, worker: WorkerState, tokens: int = 0, doing: str = "") -> None:
        """Emit what a worker does now."""
        device, task = self._pool.devices[worker.number], worker.task
        if task is None:
            doing = doing or "waiting"
            self._emit(WorkerSeen(worker.number, device, doing, memory=worker.memory))
            return
        doing = doing or (task.stage if worker.task_started else "loading")
        counts = worker.done, worker.total, tokens, worker.memory
        self._emit(WorkerSeen(worker.number, device, doing, task.trait.name, *counts))
