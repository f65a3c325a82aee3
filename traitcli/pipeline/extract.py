"""Generates rollouts on a worker's device and captures their activations in the same pass."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from traitcli.config import Config
from traitcli.errors import DefinitionError
from traitcli.events import Warned
from traitcli.generation.batch_size import choose_read_size, estimate_size
from traitcli.generation.decode import Generation, generate
from traitcli.generation.detokenize import token_texts
from traitcli.generation.external_engine import Callbacks, write_then_read
from traitcli.generation.mean_activations import Activations
from traitcli.generation.request import Release, Request, release_none
from traitcli.generation.sampling import derive_seed
from traitcli.generation.skip_thinking import OwnWriter, skip_thinking
from traitcli.generation.writer import Writer
from traitcli.models.batch_size import BatchSize, memory_warning
from traitcli.models.loaded import LoadedModel
from traitcli.models.memory import memory_explained
from traitcli.models.prompts import Prompt, check_length, persona_messages, render
from traitcli.pipeline.flush import FinishedRollout, send_in_batches
from traitcli.pipeline.messages import GenerateTask, RolloutsReleased, Send, TaskStarted
from traitcli.pipeline.speed_cache import known_batch_size, remember_batch_size
from traitcli.pipeline.worker_context import Worker
from traitcli.records import POLARITIES, Polarity, Position, Rollout, RolloutKey, Trait
from traitcli.runs.states import digest_prompt

if TYPE_CHECKING:
    from traitcli.records import Floats

CountTokens = Callable[[int], None]
"""Called after each step with the number of tokens that it generated."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A rollout to generate."""

    key: RolloutKey
    prompt: Prompt
    seed: int


def generate_rollouts(
    task: GenerateTask,
    config: Config,
    worker: Worker,
    send: Send,
    count_tokens: CountTokens = lambda tokens: None,
    release: Release = release_none,
) -> None:
    """Generate rollouts and send them in batches as they are completed.

    If it is stopped at a step, it sends what is complete first. Raises DefinitionError if the
    prompts of both sides are equal, and TraitError if even the smallest batch does not fit.
    """
    if config.extract.engine == "vllm":
        worker.check_writer()
    loaded = worker.model()
    planned = _prepare(task, config, loaded)
    # Only now: a worker that dies while it loads the model says nothing about these rollouts.
    send(TaskStarted())
    requests = [Request(p.prompt.ids, p.seed) for p in planned]
    size = _choose_size(loaded, requests, config, task.trait.name, send)

    def warn(message: str) -> None:
        send(Warned(task.trait.name, message))

    def read_size() -> BatchSize:
        longest = _longest(requests, config)
        return choose_read_size(loaded, longest, config.extract.batch_size, warn)

    callbacks = Callbacks(read_size, count_tokens, release)
    packer = worker.packer(task.trait.name)
    # Closed at once when work is stopped, so that no thread goes on writing.
    with closing(_generate(worker, requests, config, size, callbacks)) as generations:
        finished = (_finish(planned[index], made, loaded) for index, made in generations)
        send_in_batches(finished, send, packer.rollouts_made, lambda: size.now)


def _prepare(task: GenerateTask, config: Config, loaded: LoadedModel) -> list[Planned]:
    """Render every prompt and check it, so that a bad one fails before anything is generated."""
    _check_sides(task, loaded)
    planned = []
    for key in task.keys:
        question = task.trait.question(key.split, key.question)
        prompt = _render(task.trait, key.polarity, key.pair, question, loaded)
        check_length(loaded, prompt, config.extract.sampling.max_new_tokens)
        # A seed from the id alone: in float32 a rollout is the same in any batch, and its
        # distribution is in any dtype, also after a restart.
        planned.append(Planned(key, prompt, derive_seed(config.extract.seed, key.id)))
    return planned


def _render(
    trait: Trait, polarity: Polarity, pair: int, question: str, loaded: LoadedModel
) -> Prompt:
    messages = persona_messages(trait.persona(polarity, pair), question, loaded.persona_in)
    return render(loaded.tokenizer, messages, loaded.chat)


def _check_sides(task: GenerateTask, loaded: LoadedModel) -> None:
    """Raise DefinitionError if personas of both sides give the same prompt.

    A template treats all questions alike, so one question is enough.
    """
    trait, first = task.trait, task.keys[0]
    question = trait.question(first.split, first.question)
    texts: dict[Polarity, set[str]] = {}
    for side in POLARITIES:
        prompts = [_render(trait, side, pair, question, loaded) for pair in range(len(trait.pairs))]
        texts[side] = {prompt.text for prompt in prompts}
    if texts["positive"] & texts["negative"]:
        raise DefinitionError(
            f"{trait.name}: a positive and a negative prompt are the same text",
            cause="the chat template drops the persona, or both sides have the same instruction",
            fix="set model.persona_in to user, or correct the definition",
        )


def _generate(
    worker: Worker,
    requests: Sequence[Request],
    config: Config,
    size: BatchSize,
    callbacks: Callbacks,
) -> Generator[tuple[int, Generation | None], None, None]:
    """Generate; raises TraitError if even the smallest batch does not fit into memory.

    Yields the index of a request and its generation, or None if the request was released.
    """
    loaded, chosen, sampling = worker.model(), config.extract.batch_size, config.extract.sampling
    # No smaller batch is left to suggest.
    if chosen in ("auto", 1):
        fix = (
            "set model.dtype to bfloat16, lower extract.sampling.max_new_tokens, or use a larger "
            "device or a smaller model"
        )
    else:
        fix = f"set extract.batch_size to auto, or below {chosen}; finished rollouts are kept"
    with memory_explained(loaded.device, fix):
        writer: Writer | None = worker.writer if config.extract.engine == "vllm" else None
        if config.extract.skip_thinking:
            writer = writer or OwnWriter(loaded, size)
            yield from write_then_read(loaded, writer, requests, sampling, callbacks, skip_thinking)
        elif writer:
            yield from write_then_read(loaded, writer, requests, sampling, callbacks)
        else:
            yield from generate(
                loaded, requests, sampling, size, callbacks.on_step, callbacks.release
            )


def _choose_size(
    loaded: LoadedModel, requests: Sequence[Request], config: Config, trait: str, send: Send
) -> BatchSize:
    """The configured batch size; for auto, the size that fitted last time or the estimate."""

    def changed(old: int, new: int) -> None:
        remember_batch_size(config, new)
        if new < old:  # growing back needs no warning
            send(Warned(trait, memory_warning(old, new, "sequences")))

    if config.extract.batch_size != "auto":
        return BatchSize(config.extract.batch_size)
    limit = min(len(requests), estimate_size(loaded, _longest(requests, config)))
    return BatchSize(min(limit, known_batch_size(config) or limit), limit, changed)


def _longest(requests: Sequence[Request], config: Config) -> int:
    """Tokens of the longest prompt with the longest answer: it may be in any batch."""
    return max(len(request.ids) for request in requests) + config.extract.sampling.max_new_tokens


def _finish(
    planned: Planned, generation: Generation | None, loaded: LoadedModel
) -> FinishedRollout | RolloutsReleased:
    if generation is None:
        return RolloutsReleased((planned.key.id,))
    activations = generation.activations
    arrays = _as_arrays(activations) if activations else None
    prompt = digest_prompt(planned.prompt.ids)
    return FinishedRollout(_rollout(planned, generation, loaded), arrays, prompt)


def _as_arrays(activations: Activations) -> dict[Position, Floats]:
    return {position: states.numpy() for position, states in activations.items()}


def _rollout(planned: Planned, generation: Generation, loaded: LoadedModel) -> Rollout:
    return Rollout(
        id=planned.key.id,
        **asdict(planned.key),
        seed=planned.seed,
        prompt=planned.prompt.text,
        # Joined from the texts of single tokens, as the monitor shows them.
        response="".join(token_texts(loaded.tokenizer, generation.ids)),
        prompt_tokens=len(planned.prompt.ids),
        # The tokens that the mean is over: an answer that is only thinking counts as empty.
        response_tokens=len(generation.ids) - generation.thinking,
        finish_reason=generation.finish_reason,
    )
