"""Remembers how fast this machine was and how much it took at once, for the next run."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from platformdirs import user_cache_path

from traitcli.config import Config
from traitcli.errors import StorageError
from traitcli.events import Stage
from traitcli.files import write_atomic

_BATCH = "batch size"


def known_speed(config: Config) -> dict[str, float]:
    """Stage -> seconds an item, as last measured with this model, device, judge and answer length."""
    held = _read().get(_key(config), {})
    return {stage: float(seconds) for stage, seconds in held.items()}


def remember_speed(config: Config, stage: Stage, seconds_each: float) -> None:
    """Keep a measurement in the user cache."""
    _remember(_key(config), stage, round(seconds_each, 5))


def known_batch_size(config: Config) -> int | None:
    """The batch size that worked last with this model, device and answer length, if another one did not."""
    size = _read().get(_batch_key(config), {}).get(_BATCH)
    return None if size is None else max(1, int(size))


def remember_batch_size(config: Config, size: int) -> None:
    """Keep the size that is worked with now."""
    _remember(_batch_key(config), _BATCH, size)


def _remember(key: str, name: str, value: float) -> None:
    held = _read()
    held.setdefault(key, {})[name] = value
    with suppress(StorageError):  # it is a convenience
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


def _batch_key(config: Config) -> str:
    length = config.extract.sampling.max_new_tokens
    return f"{config.model.name}@{config.model.device}/{config.model.dtype}/{length} tokens"
