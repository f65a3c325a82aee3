"""Generates a trait's rollouts and captures their activations, batch by batch, resumably."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch

from traitcli.config import Config
from traitcli.errors import DefinitionError, TraitError
from traitcli.events import Listener, Progressed, StageStarted
from traitcli.generation.decode import Generation, generate
from traitcli.generation.detokenize import token_texts
from traitcli.generation.sampling import derive_seed
from traitcli.generation.steps import Request
from traitcli.models.load import LoadedModel
from traitcli.models.prompts import Prompt, check_length, persona_messages, render
from traitcli.records import Rollout, RolloutKey, Trait
from traitcli.runs import TraitFiles
from traitcli.stages.plan import plan_rollouts
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
    waiting: dict[int, Generation] = {}
    for index, generation in _answer(loaded, planned, config, tick):
        waiting[index] = generation
        if len(waiting) >= min(config.extract.batch_size, _TOGETHER):
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
    loaded: LoadedModel, planned: Sequence[Planned], config: Config, tick: Tick
) -> Iterator[tuple[int, Generation]]:
    """Generate what is planned; raises TraitError when a batch does not fit into the device's memory."""
    requests = [Request(p.prompt.ids, p.seed) for p in planned]
    try:
        yield from generate(loaded, requests, config.extract.sampling, config.extract.batch_size, tick)
    except torch.OutOfMemoryError as error:
        raise TraitError(
            f"out of memory on {loaded.device}",
            cause=str(error).splitlines()[0],
            fix=f"lower extract.batch_size (it is {config.extract.batch_size}); what is finished is kept",
        ) from error


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
