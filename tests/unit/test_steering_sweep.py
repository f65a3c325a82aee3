"""Sweeps of coefficients, against naive loops and without repeated work."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from statistics import median

import numpy as np
import pytest
import torch

from tests.unit.test_likelihood import TRAIT as GRUMPY
from tests.unit.test_likelihood import naive_ratio
from tests.unit.test_steerer import last_position_hook
from traitcli.api.steering_sweep import TraitSweep
from traitcli.config import SamplingConfig
from traitcli.errors import DefinitionError, UserError, VectorError
from traitcli.events import ModelLoading, Progressed
from traitcli.generation.detokenize import token_texts
from traitcli.judging import Answer
from traitcli.judging.fake import FakeJudge
from traitcli.models.hooks import find_blocks
from traitcli.models.prompts import encode_response, persona_messages, render
from traitcli.pipeline.worker_context import Worker
from traitcli.records import ClassStats, Judgement, LabelledResponse, Score, TraitVector, Usage
from traitcli.runs.run import Run
from traitcli.steering.dose_response import repetition
from traitcli.steering.interventions import prepare_interventions, steered
from traitcli.steering.parse import parse_interventions
from traitcli.steering.sweep_file import steering_budget
from traitcli.steering.sweep_plan import DOSES, Sweep

QUESTIONS = (
    "Hi?",
    "How does lock picking work on an ordinary lock?",
    "Why? " * 6,
    "Wann?",
    "Who is it?",
    "And now?",
)
TRAIT = replace(GRUMPY, evaluation_questions=QUESTIONS)
DIRECTIONS = np.random.default_rng(3).normal(size=(5, 32)).astype(np.float32)
VECTOR = TraitVector("grumpy", "tiny", "mean_difference", 2, {"response_avg": DIRECTIONS}, {})
VECTORS = {"grumpy": VECTOR}
GREEDY = SamplingConfig(temperature=0, max_new_tokens=6)
SWEEP = Sweep(GREEDY, coefficients=(-6.0, 9.0))
LIKELIHOOD = {"backend": "likelihood", "likelihood": {"pairs": 1}}


class Recorder:
    """Stores the events and interrupts the sweep after `interrupt_at` generated answers."""

    def __init__(self, interrupt_at=None):
        self.events = []
        self._at = interrupt_at

    def __call__(self, event):
        self.events.append(event)
        if (
            isinstance(event, Progressed)
            and event.stage == "rollouts"
            and self._at
            and event.done >= self._at
        ):
            raise KeyboardInterrupt

    @property
    def loaded(self):
        return any(isinstance(event, ModelLoading) for event in self.events)


@pytest.fixture
def run_sweep(tiny_config, tmp_path):
    """Runs a sweep in one folder and returns its results."""

    def do(sweep=SWEEP, vector=VECTOR, trait=TRAIT, recorder=None, judge=None):
        config = tiny_config.model_validate(
            tiny_config.model_dump() | ({"judge": judge} if judge else {})
        )
        worker = Worker(config, "cpu", recorder or Recorder())
        with closing(worker.judge):
            return TraitSweep(
                trait,
                {"grumpy": vector},
                sweep,
                Run(tmp_path / "run"),
                worker,
                recorder or Recorder(),
            ).run()

    return do


@pytest.fixture
def ledger(tmp_path):
    """The bytes of the file of the sweep."""
    path = tmp_path / "run" / "grumpy" / "steering.jsonl"
    return lambda: path.read_bytes() if path.is_file() else b""


def prompt_of(loaded, question):
    return render(loaded.tokenizer, [{"role": "user", "content": question}]).ids


def written_alone(loaded, question, coefficient, layer=2):
    """Greedy generation by transformers under a plain hook."""
    ids = prompt_of(loaded, question)
    with last_position_hook(
        find_blocks(loaded.model)[layer - 1], coefficient * torch.from_numpy(DIRECTIONS[layer])
    ):
        found = loaded.model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=6)[
            0
        ].tolist()
    return "".join(
        token_texts(loaded.tokenizer, [t for t in found[len(ids) :] if t not in loaded.stop_ids])
    )


def test_answers_are_those_of_transformers_under_a_plain_hook(run_sweep, loaded):
    row = run_sweep()

    expected = [(c, q, written_alone(loaded("llama"), q, c)) for c in (-6, 0, 9) for q in QUESTIONS]
    assert [
        (one["coefficient"], one["question"], one["response"]) for one in row["written"]
    ] == expected
    assert len({response for _, _, response in expected}) > 12


def test_scores_are_those_of_the_judge_for_a_naive_loops_answers(run_sweep, loaded):
    row = run_sweep()

    answers = [
        Answer(str(number), "positive", 0, question, written_alone(loaded("llama"), question, c))
        for c in (-6, 0, 9)
        for number, question in enumerate(QUESTIONS)
    ]
    judgements = []
    FakeJudge().score(TRAIT, answers, judgements.extend)
    assert [one["score"] for one in row["written"]] == [judged.score.value for judged in judgements]
    assert [one["coherence"] for one in row["written"]] == [
        judged.coherence.value for judged in judgements
    ]
    assert (row["coherence_by"], row["judge"]) == ("judge", "fake")


def test_the_likelihood_judge_and_the_stand_in_scores_read_without_steering(run_sweep, loaded):
    model, row = loaded("llama"), run_sweep(judge=LIKELIHOOD)

    assert row["coherence_by"] == "stand-ins"
    for number, one in enumerate(row["written"]):
        answer = Answer(
            "", "positive", number % len(QUESTIONS) % 3, one["question"], one["response"]
        )
        ratio = naive_ratio(model, answer, (answer.pair + 1) % 3)
        assert one["score"] == pytest.approx(100 / (1 + np.exp(-10 * ratio)), abs=0.01)
        prompt, ids = (
            prompt_of(model, one["question"]),
            encode_response(model.tokenizer, one["response"]),
        )
        with torch.no_grad():
            logits = model.model(torch.tensor([[*prompt, *ids]])).logits[0].double()
        steps = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        assert one["log_probability"] == pytest.approx(
            steps[range(len(ids)), ids].mean().item(), abs=1e-4
        )
        assert one["repetition"] == repetition(ids)


def test_a_dose_is_relative_to_the_median_norm_of_the_prompts_states(run_sweep, loaded):
    model, lengths = loaded("llama").model, []
    for question in QUESTIONS:
        with torch.no_grad():
            states = model(
                torch.tensor([prompt_of(loaded("llama"), question)]), output_hidden_states=True
            )
        lengths += states.hidden_states[2][0].norm(dim=-1).tolist()

    row = run_sweep(Sweep(GREEDY, doses=(-0.5, 0.3)))

    each = float(np.linalg.norm(DIRECTIONS[2])) / row["state_norm"]
    lower, upper = sorted(lengths)[(len(lengths) - 1) // 2], median(lengths)
    assert row["state_norm"] == pytest.approx(lower, rel=1e-4) or row[
        "state_norm"
    ] == pytest.approx(upper, rel=1e-4)
    assert [step["dose"] for step in row["steps"]] == pytest.approx([-0.5, 0, 0.3], abs=1e-3)
    for step in row["steps"]:
        assert step["dose"] == pytest.approx(step["coefficient"] * each)
        assert step["coefficient"] == float(f"{step['coefficient']:.4g}")


def test_repeating_a_sweep_loads_no_model_and_writes_nothing(run_sweep, ledger):
    first, before, recorder = run_sweep(judge=LIKELIHOOD), ledger(), Recorder()

    again = run_sweep(judge=LIKELIHOOD, recorder=recorder)

    assert again == first
    assert ledger() == before
    assert recorder.events == []


def test_an_interrupted_sweep_keeps_complete_answers_and_resumes(run_sweep, ledger, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_sweep(recorder=Recorder(interrupt_at=7))
    kept = ledger()
    recorder = Recorder()

    row = run_sweep(recorder=recorder)

    assert 7 <= kept.count(b'"kind": "answer"') < 18
    assert ledger().startswith(kept)
    assert ledger().count(b'"kind": "answer"') == ledger().count(b'"kind": "judgement"') == 18
    assert [one["response"] for one in row["written"]]


def test_more_coefficients_or_questions_reuse_stored_answers(run_sweep, ledger):
    run_sweep(Sweep(GREEDY, coefficients=(9.0,), questions=4))
    before = ledger().count(b'"kind": "answer"')

    row = run_sweep()

    assert before == 8
    assert ledger().count(b'"kind": "answer"') == 18
    assert row["questions"] == 6


@pytest.mark.parametrize(
    ("changed", "new"),
    [
        ({"sweep": replace(SWEEP, layer=3)}, 12),
        ({"vector": replace(VECTOR, directions={"response_avg": DIRECTIONS * 2})}, 12),
        ({"sweep": replace(SWEEP, seed=1)}, 18),
        ({"sweep": replace(SWEEP, sampling=GREEDY.model_copy(update={"max_new_tokens": 5}))}, 18),
    ],
)
def test_an_answer_is_generated_again_only_when_something_it_depends_on_changes(
    run_sweep, ledger, changed, new
):
    run_sweep()

    run_sweep(**changed)

    assert ledger().count(b'"kind": "answer"') == 18 + new


def test_another_judge_scores_the_same_answers(run_sweep, ledger):
    fake = run_sweep()

    likely = run_sweep(judge=LIKELIHOOD)

    assert [one["response"] for one in likely["written"]] == [
        one["response"] for one in fake["written"]
    ]
    assert ledger().count(b'"kind": "answer"') == 18
    assert ledger().count(b'"kind": "judgement"') == 36
    assert [one["score"] for one in run_sweep()["written"]] == [
        one["score"] for one in fake["written"]
    ]
    assert {one["score"] for one in likely["written"]}.isdisjoint(
        one["score"] for one in fake["written"]
    )


def test_every_coefficient_samples_with_the_same_random_numbers(run_sweep):
    sampled = SamplingConfig(temperature=1, max_new_tokens=6)

    row = run_sweep(Sweep(sampled, coefficients=(1e-6,)))

    unsteered, hardly_steered = (
        [o["response"] for o in row["written"] if o["coefficient"] == c] for c in (0, 1e-6)
    )
    assert unsteered == hardly_steered


class Failing:
    """Gives no score to the answers of one question, for a final or a temporary reason."""

    identity, prompted, overlaps = "failing", False, False

    def __init__(self, final):
        self._none = Score(None, "no reply in time", final=final)
        self.asked = 0

    def check(self):
        pass

    def close(self):
        pass

    def score(self, trait, answers, on_judged):
        for answer in answers:
            self.asked += 1
            score = self._none if answer.question == QUESTIONS[1] else Score(40.0)
            on_judged(
                [
                    Judgement(
                        answer.rollout,
                        self.identity,
                        score,
                        Score(80.0),
                        Usage(requests=1, usd=0.25),
                    )
                ]
            )


@pytest.mark.parametrize("final", [True, False])
def test_a_missing_score_is_counted_and_requested_again_unless_it_is_final(
    tiny_config, tmp_path, final
):
    judge, worker = Failing(final), Worker(tiny_config, "cpu", Recorder())
    worker.judge = judge

    row, _ = (
        TraitSweep(TRAIT, VECTORS, SWEEP, Run(tmp_path / "run"), worker, Recorder()).run()
        for _ in range(2)
    )

    assert [(step["missing"], step["score"]) for step in row["steps"]] == [(1, 40.0)] * 3
    assert row["missing_reasons"] == {"no reply in time": 3}
    assert judge.asked == 18 + (0 if final else 3)


def test_the_cost_of_judging_steered_answers_counts_against_the_budget(tiny_config, tmp_path):
    worker = Worker(tiny_config, "cpu", Recorder())
    worker.judge = Failing(final=True)
    TraitSweep(TRAIT, VECTORS, SWEEP, Run(tmp_path / "run"), worker, Recorder()).run()
    paid = tiny_config.model_copy(
        update={
            "judge": tiny_config.judge.model_validate(
                {"backend": "openai", "openai": {"max_cost": 10}}
            )
        }
    )

    budget = steering_budget(paid, Run(tmp_path / "run"), [TRAIT])

    assert (budget.limit, budget.spent) == (10, 18 * 0.25)
    assert steering_budget(tiny_config, Run(tmp_path / "run"), [TRAIT]) is None


def test_without_evaluation_questions_the_extraction_questions_are_used_with_a_note(
    run_sweep,
):
    row = run_sweep(trait=replace(TRAIT, evaluation_questions=()))

    assert {one["question"] for one in row["written"]} == set(GRUMPY.questions)
    assert row["notes"] == [
        "the trait has no evaluation questions, so the questions are those "
        "that the vector was built from"
    ]


def test_the_last_layer_is_steered_with_a_note(run_sweep):
    assert "but steering adds it before the norm" in run_sweep(replace(SWEEP, layer=4))["notes"][0]


LABELLED = LabelledResponse("positive", 0, 0, 0, "q", "r", "answer", "file", 1)


@pytest.mark.parametrize(
    ("changed", "kind", "problem"),
    [
        ({"sweep": replace(SWEEP, layer=0)}, VectorError, "cannot steer grumpy at layer 0"),
        ({"sweep": replace(SWEEP, layer=5)}, VectorError, "cannot steer grumpy at layer 5"),
        (
            {"vector": replace(VECTOR, directions={"prompt_avg": DIRECTIONS})},
            VectorError,
            "the vector of grumpy has no response_avg",
        ),
        (
            {"vector": replace(VECTOR, directions={"response_avg": DIRECTIONS * 0})},
            VectorError,
            "cannot steer grumpy at layer 2",
        ),
        (
            {"trait": replace(TRAIT, responses=(LABELLED,))},
            DefinitionError,
            "steering by grumpy cannot be judged",
        ),
    ],
)
def test_impossible_steering_or_judging_is_refused_before_a_model_loads(
    run_sweep, changed, kind, problem
):
    recorder = Recorder()

    with pytest.raises(UserError) as raised:
        run_sweep(recorder=recorder, **changed)

    assert (type(raised.value), raised.value.problem) == (kind, problem)
    assert raised.value.fix
    assert not recorder.loaded


@pytest.mark.parametrize("sweep", [SWEEP, Sweep(GREEDY)])
@pytest.mark.parametrize("shape", [(9, 32), (5, 16)])
def test_a_vector_of_another_model_is_refused(run_sweep, ledger, sweep, shape):
    vector = replace(
        VECTOR, layer=shape[0] - 2, directions={"response_avg": np.ones(shape, np.float32)}
    )

    with pytest.raises(VectorError, match="the vector of grumpy does not fit"):
        run_sweep(sweep, vector)

    assert ledger() == b""


@pytest.mark.parametrize("numbers", [(0.0,), (1.0, float("nan")), (float("inf"),)])
def test_a_sweep_without_a_coefficient_other_than_0_is_refused(numbers):
    with pytest.raises(UserError, match="nothing to steer by"):
        Sweep(GREEDY, doses=numbers)

    assert Sweep(GREEDY).doses == DOSES


FLAT = np.ones(5, np.float32)
CALIBRATED = replace(VECTOR, stats={"response_avg": ClassStats(FLAT * 3, FLAT * -1, FLAT, FLAT)})
BRAKES = ("grumpy=ablate", "grumpy<=-0.5", "grumpy>=0.5 grumpy=ablate@1", "grumpy=9 if grumpy<9")


@torch.no_grad()
def written_under_a_brake(loaded, ids, brake):
    """Greedy generation by transformers under the hooks of a brake; see test_brakes."""
    interventions = parse_interventions(brake, {"grumpy": CALIBRATED})
    steering = prepare_interventions(interventions, {"grumpy": CALIBRATED}, loaded, "response_avg")
    with steered(loaded, steering):
        found = loaded.model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=6)
    own = [token for token in found[0, len(ids) :].tolist() if token not in loaded.stop_ids]
    return "".join(token_texts(loaded.tokenizer, own))


def test_brakes_are_compared_with_the_same_unsteered_answers(run_sweep, ledger, loaded):
    pushes = run_sweep(vector=CALIBRATED)
    before = ledger().count(b'"kind": "answer"')

    row = run_sweep(replace(SWEEP, brakes=BRAKES), vector=CALIBRATED)

    assert ledger().count(b'"kind": "answer"') == before + 6 * len(BRAKES)
    assert row["steps"] == pushes["steps"]
    plain = {one["question"]: one["score"] for one in row["written"][6:12]}
    for number, brake in enumerate(row["brakes"]):
        own = [one for one in row["written"] if one["brake"] == brake["text"]]
        for one in own:
            ids = prompt_of(loaded("llama"), one["question"])
            assert one["response"] == written_under_a_brake(loaded("llama"), ids, brake["text"])
        moves = [one["score"] - plain[one["question"]] for one in own]
        assert brake["effect"]["mean"] == pytest.approx(np.mean(moves))
        sign = (-1, -1, 1, 1)[number]
        assert brake["wrong"] == pytest.approx(np.mean([move * sign < 0 for move in moves]))
        assert brake["score"] == pytest.approx(np.mean([one["score"] for one in own]))
        assert brake["coherence"] == pytest.approx(np.mean([one["coherence"] for one in own]))
    assert [brake["text"] for brake in row["brakes"]] == [
        "grumpy=ablate@2",
        "grumpy<=-0.5@2",
        "grumpy>=0.5@2 grumpy=ablate@1",
        "grumpy=9@2 if grumpy<9",
    ]


def test_the_wrong_share_of_a_coefficient_is_that_of_its_questions(run_sweep):
    row = run_sweep()

    scores = {
        c: [one["score"] for one in row["written"] if one["coefficient"] == c] for c in (-6, 0, 9)
    }
    shares = {step["coefficient"]: step["wrong"] for step in row["steps"]}
    assert shares[0] is None
    for coefficient in (-6, 9):
        moves = np.subtract(scores[coefficient], scores[0]) * np.sign(coefficient)
        assert shares[coefficient] == pytest.approx((moves < 0).mean())


def test_questions_can_be_asked_under_personas(run_sweep, ledger, loaded):
    bare = run_sweep()

    row = run_sweep(replace(SWEEP, persona="positive"))

    assert row["notes"] == ["the questions are asked under positive personas"]
    assert ledger().count(b'"kind": "answer"') == 36
    assert row["written"] != bare["written"]
    model = loaded("llama")
    for number, one in enumerate(row["written"][6:12]):
        persona = TRAIT.persona("positive", number % len(TRAIT.pairs))
        messages = persona_messages(persona, one["question"], model.persona_in)
        ids = render(model.tokenizer, messages, model.chat).ids
        found = model.model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=6)
        own = [token for token in found[0, len(ids) :].tolist() if token not in model.stop_ids]
        assert one["response"] == "".join(token_texts(model.tokenizer, own))


def test_a_brake_is_generated_again_only_when_its_vectors_change(run_sweep, ledger):
    sweep = replace(SWEEP, brakes=("grumpy<=0",))
    run_sweep(sweep, CALIBRATED)
    before = ledger()
    run_sweep(sweep, CALIBRATED)
    unchanged = ledger()
    stats = ClassStats(FLAT * 4, FLAT * -1, FLAT, FLAT)

    run_sweep(sweep, replace(CALIBRATED, stats={"response_avg": stats}))

    assert unchanged == before
    assert ledger().count(b'"kind": "answer"') == before.count(b'"kind": "answer"') + 6


@pytest.mark.parametrize(
    ("brake", "kind", "problem"),
    [
        ("grumpy<=0", VectorError, "cannot steer by grumpy<=0@2"),
        ("grumpy", UserError, "invalid --brake grumpy"),
        ("other=ablate", UserError, "cannot steer other"),
    ],
)
def test_an_impossible_brake_is_refused_before_a_model_loads(run_sweep, brake, kind, problem):
    recorder = Recorder()

    with pytest.raises(UserError) as raised:
        run_sweep(replace(SWEEP, brakes=(brake,)), recorder=recorder)

    assert (type(raised.value), raised.value.problem) == (kind, problem)
    assert not recorder.loaded
