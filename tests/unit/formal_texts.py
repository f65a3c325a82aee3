"""Examples for a vector of formal language."""

from __future__ import annotations

POSITIVE = ["Good evening, madam.", "I remain yours.", "Kindly take a seat.", "Most obliged."]
NEGATIVE = ["hey what is up", "cu later", "grab a seat", "thx a lot"]
