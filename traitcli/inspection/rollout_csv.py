"""Writes a trait's rollouts as the CSV files of the persona-vectors work.

The same files can be read back as labelled responses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from traitcli.errors import RunError
from traitcli.files import write_atomic
from traitcli.pipeline.labelled_activations import matched
from traitcli.pipeline.snapshot import TraitSnapshot
from traitcli.records import POLARITIES, Judgement, Rollout, Trait


def write_rollout_csv(
    snapshot: TraitSnapshot, trait: Trait, folder: Path, judge: str | None = None
) -> list[Path]:
    """Write `<trait>_pos_instruct.csv` and `<trait>_neg_instruct.csv`.

    A cell without a score is empty. Text is written unchanged: a spreadsheet takes one that begins
    with `=` for a formula.

    Args:
        snapshot: What the run holds of the trait.
        trait: The trait's definition, for its questions.
        folder: Where the files go; existing ones are replaced.
        judge: The judge whose scores are written (default: the latest one).

    Returns:
        The paths of the two files.

    Raises RunError when no rollout has a counterpart.
    """
    # Their readers pair the two files line by line, so both hold the same pair, question and
    # repeat in a line.
    rollouts = matched(snapshot.extraction)
    if not rollouts:
        raise RunError(
            f"run {snapshot.run.name} has no rollouts of {trait.name}",
            cause="rollouts.jsonl has no positive rollout with a negative counterpart",
            fix=f"traitcli extract {trait.name}",
        )

    judgements = snapshot.judged_by(judge or next(iter(snapshot.judges), ""))
    paths = []
    for polarity in POLARITIES:
        side = [rollout for rollout in rollouts if rollout.polarity == polarity]
        # The names of the published files end in pos_instruct and neg_instruct.
        path = folder / f"{trait.name}_{polarity[:3]}_instruct.csv"
        write_atomic(path, _table(trait, side, judgements))
        paths.append(path)
    return paths


def _table(trait: Trait, rollouts: Sequence[Rollout], judgements: Mapping[str, Judgement]) -> str:
    import pandas as pd

    rows = []
    for rollout in rollouts:
        judgement = judgements.get(rollout.id)
        rows.append(
            {
                "question": trait.question(rollout.split, rollout.question),
                "prompt": rollout.prompt,
                "answer": rollout.response,
                # The form of a question_id in the published files.
                "question_id": f"{trait.name}_{rollout.question}_{rollout.polarity[:3]}_"
                f"{rollout.pair}",
                trait.name: judgement.score.value if judgement else None,
                "coherence": judgement.coherence.value if judgement else None,
            }
        )
    text: str = pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")
    return text
