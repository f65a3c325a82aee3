"""Scores texts by their words alone, learned from a run's own rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from traitcli.config import Config
from traitcli.errors import RunError
from traitcli.pipeline.snapshot import TraitSnapshot
from traitcli.records import Rollout, TraitVector
from traitcli.runs.run import find_run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Doubles = NDArray[np.float64]


def kept_rollouts(config: Config, vector: TraitVector) -> Sequence[Rollout]:
    """The rollouts that a vector was built from, by the latest judge; none if its run is gone."""
    try:
        run = find_run(config, str(vector.provenance.get("run") or ""))
    except RunError:
        # The run of a vector of another tool has no name, or one that is no folder's.
        return ()
    if not run.trait(vector.trait).has_rollouts:
        return ()
    snapshot = TraitSnapshot.read(run, vector.trait)
    judge = snapshot.judges[0] if snapshot.judges else ""
    return snapshot.select(judge, config.filter).kept


def score_words(rollouts: Sequence[Rollout], texts: Sequence[str]) -> Doubles | None:
    """Log-odds that a text is positive, float64 [n], by naive Bayes on uni- and bigrams.

    It learns the polarity of the rollouts from their words. None without rollouts of both
    polarities, or without words. Source: McCallum and Nigam (1998), the multinomial model.
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB

    positive = np.array([rollout.polarity == "positive" for rollout in rollouts], dtype=bool)
    if not positive.any() or positive.all():
        return None
    counter = CountVectorizer(ngram_range=(1, 2))
    try:
        counts = counter.fit_transform([rollout.response for rollout in rollouts])
    except ValueError:
        # The responses hold no word at all.
        return None
    model = MultinomialNB(fit_prior=False).fit(counts, positive)
    negative_log, positive_log = model.predict_joint_log_proba(counter.transform(texts)).T
    odds: Doubles = positive_log - negative_log
    return odds
