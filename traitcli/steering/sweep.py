"""Pushes a model along trait vectors by several coefficients, and has a judge score what it writes then."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from traitcli.config import Config, SamplingConfig
from traitcli.errors import DefinitionError, UserError, VectorError
from traitcli.events import Listener, Progressed, Stage, StageFinished, StageStarted
from traitcli.generation.batch_size import BatchSize, estimate_size
from traitcli.generation.decode import Generation, generate
from traitcli.generation.detokenize import token_texts
from traitcli.generation.projections import check_fit
from traitcli.generation.request import Request
from traitcli.generation.sampling import derive_seed
from traitcli.judging import Answer, Budget, judge_id
from traitcli.judging.reasons import merge_reasons
from traitcli.models.loaded import LoadedModel
from traitcli.models.memory import memory_explained
from traitcli.models.prompts import Prompt, check_length, encode_response, render
from traitcli.models.read_texts import Text, log_probabilities
from traitcli.models.steerer import relative_dose
from traitcli.pipeline.ledgers import RunLedgers
from traitcli.pipeline.worker_context import Worker
from traitcli.records import Intervention, Judgement, Position, Score, Trait, TraitVector
from traitcli.runs.run import Run, digest_of
from traitcli.steering.dose_response import Scored, repetition, sum_up
from traitcli.steering.interventions import make_steering, steered, typical_norms
from traitcli.steering.sweep_file import Reading, SteeredAnswer, SteeringFile

DOSES = (-0.8, -0.4, -0.2, 0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""coefficient · ‖v‖ / ‖h‖: 0.3 to 0.5 usually leaves answers coherent, near 1 they fall apart."""
_NORM_PROMPTS = 8
"""Questions whose prompts tell how long a state is: always the first, so that a dose stays the same coefficient."""
_TOGETHER = 16
"""Answers that are written down together, at most: so many are lost with a kill."""
_READ_TOGETHER = 64
Tell = Callable[[int, int], None]
"""Told how many more are done, and of how many tokens."""
_LESS_MEMORY = "set extract.batch_size or --max-new-tokens lower, or model.dtype to bfloat16; what is finished is kept"


@dataclass(frozen=True, slots=True)
class Sweep:
    """What is tried with each vector; a coefficient of 0 always is.

    doses         relative ones, by which coefficients are chosen
    coefficients  instead of doses, if there are any
    questions     how many of a trait's evaluation questions are asked; none: all
    layer         the row that is pushed; none: each vector's own

    Raises UserError when there is nothing to compare with the unsteered answers.
    """

    sampling: SamplingConfig
    doses: tuple[float, ...] = DOSES
    coefficients: tuple[float, ...] = ()
    questions: int | None = None
    layer: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        numbers = self.coefficients or self.doses
        if not any(numbers) or not all(map(math.isfinite, numbers)):
            told = ", ".join(f"{number:g}" for number in numbers) or "nothing"
            fix = "give finite numbers, one of them not 0, for example --doses=-0.4,0.4"
            raise UserError("nothing to push by", cause=f"asked for: {told}", fix=fix)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """An answer that is wanted: to question number `number`, under a coefficient."""

    key: str
    coefficient: float
    number: int
    question: str


class TraitSweep:
    """One trait's sweep: what is on disk is not made again, and a model is loaded only if something is missing.

    Raises VectorError when the vector cannot be pushed by, DefinitionError when the trait cannot be judged.
    """

    def __init__(
        self,
        trait: Trait,
        vector: TraitVector,
        sweep: Sweep,
        run: Run,
        worker: Worker,
        on_event: Listener,
    ) -> None:
        self.trait = trait
        self._vector = vector
        self._sweep = sweep
        self._worker = worker
        self._on_event = on_event
        self._layer = vector.layer if sweep.layer is None else sweep.layer
        self._position = worker.settings.vector.position
        _check_trait(trait)
        _check_vector(vector, self._position, self._layer)
        self._direction = vector.directions[self._position][self._layer]
        self._known = tuple(dict.fromkeys(trait.evaluation_questions or trait.questions))
        self._questions = self._known[: sweep.questions]
        self._files = SteeringFile(steering_path(run, trait.name))
        self._judge = judge_id(worker.judge, trait)

    @property
    def todo(self) -> int:
        """Answers that are to be written; all of them, where no model has told yet which."""
        if self._sweep.coefficients or self._files.norm(self._scale) is not None:
            return sum(self._files.answer(one.key) is None for one in self._wanted)
        return len(self._questions) * len({0.0, *self._sweep.doses})

    def run(self) -> dict[str, Any]:
        """Write, judge and read what is missing; returns what there is to say (JSON-able)."""
        if self.todo or not all(map(self._is_settled, self._wanted)):
            self._worker.judge.check()
        self._write()
        self._score()
        if all(self._given(one).coherence.value is None for one in self._wanted):
            self._read()
        return self._row()

    @cached_property
    def _model(self) -> dict[str, Any]:
        return self._worker.settings.model.model_dump(mode="json", exclude={"device", "device_map"})

    @cached_property
    def _scale(self) -> str:
        """What the length of a state depends on."""
        return digest_of([self._model, self._layer, self._known[:_NORM_PROMPTS]])

    @cached_property
    def _norm(self) -> float:
        """The median length of the states of prompts at the row; measured once."""
        known = self._files.norm(self._scale)
        if known is None:
            check_fit(self._vector, self._worker.model(), self._position)
            prompts = [self._render(question).ids for question in self._known[:_NORM_PROMPTS]]
            known = typical_norms(self._worker.model(), {self._layer}, prompts)[self._layer]
            self._files.add_norm(self._scale, known)
        return known

    @cached_property
    def _dose(self) -> float:
        """Of a coefficient of 1."""
        return relative_dose(1.0, self._direction, self._norm)

    @cached_property
    def _wanted(self) -> tuple[_Wanted, ...]:
        """From the lowest coefficient to the highest; they have four digits, so that they can be typed again."""
        chosen = self._sweep.coefficients or [
            float(f"{dose / self._dose:.4g}") for dose in self._sweep.doses
        ]
        return tuple(
            _Wanted(self._key(coefficient, question), coefficient, number, question)
            for coefficient in sorted({0.0, *chosen})
            for number, question in enumerate(self._questions)
        )

    def _key(self, coefficient: float, question: str) -> str:
        """It changes with all that an answer depends on; unsteered ones depend on no vector."""
        push = (
            [coefficient, self._layer, hashlib.sha256(self._direction.tobytes()).hexdigest()]
            if coefficient
            else []
        )
        return digest_of(
            [self._model, self._sweep.sampling.model_dump(), self._seed(question), question, push]
        )

    def _seed(self, question: str) -> int:
        """The same random numbers under every coefficient: answers differ by the push alone."""
        return derive_seed(self._sweep.seed, f"steered-{question}")

    def _render(self, question: str) -> Prompt:
        return render(self._worker.model().tokenizer, [{"role": "user", "content": question}])

    def _write(self) -> None:
        """Answer the questions that have no answer on disk, a batch for each coefficient."""
        missing = [one for one in self._wanted if self._files.answer(one.key) is None]
        with self._stage("rollouts", len(missing)) as tell:
            for _, batch in groupby(missing, key=lambda one: one.coefficient):
                self._write_batch(list(batch), tell)

    def _write_batch(self, batch: Sequence[_Wanted], tell: Tell) -> None:
        loaded, sampling = self._worker.model(), self._sweep.sampling
        prompts = [self._render(one.question) for one in batch]
        for prompt in prompts:
            check_length(loaded, prompt, sampling.max_new_tokens)
        push = Intervention(self.trait.name, batch[0].coefficient, self._layer)
        pushes = make_steering([push], {self.trait.name: self._vector}, loaded, self._position)
        requests = [
            Request(p.ids, self._seed(one.question)) for p, one in zip(prompts, batch, strict=True)
        ]
        made: list[SteeredAnswer] = []
        try:
            with steered(loaded, pushes), memory_explained(loaded.device, _LESS_MEMORY):
                size, on_step = self._batch_size(loaded, requests), lambda tokens: tell(0, tokens)
                for index, generation in generate(loaded, requests, sampling, size, on_step):
                    if generation:
                        made.append(self._answer(batch[index], generation, loaded))
                    if len(made) == _TOGETHER:
                        self._keep(made, tell)
        finally:  # Ctrl-C too: what is complete is kept
            self._keep(made, tell)

    def _keep(self, made: list[SteeredAnswer], tell: Tell) -> None:
        self._files.add_answers(made)
        tell(len(made), 0)
        made.clear()

    def _answer(self, one: _Wanted, generation: Generation, loaded: LoadedModel) -> SteeredAnswer:
        return SteeredAnswer(
            key=one.key,
            coefficient=one.coefficient,
            layer=self._layer,
            question=one.question,
            seed=self._seed(one.question),
            response="".join(token_texts(loaded.tokenizer, generation.ids)),
            response_tokens=len(generation.ids),
            finish_reason=generation.finish_reason,
        )

    def _batch_size(self, loaded: LoadedModel, requests: Sequence[Request]) -> BatchSize:
        chosen = self._worker.settings.extract.batch_size
        longest = (
            max(len(request.ids) for request in requests) + self._sweep.sampling.max_new_tokens
        )
        most = min(len(requests), estimate_size(loaded, longest))
        return BatchSize(most, most) if chosen == "auto" else BatchSize(chosen)

    def _score(self) -> None:
        """Have the unsteered answers and the others judged, by a model that nothing pushes."""
        left = [one for one in self._wanted if not self._is_settled(one)]
        pairs = len(self.trait.pairs)
        answers = [
            Answer(
                one.key, "positive", one.number % pairs, one.question, self._written(one).response
            )
            for one in left
        ]
        with self._stage("judgements", len(left)) as tell:

            def keep(judgements: Sequence[Judgement]) -> None:
                self._files.add_judgements(judgements)
                tell(len(judgements), 0)

            if answers:
                self._worker.judge.score(self.trait, answers, keep)

    def _read(self) -> None:
        """What stands in for coherence: how likely an answer is, and how often it repeats itself."""
        said = [one for one in self._wanted if self._written(one).response.strip()]
        left = [one for one in said if self._files.reading(one.key) is None]
        with self._stage("readings", len(left)) as tell:
            if not left:
                return
            loaded = self._worker.model()
            texts = [
                Text(
                    self._render(one.question).ids,
                    tuple(encode_response(loaded.tokenizer, self._written(one).response)),
                )
                for one in left
            ]
            with memory_explained(loaded.device, _LESS_MEMORY):
                for index, found in log_probabilities(loaded, texts, _READ_TOGETHER):
                    reading = Reading(
                        left[index].key, float(found.mean()), repetition(texts[index].response)
                    )
                    self._files.add_readings([reading])
                    tell(1, len(texts[index].response))

    @contextmanager
    def _stage(self, stage: Stage, left: int) -> Iterator[Tell]:
        """Tell of a stage in which so many of the wanted are left; of one that has nothing left, nothing."""
        total, start, usd = len(self._wanted), time.monotonic(), self._files.usage.usd or 0.0
        done = total - left

        def tell(more: int, tokens: int) -> None:
            nonlocal done
            done += more
            spent = (self._files.usage.usd or 0.0) - usd
            self._on_event(
                Progressed(self.trait.name, stage, done, total, tokens, usd=spent or None)
            )

        if left:
            self._on_event(StageStarted(self.trait.name, stage, done, total))
        yield tell
        if left:
            self._on_event(StageFinished(self.trait.name, stage, time.monotonic() - start))

    def _written(self, one: _Wanted) -> SteeredAnswer:
        answer = self._files.answer(one.key)
        assert answer  # noqa: S101 - all are written before any is judged
        return answer

    def _given(self, one: _Wanted) -> Judgement:
        none = Score(None, "not judged")
        return self._files.judgement(one.key, self._judge) or Judgement(
            one.key, self._judge, none, none
        )

    def _is_settled(self, one: _Wanted) -> bool:
        return self._given(one).is_settled

    def _scored(self, one: _Wanted) -> Scored:
        given, reading = self._given(one), self._files.reading(one.key)
        return Scored(
            question=one.question,
            is_empty=not self._written(one).response.strip(),
            score=given.score.value,
            coherence=given.coherence.value,
            log_probability=reading.log_probability if reading else None,
            repetition=reading.repetition if reading else None,
        )

    def _row(self) -> dict[str, Any]:
        scored = {one: self._scored(one) for one in self._wanted}
        held = {
            c: [scored[one] for one in group]
            for c, group in groupby(self._wanted, lambda one: one.coefficient)
        }
        found = sum_up(held, self._dose, self._worker.settings.filter.coherence)
        reasons = [
            self._given(one).score.reason
            for one, s in scored.items()
            if s.score is None and not s.is_empty
        ]
        return {
            "trait": self.trait.name,
            "model": self._worker.settings.model.name,
            "layer": self._layer,
            "position": self._position,
            "questions": len(self._questions),
            "tokens": self._sweep.sampling.max_new_tokens,
            "seed": self._sweep.seed,
            "judge": self._judge,
            "vector_norm": float(np.linalg.norm(self._direction)),
            "state_norm": self._norm,
            "least_coherence": self._worker.settings.filter.coherence,
            **asdict(found),
            "monotone": found.is_monotone,
            "missing_reasons": merge_reasons(reasons),
            "notes": list(self._notes()),
            "written": [
                {"coefficient": one.coefficient, "response": self._written(one).response}
                | asdict(scored[one])
                for one in self._wanted
            ],
        }

    def _notes(self) -> Iterator[str]:
        if not self.trait.evaluation_questions:
            yield "it has no evaluation questions: those that the vector was built from are asked"
        if self._layer == self._vector.layer_count - 1:
            yield f"layer {self._layer} of a vector is read after the final norm; what is pushed lies before it"


def steering_path(run: Run, trait: str) -> Path:
    return run.trait(trait).folder / "steering.jsonl"


def steering_budget(config: Config, run: Run, traits: Sequence[Trait]) -> Budget | None:
    """What judging may still cost: what the run and its sweeps have cost counts."""
    limit = config.judge.openai.max_cost
    if limit is None or config.judge.backend != "openai":
        return None
    usages = [SteeringFile(steering_path(run, trait.name)).usage for trait in traits]
    return Budget(limit, RunLedgers(run).spent() + sum(usage.usd or 0.0 for usage in usages))


def _check_trait(trait: Trait) -> None:
    """Raise DefinitionError when there is nothing to ask or to judge by."""
    if trait.responses:
        raise DefinitionError(
            f"steering by {trait.name} cannot be judged",
            cause="its definition holds ready responses, and neither pairs nor a judge prompt",
            fix="name other traits",
        )


def _check_vector(vector: TraitVector, position: Position, layer: int) -> None:
    """Raise VectorError for what cannot be pushed by, before a model is loaded."""
    if position not in vector.directions:
        cause = f"it has {', '.join(vector.directions)}"
        raise VectorError(
            f"the vector of {vector.trait} has no {position}", cause=cause, fix="build it anew"
        )
    if not 1 <= layer < vector.layer_count:
        raise VectorError(
            f"cannot steer {vector.trait} at layer {layer}",
            cause=f"outputs of blocks are steered, which are layers 1 to {vector.layer_count - 1}",
            fix=f"leave --layer out for the vector's own layer, {vector.layer}",
        )
    if not np.any(vector.directions[position][layer]):
        raise VectorError(
            f"cannot steer {vector.trait} at layer {layer}",
            cause="the vector is zero there",
            fix="choose another layer",
        )
