"""Estimates what each stage of a trait will take; no model is needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from traitcli.config import Config
from traitcli.events import Stage
from traitcli.judging import Judge, judge_id
from traitcli.judging.budget import find_price
from traitcli.pipeline.ledgers import RunLedgers
from traitcli.pipeline.plan import plan_rollouts
from traitcli.pipeline.speed_cache import known_speed
from traitcli.pipeline.worker_context import Worker
from traitcli.records import POSITIONS, Rollout, RolloutKey, Trait

_CHARACTERS_PER_TOKEN = 4.2
"""English text in the vocabularies of today's models, roughly."""
_TEMPLATE_TOKENS = 30
"""What a chat template adds to a prompt, roughly."""
_JUDGE_OVERHEAD_TOKENS = 30
"""A chat template and the question in a judge's prompt, roughly."""


@dataclass(frozen=True, slots=True)
class TraitPlan:
    """The work of one trait. Token numbers are estimates, response tokens an upper bound.

    prompts                    different ones; the answers to one share its means
    held_at_once               states that building the vector holds in memory, of one position each
    judge_calls, judge_tokens  of the missing scores
    """

    trait: str
    rollouts: int
    rollouts_done: int
    prompts: int
    held_at_once: int
    judge_calls: int
    prompt_tokens: int
    response_tokens_max: int
    judge_tokens: int
    readings: int
    readings_done: int
    judged_rollouts: int
    judged_done: int

    @property
    def todo(self) -> dict[Stage, int]:
        """Stage -> how many items are missing; without vectors, which take next to no time."""
        return {
            "rollouts": self.rollouts - self.rollouts_done,
            "readings": self.readings - self.readings_done,
            "judgements": self.judged_rollouts - self.judged_done,
        }


def count_missing(trait: Trait, config: Config, ledgers: RunLedgers) -> int:
    """How many of the trait's planned rollouts are not stored yet."""
    stored = {rollout.id for rollout in ledgers.trait(trait.name).rollouts}
    return sum(key.id not in stored for key in plan_rollouts(trait, config.extract))


def check_judge(traits: Sequence[Trait], config: Config, ledgers: RunLedgers) -> None:
    """Raise ConfigError if planned rollouts need scores of a judge that cannot give any.

    A missing key is such a fault. Traits of labelled responses need no judge.
    """
    judged = [trait for trait in traits if not trait.responses]
    worker = Worker(config, config.model.device, lambda event: None)
    with closing(worker.judge) as judge:
        # A finished run must not need a key.
        if any(plan.judge_calls for plan in _plan_all(judged, config, ledgers, judge)):
            judge.check()


def count_todo(
    traits: Sequence[Trait], config: Config, ledgers: RunLedgers, stages: Sequence[Stage]
) -> dict[Stage, int]:
    """Stage -> how many items it has to make for all traits together."""
    total: Counter[Stage] = Counter()
    worker = Worker(config, config.model.device, lambda event: None)
    with closing(worker.judge) as judge:
        for plan in _plan_all(traits, config, ledgers, judge):
            total.update(plan.todo)
    return {stage: count for stage, count in total.items() if stage in stages}


def _plan_all(
    traits: Sequence[Trait], config: Config, ledgers: RunLedgers, judge: Judge
) -> list[TraitPlan]:
    return [plan_trait(trait, config, ledgers, judge_id(judge, trait)) for trait in traits]


def plan_trait(trait: Trait, config: Config, ledgers: RunLedgers, judge: str) -> TraitPlan:
    """Count a trait's work. Stored rollouts, and what `judge` has scored of them, count as done."""
    snapshot = ledgers.trait(trait.name).snapshot
    keys = plan_rollouts(trait, config.extract)
    stored = {rollout.id for rollout in snapshot.rollouts}
    planned = {key.id for key in keys}
    readable = _readable(trait, snapshot.rollouts, planned - stored)

    judged = {key.id for key in keys if key.split == "extraction"}
    if trait.responses and not trait.is_scored:
        judged = set()  # the labels replace scores
    settled = {made.rollout for made in snapshot.judged_by(judge).values() if made.is_settled}
    calls = len(judged - settled) * _calls_per_rollout(trait, config)

    new_tokens = 0 if trait.responses else config.extract.sampling.max_new_tokens
    # Stored answers tell how long answers are; before there are any, the limit stands in.
    lengths = [rollout.response_tokens for rollout in snapshot.rollouts]
    tokens_per_call = len(trait.judge_prompt) / _CHARACTERS_PER_TOKEN + _JUDGE_OVERHEAD_TOKENS
    tokens_per_call += sum(lengths) / len(lengths) if lengths else new_tokens
    prompt_tokens = _prompt_characters(trait, keys) / _CHARACTERS_PER_TOKEN

    return TraitPlan(
        trait=trait.name,
        rollouts=len(keys),
        rollouts_done=len(stored & planned),
        prompts=_count_prompts(trait, keys),
        held_at_once=_held_at_once(trait, keys),
        judge_calls=calls,
        prompt_tokens=int(prompt_tokens) + _TEMPLATE_TOKENS * len(keys),
        response_tokens_max=new_tokens * len(keys),
        judge_tokens=int(calls * tokens_per_call),
        readings=len(readable),
        readings_done=len(readable & ledgers.trait(trait.name).neutral),
        judged_rollouts=len(judged),
        judged_done=len(judged & settled),
    )


def _readable(trait: Trait, stored: Sequence[Rollout], missing: set[str]) -> set[str]:
    """The rollouts that get a neutral reading: stored ones that are not empty, and missing ones."""
    if trait.responses:
        return set()  # their own reading is a neutral one
    return missing | {rollout.id for rollout in stored if rollout.response_tokens}


def _count_prompts(trait: Trait, keys: Sequence[RolloutKey]) -> int:
    if trait.responses:
        return len({one.before for one in trait.by_rollout().values()})
    return len({(key.split, key.polarity, key.pair, key.question) for key in keys})


def _held_at_once(trait: Trait, keys: Sequence[RolloutKey]) -> int:
    """All rollouts behind both prompts, and a copy of those of one pair while it is left out."""
    extraction = sum(key.split == "extraction" for key in keys)
    return 2 * len(keys) + extraction // max(1, len({key.pair for key in keys}))


def _prompt_characters(trait: Trait, keys: Sequence[RolloutKey]) -> int:
    """Characters that the model reads; of labelled responses also the responses themselves."""
    if trait.responses:
        return sum(len(one.before) + len(one.text) for one in trait.by_rollout().values())
    personas = sum(len(trait.persona(key.polarity, key.pair)) for key in keys)
    return personas + sum(len(trait.question(key.split, key.question)) for key in keys)


def plan_rows(
    traits: Sequence[Trait],
    config: Config,
    ledgers: RunLedgers,
    trust_remote_code: bool = False,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """One flat row a trait for `extract --dry-run`; `device` is what the model will run on.

    The time is None until this model has run on this machine.
    """
    from traitcli.models.footprint import find_footprint

    footprint = find_footprint(config.model, device, trust_remote_code)
    numbers = footprint.layer_count * footprint.hidden_size
    worker = Worker(config, config.model.device, lambda event: None, trust_remote_code)
    speed = known_speed(config)

    rows = []
    plans = _plan_all(traits, config, ledgers, worker.judge)
    for trait, plan in zip(traits, plans, strict=True):
        # The known speed is that of generating; reading labelled responses is much faster.
        known = {} if trait.responses else speed
        stored_bytes = min(4, footprint.item)  # half precision is stored as such
        rows.append(_row(plan, config, (numbers, stored_bytes), known))
    return rows


def _row(
    plan: TraitPlan, config: Config, size: tuple[int, int], speed: Mapping[str, float]
) -> dict[str, Any]:
    """`size`: how many numbers the states of one position have, and bytes of a stored number."""
    numbers, stored_bytes = size
    # A rollout and a reading have one position each; the other two belong to the prompt.
    states = plan.rollouts + plan.readings + (len(POSITIONS) - 1) * plan.prompts
    return {
        "trait": plan.trait,
        "rollouts": plan.rollouts,
        "rollouts_done": plan.rollouts_done,
        "readings": plan.readings,
        "readings_done": plan.readings_done,
        "judge_calls": plan.judge_calls,
        "prompt_tokens": plan.prompt_tokens,
        "response_tokens_max": plan.response_tokens_max,
        "disk_mb": round(states * numbers * stored_bytes / 2**20, 1),
        "memory_mb": round(plan.held_at_once * numbers * 4 / 2**20, 1),
        "seconds": _seconds(plan, config, speed),
        "cost_usd": _cost(plan, config),
    }


def _seconds(plan: TraitPlan, config: Config, speed: Mapping[str, float]) -> float | None:
    """None until each stage with work left has run with this model on this machine."""
    if any(count and stage not in speed for stage, count in plan.todo.items()):
        return None
    seconds = {stage: count * speed.get(stage, 0.0) for stage, count in plan.todo.items()}
    judging = seconds.pop("judgements")
    reading_and_generating = sum(seconds.values())
    # An endpoint judges while workers generate; other judges use the workers' devices.
    if config.judge.backend == "openai":
        return max(reading_and_generating, judging)
    return reading_and_generating + judging


def _cost(plan: TraitPlan, config: Config) -> float | None:
    """US dollars of the missing judge calls; None for a local judge or an unknown price."""
    price = find_price(config.judge.openai) if config.judge.backend == "openai" else None
    if price is None:
        return None
    return round(price.of(plan.judge_tokens, plan.judge_calls), 4)


def _calls_per_rollout(trait: Trait, config: Config) -> int:
    if trait.responses:
        return 0
    if config.judge.backend == "likelihood":
        # Each pair is one call a polarity; the rollout's own pair is never used.
        return 2 * min(config.judge.likelihood.pairs, len(trait.pairs) - 1)
    asked = {"openai": config.judge.openai.coherence, "local": config.judge.local.coherence}
    return 1 + asked.get(config.judge.backend, False)
