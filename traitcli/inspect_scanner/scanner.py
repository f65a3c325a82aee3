"""Registers the scanner with Inspect Scout; needs Scout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
from inspect_scout import Reference, Result, Scanner, Transcript, scanner

from traitcli.inspect_scanner.scoring import Scorer, TraitResult, score_transcript


@scanner(messages="all")  # type: ignore[untyped-decorator]
def trait_scores(
    traits: str | Sequence[str] = (), model: str = "embedded", config: str | None = None
) -> Scanner[Transcript]:
    """Score what the model of a transcript wrote along trait vectors.

    Args:
        traits: Traits, as a list or separated by commas (default: all with vectors).
        model: The model that reads: a Hugging Face id, a folder or "embedded".
        config: A preset or a YAML file with other settings.

    Returns:
        A scanner. Its result has a row for each trait, labelled by it. `value` is the mean over the
        answers of the mean of their tokens, as in the table of `monitor`; None without an answer.
        `explanation` quotes where the score is highest, with a reference to the message.
    """
    names = traits.split(",") if isinstance(traits, str) else list(traits)
    scorer = Scorer(model, config, tuple(name.strip() for name in names if name.strip()))

    async def scan(transcript: Transcript) -> list[Result]:
        messages = [one.model_dump(mode="json", exclude_none=True) for one in transcript.messages]
        about = {"id": transcript.task_id, "epoch": transcript.task_repeat}
        evaluation = {"task": transcript.task_set, "model": transcript.model}
        sample = {"messages": messages, **about}
        # In a thread: Scout reads other transcripts meanwhile.
        found = await anyio.to_thread.run_sync(score_transcript, scorer, sample, evaluation)
        return [_result(one) for one in found]

    return scan


def _result(found: TraitResult) -> Any:
    references = []
    if found.message_id:
        references = [Reference(type="message", id=found.message_id, cite=found.cite)]
    return Result(
        label=found.trait,
        value=found.value,
        explanation=found.explanation,
        metadata=dict(found.metadata),
        references=references,
    )
