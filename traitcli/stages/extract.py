"""Generates a trait's rollouts and captures their activations, batch by batch, resumably."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from traitcli.config import Config
from traitcli.errors import DefinitionError
from traitcli.events import Listener, Progressed, StageStarted, Warned
from traitcli.generation.batch_size import BatchSize, estimate_size
from traitcli.generation.decode import Generation, generate
from traitcli.generation.detokenize import token_texts
from traitcli.generation.sampling import derive_seed
from traitcli.generation.steps import Request
from traitcli.generation.two_pass import write_then_read
from traitcli.generation.vllm import check_vllm
from traitcli.models.load import LoadedModel, pick_device
from traitcli.models.memory import memory_explained
from traitcli.models.prompts import Prompt, check_length, persona_messages, render
from traitcli.records import Rollout, RolloutKey, Trait
from traitcli.runs import TraitFiles
from traitcli.stages.plan import plan_rollouts
from traitcli.stages.speed import known_batch_size, remember_batch_size
from traitcli.stages.worker import Worker

_TOGETHER = 16
"""Rollouts that are kept on disk together, at most: so many are lost with a kill, and held in memory."""
Tick = Callable[[int], None]
"""Told of the tokens of each step."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A rollout that can be generated: its key, prompt and seed."""

    key: RolloutKey
    prompt: Prompt
    seed: int


def extract_trait(
    trait: Trait,
    config: Config,
    worker: Worker,
    files: TraitFiles,
    on_event: Listener,
    on_batch: Callable[[Sequence[Rollout]], None] = lambda rollouts: None,
) -> int:
    """Generate what is not in the ledger yet, and keep rollouts as they are completed, some at a time.

    Returns how many were made.
    """
    keys = plan_rollouts(trait, config.extract)
    done = {rollout.id for rollout in files.rollouts()} & {key.id for key in keys}
    count = len(done)
    on_event(StageStarted(trait.name, "rollouts", worker.device, count, len(keys)))
    if count == len(keys):
        return 0
    if config.extract.engine == "vllm":
        check_vllm(pick_device(worker.device))
    loaded = worker.model()
    planned = [p for p in _prepare(trait, keys, config, loaded) if p.key.id not in done]

    def keep(made: Mapping[int, Generation]) -> None:
        nonlocal count
        rollouts = [_rollout(planned[index], generation, loaded) for index, generation in made.items()]
        files.add_rollouts(
            rollouts, {r.id: g.activations for r, g in zip(rollouts, made.values(), strict=True) if g.activations}
        )
        count += len(made)
        on_event(Progressed(trait.name, "rollouts", count, len(keys)))
        on_batch(rollouts)

    tick = lambda tokens: on_event(Progressed(trait.name, "rollouts", count, len(keys), tokens=tokens))  # noqa: E731
    requests = [Request(p.prompt.ids, p.seed) for p in planned]
    size = _choose_size(loaded, requests, config, trait.name, on_event)
    waiting: dict[int, Generation] = {}
    for index, generation in _answer(worker, requests, config, size, tick):
        waiting[index] = generation
        if len(waiting) >= min(size.now, _TOGETHER):
            keep(waiting)
            waiting = {}
    if waiting:
        keep(waiting)
    return len(planned)


def _prepare(trait: Trait, keys: Sequence[RolloutKey], config: Config, loaded: LoadedModel) -> list[Planned]:
    """Render every prompt and check it."""
    planned = []
    for key in keys:
        persona, question = trait.persona(key.polarity, key.pair), trait.question(key.split, key.question)
        prompt = render(loaded.tokenizer, persona_messages(persona, question, loaded.persona_in))
        check_length(loaded, prompt, config.extract.sampling.max_new_tokens)
        planned.append(Planned(key, prompt, derive_seed(config.extract.seed, key.id)))
    sides = [{p.prompt.text for p in planned if p.key.polarity == side} for side in ("positive", "negative")]
    if sides[0] & sides[1]:
        raise DefinitionError(
            f"{trait.name}: a positive and a negative prompt are the same text",
            cause="the chat template drops the persona, or an instruction stands on both sides",
            fix="set model.persona_in to user, or correct the definition",
        )
    return planned


def _answer(
    worker: Worker, requests: Sequence[Request], config: Config, size: BatchSize, tick: Tick
) -> Iterator[tuple[int, Generation]]:
    """Generate what is asked for; raises TraitError when not even the smallest batch fits into memory."""
    loaded, chosen, sampling = worker.model(), config.extract.batch_size, config.extract.sampling
    fix = (
        "set model.dtype to bfloat16, extract.sampling.max_new_tokens lower, or take a larger device or a smaller model"
        if chosen in ("auto", 1)
        else f"set extract.batch_size to auto, or lower (it is {chosen}); what is finished is kept"
    )
    with memory_explained(loaded.device, fix):
        if config.extract.engine == "vllm":
            yield from write_then_read(loaded, worker.writer, requests, sampling, tick)
        else:
            yield from generate(loaded, requests, sampling, size, tick)


def _choose_size(
    loaded: LoadedModel, requests: Sequence[Request], config: Config, trait: str, on_event: Listener
) -> BatchSize:
    """The configured batch size; auto: what is estimated to fit, or what was found to fit the last time."""

    def changed(old: int, new: int) -> None:
        remember_batch_size(config, new)
        if new < old:
            on_event(Warned(trait, f"out of memory with {old} sequences at a time: going on with {new}"))

    if config.extract.batch_size != "auto":
        return BatchSize(config.extract.batch_size)
    longest = max(len(request.ids) for request in requests) + config.extract.sampling.max_new_tokens
    most = min(len(requests), estimate_size(loaded, longest))
    return BatchSize(min(most, known_batch_size(config) or most), most, changed)


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
