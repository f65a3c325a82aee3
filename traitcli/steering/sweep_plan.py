"""Plans a sweep: the questions, the coefficients, and the key of each answer."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from traitcli.config import Config, SamplingConfig
from traitcli.errors import DefinitionError, UserError, VectorError
from traitcli.generation.sampling import derive_seed
from traitcli.interventions import Gate
from traitcli.models.steerer import relative_dose
from traitcli.records import Polarity, Position, Trait, TraitVector
from traitcli.runs.run import digest_of
from traitcli.steering.interventions import check_calibration, final_norm_note
from traitcli.steering.parse import parse_interventions

DOSES = (-0.8, -0.4, -0.2, 0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Default doses. Answers usually stay coherent up to 0.5, and become incoherent near 1."""
_NORM_PROMPTS = 8
"""Questions whose prompts give the typical norm."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a sweep tries with each vector. A coefficient of 0 is always tried.

    doses         coefficient · ‖v‖ / ‖h‖; the coefficients are chosen by them
    coefficients  used instead of doses when there are any
    questions     number of evaluation questions of a trait; None: all
    layer         where the vector is added; None: each vector's own layer
    brakes        other ways of steering to try, as a user types them; see `parse_interventions`
    persona       the side of the personas that the questions are asked under; None: no persona

    Raises UserError when there is no coefficient to compare with 0.
    """

    sampling: SamplingConfig
    doses: tuple[float, ...] = DOSES
    coefficients: tuple[float, ...] = ()
    questions: int | None = None
    layer: int | None = None
    seed: int = 0
    brakes: tuple[str, ...] = ()
    persona: Polarity | None = None

    def __post_init__(self) -> None:
        numbers = self.coefficients or self.doses
        if any(numbers) and all(map(math.isfinite, numbers)):
            return
        requested = ", ".join(f"{number:g}" for number in numbers) or "nothing"
        raise UserError(
            "nothing to steer by",
            cause=f"requested: {requested}",
            fix="give finite numbers, one of them not 0, for example --doses=-0.4,0.4",
        )


@dataclass(frozen=True, slots=True)
class PlannedAnswer:
    """An answer that the sweep needs.

    key    changes with everything that the answer depends on, and with nothing else
    pair   the contrast pair of its persona, or the one that a judge may use for it
    brake  the brake, as a user types it; empty for a plain push
    """

    key: str
    coefficient: float
    pair: int
    question: str
    seed: int
    brake: str = ""


class SweepPlan:
    """The plan for one trait.

    Raises VectorError when the vector cannot steer, and DefinitionError when no judge can score the
    trait. Both are known before a model is loaded.
    """

    def __init__(
        self,
        trait: Trait,
        vectors: Mapping[str, TraitVector],
        sweep: Sweep,
        config: Config,
    ) -> None:
        """`vectors` has the trait's own, and those that brakes may name."""
        vector = vectors[trait.name]
        self.trait = trait
        self.vector = vector
        self.sweep = sweep
        self.layer = vector.layer if sweep.layer is None else sweep.layer
        self.position = config.vector.position
        _check_trait(trait)
        _check_vector(vector, self.position, self.layer)
        self.direction = vector.directions[self.position][self.layer]
        self.vectors = vectors
        brakes = (parse_interventions(text, self.vectors, "--brake") for text in sweep.brakes)
        self.brakes = {" ".join(one.text for one in brake): brake for brake in brakes}
        """As a user types it, with its layers -> its interventions."""
        for brake in self.brakes.values():
            check_calibration(brake, self.vectors, self.position)
        # The same answer may be generated on any device.
        self._model = config.model.model_dump(mode="json", exclude={"device", "device_map"})

        # Without duplicates: two answers to one question would have the same key.
        questions = tuple(dict.fromkeys(trait.evaluation_questions or trait.questions))
        self.questions = questions[: sweep.questions]
        # Not those of this sweep: a dose must be the same coefficient however many are answered.
        self.norm_questions = questions[:_NORM_PROMPTS]
        self.norm_key = digest_of([self._model, self.layer, self.norm_questions])

    @property
    def size(self) -> int:
        """How many answers the sweep has, as far as it is known without a norm."""
        pushes = {0.0, *(self.sweep.coefficients or self.sweep.doses)}
        return len(self.questions) * (len(pushes) + len(self.brakes))

    def dose(self, norm: float) -> float:
        """The dose of a coefficient of 1, for hidden states of this typical norm."""
        return relative_dose(1.0, self.direction, norm)

    def answers(self, norm: float | None) -> tuple[PlannedAnswer, ...]:
        """All answers, from the lowest coefficient to the highest, then those of brakes.

        `norm` is the typical norm of hidden states; without doses it is not needed.
        """
        coefficients = self.sweep.coefficients
        if not coefficients:
            assert norm is not None  # noqa: S101 - the caller measures it when there are doses
            dose = self.dose(norm)
            # Four digits, so that a user can type the coefficient of a table again.
            coefficients = tuple(float(f"{one / dose:.4g}") for one in self.sweep.doses)

        ways = [(coefficient, "") for coefficient in sorted({0.0, *coefficients})]
        ways += [(0.0, brake) for brake in self.brakes]
        answers = []
        for coefficient, brake in ways:
            for number, question in enumerate(self.questions):
                # Not by the coefficient: answers must differ by the steering alone.
                seed = derive_seed(self.sweep.seed, f"steered-{question}")
                pair = number % len(self.trait.pairs)
                key = self._key(coefficient, brake, pair, question, seed)
                answers.append(PlannedAnswer(key, coefficient, pair, question, seed, brake))
        return tuple(answers)

    def notes(self) -> Iterator[str]:
        """What a reader of the results should know."""
        if not self.trait.evaluation_questions:
            yield (
                "the trait has no evaluation questions, so the questions are those "
                "that the vector was built from"
            )
        if self.sweep.persona:
            yield f"the questions are asked under {self.sweep.persona} personas"
        if self.layer == self.vector.layer_count - 1:
            yield final_norm_note(self.layer)

    def persona_of(self, pair: int) -> str | None:
        """The persona sentence of a question with this pair; None without personas."""
        side = self.sweep.persona
        return self.trait.persona(side, pair) if side else None

    def _key(self, coefficient: float, brake: str, pair: int, question: str, seed: int) -> str:
        steering: list[Any] = []
        # Unsteered answers depend on no vector, so all sweeps share them.
        if coefficient:
            vector_digest = hashlib.sha256(self.direction.tobytes()).hexdigest()
            steering = [coefficient, self.layer, vector_digest]
        if brake:
            steering = [brake, *(self._digest(name) for name in self._traits_of(brake))]
        sampling = self.sweep.sampling.model_dump()
        persona = self.persona_of(pair)
        # Nothing more for a bare question: the files of earlier versions have these keys.
        asked = [question] if persona is None else [question, persona]
        return digest_of([self._model, sampling, seed, *asked, steering])

    def _traits_of(self, brake: str) -> list[str]:
        named = {one.trait for one in self.brakes[brake]}
        named |= {one.when.trait for one in self.brakes[brake] if isinstance(one, Gate)}
        return sorted(named)

    def _digest(self, name: str) -> str:
        """Changes with all that a brake may use of a vector."""
        vector = self.vectors[name]
        found = hashlib.sha256(vector.directions[self.position].tobytes())
        found.update(str(vector.layer).encode())
        if stats := vector.stats.get(self.position):
            found.update(stats.positive_mean.tobytes() + stats.negative_mean.tobytes())
        return found.hexdigest()


def _check_trait(trait: Trait) -> None:
    if trait.responses:
        raise DefinitionError(
            f"steering by {trait.name} cannot be judged",
            cause="its definition has labelled responses, but no contrast pairs or judge prompt",
            fix="name other traits",
        )


def _check_vector(vector: TraitVector, position: Position, layer: int) -> None:
    if position not in vector.directions:
        raise VectorError(
            f"the vector of {vector.trait} has no {position}",
            cause=f"it has {', '.join(vector.directions)}",
            fix=f"traitcli build-vector {vector.trait}",
        )
    problem = f"cannot steer {vector.trait} at layer {layer}"
    if not 1 <= layer < vector.layer_count:
        raise VectorError(
            problem,
            cause=f"its model can be steered at layers 1 to {vector.layer_count - 1}, "
            "the outputs of its blocks",
            fix=f"leave --layer out to use the vector's own layer, {vector.layer}",
        )
    if not np.any(vector.directions[position][layer]):
        raise VectorError(
            problem, cause="the vector is zero at that layer", fix="choose another layer"
        )
