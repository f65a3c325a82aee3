"""Building a vector holds the states of one position at a time, as a dry run says."""

from __future__ import annotations

import shutil
import tracemalloc
from pathlib import Path

import numpy as np

from traitcli.config import Config
from traitcli.pipeline.build_vector import build_trait
from traitcli.pipeline.estimate import plan_trait
from traitcli.pipeline.ledgers import RunLedgers
from traitcli.pipeline.plan import plan_rollouts
from traitcli.records import POSITIONS, Judgement, Rollout, Score
from traitcli.runs.run import Run, start_run
from traitcli.runs.states import stack_neutral, stack_states
from traitcli.traits.definitions import find_traits, load_trait

TRAIT = load_trait(find_traits(Path("nowhere"))["evil"])
SHAPE = (9, 512)
NONE = Score(None, "not asked", final=True)


def test_the_memory_of_building_a_vector_is_what_a_dry_run_says(tmp_path):
    config = Config.model_validate(
        {
            "name": "run",
            "model": {"id": "tiny", "device": "cpu"},
            "extract": {"repeats": 2},
            "judge": {"backend": "fake"},
            "paths": {"runs": tmp_path / "runs", "vectors": tmp_path / "vectors"},
        }
    )
    ledgers = make_run(config)
    # The first time also loads libraries.
    build_trait(TRAIT, config, ledgers, "fake", lambda event: None)
    shutil.rmtree(tmp_path / "vectors")

    tracemalloc.start()
    build_trait(TRAIT, config, ledgers, "fake", lambda event: None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    states = plan_trait(TRAIT, config, ledgers, "fake").held_at_once
    assert 0.9 < peak / (states * SHAPE[0] * SHAPE[1] * 4) < 1.2


def make_run(config):
    """A complete run: random states, and scores that tell both sides apart."""
    run, rng = Run(config.paths.runs / "run"), np.random.default_rng(0)
    start_run(run, config, [TRAIT])
    ledgers = RunLedgers(run, [TRAIT])
    own, keys = ledgers.trait("evil"), plan_rollouts(TRAIT, config.extract)
    for start in range(0, len(keys), 16):
        some = keys[start : start + 16]
        rollouts, states = [], {}
        for key in some:
            index = (key.trait, key.split, key.polarity, key.pair, key.question, key.repeat)
            rollouts.append(Rollout(key.id, *index, 0, "p", "r", 1, 5, "stop"))
            states[key.id] = {
                position: rng.normal(key.polarity == "positive", 9, SHAPE).astype(np.float32)
                for position in POSITIONS
            }
        prompts = {name: name.rpartition("-")[0] for name in states}
        own.add_rollouts(rollouts, stack_states("evil", states, prompts))
        read = {name: one["response_avg"] for name, one in states.items()}
        own.add_neutral(list(read), stack_neutral("evil", read))
        judged = [
            Judgement(k.id, "fake", Score(90.0 if k.polarity == "positive" else 5.0), NONE)
            for k in some
            if k.split == "extraction"
        ]
        own.add_judgements(judged)
    return ledgers
