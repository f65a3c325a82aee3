"""Monitors a generation: projects the hidden state of every new token on the trait vectors."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from traitcli.events import Event, Listener, MonitorFinished, MonitorStarted, Warned
from traitcli.generation.decode import decode
from traitcli.generation.detokenize import Detokenizer
from traitcli.generation.request import Request
from traitcli.interventions import Intervention
from traitcli.models.chat_format import Message
from traitcli.models.loaded import LoadedModel
from traitcli.models.memory import memory_explained
from traitcli.models.prompts import Prompt, check_length, conversation, render
from traitcli.monitoring.answer_so_far import AnswerSoFar
from traitcli.monitoring.record_files import keep_record
from traitcli.monitoring.watch import Watch
from traitcli.records import TokenScores
from traitcli.steering.interventions import Steering, dose_notes, measure_doses

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
    yield _started(loaded, watch, prompt, notes, interventions)
    for note in dose_notes(steering, loaded):
        yield Warned("", note)

    hooks = Steering(loaded, steering)
    answer = AnswerSoFar(loaded, watch, rendered)
    # Tokens are parts of words and of characters: each is decoded with those before it.
    detokenizer = Detokenizer(loaded.tokenizer)
    start, reason, is_closed = time.monotonic(), "failed", False
    try:
        with closing(_generate(loaded, watch, rendered, hooks)) as read:
            for token, projections in read:
                if token is None:
                    yield answer.add_prompt(projections)
                    continue
                text, seconds = detokenizer.feed(token), time.monotonic() - start
                scored, alarms = answer.add(text, projections, seconds)
                # The token's own event first, so that a view shows the token before its alarm.
                yield scored
                yield from alarms
                if answer.is_stopped:
                    break
        reason = answer.finish_reason
    except (KeyboardInterrupt, SystemExit):
        reason = "interrupted"
        raise
    except GeneratorExit:
        reason, is_closed = "interrupted", True
        raise
    finally:
        # After an error too: what the user saw is also in the record.
        last_alarms = answer.end(detokenizer.flush())
        record = answer.record(prompt, interventions, reason)
        if out:
            keep_record(out, record)
        seconds = time.monotonic() - start
        # A closed generator may not yield.
        if not is_closed:
            yield from last_alarms
            yield MonitorFinished(str(out or ""), len(record.tokens), seconds, reason, record)
    return record


def _started(
    loaded: LoadedModel,
    watch: Watch,
    prompt: str,
    notes: tuple[str, ...],
    interventions: tuple[Intervention, ...],
) -> MonitorStarted:
    return MonitorStarted(
        prompt,
        loaded.name,
        tuple(watch.probes),
        watch.layers,
        (*notes, *_final_norm_notes(watch, loaded)),
        interventions,
        watch.about,
        watch.marks,
    )


def _generate(
    loaded: LoadedModel, watch: Watch, rendered: Prompt, hooks: Steering
) -> Generator[tuple[int | None, Floats], None, None]:
    """Each new token with its projections and marks, float32 [2P], and the brakes that held.

    First None with those of the prompt's n tokens, [n, 2P…], if it is scored.
    """
    config, reader = watch.config, watch.reader(loaded, hooks)
    request = Request(rendered.ids, config.seed)
    with (
        hooks,
        memory_explained(loaded.device, _LESS_MEMORY),
        # Closed at once when an alarm stops the answer: the model's hooks must go.
        closing(decode(loaded, [request], config.sampling, 1, reader)) as steps,
    ):
        # A token arrives one step late: its state exists once it is the model's input.
        for step in steps:
            for _, projections in step.prompt_scores:
                yield None, projections
            if step.scores is None:  # nothing was written
                continue
            for (_, token), projections in zip(step.written, step.scores, strict=True):
                yield token, projections


def _final_norm_notes(watch: Watch, loaded: LoadedModel) -> Iterator[str]:
    traits = [trait for trait, probe in watch.probes.items() if probe.layer == loaded.blocks]
    if traits:
        yield (
            f"layer {loaded.blocks} is read after the final norm: "
            f"scores of {', '.join(traits)} cannot be compared with those of other layers"
        )
