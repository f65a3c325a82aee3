"""A run judged over HTTP by a server on this machine."""

from __future__ import annotations

import re

KEY = "sk-e2e-0123456789abcdef"
QUIET_BELOW = 12
"""The server finds an answer with fewer letters quiet and any other loud."""


def loudness(answer: str) -> float:
    return 90.0 if len(re.findall("[a-z]", answer)) >= QUIET_BELOW else 20.0
