"""Which rollouts a trait asks for, and what they will cost: no model needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from traitcli.config import Config, ExtractConfig
from traitcli.judging import judge_id
from traitcli.judging.budget import find_price
from traitcli.pipeline.speed_cache import known_speed
from traitcli.pipeline.worker_context import Worker
from traitcli.records import POLARITIES, POSITIONS, RolloutKey, Split, Trait
from traitcli.runs.run import Run, TraitFiles

_CHARACTERS_PER_TOKEN = 4.2
"""English text in the vocabularies of today's models, roughly."""
_TEMPLATE_TOKENS = 30
_JUDGE_OVERHEAD_TOKENS = 30


@dataclass(frozen=True, slots=True)
class TraitPlan:
    """What one trait will take; token numbers are estimates, response tokens an upper bound.

    judge_calls, judge_tokens  of the scores that are not there yet
    """

    trait: str
    rollouts: int
    rollouts_done: int
    judge_calls: int
    prompt_tokens: int
    response_tokens_max: int
    judge_tokens: int
    judged_rollouts: int
    judged_done: int


def plan_rollouts(trait: Trait, config: ExtractConfig) -> list[RolloutKey]:
    """Every rollout of a trait, in a fixed order: extraction questions, then evaluation ones.

    Ready responses are read, all of them: what the settings limit is how much is generated.
    """
    if trait.responses:
        return list(trait.by_rollout())
    return [
        RolloutKey(trait.name, split, polarity, pair, question, repeat)
        for split, questions, repeats in _asked(trait, config)
        for question in range(questions)
        for pair in range(len(trait.pairs))
        for polarity in POLARITIES
        for repeat in range(repeats)
    ]


def missing_rollouts(trait: Trait, config: Config, files: TraitFiles) -> list[RolloutKey]:
    """Those that are asked for and not on disk."""
    done = {rollout.id for rollout in files.rollouts()}
    return [key for key in plan_rollouts(trait, config.extract) if key.id not in done]


def plan_trait(trait: Trait, config: Config, run: Run, judge: str) -> TraitPlan:
    """Count a trait's work; what the run holds already counts as done, of judgements those of `judge`."""
    files = run.trait(trait.name)
    keys = plan_rollouts(trait, config.extract)
    rollouts = files.rollouts()
    done = {rollout.id for rollout in rollouts}
    if trait.responses:
        prompts = [len(one.before) + len(one.text) for one in trait.by_rollout().values()]
    else:
        prompts = [
            len(trait.persona(k.polarity, k.pair)) + len(trait.question(k.split, k.question))
            for k in keys
        ]
    extraction = {
        k.id for k in keys if k.split == "extraction" and (trait.is_scored or not trait.responses)
    }
    settled = extraction & {j.rollout for j in files.judgements(judge) if j.is_settled}
    new_tokens = 0 if trait.responses else config.extract.sampling.max_new_tokens
    calls = (len(extraction) - len(settled)) * _calls_per_rollout(trait, config)
    written = [rollout.response_tokens for rollout in rollouts]
    shown = len(trait.judge_prompt) / _CHARACTERS_PER_TOKEN + _JUDGE_OVERHEAD_TOKENS
    shown += sum(written) / len(written) if written else new_tokens
    return TraitPlan(
        trait=trait.name,
        rollouts=len(keys),
        rollouts_done=len(done & {key.id for key in keys}),
        judge_calls=calls,
        prompt_tokens=int(sum(prompts) / _CHARACTERS_PER_TOKEN) + _TEMPLATE_TOKENS * len(keys),
        response_tokens_max=new_tokens * len(keys),
        judge_tokens=int(calls * shown),
        judged_rollouts=len(extraction),
        judged_done=len(settled),
    )


def plan_rows(traits: Sequence[Trait], config: Config, run: Run) -> list[dict[str, Any]]:
    """One flat row a trait for `extract --dry-run`; time is None until this model has run on this machine."""
    from traitcli.models.footprint import find_footprint

    footprint = find_footprint(config.model)
    bytes_each = len(POSITIONS) * footprint.layer_count * footprint.hidden_size * 4
    speed, judge = (
        known_speed(config),
        Worker(config, config.model.device, lambda event: None).judge,
    )
    plans = [plan_trait(trait, config, run, judge_id(judge, trait)) for trait in traits]
    speeds = [{} if trait.responses else speed for trait in traits]  # of generating, not of reading
    return [
        _row(plan, config, bytes_each, known) for plan, known in zip(plans, speeds, strict=True)
    ]


def _row(
    plan: TraitPlan, config: Config, bytes_each: int, speed: Mapping[str, float]
) -> dict[str, Any]:
    return {
        "trait": plan.trait,
        "rollouts": plan.rollouts,
        "rollouts_done": plan.rollouts_done,
        "judge_calls": plan.judge_calls,
        "prompt_tokens": plan.prompt_tokens,
        "response_tokens_max": plan.response_tokens_max,
        "disk_mb": round(plan.rollouts * bytes_each / 2**20, 1),
        "seconds": _seconds(plan, config, speed),
        "cost_usd": _cost(plan, config),
    }


def _seconds(plan: TraitPlan, config: Config, speed: Mapping[str, float]) -> float | None:
    """None until both stages have run with this model on this machine; an endpoint judges meanwhile."""
    if not {"rollouts", "judgements"} <= set(speed):
        return None
    generating = (plan.rollouts - plan.rollouts_done) * speed["rollouts"]
    judging = (plan.judged_rollouts - plan.judged_done) * speed["judgements"]
    return max(generating, judging) if config.judge.backend == "openai" else generating + judging


def _cost(plan: TraitPlan, config: Config) -> float | None:
    """What the judge calls that are left will cost; none for a local judge, and where the price is not known."""
    price = find_price(config.judge.openai) if config.judge.backend == "openai" else None
    if price is None:
        return None
    return round(price.of(plan.judge_tokens, plan.judge_calls), 4)


def _asked(trait: Trait, config: ExtractConfig) -> Sequence[tuple[Split, int, int]]:
    """Evaluation questions are asked once: repeats serve the means, not the check."""
    extraction = min(config.questions or len(trait.questions), len(trait.questions))
    held_out = len(trait.evaluation_questions)
    if config.evaluation_questions is not None:
        held_out = min(config.evaluation_questions, held_out)
    return [("extraction", extraction, config.repeats), ("evaluation", held_out, 1)]


def _calls_per_rollout(trait: Trait, config: Config) -> int:
    if trait.responses:
        return 0
    if config.judge.backend == "likelihood":
        return 2 * min(config.judge.likelihood.pairs, len(trait.pairs) - 1)
    asked = {"openai": config.judge.openai.coherence, "local": config.judge.local.coherence}
    return 1 + asked.get(config.judge.backend, False)
