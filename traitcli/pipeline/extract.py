"""Generates rollouts of a trait on a worker's device, and captures their activations in the same pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from traitcli.config import Config
from traitcli.errors import DefinitionError
from traitcli.events import Warned
from traitcli.generation.batch_size import BatchSize, estimate_size
from traitcli.generation.decode import Generation, generate
from traitcli.generation.detokenize import token_texts
from traitcli.generation.external_engine import write_then_read
from traitcli.generation.mean_activations import Activations
from traitcli.generation.request import Release, Request, release_none
from traitcli.generation.sampling import derive_seed
from traitcli.generation.vllm import check_vllm
from traitcli.models.devices import pick_device
from traitcli.models.loaded import LoadedModel
from traitcli.models.memory import memory_explained
from traitcli.models.prompts import Prompt, check_length, persona_messages, render
from traitcli.pipeline.flush import Finished, hand_over
from traitcli.pipeline.messages import Began, GaveUp, Generating, Tell
from traitcli.pipeline.speed_cache import known_batch_size, remember_batch_size
from traitcli.pipeline.worker_context import Worker
from traitcli.records import POLARITIES, Polarity, Position, Rollout, RolloutKey, Trait

if TYPE_CHECKING:
    from traitcli.records import Floats

Tick = Callable[[int], None]
"""Told of the tokens of each step."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A rollout that can be generated: its key, prompt and seed."""

    key: RolloutKey
    prompt: Prompt
    seed: int


def generate_rollouts(
    task: Generating,
    config: Config,
    worker: Worker,
    tell: Tell,
    tick: Tick = lambda tokens: None,
    release: Release = release_none,
) -> None:
    """Make rollouts and hand them over as they are completed, some at a time.

    Stopped at a step, it hands over what is complete first.
    """
    if config.extract.engine == "vllm":
        check_vllm(pick_device(worker.device))
    loaded = worker.model()
    planned = _prepare(task, config, loaded)
    tell(Began())
    requests = [Request(p.prompt.ids, p.seed) for p in planned]
    size = _choose_size(loaded, requests, config, task.trait.name, tell)
    answers = _answer(worker, requests, config, size, (tick, release))
    hand_over(
        (_finished(planned[i], generation, loaded) for i, generation in answers),
        tell,
        lambda: size.now,
    )


def _prepare(task: Generating, config: Config, loaded: LoadedModel) -> list[Planned]:
    """Render every prompt and check it."""
    _check_sides(task, loaded)
    planned = []
    for key in task.keys:
        prompt = _render(
            task.trait, key.polarity, key.pair, task.trait.question(key.split, key.question), loaded
        )
        check_length(loaded, prompt, config.extract.sampling.max_new_tokens)
        planned.append(Planned(key, prompt, derive_seed(config.extract.seed, key.id)))
    return planned


def _render(
    trait: Trait, polarity: Polarity, pair: int, question: str, loaded: LoadedModel
) -> Prompt:
    return render(
        loaded.tokenizer,
        persona_messages(trait.persona(polarity, pair), question, loaded.persona_in),
    )


def _check_sides(task: Generating, loaded: LoadedModel) -> None:
    """Raise DefinitionError when personas of both sides give the same prompt; one question shows it."""
    trait, first = task.trait, task.keys[0]
    question = trait.question(first.split, first.question)
    sides = [
        {_render(trait, side, pair, question, loaded).text for pair in range(len(trait.pairs))}
        for side in POLARITIES
    ]
    if sides[0] & sides[1]:
        raise DefinitionError(
            f"{trait.name}: a positive and a negative prompt are the same text",
            cause="the chat template drops the persona, or an instruction stands on both sides",
            fix="set model.persona_in to user, or correct the definition",
        )


def _answer(
    worker: Worker,
    requests: Sequence[Request],
    config: Config,
    size: BatchSize,
    told: tuple[Tick, Release],
) -> Iterator[tuple[int, Generation | None]]:
    """Generate what is asked for; raises TraitError when not even the smallest batch fits into memory."""
    loaded, chosen, sampling = worker.model(), config.extract.batch_size, config.extract.sampling
    fix = (
        "set model.dtype to bfloat16, extract.sampling.max_new_tokens lower, or take a larger device or a smaller model"
        if chosen in ("auto", 1)
        else f"set extract.batch_size to auto, or lower (it is {chosen}); what is finished is kept"
    )
    with memory_explained(loaded.device, fix):
        if config.extract.engine == "vllm":
            yield from write_then_read(loaded, worker.writer, requests, sampling, *told)
        else:
            yield from generate(loaded, requests, sampling, size, *told)


def _choose_size(
    loaded: LoadedModel, requests: Sequence[Request], config: Config, trait: str, tell: Tell
) -> BatchSize:
    """The configured batch size; auto: what is estimated to fit, or what was found to fit the last time."""

    def changed(old: int, new: int) -> None:
        remember_batch_size(config, new)
        if new < old:
            tell(
                Warned(trait, f"out of memory with {old} sequences at a time: going on with {new}")
            )

    if config.extract.batch_size != "auto":
        return BatchSize(config.extract.batch_size)
    longest = max(len(request.ids) for request in requests) + config.extract.sampling.max_new_tokens
    most = min(len(requests), estimate_size(loaded, longest))
    return BatchSize(min(most, known_batch_size(config) or most), most, changed)


def _finished(
    planned: Planned, generation: Generation | None, loaded: LoadedModel
) -> Finished | GaveUp:
    if generation is None:
        return GaveUp((planned.key.id,))
    read = generation.activations
    return Finished(_rollout(planned, generation, loaded), _as_arrays(read) if read else None)


def _as_arrays(activations: Activations) -> dict[Position, Floats]:
    return {position: states.numpy() for position, states in activations.items()}


def _rollout(planned: Planned, generation: Generation, loaded: LoadedModel) -> Rollout:
    return Rollout(
        id=planned.key.id,
        **asdict(planned.key),
        seed=planned.seed,
        prompt=planned.prompt.text,
        response="".join(token_texts(loaded.tokenizer, generation.ids)),
        prompt_tokens=len(planned.prompt.ids),
        response_tokens=len(generation.ids),
        finish_reason=generation.finish_reason,
    )
