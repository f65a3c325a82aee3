"""Monitors a generation: projects the hidden state of every new token on the trait vectors."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from traitcli.events import (
    AlarmRaised,
    Event,
    Listener,
    MonitorFinished,
    MonitorStarted,
    PromptScored,
    TokenScored,
    Warned,
)
from traitcli.generation.decode import decode
from traitcli.generation.detokenize import Detokenizer, token_texts
from traitcli.generation.request import Request
from traitcli.interventions import Intervention
from traitcli.models.chat_format import Message
from traitcli.models.loaded import LoadedModel
from traitcli.models.memory import memory_explained
from traitcli.models.prompts import Prompt, check_length, conversation, render
from traitcli.models.thinking import opens_thinking, thinking_tokens
from traitcli.monitoring.alarms import Alarm
from traitcli.monitoring.record_files import keep_record
from traitcli.monitoring.watch import Watch
from traitcli.records import Crossing, Scores, TokenScores
from traitcli.steering.interventions import (
    Steering,
    dose_notes,
    measure_doses,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

Record = TypeVar("Record", bound=TokenScores)

_LESS_MEMORY = "set model.dtype to bfloat16, or monitor.sampling.max_new_tokens lower"


def monitor(
    loaded: LoadedModel,
    watch: Watch,
    prompt: str,
    out: Path | None = None,
    on_event: Listener = lambda event: None,
) -> TokenScores:
    """Generate an answer and score every token as it is written.

    Args:
        loaded: The model.
        watch: What is scored, and how the answer is generated.
        prompt: The user's message.
        out: Where the record is stored. A .jsonl file is appended to, any other file is replaced.
        on_event: Receives the events of the generation.

    Returns:
        The record of the answer.

    Raises UserError when the prompt does not fit the model. Ctrl-C raises KeyboardInterrupt, after
    what was written so far is stored with the finish reason "interrupted".
    """
    return run_steps(monitor_steps(loaded, watch, prompt, out), on_event)


def run_steps(steps: Generator[Event, None, Record], on_event: Listener) -> Record:
    """Run `monitor_steps`, or what wraps it, to its end; an error of `on_event` ends it earlier."""
    raised: BaseException | None = None
    with closing(steps):
        while True:
            try:
                event = steps.throw(raised) if raised else next(steps)
            except StopIteration as end:
                record: Record = end.value
                return record
            raised = None
            try:
                on_event(event)
            # Whatever it is, the record of what was written must be kept before it ends.
            except BaseException as error:  # noqa: BLE001 - `monitor_steps` raises it again
                raised = error


def monitor_steps(
    loaded: LoadedModel, watch: Watch, prompt: str, out: Path | None = None
) -> Generator[Event, None, TokenScores]:
    """Do the same step by step: yields each event as it happens, and returns the record.

    The model cannot be used for anything else until the generator ends or is closed. Closing it
    ends the answer like Ctrl-C.
    """
    user_message: Message = {"role": "user", "content": prompt}
    messages, notes = conversation(loaded, watch.config.system, [*watch.history, user_message])
    rendered = render(loaded.tokenizer, messages, loaded.chat)
    check_length(loaded, rendered, watch.config.sampling.max_new_tokens)
    # One more pass over the prompt; it must run before the steering hooks are set.
    steering = measure_doses(loaded, watch.steering, rendered.ids)
    interventions = tuple(one.intervention for one in steering)
    yield MonitorStarted(
        prompt,
        loaded.name,
        tuple(watch.probes),
        watch.layers,
        (*notes, *_final_norm_notes(watch, loaded)),
        interventions,
        watch.about,
        watch.marks,
    )
    for note in dose_notes(steering, loaded):
        yield Warned("", note)

    events: list[Event] = []
    hooks = Steering(loaded, steering)
    answer = _MonitoredAnswer(loaded, watch, rendered, hooks, events.append)
    start, reason, is_closed = time.monotonic(), "failed", False
    try:
        with closing(answer.generate()) as tokens:
            for _ in tokens:
                yield from _taken(events)
        reason = answer.finish_reason
    except (KeyboardInterrupt, SystemExit):
        reason = "interrupted"
        raise
    except GeneratorExit:
        reason, is_closed = "interrupted", True
        raise
    finally:
        # After an error too: what the user saw is also in the record.
        record = answer.record(prompt, interventions, reason)
        if out:
            keep_record(out, record)
        seconds = time.monotonic() - start
        events.append(MonitorFinished(str(out or ""), len(record.tokens), seconds, reason, record))
        # A closed generator may not yield.
        if not is_closed:
            yield from _taken(events)
    return record


def _taken(events: list[Event]) -> Iterator[Event]:
    """Take all events out of a list."""
    taken, events[:] = list(events), []
    yield from taken


class _Written(NamedTuple):
    """A token of the answer, its projections and marks, float32 [2P…], and when it came."""

    text: str
    projections: Floats
    seconds: float


class _MonitoredAnswer:
    """One answer while it is generated."""

    def __init__(
        self,
        loaded: LoadedModel,
        watch: Watch,
        rendered: Prompt,
        steering: Steering,
        on_event: Listener,
    ) -> None:
        self._loaded = loaded
        self._watch = watch
        self._rendered = rendered
        self._on_event = on_event
        self._steering = steering
        self._reader = watch.reader(loaded, steering)
        self._opened = opens_thinking(rendered.text)
        # How long the answer gets is not known yet.
        limit = watch.config.sampling.max_new_tokens
        self._alarms = [Alarm(rule, limit) for rule in watch.rules]
        self._crossings: list[Crossing] = []
        self._written: list[_Written] = []
        self._prompt_scores: Scores | None = None

    def generate(self) -> Generator[None, None, None]:
        """Generate the answer; yields after each token, and after the prompt if it is scored."""
        # Tokens are parts of words and of characters: each is decoded with those before it.
        detokenizer = Detokenizer(self._loaded.tokenizer)
        start = time.monotonic()
        try:
            with self._steering, memory_explained(self._loaded.device, _LESS_MEMORY):
                # A token arrives one step late: its state exists once it is the model's input.
                for written in self._decode():
                    if written is None:
                        yield
                        continue
                    token, projections = written
                    self._add(detokenizer.feed(token), projections, time.monotonic() - start)
                    yield
                    if self._is_stopped:
                        return
        finally:
            # The bytes of an incomplete character belong to the last token: tokens join to the
            # response.
            if self._written:
                last_one = self._written[-1]
                self._written[-1] = last_one._replace(text=last_one.text + detokenizer.flush())
            ended = [alarm.end() for alarm in self._alarms]
            last = len(self._written) - 1
            placed = [replace(one, token=last) if one else None for one in ended]
            self._raise_alarms(self._keep_crossings(placed))

    @property
    def finish_reason(self) -> str:
        """Why a complete answer ended."""
        if self._is_stopped:
            return "alarm"
        limit = self._watch.config.sampling.max_new_tokens
        return "length" if len(self._written) == limit else "stop"

    @property
    def _is_stopped(self) -> bool:
        return any(crossing.action == "stop" for crossing in self._crossings)

    def record(
        self, prompt: str, interventions: tuple[Intervention, ...], reason: str
    ) -> TokenScores:
        """The record of what was generated so far."""
        tokens, written = self._tokens(), self._written
        # An answer without a token still has all columns.
        shape = len(tokens), self._reader.width
        projections = np.array([one.projections for one in written], np.float32).reshape(shape)
        scores, layer_scores = self._watch.tabulate(tokens, projections)
        return TokenScores(
            tokens=scores.tokens,
            raw=scores.raw,
            calibrated=scores.calibrated,
            massive=scores.massive,
            prompt=prompt,
            response="".join(tokens),
            layers=self._watch.layers,
            model=self._loaded.name,
            seed=self._watch.config.seed,
            prompt_tokens=len(self._rendered.ids),
            finish_reason=reason,
            history=(*system_message(self._watch.config.system), *self._watch.history),
            seconds=tuple(one.seconds for one in written),
            steering=interventions,
            crossings=tuple(self._crossings),
            prompt_scores=self._prompt_scores,
            layer_scores=layer_scores,
            about=self._watch.about,
            thinking=thinking_tokens(tokens, opened=self._opened),
            skips_thinking=self._watch.config.skip_thinking,
            braked=self._braked(projections),
        )

    def _braked(self, projections: Floats) -> dict[str, tuple[int, ...]]:
        """Cap or gate -> indices of the tokens [n, …] at which it held; only those that did."""
        brakes = self._steering.brakes
        columns = zip(brakes, projections.T[projections.shape[1] - len(brakes) :], strict=True)
        return {
            brake: tuple(np.flatnonzero(held).tolist()) for brake, held in columns if held.any()
        }

    def _decode(self) -> Iterator[tuple[int, Floats] | None]:
        """Each new token with its projections and marks, float32 [2P], and the brakes that held.

        None after the prompt, if it is scored.
        """
        config = self._watch.config
        request = Request(self._rendered.ids, config.seed)
        # Closed at once when an alarm stops the answer: the model's hooks must go.
        with closing(decode(self._loaded, [request], config.sampling, 1, self._reader)) as steps:
            for step in steps:
                for _, projections in step.prompt_scores:
                    self._add_prompt(projections)
                    yield None
                if step.scores is None:  # nothing was written
                    continue
                for (_, token), projections in zip(step.written, step.scores, strict=True):
                    yield token, projections

    def _add_prompt(self, projections: Floats) -> None:
        texts = token_texts(self._loaded.tokenizer, self._rendered.ids, specials=True)
        scores, _ = self._watch.tabulate(texts, projections)
        self._prompt_scores = scores
        self._on_event(PromptScored(scores.tokens, scores.raw, scores.calibrated, scores.massive))

    def _add(self, text: str, projections: Floats, seconds: float) -> None:
        scores, layer_scores = self._watch.tabulate([text], projections[None])
        raw = {trait: values[0] for trait, values in scores.raw.items()}
        calibrated = {trait: values[0] for trait, values in scores.calibrated.items()}
        by_layer = tuple(values[0] for values in layer_scores.shown) if layer_scores else ()
        alarm_scores = raw if self._watch.raw else calibrated
        index = len(self._written)
        skipped = self._watch.config.skip_thinking and self._is_thinking([*self._tokens(), text])
        placed = []
        if not skipped:
            counting = [one for one in self._alarms if one.rule.trait not in scores.massive]
            found = [alarm.add(alarm_scores[alarm.rule.trait]) for alarm in counting]
            # An alarm counts the scores that it got; a record counts all tokens.
            placed = [replace(one, token=index) if one else None for one in found]
        massive = frozenset(scores.massive)
        braked = tuple(self._braked(projections[None]))
        event = TokenScored(index, text, raw, calibrated, by_layer, skipped, massive, braked)
        # Only now, and all at once: after Ctrl-C above, the record has what was shown and no more.
        self._written.append(_Written(text, projections, seconds))
        self._on_event(event)
        crossings = self._keep_crossings(placed)
        # After the token's own event, so that a view shows the token before its alarm.
        self._raise_alarms(crossings)

    def _tokens(self) -> list[str]:
        return [one.text for one in self._written]

    def _is_thinking(self, tokens: Sequence[str]) -> bool:
        """Whether the last token belongs to the thinking part, as far as is known by now."""
        return thinking_tokens(tokens, opened=self._opened) == len(tokens)

    def _keep_crossings(self, crossings: Sequence[Crossing | None]) -> list[Crossing]:
        """Add the crossings to the record and return them, without the Nones."""
        new = [crossing for crossing in crossings if crossing]
        self._crossings += new
        return new

    def _raise_alarms(self, crossings: Sequence[Crossing]) -> None:
        for crossing in crossings:
            self._on_event(AlarmRaised(crossing))


def system_message(text: str | None) -> tuple[Message, ...]:
    """The system message of a record's history, if there is one."""
    return ({"role": "system", "content": text},) if text else ()


def _final_norm_notes(watch: Watch, loaded: LoadedModel) -> Iterator[str]:
    traits = [trait for trait, probe in watch.probes.items() if probe.layer == loaded.blocks]
    if traits:
        yield (
            f"layer {loaded.blocks} is read after the final norm: "
            f"scores of {', '.join(traits)} cannot be compared with those of other layers"
        )
