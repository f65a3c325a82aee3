"""A run folder as Python users have it: its rollouts and judgements as frames, states as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from traitcli.api.vector import Vector
from traitcli.errors import RunError, suggest
from traitcli.pipeline.snapshot import TraitSnapshot
from traitcli.records import Context, Position
from traitcli.runs import run as runs
from traitcli.vectors.files import read_vector

if TYPE_CHECKING:
    import pandas as pd

    from traitcli.records import Floats


@dataclass(frozen=True, slots=True, init=False)
class Run(runs.Run):
    """What `traitcli extract` or `Model.extract` stored under a name.

    Args:
        name: The name of the run.
        folder: The folder that holds the runs.

    Raises:
        RunError: There is no such run.

    Example:
        >>> sorted(tc.Run("demo").rollouts().polarity.unique())
        ['negative', 'positive']
    """

    def __init__(self, name: str, folder: str | Path = "runs") -> None:
        object.__setattr__(self, "folder", Path(folder) / name)
        runs.require_run(self, "traitcli extract, or name the folder that holds the runs")

    @property
    def traits(self) -> list[str]:
        """The names of its traits."""
        return self.trait_names()

    def rollouts(self, trait: str | None = None) -> pd.DataFrame:
        """The answers that were written, or read from labelled responses.

        Args:
            trait: Only this one (default: all).

        Returns:
            A frame with one row for each rollout, in the order in which they were stored. Its
            columns are the fields of `Rollout`: id, trait, split, polarity, pair, question,
            repeat, seed, prompt, response, prompt_tokens, response_tokens, finish_reason.

        Raises:
            RunError: The run has no such trait.

        Example:
            >>> len(tc.Run("demo").rollouts("evil"))
            4
        """
        import pandas as pd

        found = [rollout for one in self._snapshots(trait) for rollout in one.rollouts]
        return pd.DataFrame([asdict(rollout) for rollout in found])

    def judgements(self, trait: str | None = None) -> pd.DataFrame:
        """The last scores that each judge gave to each rollout.

        Args:
            trait: Only this one (default: all).

        Returns:
            A frame with the columns trait, rollout (its id), judge, score and coherence (0–100,
            NaN without one), score_reason and coherence_reason (why there is none), and usd.

        Raises:
            RunError: The run has no such trait.

        Example:
            >>> bool(tc.Run("demo").judgements("evil").score.between(0, 100).all())
            True
        """
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for snapshot in self._snapshots(trait):
            for one in snapshot.judgements:
                rows.append(
                    {
                        "trait": snapshot.name,
                        "rollout": one.rollout,
                        "judge": one.judge,
                        "score": one.score.value,
                        "coherence": one.coherence.value,
                        "score_reason": one.score.reason,
                        "coherence_reason": one.coherence.reason,
                        "usd": one.usage.usd,
                    }
                )
        frame = pd.DataFrame(rows, columns=_JUDGEMENTS)
        return frame.astype({"score": float, "coherence": float, "usd": float})

    def activations(
        self, trait: str, position: Position = "response_avg", context: Context = "persona"
    ) -> Floats:
        """The mean hidden states of a trait's rollouts.

        Args:
            trait: The trait.
            position: response_avg, prompt_avg or prompt_last.
            context: persona, or neutral for readings behind the bare question, which only
                response_avg has.

        Returns:
            float32 [n, L+1, H], in the order of `rollouts(trait)`; NaN for an empty response, and
            where there is no neutral reading.

        Raises:
            RunError: The run has no such trait, or its states are missing.

        Example:
            >>> tc.Run("demo").activations("evil").shape
            (4, 31, 576)
        """
        [snapshot] = self._snapshots(trait)
        ids = [rollout.id for rollout in snapshot.rollouts]
        if context == "persona":
            known = {rollout.id for rollout in snapshot.rollouts if rollout.response_tokens}
        else:
            known = snapshot.neutral
        rows = [index for index, each in enumerate(ids) if each in known]
        if not rows:
            raise RunError(
                f"{trait} has no states in run {self.name}",
                cause=f"no rollout was read in the context {context}",
                fix=f"traitcli extract {trait}",
            )
        found = snapshot.files.activations([ids[index] for index in rows], position, context)
        states = np.full((len(ids), *found.shape[1:]), np.nan, dtype=np.float32)
        states[rows] = found
        return states

    def vectors(self) -> dict[str, Vector]:
        """The vectors that were built from this run.

        Returns:
            Trait -> vector, for the traits whose vector file still exists.

        Raises:
            VectorError: A file is damaged.

        Example:
            >>> list(tc.Run("demo").vectors())
            ['evil']
        """
        paths = {one.name: one.last_vector for one in self._snapshots(None)}
        return {
            name: Vector.of(read_vector(path))
            for name, path in paths.items()
            if path is not None and path.is_file()
        }

    def _snapshots(self, trait: str | None) -> Sequence[TraitSnapshot]:
        names = self.trait_names()
        if trait is not None and trait not in names:
            raise RunError(
                f"run {self.name} has no trait {trait}",
                cause=f"it has {', '.join(names)}",
                fix=suggest(trait, names) or "choose one of these",
            )
        return [TraitSnapshot.read(self, name) for name in ([trait] if trait else names)]


_JUDGEMENTS = (
    *("trait", "rollout", "judge", "score", "coherence"),
    *("score_reason", "coherence_reason", "usd"),
)
