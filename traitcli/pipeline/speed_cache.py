"""Remembers the speed and batch size of this machine for the next run, in the user cache."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from traitcli.caches import cache_folder
from traitcli.config import Config
from traitcli.errors import StorageError
from traitcli.events import Stage
from traitcli.files import write_atomic

_BATCH = "batch size"
"""The key of the batch size, in the same file as the speeds of each stage."""


def known_speed(config: Config) -> dict[str, float]:
    """Stage -> seconds an item, last measured with this model, device, judge and answer length."""
    measured = _read().get(_key(config), {})
    return {stage: float(seconds) for stage, seconds in measured.items()}


def remember_speed(config: Config, stage: Stage, seconds_each: float) -> None:
    """Store a measurement."""
    _remember(_key(config), stage, round(seconds_each, 5))


def known_batch_size(config: Config) -> int | None:
    """The batch size that fitted last time with this model, device and answer length.

    None if the estimate has always fitted.
    """
    size = _read().get(_batch_key(config), {}).get(_BATCH)
    return None if size is None else max(1, int(size))


def remember_batch_size(config: Config, size: int) -> None:
    """Store the batch size in use."""
    _remember(_batch_key(config), _BATCH, size)


def _remember(key: str, name: str, value: float) -> None:
    stored = _read()
    stored.setdefault(key, {})[name] = value
    with suppress(StorageError):  # without a cache the next run only estimates again
        write_atomic(cache_file(), json.dumps(stored, indent=1))


def cache_file() -> Path:
    return cache_folder() / "speed.json"


def _read() -> dict[str, dict[str, float]]:
    try:
        stored = json.loads(cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def _key(config: Config) -> str:
    length = config.extract.sampling.max_new_tokens
    # The answer length is part of the key, because seconds for each rollout grow with it.
    return f"{config.model.name}@{config.model.device}/{config.judge.backend}/{length} tokens"


def _batch_key(config: Config) -> str:
    length = config.extract.sampling.max_new_tokens
    # Unlike speed, the size depends on memory: on the dtype, and not on the judge.
    return f"{config.model.name}@{config.model.device}/{config.model.dtype}/{length} tokens"
