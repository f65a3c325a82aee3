"""Leads workers through the traits: hands out tasks, keeps what comes back, and copes with workers that are lost.

It runs where the command does and is the only one that writes to the run directory, so a worker may
be anywhere, and a task may be done in parts by several. A worker without work takes over half of what
another has not begun. One that dies or hangs is replaced, and what it had not handed over is made
by others.
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
    Began,
    Ended,
    Fatal,
    GaveUp,
    Generating,
    Gone,
    Heartbeat,
    Judged,
    Logged,
    Made,
    Message,
    Ready,
    Share,
    Stop,
    Task,
)
from traitcli.pipeline.trait_pipeline import Job, TraitPipeline
from traitcli.scheduling.partition import cut_task, rest_of, share_out
from traitcli.scheduling.pool import WorkerPool, WorkerState, log_path

_SECONDS_TO_STOP = 2.5
"""In which workers hand over what is finished after Ctrl-C, before they are ended by force."""


class Scheduler:
    """Takes jobs to their end with a crew."""

    def __init__(
        self,
        jobs: Sequence[Job],
        crew: WorkerPool,
        judge: Judge,
        on_event: Listener,
        logs: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`judge` is asked here when it leaves devices free; `logs` is the folder of the workers' logs."""
        self._crew = crew
        self._judge = judge
        self._listener = on_event
        self._alone = threading.RLock()
        self._logs = logs
        self._clock = clock
        self._check: Callable[[], None] | None = None
        self._rules: WorkersConfig = jobs[0].config.workers
        self._pool = ThreadPoolExecutor(len(jobs), "judge")
        lines = [TraitPipeline(job, judge, self._pool, self._tell) for job in jobs]
        self._lines = {line.name: line for line in lines}
        self._parts = share_out({line.name: line.missing for line in lines}, len(crew.places))
        self._unstarted = deque(self._lines[name] for name in self._parts)
        self._waiting: deque[Task] = deque()
        self._hands: dict[int, WorkerState] = {}
        self._tried: Counter[str] = Counter()
        self._died_here: Counter[int] = Counter()

    def run(self, check: Callable[[], None] = lambda: None) -> list[TraitFailed]:
        """Returns what failed; raises what no trait could go on after. Every worker has ended then.

        `check` is called before a model is loaded, while workers start; what it raises ends all.
        """
        self._check = check
        try:
            for line in self._lines.values():
                if line.name not in self._parts:
                    self._add(line.start())
            while not all(line.is_over for line in self._lines.values()):
                self._hand_out()
                busy = any(hand.task or not hand.ready for hand in self._hands.values())
                self._crew.hear(self._take, 1.0 if busy else 0.05)
                self._watch()
        except (
            BaseException
        ):  # Ctrl-C and SIGTERM too: what is finished is kept whatever ends the run
            with suppress(KeyboardInterrupt):
                self._stop()
            raise
        finally:
            self._let_go(list(self._hands.values()))
            self._crew.close()
            self._pool.shutdown(cancel_futures=True)
        return [line.failure for line in self._lines.values() if line.failure]

    def _tell(self, event: Event) -> None:
        with self._alone:
            self._listener(event)

    def _add(self, tasks: Sequence[Task]) -> None:
        """Cut tasks for the places there are; what is to be scored goes first, so that traits are finished."""
        for task in tasks:
            if isinstance(task, Generating):
                self._waiting.extend(cut_task(task, self._parts[task.trait.name]))
            else:
                going = sum(not line.is_over for line in self._lines.values())
                self._waiting.extendleft(cut_task(task, -(-len(self._crew.places) // going)))

    # Handing out

    def _hand_out(self) -> None:
        """Give idle workers something to do, hire where a place is free, and share what only others have."""
        for hand in self._hands.values():
            if hand.is_idle and (task := self._next()):
                self._give(hand, task)
        self._hire()
        idle = [hand for hand in self._hands.values() if hand.is_idle]
        if not idle or self._waiting:
            return
        if not any(hand.task for hand in self._hands.values()):
            self._let_go(idle)  # nothing is left to do on devices
            return
        asked = sum(hand.asked for hand in self._hands.values())
        if len(idle) > asked and (richest := self._richest()):
            richest.asked = True
            self._crew.send(richest.place, Share(0.5))

    def _next(self) -> Task | None:
        while not self._waiting and self._unstarted:
            self._add(self._unstarted.popleft().start())
        return self._waiting.popleft() if self._waiting else None

    def _give(self, hand: WorkerState, task: Task) -> None:
        if self._check and isinstance(task, Generating):
            self._check()
            self._check = None
        hand.give(task, self._clock())
        self._crew.send(hand.place, task)
        self._note(hand.place, f"is given {len(task.ids)} {task.stage} of {task.trait.name}")
        self._seen(hand)

    def _hire(self) -> None:
        """Start as many workers as there is work for, where workers do not die one after the other."""
        ahead = len(self._waiting) + sum(self._parts[line.name] for line in self._unstarted)
        ahead -= sum(hand.task is None for hand in self._hands.values())
        sound = [
            p for p in range(len(self._crew.places)) if self._died_here[p] < self._rules.max_crashes
        ]
        for place in [p for p in sound if p not in self._hands][: max(0, ahead)]:
            self._hands[place] = WorkerState(place, self._clock())
            self._note(place, f"is started on {self._crew.places[place]}")
            self._crew.hire(place)
            self._tell(WorkerSeen(place, self._crew.places[place], "starting"))
        if ahead > 0 and not sound and not self._hands:
            self._give_up()

    def _richest(self) -> WorkerState | None:
        able = [hand for hand in self._hands.values() if hand.can_give]
        return max(able, key=lambda hand: hand.unbegun, default=None)

    # Listening

    def _take(self, place: int, message: Message) -> None:
        hand = self._hands.get(place)
        if hand is None:
            return
        hand.heard = self._clock()
        match message:
            case Ready(where):
                hand.ready = True
                self._note(place, f"is ready{' on ' * bool(where)}{where}")
                self._seen(hand)
            case Began():
                hand.began, hand.since = True, hand.heard
                self._seen(hand)
            case Heartbeat(tokens, unbegun, memory):
                hand.unbegun, hand.memory = unbegun, memory
                self._line_of(hand).count(tokens)
                self._seen(hand, tokens)
            case Made() | Judged():
                self._keep(hand, message)
            case GaveUp(ids):
                self._take_back(hand, ids)
            case Ended(failure):
                self._end_task(hand, failure)
            case Fatal(error):
                self._note(place, f"cannot go on: {error}")
                raise error
            case Gone(cause):
                self._lose(hand, cause)
            case Logged(text):
                self._log(place, text)
            case event:
                if isinstance(event, ModelLoading):
                    self._seen(hand, doing="loading")
                self._note(place, str(event))
                self._tell(event)

    def _line_of(self, hand: WorkerState) -> TraitPipeline:
        assert hand.task  # noqa: S101 - who speaks of rollouts has a task
        return self._lines[hand.task.trait.name]

    def _keep(self, hand: WorkerState, made: Made | Judged) -> None:
        line = self._line_of(hand)
        hand.moved = True
        self._died_here[hand.place] = 0
        if isinstance(made, Made):
            line.keep(made)
            hand.left -= {rollout.id for rollout in made.rollouts}
        else:
            line.keep_judgements(made.judgements)
            hand.left -= {judgement.rollout for judgement in made.judgements}
        self._seen(hand)
        for each in self._lines.values():
            each.look()  # a judge that refuses for good ends everything now

    def _take_back(self, hand: WorkerState, ids: Sequence[str]) -> None:
        """Share out what a worker has given up."""
        hand.asked = False
        hand.unbegun = max(0, hand.unbegun - len(ids)) if ids else 0
        if not ids or not hand.task or self._line_of(hand).failure:
            return
        hand.left -= set(ids)
        hand.total -= len(ids)
        idle = sum(other.is_idle for other in self._hands.values())
        self._waiting.extend(cut_task(rest_of(hand.task, set(ids)), idle))
        self._note(hand.place, f"gave up {len(ids)} rollouts to others")

    def _end_task(self, hand: WorkerState, failure: TraitError | None) -> None:
        line, task = self._line_of(hand), hand.task
        assert task  # noqa: S101 - as above
        hand.task = None
        if failure:
            self._note(hand.place, f"cannot do {task.stage} of {line.name}: {failure}")
            line.fail(task.stage, failure)
        elif hand.left:
            self._note(hand.place, f"left out {len(hand.left)} of {len(task.ids)}")
            line.fail(
                task.stage,
                TraitError(
                    f"{line.name} was not finished", cause=f"{len(hand.left)} were left out"
                ),
            )
        else:
            self._note(hand.place, f"has done {hand.done} {task.stage} of {line.name}")
            line.spend(task.stage, hand.heard - hand.since, hand.done)
        self._seen(hand)
        self._go_on(line)

    def _go_on(self, line: TraitPipeline) -> None:
        """Take a trait to its next stage, if nothing of this one is left; of one that failed nothing more is begun."""
        at_work = [
            hand for hand in self._hands.values() if hand.task and self._line_of(hand) is line
        ]
        if line.failure:
            self._waiting = deque(task for task in self._waiting if task.trait.name != line.name)
            for hand in at_work:
                self._crew.send(hand.place, Share(1))
        if not at_work and not any(task.trait.name == line.name for task in self._waiting):
            self._add(line.go_on())

    # Losing

    def _watch(self) -> None:
        """Notice workers that hang, and what became of judging."""
        for hand in list(self._hands.values()):
            silent = self._clock() - hand.heard
            if silent > self._rules.heartbeat_timeout and not hand.is_idle:
                self._lose(hand, f"its worker said nothing for {silent:.0f} seconds")
        for line in self._lines.values():
            line.look()

    def _lose(self, hand: WorkerState, cause: str) -> None:
        """Put back what a worker that is gone had not handed over, if that was not tried too often."""
        self._crew.end(hand.place)
        del self._hands[hand.place]
        self._died_here[hand.place] += 1
        self._note(hand.place, f"is lost: {cause}")
        self._tell(WorkerSeen(hand.place, self._crew.places[hand.place], "gone"))
        if hand.task is None:
            return
        line = self._line_of(hand)
        if hand.began and not hand.moved:
            self._tried.update(hand.left)
        tried = max((self._tried[name] for name in hand.left), default=0)
        if tried >= self._rules.max_crashes:
            before = f", as did {tried - 1} before" if tried > 1 else ""
            line.fail("worker", _unfinished(line, cause + before))
        elif hand.left and not line.failure:
            self._tell(Warned(line.name, f"{cause}; another one goes on"))
            self._waiting.append(rest_of(hand.task, hand.left))
        self._go_on(line)

    def _give_up(self) -> None:
        """No device keeps a worker alive: what is left to do fails."""
        for line in [self._lines[task.trait.name] for task in self._waiting] + list(
            self._unstarted
        ):
            line.fail("worker", _unfinished(line, "no worker is left: on every device they died"))
        self._unstarted.clear()
        self._waiting.clear()
        for line in self._lines.values():
            if line.failure and not line.is_over:
                line.go_on()

    def _stop(self) -> None:
        """Have everything handed over that is finished, and end who does not heed it; a second Ctrl-C waits no more."""
        for line in self._lines.values():
            line.stop()
        try:
            self._judge.close()
            for hand in self._hands.values():
                self._crew.send(hand.place, Stop())
            until = self._clock() + _SECONDS_TO_STOP
            while self._hands and self._clock() < until:
                self._crew.hear(self._take_last, 0.1)
        finally:
            for place in self._hands:
                self._crew.end(place)
            self._hands.clear()

    def _take_last(self, place: int, message: Message) -> None:
        if isinstance(message, Gone | Fatal):
            self._hands.pop(place, None)
            self._crew.end(place)
        elif isinstance(message, Made | Judged) and place in self._hands:
            self._keep(self._hands[place], message)

    def _let_go(self, hands: Sequence[WorkerState]) -> None:
        for hand in hands:
            self._crew.send(hand.place, Stop())
            self._hands.pop(hand.place, None)

    # Telling

    def _seen(self, hand: WorkerState, tokens: int = 0, doing: str = "") -> None:
        device, task = self._crew.places[hand.place], hand.task
        if task is None:
            self._tell(WorkerSeen(hand.place, device, doing or "waiting", memory=hand.memory))
            return
        doing = doing or (task.stage if hand.began else "loading")
        told = WorkerSeen(
            hand.place, device, doing, task.trait.name, hand.done, hand.total, tokens, hand.memory
        )
        self._tell(told)

    def _note(self, place: int, text: str) -> None:
        self._log(place, f"{time.strftime('%H:%M:%S')} worker {place} {text}\n")

    def _log(self, place: int, text: str) -> None:
        if self._logs:
            with suppress(OSError):  # it is not worth the run
                self._logs.mkdir(parents=True, exist_ok=True)
                with log_path(self._logs, place).open("a", encoding="utf-8") as file:
                    file.write(text)


def _unfinished(line: TraitPipeline, cause: str) -> TraitError:
    fix = "run the same command again: what is on disk is kept; the workers' logs are in the run's folder"
    return TraitError(f"{line.name} was not finished", cause=cause, fix=fix)
