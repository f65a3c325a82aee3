"""What judging costs: prices of models, and a budget that is never passed."""

from __future__ import annotations

import math
import re
import threading
from dataclasses import dataclass
from pathlib import Path

from traitcli.config import OpenAIConfig
from traitcli.errors import ConfigError
from traitcli.shipped import list_shipped
from traitcli.yaml_files import read_yaml

_DATE = re.compile(r"-\d{4}-?\d{2}-?\d{2}$")


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a million tokens."""

    prompt: float
    completion: float

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


def find_price(config: OpenAIConfig) -> Price | None:
    """The prices set in the config, else those of the model in configs/prices/*.yaml: own files, then shipped ones.

    A dated version has its model's price, and so has a model behind a vendor's prefix.
    Raises ConfigError when a price file is not valid.
    """
    if config.price_in is not None and config.price_out is not None:
        return Price(config.price_in, config.price_out)
    name = config.model.rpartition("/")[2]
    own = sorted((Path("configs") / "prices").glob("*.yaml"))
    for path in [*own, *list_shipped("configs/prices", "*.yaml")]:
        prices = _read_prices(path)
        for known in (config.model, name, _DATE.sub("", name)):
            if known in prices:
                return prices[known]
    return None


class Budget:
    """Money that may still be spent, by whatever thread."""

    def __init__(self, limit: float, spent: float) -> None:
        """`limit` and what was spent of it before, in US dollars."""
        self.limit = limit
        self.spent = spent
        """US dollars spent or set aside."""
        self._alone = threading.Lock()

    def reserve(self, usd: float) -> bool:
        """Set aside what a request can cost at most; False, and nothing, when that would pass the limit."""
        with self._alone:
            if self.spent + usd > self.limit:
                return False
            self.spent += usd
            return True

    def settle(self, reserved: float, actual: float) -> None:
        """Put what a request did cost in the place of what was set aside for it."""
        with self._alone:
            self.spent += actual - reserved


def _read_prices(path: Path) -> dict[str, Price]:
    table = read_yaml(path)
    prices = {}
    for model, pair in (table or {}).items() if isinstance(table, dict | None) else [("", None)]:
        if not (
            isinstance(pair, list) and len(pair) == 2 and all(_is_price(value) for value in pair)
        ):
            raise ConfigError(
                f"{path} is no table of prices",
                cause=f"{model or 'the file'}: {pair!r} is no pair of prices",
                fix="one line for each model, for example gpt-4.1-mini: [0.40, 1.60]",
            )
        prices[str(model)] = Price(*map(float, pair))
    return prices


def _is_price(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value >= 0
    )
