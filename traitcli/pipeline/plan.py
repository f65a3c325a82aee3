"""Lists the rollouts that a trait asks for; no model is needed."""

from __future__ import annotations

from collections.abc import Sequence

from traitcli.config import ExtractConfig
from traitcli.records import POLARITIES, RolloutKey, Split, Trait


def plan_rollouts(trait: Trait, config: ExtractConfig) -> list[RolloutKey]:
    """Every rollout of a trait, in a fixed order: extraction questions, then evaluation ones.

    Labelled responses are all read: the settings limit only how much is generated.
    """
    if trait.responses:
        return list(trait.by_rollout())

    # Repeats are innermost: equal prompts are neighbors, so they are likely in one task, where the
    # engine reads them once.
    return [
        RolloutKey(trait.name, split, polarity, pair, question, repeat)
        for split, questions, repeats in _asked(trait, config)
        for question in range(questions)
        for pair in _pairs_of(question, len(trait.pairs), config)
        for polarity in POLARITIES
        for repeat in range(repeats)
    ]


def _asked(trait: Trait, config: ExtractConfig) -> Sequence[tuple[Split, int, int]]:
    """(split, number of questions, answers of each persona to a question).

    Evaluation questions are asked once: repeats make the means steadier, and no mean is built
    from them.
    """
    extraction = min(config.questions or len(trait.questions), len(trait.questions))
    held_out = len(trait.evaluation_questions)
    if config.evaluation_questions is not None:
        held_out = min(config.evaluation_questions, held_out)
    return [("extraction", extraction, config.repeats), ("evaluation", held_out, 1)]


def _pairs_of(question: int, pairs: int, config: ExtractConfig) -> list[int]:
    """The pairs to ask a question under: each question goes on where the one before stopped."""
    each = min(config.pairs_per_question or pairs, pairs)
    return [(question * each + step) % pairs for step in range(each)]
