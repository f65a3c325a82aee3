"""Remembers how long a rollout and a judgement took on this machine, for the next estimate."""

from __future__ import annotations

import json
from pathlib import Path

from platformdirs import user_cache_path

from traitcli.config import Config
from traitcli.events import Stage
from traitcli.files import write_atomic


def known_speed(config: Config) -> dict[str, float]:
    """Stage -> seconds an item, as last measured with this model, device, judge and answer length."""
    held = _read().get(_key(config), {})
    return {stage: float(seconds) for stage, seconds in held.items()}


def remember_speed(config: Config, stage: Stage, seconds_each: float) -> None:
    """Keep a measurement in the user cache."""
    held = _read()
    held.setdefault(_key(config), {})[stage] = round(seconds_each, 5)
    write_atomic(_path(), json.dumps(held, indent=1))


def _path() -> Path:
    return user_cache_path("traitcli") / "speed.json"


def _read() -> dict[str, dict[str, float]]:
    try:
        held = json.loads(_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}


def _key(config: Config) -> str:
    length = config.extract.sampling.max_new_tokens
    return f"{config.model.name}@{config.model.device}/{config.judge.backend}/{length} tokens"
