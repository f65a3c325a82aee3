"""Writes a trait's rollouts as the CSV files of the persona-vectors work, which also come in as ready responses."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from traitcli.errors import RunError
from traitcli.files import write_atomic
from traitcli.pipeline.labelled_activations import matched
from traitcli.pipeline.snapshot import TraitSnapshot
from traitcli.records import POLARITIES, Judgement, Rollout, Score, Trait


def write_rollout_csv(
    snapshot: TraitSnapshot, trait: Trait, folder: Path, judge: str | None = None
) -> list[Path]:
    """Write `<trait>_pos_instruct.csv` and `<trait>_neg_instruct.csv`; returns their paths.

    They hold the extraction rollouts whose counterpart is there, row by row those of one pair, question and repeat,
    since that is how the files are read there. Scores are one judge's, by default the latest one's; a cell is empty
    where there is none. Texts are as they are: one that begins with `=` is a formula to a spreadsheet.
    Raises RunError where there is nothing to write.
    """
    rollouts = matched(snapshot.extraction)
    if not rollouts:
        raise RunError(
            f"run {snapshot.run.name} has no rollouts of {trait.name}",
            cause="none with a counterpart on the other side are in its ledger",
            fix=f"traitcli extract {trait.name}",
        )
    judged = snapshot.judged_by(judge or next(iter(snapshot.judges), ""))
    paths = []
    for polarity in POLARITIES:
        side = [rollout for rollout in rollouts if rollout.polarity == polarity]
        paths.append(folder / f"{trait.name}_{polarity[:3]}_instruct.csv")
        write_atomic(paths[-1], _table(trait, side, judged))
    return paths


def _table(trait: Trait, rollouts: list[Rollout], judged: dict[str, Judgement]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["question", "prompt", "answer", "question_id", trait.name, "coherence"])
    for rollout in rollouts:
        name = f"{trait.name}_{rollout.question}_{rollout.polarity[:3]}_{rollout.pair}"
        made = judged.get(rollout.id)
        scores = (made.score, made.coherence) if made else (None, None)
        question = trait.question(rollout.split, rollout.question)
        table.writerow([question, rollout.prompt, rollout.response, name, *map(_cell, scores)])
    return text.getvalue()


def _cell(score: Score | None) -> str:
    return "" if score is None or score.value is None else repr(score.value)
