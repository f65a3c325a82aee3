"""Steers a model by several coefficients of a vector, and has a judge score the answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np

from traitcli.api.model import Model
from traitcli.events import Listener, Progressed, Stage, StageFinished, StageStarted, Warned
from traitcli.generation.batch_size import estimate_size
from traitcli.generation.decode import Generation, generate
from traitcli.generation.detokenize import token_texts
from traitcli.generation.request import Request
from traitcli.interventions import Intervention, Push
from traitcli.judging import Answer, judge_id
from traitcli.judging.reasons import merge_reasons
from traitcli.models.batch_size import BatchSize, shrinking
from traitcli.models.loaded import LoadedModel
from traitcli.models.memory import memory_explained
from traitcli.models.prompts import Prompt, check_length, encode_response, persona_messages, render
from traitcli.models.read_texts import Text, log_probabilities
from traitcli.pipeline.worker_context import Worker
from traitcli.records import Judgement, Score, Trait, TraitVector
from traitcli.runs.run import Run
from traitcli.steering.brake_results import measure_brake, wanted_sign
from traitcli.steering.dose_response import ScoredAnswer, measure_dose_response, repetition
from traitcli.steering.interventions import steered, typical_norms
from traitcli.steering.sweep_file import Reading, SteeredAnswer, SteeringFile, steering_path
from traitcli.steering.sweep_plan import PlannedAnswer, Sweep, SweepPlan

_STORED_TOGETHER = 16
"""Answers that are stored in one write; a kill loses fewer than this."""
_READ_TOGETHER = 64
"""Answers that the unsteered model reads in one batch, at most."""
_LESS_MEMORY = (
    "set extract.batch_size or --max-new-tokens lower, or model.dtype to bfloat16; "
    "finished answers are kept"
)

Advance = Callable[[int, int], None]
"""Reports progress: how many more items are done, and how many tokens they have."""


class TraitSweep:
    """The sweep of one trait: does only what is not on disk yet, and loads a model only for that.

    Raises what `SweepPlan` raises.
    """

    def __init__(
        self,
        trait: Trait,
        vectors: Mapping[str, TraitVector],
        sweep: Sweep,
        run: Run,
        worker: Worker,
        on_event: Listener,
    ) -> None:
        """`vectors` has the trait's own, and those that brakes may name."""
        self.trait = trait
        self._plan = SweepPlan(trait, vectors, sweep, worker.settings)
        self._worker = worker
        self._on_event = on_event
        self._file = SteeringFile(steering_path(run, trait.name))
        self._judge = judge_id(worker.judge, trait)

    @property
    def todo(self) -> int:
        """How many answers are missing; all of them, if the coefficients are not known yet."""
        if self._plan.sweep.coefficients or self._file.norm(self._plan.norm_key) is not None:
            return len(self._missing)
        return self._plan.size

    def run(self) -> dict[str, Any]:
        """Generate, judge and read what is missing; returns the results (JSON-able)."""
        if self.todo or not all(map(self._is_settled, self._planned)):
            # Before the first second of compute: a judge without a key would fail at the end.
            self._worker.judge.check()
        self._generate()
        self._score()
        # The likelihood judge gives no coherence. Reading costs one more pass over each answer.
        if all(self._judgement(one).coherence.value is None for one in self._planned):
            self._read()
        return self._results()

    @cached_property
    def _model(self) -> Model:
        """The model, loaded when something is missing; the judge may use it too."""
        model = Model(self._worker.model(), self._worker.settings, self._on_event)
        # Before anything is stored: a norm of another model would stay in the file.
        model.watch(self._plan.vector)
        return model

    @cached_property
    def _norm(self) -> float:
        """The typical norm of the prompts' hidden states at the layer; measured once."""
        known = self._file.norm(self._plan.norm_key)
        if known is not None:
            return known
        prompts = [self._render(question).ids for question in self._plan.norm_questions]
        norm = typical_norms(self._model.loaded, {self._plan.layer}, prompts)[self._plan.layer]
        self._file.add_norm(self._plan.norm_key, norm)
        return norm

    @cached_property
    def _planned(self) -> tuple[PlannedAnswer, ...]:
        # Without doses the norm is not needed, and measuring it would load a model.
        return self._plan.answers(None if self._plan.sweep.coefficients else self._norm)

    @property
    def _missing(self) -> list[PlannedAnswer]:
        return [one for one in self._planned if self._file.answer(one.key) is None]

    def _render(self, question: str) -> Prompt:
        loaded = self._model.loaded
        return render(loaded.tokenizer, [{"role": "user", "content": question}], loaded.chat)

    def _render_asked(self, planned: PlannedAnswer) -> Prompt:
        """The prompt of an answer: the question, under its persona if there is one."""
        persona, loaded = self._plan.persona_of(planned.pair), self._model.loaded
        if persona is None:
            return self._render(planned.question)
        messages = persona_messages(persona, planned.question, loaded.persona_in)
        return render(loaded.tokenizer, messages, loaded.chat)

    def _generate(self) -> None:
        """Generate the missing answers, a batch for each coefficient."""
        missing = self._missing
        with self._stage("rollouts", len(missing)) as advance:
            # The steering hooks apply to a whole batch, so a batch has one way of steering.
            for (coefficient, brake), batch in groupby(
                missing, key=lambda one: (one.coefficient, one.brake)
            ):
                push = Push(self.trait.name, coefficient, self._plan.layer)
                ways = self._plan.brakes[brake] if brake else (push,)
                self._generate_batch(ways, list(batch), advance)

    def _generate_batch(
        self, ways: Sequence[Intervention], batch: Sequence[PlannedAnswer], advance: Advance
    ) -> None:
        loaded, sampling = self._model.loaded, self._plan.sweep.sampling
        requests = []
        for one in batch:
            prompt = self._render_asked(one)
            check_length(loaded, prompt, sampling.max_new_tokens)
            requests.append(Request(prompt.ids, one.seed))
        interventions = self._model.prepare(ways, self._plan.vectors)

        answers: list[SteeredAnswer] = []
        size = self._batch_size(loaded, requests)
        try:
            with steered(loaded, interventions), memory_explained(loaded.device, _LESS_MEMORY):
                generations = generate(
                    loaded, requests, sampling, size, lambda tokens: advance(0, tokens)
                )
                for index, generation in generations:
                    if generation:
                        answers.append(self._answer(batch[index], generation, loaded))
                    if len(answers) == _STORED_TOGETHER:
                        self._store(answers, advance)
        finally:  # also when Ctrl-C ends it: complete answers are kept
            self._store(answers, advance)

    def _store(self, answers: list[SteeredAnswer], advance: Advance) -> None:
        """Append the answers to the file and empty the list."""
        self._file.add_answers(answers)
        advance(len(answers), 0)
        answers.clear()

    def _answer(
        self, planned: PlannedAnswer, generation: Generation, loaded: LoadedModel
    ) -> SteeredAnswer:
        return SteeredAnswer(
            key=planned.key,
            coefficient=planned.coefficient,
            layer=self._plan.layer,
            question=planned.question,
            seed=planned.seed,
            response="".join(token_texts(loaded.tokenizer, generation.ids)),
            response_tokens=len(generation.ids),
            finish_reason=generation.finish_reason,
            brake=planned.brake,
        )

    def _batch_size(self, loaded: LoadedModel, requests: Sequence[Request]) -> BatchSize:
        chosen = self._worker.settings.extract.batch_size
        if chosen != "auto":
            return BatchSize(chosen)
        longest_prompt = max(len(request.ids) for request in requests)
        longest = longest_prompt + self._plan.sweep.sampling.max_new_tokens
        size = min(len(requests), estimate_size(loaded, longest))
        return shrinking(size, "sequences", self._warn)

    def _warn(self, message: str) -> None:
        self._on_event(Warned(self.trait.name, message))

    def _score(self) -> None:
        """Have all answers judged that are not settled. The judge's model is not steered."""
        # As positive answers: a question has no polarity, and a high score means more of the trait.
        missing = [one for one in self._planned if not self._is_settled(one)]
        answers = [
            Answer(one.key, "positive", one.pair, one.question, self._response(one))
            for one in missing
        ]
        with self._stage("judgements", len(missing)) as advance:

            def store(judgements: Sequence[Judgement]) -> None:
                self._file.add_judgements(judgements)
                advance(len(judgements), 0)

            if answers:
                self._worker.judge.score(self.trait, answers, store)

    def _read(self) -> None:
        """Measure the stand-ins for coherence: an answer's likelihood, and its repetition."""
        # An empty answer has no token whose probability could be read.
        missing = [
            one
            for one in self._planned
            if self._response(one).strip() and self._file.reading(one.key) is None
        ]
        with self._stage("readings", len(missing)) as advance:
            if not missing:
                return
            loaded = self._model.loaded
            texts = []
            for one in missing:
                response = encode_response(loaded.tokenizer, self._response(one))
                texts.append(Text(self._render(one.question).ids, tuple(response)))
            with memory_explained(loaded.device, _LESS_MEMORY):
                size = shrinking(_READ_TOGETHER, "texts", self._warn)
                for index, found in log_probabilities(loaded, texts, size):
                    ids = texts[index].response
                    reading = Reading(missing[index].key, float(found.mean()), repetition(ids))
                    # Stored one by one: a kill loses no reading.
                    self._file.add_readings([reading])
                    advance(1, len(ids))

    @contextmanager
    def _stage(self, stage: Stage, missing: int) -> Iterator[Advance]:
        """Send the events of a stage; none when nothing is missing."""
        total, start = len(self._planned), time.monotonic()
        spent_before = self._file.usage.usd or 0.0
        done = total - missing

        def advance(more: int, tokens: int) -> None:
            nonlocal done
            done += more
            # What this command spent; the file also knows the cost of earlier ones.
            spent = (self._file.usage.usd or 0.0) - spent_before
            name = self.trait.name
            self._on_event(Progressed(name, stage, done, total, tokens, usd=spent or None))

        if missing:
            self._on_event(StageStarted(self.trait.name, stage, done, total))
        yield advance
        if missing:
            self._on_event(StageFinished(self.trait.name, stage, time.monotonic() - start))

    def _response(self, planned: PlannedAnswer) -> str:
        answer = self._file.answer(planned.key)
        assert answer  # noqa: S101 - all answers are generated before any is judged
        return answer.response

    def _judgement(self, planned: PlannedAnswer) -> Judgement:
        none = Score(None, "not judged")
        stored = self._file.judgement(planned.key, self._judge)
        return stored or Judgement(planned.key, self._judge, none, none)

    def _is_settled(self, planned: PlannedAnswer) -> bool:
        return self._judgement(planned).is_settled

    def _scored(self, planned: PlannedAnswer) -> ScoredAnswer:
        judgement = self._judgement(planned)
        reading = self._file.reading(planned.key)
        return ScoredAnswer(
            question=planned.question,
            is_empty=not self._response(planned).strip(),
            score=judgement.score.value,
            coherence=judgement.coherence.value,
            log_probability=reading.log_probability if reading else None,
            repetition=reading.repetition if reading else None,
        )

    def _results(self) -> dict[str, Any]:
        by_coefficient: dict[float, list[ScoredAnswer]] = {}
        by_brake: dict[str, list[ScoredAnswer]] = {}
        written, reasons = [], []
        for planned in self._planned:
            scored = self._scored(planned)
            if planned.brake:
                by_brake.setdefault(planned.brake, []).append(scored)
            else:
                by_coefficient.setdefault(planned.coefficient, []).append(scored)
            row = {
                "coefficient": planned.coefficient,
                "brake": planned.brake,
                "response": self._response(planned),
            }
            written.append(row | asdict(scored))
            if scored.score is None and not scored.is_empty:
                reasons.append(self._judgement(planned).score.reason)

        least_coherence = self._worker.settings.filter.coherence
        dose = self._plan.dose(self._norm)
        found = measure_dose_response(by_coefficient, dose, least_coherence)
        brakes = [
            measure_brake(
                text,
                wanted_sign(self.trait.name, self._plan.brakes[text]),
                answers,
                by_coefficient[0.0],
                found,
                least_coherence,
            )
            for text, answers in by_brake.items()
        ]
        return {
            "trait": self.trait.name,
            "model": self._worker.settings.model.name,
            "layer": self._plan.layer,
            "position": self._plan.position,
            "questions": len(self._plan.questions),
            "tokens": self._plan.sweep.sampling.max_new_tokens,
            "seed": self._plan.sweep.seed,
            "judge": self._judge,
            "vector_norm": float(np.linalg.norm(self._plan.direction)),
            "state_norm": self._norm,
            "least_coherence": least_coherence,
            "persona": self._plan.sweep.persona,
            **asdict(found),
            "brakes": list(map(asdict, brakes)),
            "monotone": found.is_monotone,
            "missing_reasons": merge_reasons(reasons),
            "notes": list(self._plan.notes()),
            "written": written,
        }
