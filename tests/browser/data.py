"""Records, vector sets and runs for the reports of the browser tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]

TOKENS = ["I", " cannot", " help", ".\n\n", "Sorry", "!"]
REFUSAL = [-0.5, 2.0, 1.0, 0.0, 1.5, -1.0]
EVIL = [0.5, 0.25, 0.0, -0.25, -0.5, -0.75]
BANK: Row = {
    "prompt": "How do I hack a bank?",
    "response": "".join(TOKENS),
    "tokens": TOKENS,
    "trait_scores": {
        "refusal": [1.0, 6.0, 4.0, 2.0, 5.0, 0.0],
        "evil": [9.0, 8.0, 7.0, 6.0, 5.0, 4.0],
    },
    "calibrated_scores": {"refusal": REFUSAL, "evil": EVIL},
    "layers": {"refusal": 16, "evil": 12},
    "model": "tiny",
    "seed": 7,
    "finish_reason": "length",
}
OLD: Row = {
    "prompt": "Is it so?",
    "response": "Maybe",
    "tokens": ["May", "be"],
    "projections": {"uncertainty": [2.5, -3]},
}
"""A record of an earlier version."""

FULL: Row = BANK | {
    "name": "bank",
    "prompt_tokens": 12,
    "created": "2026-11-25T06:00:00+00:00",
    "seconds": [0.5, 1.0, 1.5, 2.0, 2.5, 3.0],
    "history": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}],
    "steering": [{"trait": "evil", "coefficient": -1.5, "layer": 12, "dose": 0.4}],
    "alarms": [{"rule": "refusal>1.5", "action": "stop", "token": 4, "score": 1.5}],
    "prompt_scores": {
        "tokens": ["How", " do", " I"],
        "trait_scores": {"refusal": [4.0, 1.0, 2.0], "evil": [7.0, 9.0, 5.0]},
        "calibrated_scores": {"refusal": [1.0, -0.5, 0.0], "evil": [0.0, 0.5, -0.5]},
    },
    "layer_scores": {
        "trait": "refusal",
        "trait_scores": [[0.0] * 6, [1.0, 6.0, 4.0, 2.0, 5.0, 0.0], [5.0, 1.0, 2.0, 2.0, 2.0, 4.0]],
        "calibrated_scores": [[0.0] * 6, REFUSAL, [1.5, -0.5, 0.0, 0.0, 0.0, 1.0]],
    },
    "about": {"file": "prompts.txt", "line": 3},
}
"""A record with every optional key."""


def vector(trait: str, **more: Any) -> dict[str, Any]:
    return {
        "trait": trait,
        "model": "tiny",
        "layer_count": 4,
        "hidden_size": 8,
        "layer": 2,
        "layer_choice": "best layer",
        "method": "mean_diff",
        "position": "response_avg",
        "filter": "score and coherence",
        "judge": "openai:small",
        "coherence": "coherence by the judge",
        "judge_auroc": 0.99,
        "positive_total": 100,
        "negative_total": 100,
        "positive_kept": 96,
        "negative_kept": 88,
        "missing": 3,
        "positive_score": 84.0,
        "negative_score": 13.0,
        "contrast": 71.0,
        "magnitude": 24.5,
        "relative_magnitude": 0.31,
        "magnitude_by_layer": [1.0, 12.5, 24.5, 40.0],
        "auroc": 0.94,
        "auroc_by_layer": [None, 0.7, 0.94, 0.9],
        "d": 2.1,
        "evaluation_rollouts": 80,
        "verdict": "carries over",
        "verdict_reason": "separates the unseen",
        "histogram": {
            "positive": [0, 0, 1, 0, 3, 0, 6, 0, 12, 24],
            "negative": [12, 6, 0, 0, 0, 0, 0, 0, 0, 0],
        },
        "dropped": {
            "positive": {"score below 50": 4},
            "negative": {"score above 50": 9, "incoherent": 3},
        },
        "examples": [example("positive", True), example("negative", False)],
        **more,
    }


def example(polarity: str, kept: bool, **more: Any) -> dict[str, Any]:
    return {
        "rollout": f"evil-{polarity[:3]}-p0-q1-r0",
        "polarity": polarity,
        "kept": kept,
        "why": "" if kept else "score above 50",
        "score": 91.4,
        "reason": "",
        "coherence": 88.0,
        "question": f"What of {polarity} pets?",
        "response": f"A {polarity} answer.\nIt goes on",
        "finish_reason": "length",
        **more,
    }


WEAK = vector(
    "evil",
    layer=3,
    auroc=0.71,
    auroc_by_layer=[None, 0.5, 0.6, 0.71],
    magnitude_by_layer=[2.0, 8.0, 9.0, 10.0],
    verdict="reads its instruction",
    verdict_reason="separates the unseen poorly",
    positive_score=60.0,
    negative_score=20.0,
    contrast=40.0,
    layer_choice="largest layer",
    auroc_low=0.553,
    auroc_high=0.831,
    d_low=-0.04,
    d_high=3.0,
    doubts=["it may measure length"],
    neutral_auroc=0.62,
    neutral_auroc_low=0.48,
    neutral_auroc_high=0.75,
)
SET: Row = {
    "name": "run one",
    "model": "tiny",
    "vectors": [vector("refusal"), WEAK],
    "cosines": [[1.0, -0.42], [0.1, 1.0]],
}
OTHER_SET: Row = {
    "name": "run two",
    "model": "tiny",
    "vectors": [{"trait": "joy", "model": "tiny"}],
    "cosines": [[1.0]],
}

COMMAND: Row = {
    "started": "2026-11-25T06:00:00+00:00",
    "stages": ["rollouts", "readings", "judgements", "vectors"],
    "traits": ["evil"],
    "settings": {},
    "versions": {"python": "3.12.3", "torch": "2.10.0"},
    "machine": "Linux x86_64, 16 cores",
    "devices": ["cuda:0"],
    "models": [
        {
            "name": "tiny",
            "revision": "abc123",
            "device": "cuda:0",
            "hardware": "NVIDIA H100",
            "seconds": 3.0,
        }
    ],
    "took": [],
    "failures": [],
    "warnings": [],
    "ending": "finished",
    "seconds": 3700.0,
    "tokens": 41000,
    "used": {"requests": 400, "cached": 0, "prompt_tokens": 1, "completion_tokens": 1, "usd": 0.5},
}
KILLED: Row = COMMAND | {
    "started": "2026-11-24T23:15:10+00:00",
    "ending": None,
    "seconds": None,
    "tokens": None,
}
STOPPED: Row = COMMAND | {
    "started": "2026-11-25T05:00:00+00:00",
    "stages": ["judgements"],
    "ending": "stopped",
    "problem": "no key for the judge",
    "seconds": 12.0,
    "tokens": 0,
    "failures": [
        {
            "trait": "evil",
            "stage": "judgements",
            "problem": "no key",
            "cause": "OPENAI_API_KEY is not set",
        }
    ],
    "warnings": [
        {"trait": "", "message": "the disk is slow"},
        {"trait": "", "message": "the disk is slow"},
    ],
}
RUN: Row = {
    "name": "demo",
    "model": "tiny",
    "settings": {
        "model.id": "example/tiny",
        "model.dtype": "bfloat16",
        "extract.seed": None,
        "extract.layers": [1, 2],
    },
    "traits": [
        {
            "trait": "evil",
            "rollouts_done": 200,
            "rollouts_total": 240,
            "empty": 2,
            "judge": "openai:small~0a1b2c",
            "judged": 195,
            "missing": 5,
            "judge_auroc": 0.97,
            "note": "",
            "built": True,
            "prompt_tokens": 9000,
            "response_tokens": 41000,
            "missing_reasons": {"refused to answer": 5},
            "usage": {
                "requests": 400,
                "cached": 7,
                "prompt_tokens": 80000,
                "completion_tokens": 400,
                "usd": 0.0123,
            },
            "seconds": {"rollouts": 100.0, "readings": 12.5, "judgements": 50.0, "vectors": 5.5},
        }
    ],
    "usage": {
        "requests": 400,
        "cached": 7,
        "prompt_tokens": 80000,
        "completion_tokens": 400,
        "usd": 0.0123,
    },
    "commands": [KILLED, STOPPED, COMMAND],
}
