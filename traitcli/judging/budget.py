"""Find the prices of judge models, and keep what judging costs within a budget."""

from __future__ import annotations

import math
import re
import threading
from dataclasses import dataclass
from pathlib import Path

from traitcli.config import OpenAIConfig
from traitcli.errors import ConfigError
from traitcli.files import list_files
from traitcli.shipped import list_shipped
from traitcli.yaml_files import read_yaml

_DATE = re.compile(r"-\d{4}-?\d{2}-?\d{2}$")


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens."""

    prompt: float
    completion: float

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return the price of some tokens in US dollars."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


def find_price(config: OpenAIConfig) -> Price | None:
    """Return the prices in the config, else those in configs/prices/*.yaml, else None.

    The user's own files come before the shipped ones. A dated version has the price of its model,
    and so has a model behind a vendor's prefix (openai/gpt-4.1-mini).

    Raises ConfigError if a price file is not valid.
    """
    if config.price_in is not None and config.price_out is not None:
        return Price(config.price_in, config.price_out)
    name = config.model.rpartition("/")[2]
    own_files = list_files(Path("configs") / "prices", "*.yaml")
    for path in [*own_files, *list_shipped("configs/prices", "*.yaml")]:
        prices = _read_prices(path)
        # The exact name comes first: a dated version may have a price of its own.
        for spelling in (config.model, name, _DATE.sub("", name)):
            if spelling in prices:
                return prices[spelling]
    return None


class Budget:
    """Money that all threads of a command may spend together."""

    def __init__(self, limit: float, spent: float) -> None:
        """`limit` and `spent` are US dollars; `spent` is what the run has cost before."""
        self.limit = limit
        self.spent = spent
        """US dollars spent or reserved."""
        self._lock = threading.Lock()

    def reserve(self, usd: float) -> bool:
        """Reserve the most that a request can cost. Returns False if that would pass the limit."""
        with self._lock:
            # Compared and added under one lock, or two threads could both spend the last cent.
            if self.spent + usd > self.limit:
                return False
            self.spent += usd
            return True

    def settle(self, reserved: float, actual: float) -> None:
        """Replace a reservation by what the request did cost."""
        with self._lock:
            self.spent += actual - reserved


def _read_prices(path: Path) -> dict[str, Price]:
    """Read a file of model -> [prompt price, completion price]; an empty file is valid."""
    table = read_yaml(path)
    if table is None:
        return {}
    if not isinstance(table, dict):
        raise _invalid(path, "the file is not a list of model: [prompt price, completion price]")

    prices = {}
    for model, pair in table.items():
        is_pair = isinstance(pair, list) and len(pair) == 2
        if not is_pair or not all(_is_price(value) for value in pair):
            raise _invalid(path, f"{model}: {pair!r} is not a pair of prices")
        prices[str(model)] = Price(*map(float, pair))
    return prices


def _invalid(path: Path, cause: str) -> ConfigError:
    return ConfigError(
        f"{path} is not a valid price file",
        cause=cause,
        fix="write one line for each model, for example gpt-4.1-mini: [0.40, 1.60]",
    )


def _is_price(value: object) -> bool:
    # A bool is an int in Python.
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return math.isfinite(value) and value >= 0
