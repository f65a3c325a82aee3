"""The ways of steering a model along traits, as values: push, ablate, cap and gate."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Push:
    """A trait's vector, added to the residual stream while a model writes.

    coefficient  factor for the stored vector: 1 moves by the whole difference of the class means
    layer        where it is added, 1 to L: the output of block layer − 1
    dose         |coefficient| · ‖v‖ / ‖h‖, where h is a typical hidden state of the prompt at that
                 layer; 0 until it is measured
    """

    trait: str
    coefficient: float
    layer: int
    dose: float = 0.0

    @property
    def text(self) -> str:
        """What a user types for it, with the layer: `evil=-2@22`."""
        return f"{self.trait}={self.coefficient:g}@{self.layer}"


@dataclass(frozen=True, slots=True)
class Ablate:
    """The component along a trait's vector, removed: h − (h · u) u, where u has length 1.

    layer  where, 1 to L−1; None: at the output of every block, always along the vector of the
           trait's own layer
    """

    trait: str
    layer: int | None

    @property
    def text(self) -> str:
        """What a user types for it: `evil=ablate@22`, `evil=ablate@all`."""
        return f"{self.trait}=ablate@{'all' if self.layer is None else self.layer}"


@dataclass(frozen=True, slots=True)
class Cap:
    """A bound for a trait's calibrated score: tokens beyond it are moved onto it.

    score    the bound: a calibrated score
    at_most  whether scores stay at or below it, or at or above it
    layer    where, 1 to L−1
    """

    trait: str
    score: float
    at_most: bool
    layer: int

    @property
    def text(self) -> str:
        """What a user types for it: `evil<=0.5@22`."""
        return f"{self.trait}{'<=' if self.at_most else '>='}{self.score:g}@{self.layer}"


@dataclass(frozen=True, slots=True)
class Condition:
    """Met while a trait's running score, a calibrated score, is above or below a bound."""

    trait: str
    above: bool
    score: float

    @property
    def text(self) -> str:
        """What a user types for it: `evil>1`."""
        return f"{self.trait}{'>' if self.above else '<'}{self.score:g}"


@dataclass(frozen=True, slots=True)
class Gate:
    """A push that acts on the tokens that come while a condition is met.

    when  read from the vector of its own trait, at that vector's own layer
    dose  that of the push
    """

    trait: str
    coefficient: float
    layer: int
    when: Condition
    dose: float = 0.0

    @property
    def text(self) -> str:
        """What a user types for it: `refusal=1@22 if evil>1`."""
        return f"{self.trait}={self.coefficient:g}@{self.layer} if {self.when.text}"


Intervention = Push | Ablate | Cap | Gate

KINDS: dict[str, type[Intervention]] = {"push": Push, "ablate": Ablate, "cap": Cap, "gate": Gate}
"""Name of each way of steering in records -> its type."""
