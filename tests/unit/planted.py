"""Activations with a planted direction, a planted length effect, or only noise."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from traitcli.vectors import controls
from traitcli.vectors.held_out import HeldOutScores, LabelledActivations

LAYERS, HIDDEN, PAIRS = 4, 16, 5


@pytest.fixture
def fewer_shuffles(monkeypatch):
    """Enough for a verdict, which asks for p ≤ 0.05; many vectors are measured sooner."""
    monkeypatch.setattr(controls, "SHUFFLES", 40)


def draw(seed, questions=20, layers=LAYERS, hidden=HIDDEN, per_cell=1):
    """Unit noise for each question, pair and polarity, `per_cell` times."""
    cells = list(product(range(PAIRS), range(questions), range(per_cell), (True, False)))
    pair, question, _, positive = np.array(cells).T
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 1, (len(pair), layers, hidden)).astype(np.float32)
    length = rng.integers(20, 60, len(pair))
    return LabelledActivations(
        noise, positive.astype(bool), pair.astype(np.int64), question.astype(np.int64), length
    )


def plant(rollouts, layer, strength=6.0):
    """Add one direction to every positive rollout at a layer."""
    rollouts.activations[rollouts.positive, layer, 0] += strength
    return rollouts


def plant_phrases(rollouts, strength=30.0):
    """Add the direction of its pair to every positive rollout at every layer."""
    for pair in range(PAIRS):
        rollouts.activations[rollouts.positive & (rollouts.pair == pair), :, pair] += strength
    return rollouts


def plant_length(rollouts, seed, gap=30, strength=0.3):
    """Make positive rollouts `gap` tokens longer, and let every activation grow with length."""
    rng = np.random.default_rng(seed)
    rollouts.length[:] = rng.normal(60, 12, len(rollouts.length)) + gap * rollouts.positive
    rollouts.activations[:, 1:, 0] += strength * rollouts.length[:, None]
    return rollouts


def scores(seed, questions=20, pairs=PAIRS, gap=1.2, between_pairs=0.4, of_question=0.5):
    """Held-out scores; gap varies with the pair, level and gap vary with the question."""
    rng = np.random.default_rng(seed)
    level, swing = rng.normal(0, of_question, (2, questions))
    gaps = rng.normal(gap, between_pairs, pairs)
    pair, question, positive = np.array(list(product(range(pairs), range(questions), (1, 0)))).T
    values = (
        level[question]
        + (positive - 0.5) * (gaps[pair] + swing[question])
        + rng.normal(0, 1, len(pair))
    )
    return HeldOutScores(values.astype(np.float32)[:, None], positive.astype(bool), pair, question)
