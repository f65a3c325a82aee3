"""Reads rollouts behind their bare questions, so that the persona is not part of what is measured.

A rollout is written with a persona in its prompt, and the states of its tokens know the persona.
A neutral reading is the same response behind the question alone, in the same chat template.
"""

from __future__ import annotations

from collections.abc import Callable

from traitcli.config import Config
from traitcli.generation.request import Release, Request, release_none
from traitcli.generation.skip_thinking import count_thinking
from traitcli.models.loaded import LoadedModel
from traitcli.models.prompts import encode_response, render
from traitcli.models.read_texts import Text
from traitcli.pipeline.flush import send_in_batches
from traitcli.pipeline.messages import ReadTask, Send, TaskStarted
from traitcli.pipeline.read_responses import PlannedReading, choose_size, read_planned
from traitcli.pipeline.worker_context import Worker
from traitcli.records import Rollout, Trait


def read_neutral(
    task: ReadTask,
    config: Config,
    worker: Worker,
    send: Send,
    count_tokens: Callable[[int], None] = lambda tokens: None,
    release: Release = release_none,
) -> None:
    """Read the responses of rollouts behind their bare questions, and send the means in batches."""
    loaded = worker.model()
    skips = config.extract.skip_thinking
    planned = [
        PlannedReading(one, neutral_text(loaded, task.trait, one, skip_thinking=skips))
        for one in task.rollouts
    ]
    send(TaskStarted())
    size = choose_size(loaded, planned, config, task.trait.name, send)
    finished = read_planned(loaded, planned, size, count_tokens, release)
    send_in_batches(finished, send, worker.packer(task.trait.name).responses_read)


def neutral_text(
    loaded: LoadedModel, trait: Trait, rollout: Rollout, *, skip_thinking: bool
) -> Text:
    """The tokens of a rollout's bare question and of its response.

    With `skip_thinking` the thinking part counts as prompt, as in extraction: it is read, and is
    not part of the mean.
    """
    question = trait.question(rollout.split, rollout.question)
    messages = [{"role": "user", "content": question}]
    prompt = render(loaded.tokenizer, messages, loaded.chat).ids
    response = tuple(encode_response(loaded.tokenizer, rollout.response))
    thinking = 0
    if skip_thinking:
        thinking = count_thinking(loaded, Request(prompt, 0), response)
    return Text((*prompt, *response[:thinking]), response[thinking:])
