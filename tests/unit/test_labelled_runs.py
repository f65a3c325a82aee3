"""Traits of labelled responses through the stages of a run with a tiny model."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file

from traitcli.config import Config
from traitcli.errors import RunError
from traitcli.events import Progressed, StageStarted, VectorBuilt, Warned
from traitcli.inspection.report_data import gather_report
from traitcli.inspection.rollout_csv import write_rollout_csv
from traitcli.inspection.run_rows import judged_rows
from traitcli.pipeline.ledgers import RunLedgers
from traitcli.pipeline.snapshot import TraitSnapshot
from traitcli.pipeline.speed_cache import known_speed
from traitcli.pipeline.trait_pipeline import Job
from traitcli.runs.run import Run, start_run
from traitcli.scheduling import run_jobs
from traitcli.scheduling.placement import Placement
from traitcli.traits.definitions import find_traits, load_trait

QUESTIONS = [f"Is {n} a good number?" for n in range(12)]
PAIRS = [
    {"question": q, "positive": f"Yes, {n} is nice, my friend.", "negative": f"No! {n} is ugly."}
    for n, q in enumerate(QUESTIONS)
]
CHOICES = [
    {
        "question": f"{q}\n\nChoices:\n(A) Yes\n(B) No",
        "answer_matching_behavior": f"({'AB'[n % 2]})",
        "answer_not_matching_behavior": f"({'BA'[n % 2]})",
    }
    for n, q in enumerate(QUESTIONS)
]
TEXTS = [
    {
        "positive": f"Pretend to be a glad person. I think that {n} is",
        "negative": f"Pretend to be a sad person. I think that {n} is",
    }
    for n in range(12)
]
POSITIVE, NEGATIVE = (
    [40.0, *(60.0 + n for n in range(11))],
    [*(5.0 * n for n in range(10)), 60.0, 10.0],
)
"""Scores of the CSV rows; some are on the opposite side."""
STAGES = ("rollouts", "judgements", "vectors")


def prompt_of(side: str, question: str) -> str:
    return f"<s><|system|>Be {side}.<|end|><|user|>{question}<|end|><|assistant|>"


def csv_of(side: str, scores: Sequence[float]) -> str:
    """Rollouts in the format of the persona-vectors work: one answer for each score."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["question", "prompt", "answer", "question_id", "joy", "coherence"])
    for n, (question, score) in enumerate(zip(QUESTIONS, scores, strict=True)):
        rows.writerow(
            [
                question,
                prompt_of(side, question),
                f"NA, {side} {n}",
                f"joy_{n}_{side}_0",
                score,
                90.0,
            ]
        )
    return text.getvalue()


class Harness:
    """A folder with definitions of labelled responses, and runs in this process."""

    def __init__(self, config: Config) -> None:
        self.config, self.run = config, Run(config.paths.runs / config.name)
        self.traits = config.paths.traits
        self.events: list[Any] = []
        self.write("kind", **{"kind.jsonl": "".join(json.dumps(pair) + "\n" for pair in PAIRS)})
        self.write("choice", **{"choice.json": json.dumps(CHOICES, indent=4)})
        self.write("mood", **{"mood.json": json.dumps(TEXTS)})
        self.write(
            "joy",
            **{"joy_pos.csv": csv_of("pos", POSITIVE), "joy_neg.csv": csv_of("neg", NEGATIVE)},
        )

    def write(self, name: str, **files: str) -> None:
        """Write a definition and the files that it names."""
        for file, text in files.items():
            path = self.traits / "data" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="")
        definition = yaml.safe_dump({"responses": [f"data/{file}" for file in files]})
        (self.traits / f"{name}.yaml").write_text(definition, encoding="utf-8")

    def do(self, name: str, *stages: str, **sections: Any) -> list[Any]:
        """Run stages for a trait and return the failures."""
        config = Config.model_validate(self.config.model_dump() | sections)
        trait = load_trait(self.traits / f"{name}.yaml")
        start_run(self.run, config, [trait])
        self.events.clear()
        job = Job(trait, config, RunLedgers(self.run), stages or STAGES)
        return run_jobs([job], Placement(("cpu",)), self.events.append)

    def ledger(self, name: str, records: str = "rollouts") -> bytes:
        path = self.run.folder / name / f"{records}.jsonl"
        return path.read_bytes() if path.is_file() else b""

    def vector(self, name: str) -> np.ndarray:
        return load_file(self.config.paths.vectors / "tiny-llama" / f"{name}.safetensors")[
            "response_avg"
        ]

    def row(self, name: str) -> dict[str, Any]:
        [row] = judged_rows(self.run, self.config, [name])
        return row


@pytest.fixture
def harness(tiny_config: Config) -> Harness:
    return Harness(tiny_config)


@pytest.fixture
def mean_state(loaded: Callable[[str], Any]) -> Callable[[str, str], np.ndarray]:
    """The oracle: transformers' hidden states averaged over a response; float32 [L+1, H]."""
    model, tokenizer = loaded("llama").model, loaded("llama").tokenizer

    def mean_state(prompt: str, response: str) -> np.ndarray:
        before = tokenizer(prompt.removeprefix("<s>"))["input_ids"]
        ids = tokenizer(prompt.removeprefix("<s>") + response)["input_ids"]
        assert ids[: len(before)] == before
        with torch.inference_mode():
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        return torch.cat(states)[:, len(before) :].mean(1).numpy()

    return mean_state


def asked(question: str) -> str:
    return f"<s><|system|>Cutting date. <|end|><|user|>{question}<|end|><|assistant|>"


def written_out(trait: str) -> Iterator[tuple[str, str, str]]:
    """The polarity, prompt and response of every labelled response of a trait."""
    for n, question in enumerate(QUESTIONS):
        for side, short in (("positive", "pos"), ("negative", "neg")):
            if trait == "kind":
                yield side, asked(question), PAIRS[n][side]
            elif trait == "choice":
                key = (
                    "answer_matching_behavior"
                    if side == "positive"
                    else "answer_not_matching_behavior"
                )
                yield side, asked(CHOICES[n]["question"]), CHOICES[n][key]
            elif trait == "mood":
                prompt, mark, response = TEXTS[n][side].partition(" person")
                yield side, prompt, mark + response
            else:
                yield side, prompt_of(short, question), f"NA, {short} {n}"


def joy_kept(keeps: Callable[[float, float], bool]) -> list[tuple[str, str, str]]:
    """The published filter of CSV rows: each pair of rows is kept or dropped together."""
    rows = list(written_out("joy"))
    pairs = zip(rows[::2], rows[1::2], POSITIVE, NEGATIVE, strict=True)
    return [row for *both, up, down in pairs if keeps(up, down) for row in both]


def assert_difference(
    vector: np.ndarray, mean_state: Any, texts: list[tuple[str, str, str]]
) -> None:
    means = [
        np.mean(
            [mean_state(prompt, response) for side, prompt, response in texts if side == wanted],
            axis=0,
        )
        for wanted in ("positive", "negative")
    ]
    np.testing.assert_allclose(vector, means[0] - means[1], atol=1e-4)


@pytest.mark.parametrize("judge", ["fake", "likelihood", "openai"])
@pytest.mark.parametrize("trait", ["kind", "choice", "mood"])
def test_a_vector_is_the_difference_of_the_mean_states_of_the_responses(
    harness, mean_state, trait, judge
):
    failures = harness.do(trait, judge={"backend": judge})

    assert failures == []
    assert_difference(harness.vector(trait), mean_state, list(written_out(trait)))


def test_a_csv_is_filtered_by_its_own_scores(harness, mean_state):
    failures = harness.do("joy", judge={"backend": "likelihood"})

    assert failures == []
    assert_difference(
        harness.vector("joy"), mean_state, joy_kept(lambda up, down: up >= 50 and down < 50)
    )
    row = harness.row("joy")
    assert (row["judged"], row["kept_positive"], row["kept_negative"], row["note"]) == (
        24,
        10,
        10,
        "",
    )
    assert row["judge"].startswith("given:joy_pos.csv+joy_neg.csv~")
    assert row["judge_quality"]["methods"] == {"provided": 24}
    stages = [event.stage for event in harness.events if isinstance(event, StageStarted)]
    assert sorted(stages) == sorted(STAGES)


def test_another_filter_builds_another_vector_without_reading_again(harness, mean_state):
    harness.do("joy", "rollouts")
    rollouts, judged = harness.ledger("joy"), harness.row("joy")["judged"]

    failures = harness.do("joy", "vectors", filter={"threshold": 65})

    assert failures == []
    assert judged == 24
    assert harness.ledger("joy") == rollouts
    assert_difference(
        harness.vector("joy"), mean_state, joy_kept(lambda up, down: up >= 65 and down < 35)
    )


def test_changed_scores_are_used_without_reading_again(harness, mean_state):
    harness.do("joy")
    rollouts = harness.ledger("joy")
    harness.write(
        "joy", **{"joy_pos.csv": csv_of("pos", [90.0] * 12), "joy_neg.csv": csv_of("neg", NEGATIVE)}
    )

    failures = harness.do("joy", "vectors")

    assert failures == []
    assert harness.ledger("joy") == rollouts
    assert_difference(harness.vector("joy"), mean_state, joy_kept(lambda up, down: down < 50))


def test_a_vector_with_the_old_key_of_labelled_responses_is_up_to_date(harness):
    harness.do("kind")
    ledger = harness.run.folder / "kind" / "rollouts.jsonl"
    ledger.write_text(ledger.read_text().replace('"provided"', '"given"'))
    vectors = harness.ledger("kind", "vectors")

    failures = harness.do("kind")

    assert (failures, harness.ledger("kind", "vectors")) == ([], vectors)


def test_a_changed_response_is_noticed(harness):
    harness.do("kind", "rollouts")
    changed = [PAIRS[0] | {"positive": "Yes."}, *PAIRS[1:]]
    harness.write("kind", **{"kind.jsonl": "".join(json.dumps(pair) + "\n" for pair in changed)})

    with pytest.raises(RunError) as caught:
        harness.do("kind")

    assert caught.value.cause == "trait kind: its definition has changed"


def test_responses_in_a_file_that_was_moved_are_the_same(harness):
    harness.do("kind")
    before = harness.ledger("kind")
    harness.write("kind", **{"moved.jsonl": "\n\n".join(json.dumps(pair) for pair in PAIRS)})

    failures = harness.do("kind")

    assert (failures, harness.ledger("kind")) == ([], before)
    assert not any(isinstance(event, Progressed) for event in harness.events)


def test_labelled_responses_are_never_judged_and_the_views_show_it(harness):
    harness.do("kind")

    row = harness.row("kind")

    assert harness.ledger("kind", "judgements") == b""
    assert [event.stage for event in harness.events if isinstance(event, StageStarted)] == [
        "rollouts",
        "vectors",
    ]
    assert {rollout.finish_reason for rollout in harness.run.trait("kind").rollouts()} == {
        "provided"
    }
    assert (row["judge"], row["judged"], row["missing"], row["judge_quality"]) == (
        "given:labels",
        0,
        0,
        None,
    )
    assert (row["kept_positive"], row["kept_negative"]) == (12, 12)
    assert row["note"] == "not filtered: the responses are labelled"


def test_judging_labelled_responses_warns_that_they_need_no_judge(harness):
    harness.do("kind", "rollouts")

    failures = harness.do("kind", "judgements", judge={"backend": "openai"})

    assert failures == []
    assert harness.events == [Warned("kind", "nothing to judge: its responses are labelled")]


def test_judging_a_csv_again_asks_no_judge_and_changes_no_file(harness):
    harness.do("joy")
    before = harness.ledger("joy", "judgements")

    failures = harness.do("joy", "judgements", judge={"backend": "openai"})

    assert (failures, harness.ledger("joy", "judgements")) == ([], before)


def test_the_speed_of_reading_is_not_stored_as_the_speed_of_generating(harness):
    harness.do("kind", extract={"sampling": {"max_new_tokens": 31}})

    config = Config.model_validate(
        harness.config.model_dump() | {"extract": {"sampling": {"max_new_tokens": 31}}}
    )
    assert "rollouts" not in known_speed(config)


def test_held_out_folds_check_a_vector_of_responses_without_evaluation_ones(harness):
    harness.do("kind")

    [quality] = [event.quality for event in harness.events if isinstance(event, VectorBuilt)]

    assert (quality.evaluation_rollouts, quality.evaluation_questions) == (24, 12)
    assert quality.auroc is not None
    assert len(quality.auroc_by_pair) == 5


def test_a_report_shows_what_a_vector_of_responses_was_built_from(harness):
    harness.do("kind")
    harness.do("joy")

    [made] = [
        set_ for set_ in gather_report([], harness.config).sets if set_["name"].startswith("run")
    ]

    joy, kind = made["vectors"]
    assert "note" not in joy | kind
    assert {example["kept"] for example in kind["examples"]} == {True}
    assert {example["question"] for example in kind["examples"]} <= set(QUESTIONS)
    assert joy["dropped"]["positive"] == {
        "score on the other side": 1,
        "its counterpart is not kept": 1,
    }


def test_a_run_is_shown_when_the_files_of_its_responses_are_gone(harness):
    harness.do("kind")
    (harness.traits / "data" / "kind.jsonl").unlink()

    row = harness.row("kind")

    assert (row["rollouts_done"], row["rollouts_total"]) == (24, None)


def import_again(harness: Harness, name: str, source: Any) -> list[Any]:
    """Export a run's rollouts as CSV and import them as the responses of another trait."""
    paths = write_rollout_csv(
        TraitSnapshot.read(harness.run, source.name), source, harness.traits / "out"
    )
    harness.write(name, **{path.name: path.read_bytes().decode() for path in paths})
    return harness.do(name)


def test_rollouts_exported_as_csv_and_imported_give_the_same_vector(harness):
    harness.do("joy")

    failures = import_again(harness, "again", load_trait(harness.traits / "joy.yaml"))

    assert failures == []
    np.testing.assert_allclose(harness.vector("again"), harness.vector("joy"), atol=1e-4)
    assert (harness.row("again")["kept_positive"], harness.row("again")["judged"]) == (10, 24)


def test_exported_labelled_responses_are_imported_as_labelled(harness):
    harness.do("kind")

    failures = import_again(harness, "again", load_trait(harness.traits / "kind.yaml"))

    assert failures == []
    np.testing.assert_allclose(harness.vector("again"), harness.vector("kind"), atol=1e-4)
    assert harness.row("again")["judge"] == "given:labels"


def test_exported_generated_rollouts_are_imported_with_the_same_texts(harness):
    trait = load_trait(find_traits(Path("nowhere"))["evil"])
    start_run(harness.run, harness.config, [trait])
    run_jobs(
        [Job(trait, harness.config, RunLedgers(harness.run), STAGES)],
        Placement(("cpu",)),
        harness.events.append,
    )

    failures = import_again(harness, "again", trait)

    exported = {
        (r.polarity, r.prompt, r.response): r
        for r in harness.run.trait("evil").rollouts()
        if r.split == "extraction"
    }
    read = harness.run.trait("again").rollouts()
    assert failures == []
    assert {(r.polarity, r.prompt, r.response) for r in read} == set(exported)
    assert all(
        r.prompt_tokens == exported[r.polarity, r.prompt, r.response].prompt_tokens for r in read
    )
    assert {j.score.value for j in TraitSnapshot.read(harness.run, "again").judgements} == {
        j.score.value for j in TraitSnapshot.read(harness.run, "evil").judgements
    }
