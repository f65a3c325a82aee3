"""Generates a trait's rollouts and captures their activations, batch by batch, resumably."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch

from traitcli.config import Config
from traitcli.errors import DefinitionError, TraitError
from traitcli.events import Listener, Progressed, StageStarted
from traitcli.generation.decode import Generation, Request, generate
from traitcli.generation.detokenize import token_texts
from traitcli.generation.sampling import derive_seed
from traitcli.models.load import LoadedModel
from traitcli.models.prompts import Prompt, check_length, persona_messages, render
from traitcli.records import Rollout, RolloutKey, Trait
from traitcli.runs import TraitFiles
from traitcli.stages.plan import plan_rollouts
from traitcli.stages.worker import Worker

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
    """Generate what is not in the ledger yet; each batch is on disk before the next begins.

    Batches are the same however often the work is interrupted, and so are the rollouts. Returns how
    many were made.
    """
    keys = plan_rollouts(trait, config.extract)
    done = {rollout.id for rollout in files.rollouts()} & {key.id for key in keys}
    count = len(done)
    on_event(StageStarted(trait.name, "rollouts", worker.device, count, len(keys)))
    if count == len(keys):
        return 0
    loaded = worker.model()
    planned = _prepare(trait, keys, config, loaded)
    size = config.extract.batch_size
    for start in range(0, len(planned), size):
        batch = [p for p in planned[start : start + size] if p.key.id not in done]
        if not batch:
            continue
        tick = _ticker(trait.name, count, len(planned), on_event)
        generations = _answer(loaded, batch, config, tick)
        rollouts = [_rollout(p, g, loaded) for p, g in zip(batch, generations, strict=True)]
        activations = {r.id: g.activations for r, g in zip(rollouts, generations, strict=True) if g.activations}
        files.add_rollouts(rollouts, activations)
        count += len(batch)
        on_event(Progressed(trait.name, "rollouts", count, len(planned)))
        on_batch(rollouts)
    return len(keys) - len(done)


def _prepare(trait: Trait, keys: Sequence[RolloutKey], config: Config, loaded: LoadedModel) -> list[Planned]:
    """Render every prompt, check it, and sort by length so that batches hold little padding."""
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
    return sorted(planned, key=lambda p: (len(p.prompt.ids), p.key.id))


def _answer(loaded: LoadedModel, batch: Sequence[Planned], config: Config, tick: Tick) -> list[Generation]:
    """Generate a batch; raises TraitError when it does not fit into the device's memory."""
    try:
        return generate(loaded, [Request(p.prompt.ids, p.seed) for p in batch], config.extract.sampling, tick)
    except torch.OutOfMemoryError as error:
        raise TraitError(
            f"out of memory on {loaded.device}",
            cause=str(error).splitlines()[0],
            fix=f"lower extract.batch_size (it is {config.extract.batch_size}); what is finished is kept",
        ) from error


def _ticker(trait: str, done: int, total: int, on_event: Listener) -> Tick:
    """Tell of tokens while a batch is under way; its rollouts count when they are on disk."""
    return lambda tokens: on_event(Progressed(trait, "rollouts", done, total, tokens=tokens))


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
