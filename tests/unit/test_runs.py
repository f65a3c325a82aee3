"""A run folder: everything is read back as written, and other settings are refused."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from traitcli.config import Config
from traitcli.errors import RunError
from traitcli.pipeline.snapshot import TraitSnapshot
from traitcli.records import POSITIONS, Contrast, Judgement, Rollout, Score
from traitcli.runs.run import Run, TraitFiles, digest_of, find_run, require_run, start_run
from traitcli.runs.states import stack_states
from traitcli.traits.definitions import find_traits, load_trait

BUILT_IN = find_traits(Path("no-such-folder"))
EVIL, REFUSAL = load_trait(BUILT_IN["evil"]), load_trait(BUILT_IN["refusal"])
SHAPE = (3, 4)


def make_rollout(question):
    return Rollout(
        id=f"evil-pos-p0-q{question}-r0",
        trait="evil",
        split="extraction",
        polarity="positive",
        pair=0,
        question=question,
        repeat=0,
        seed=2**62 + question,
        prompt="<s>Wie heißt du?\n\u2028",
        response='"Ich"\t🙂\n',
        prompt_tokens=7,
        response_tokens=4,
        finish_reason="stop",
    )


def make_activations(value):
    """Position -> float32 [L+1, H], with a different value for each position."""
    return {
        position: np.full(SHAPE, value + index / 4, np.float32)
        for index, position in enumerate(POSITIONS)
    }


def stacked(states):
    """A batch in which each rollout has a prompt of its own."""
    return stack_states("evil", states, {name: name for name in states})


def judged(question, judge="a", value=80.0, reason=""):
    return Judgement(
        f"evil-pos-p0-q{question}-r0",
        judge,
        Score(value, reason, "logprobs"),
        Score(None, "not asked"),
    )


def make_config(folder, **changes):
    return Config.model_validate(
        {"name": "mine", "model": {"id": "org/tiny"}, "paths": {"runs": folder}} | changes
    )


def start(run, traits=(EVIL,), **changes):
    start_run(run, make_config(run.folder.parent, **changes), traits)


def refusal_of(run, **changes):
    with pytest.raises(RunError) as caught:
        start(run, **changes)
    return caught.value


@pytest.fixture
def files(tmp_path):
    return TraitFiles(tmp_path / "evil")


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "mine")


def snapshot_of(files):
    return TraitSnapshot.read(Run(files.folder.parent), files.folder.name)


@pytest.fixture
def started_run(run):
    """A run with one rollout of evil."""
    start(run)
    run.trait("evil").add_rollouts([make_rollout(0)])
    return run


def test_rollouts_are_read_in_the_order_in_which_they_were_added(files):
    first, second, third = map(make_rollout, (5, 1, 3))

    files.add_rollouts([first, second])
    files.add_rollouts([third])

    assert files.rollouts() == [first, second, third]


def test_the_former_finish_reason_of_labelled_responses_is_read(files):
    rollout = replace(make_rollout(0), finish_reason="provided")
    files.add_rollouts([rollout])
    ledger = files.folder / "rollouts.jsonl"

    ledger.write_text(ledger.read_text().replace('"provided"', '"given"'))

    assert files.rollouts() == [rollout]


@pytest.mark.parametrize(("former", "now"), [("walk", "digit tree"), ("given", "provided")])
def test_the_former_method_of_a_score_is_read(files, former, now):
    stored = replace(judged(0), score=Score(80.0, "", former))

    files.add_judgements([stored])

    assert files.all_judgements() == [replace(stored, score=Score(80.0, "", now))]


def test_a_trait_without_files_has_no_records(files):
    assert (files.rollouts(), files.all_judgements(), files.vectors()) == ([], [], [])


def test_a_rollout_with_an_incomplete_line_is_not_done(files):
    files.add_rollouts([make_rollout(0), make_rollout(1)])
    ledger = files.folder / "rollouts.jsonl"

    os.truncate(ledger, ledger.stat().st_size - 10)

    assert files.rollouts() == [make_rollout(0)]


def test_judgements_are_read_in_the_order_in_which_they_were_added(files):
    made = [judged(2), judged(0, value=None, reason="the judge refused"), judged(1, value=0.0)]

    files.add_judgements(made[:2])
    files.add_judgements(made[2:])

    assert files.all_judgements() == made


def test_the_last_judgement_of_a_judge_counts(files):
    files.add_judgements(
        [judged(0, value=None, reason="timeout"), judged(1), judged(0, value=55.5)]
    )

    assert snapshot_of(files).judgements == [judged(1), judged(0, value=55.5)]


def test_judgements_of_several_judges_are_kept_apart(files):
    files.add_judgements([judged(0, "a", 10.0), judged(0, "b", 20.0)])

    assert [j.score.value for j in snapshot_of(files).judgements] == [10.0, 20.0]


def test_a_snapshot_gives_the_judgements_of_one_judge(files):
    files.add_judgements([judged(0, "a", 10.0), judged(0, "b", 20.0), judged(1, "a", 30.0)])

    assert [j.score.value for j in snapshot_of(files).judged_by("a").values()] == [10.0, 30.0]


@pytest.mark.parametrize("position", POSITIONS)
def test_activations_are_returned_in_the_requested_order_across_batches(files, position):
    rollouts = [make_rollout(question) for question in range(4)]
    made = {rollout.id: make_activations(index) for index, rollout in enumerate(rollouts)}
    files.add_rollouts(rollouts[:3], stacked({r.id: made[r.id] for r in rollouts[:3]}))
    files.add_rollouts(rollouts[3:], stacked({r.id: made[r.id] for r in rollouts[3:]}))

    found = files.activations([rollouts[i].id for i in (3, 0, 2)], position)

    assert found.dtype == np.float32
    np.testing.assert_array_equal(
        found, np.stack([made[rollouts[i].id][position] for i in (3, 0, 2)])
    )


def test_the_newer_of_two_activations_of_a_rollout_counts(files):
    first, second = make_rollout(0), make_rollout(1)
    files.add_states(stacked({first.id: make_activations(1), second.id: make_activations(2)}))
    for path in (files.folder / "activations").iterdir():
        os.utime(path, (0, 0))
    files.add_rollouts([second], stacked({second.id: make_activations(9)}))

    found = files.activations([first.id, second.id], "response_avg")

    assert found[:, 0, 0].tolist() == [1, 9]


def test_the_same_batch_done_again_replaces_its_file(files):
    rollout = make_rollout(0)
    files.add_states(stacked({rollout.id: make_activations(1)}))

    files.add_rollouts([rollout], stacked({rollout.id: make_activations(2)}))

    assert len(list((files.folder / "activations").iterdir())) == 1
    assert files.activations([rollout.id], "response_avg")[0, 0, 0] == 2


def test_missing_activations_are_an_error_that_counts_them(files):
    files.add_rollouts([make_rollout(0)], stacked({make_rollout(0).id: make_activations(1)}))

    with pytest.raises(RunError) as caught:
        files.activations([make_rollout(q).id for q in range(3)], "response_avg")

    assert str(caught.value) == (
        "error: 2 rollouts have no activations\n"
        f"cause: {files.folder}/rollouts.jsonl lists them; no file in activations/ has them\n"
        "fix:   restore the files, or rename the run folder and rerun extract"
    )


def test_activations_without_any_file_are_an_error(files):
    with pytest.raises(RunError, match="1 rollout has no activations"):
        files.activations(["evil-pos-p0-q0-r0"], "response_avg")


def test_a_run_begins_with_a_manifest_of_its_settings_and_traits(run):
    start(run, (REFUSAL, EVIL))

    manifest = run.manifest()
    assert (manifest["format"], manifest["model"]) == (1, "tiny")
    assert manifest["settings"]["extract.sampling.temperature"] == 1.0
    assert run.trait_names() == ["evil", "refusal"]


def test_the_same_settings_fit_and_change_nothing(run):
    start(run)
    before = (run.folder / "run.json").stat()

    start(run)

    after = (run.folder / "run.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_changed_settings_are_refused_with_each_difference(started_run):
    error = refusal_of(
        started_run,
        extract={"repeats": 3, "sampling": {"temperature": 0.5}},
        model={"id": "org/other"},
    )

    assert str(error) == (
        f"error: {started_run.folder} contains a run with other settings\n"
        "cause: model.id: 'org/tiny' in the run, 'org/other' now\n"
        "       extract.repeats: 1 in the run, 3 now\n"
        "       extract.sampling.temperature: 1.0 in the run, 0.5 now\n"
        "fix:   choose another run name (--run NAME), or change the settings back"
    )


def test_a_refused_start_writes_nothing(started_run):
    before = (started_run.folder / "run.json").read_bytes()

    refusal_of(started_run, extract={"repeats": 3}, traits=(EVIL, REFUSAL))

    assert (started_run.folder / "run.json").read_bytes() == before


def test_settings_may_change_until_a_rollout_is_stored(run):
    start(run, model={"id": "org/mistyped"})

    start(run)

    assert run.manifest()["settings"]["model.id"] == "org/tiny"


def test_a_setting_that_is_newer_than_the_run_has_its_default(started_run):
    path = started_run.folder / "run.json"
    manifest = json.loads(path.read_text())
    del manifest["settings"]["extract.engine"]
    path.write_text(json.dumps(manifest))

    start(started_run)

    with pytest.raises(RunError, match="'traitcli' in the run, 'vllm' now"):
        start(started_run, extract={"engine": "vllm"})


def test_device_and_batch_size_may_change(started_run):
    before = started_run.manifest()

    start(started_run, model={"id": "org/tiny", "device": "cuda:1"}, extract={"batch_size": 1})

    assert started_run.manifest() == before


def test_settings_that_do_not_change_rollouts_may_change(started_run):
    before = started_run.manifest()

    start(started_run, judge={"backend": "openai"}, filter={"threshold": 60}, vector={"layer": 3})

    assert started_run.manifest() == before


def test_traits_may_be_added(started_run):
    start(started_run, (REFUSAL,))

    assert started_run.trait_names() == ["evil", "refusal"]


@pytest.mark.parametrize(
    "change",
    [
        {"pairs": (*EVIL.pairs[:4], Contrast("Be wicked.", "Be good."))},
        {"adjectives": Contrast("wicked", "helpful")},
        {"questions": EVIL.questions[::-1]},
        {"evaluation_questions": EVIL.evaluation_questions[1:]},
    ],
)
def test_a_changed_definition_of_a_started_run_is_refused(started_run, change):
    error = refusal_of(started_run, traits=(replace(EVIL, **change), REFUSAL))

    assert error.cause == "trait evil: its definition has changed"


def test_the_description_and_the_judge_prompt_may_change(started_run):
    before = started_run.manifest()

    start(
        started_run,
        (replace(EVIL, description="Wicked.", judge_prompt="{question} {answer} A number?"),),
    )

    assert started_run.manifest() == before


def test_a_definition_without_stored_rollouts_may_change(started_run):
    start(started_run, (REFUSAL,))
    before = started_run.manifest()["traits"]

    start(started_run, (replace(REFUSAL, pairs=REFUSAL.pairs[:3]),))

    after = started_run.manifest()["traits"]
    assert after["evil"] == before["evil"]
    assert after["refusal"] != before["refusal"]


def test_a_manifest_that_is_not_json_is_an_error(run):
    start(run)
    (run.folder / "run.json").write_text("{")

    with pytest.raises(RunError) as caught:
        run.manifest()

    assert caught.value.problem == f"{run.folder / 'run.json'} is damaged"


def test_an_existing_run_is_accepted(run):
    start(run)

    assert require_run(run) is None


def test_a_missing_run_is_an_error_that_lists_the_runs(tmp_path):
    for name in ("second", "first"):
        start(Run(tmp_path / name))
    (tmp_path / "monitor").mkdir()

    with pytest.raises(RunError) as caught:
        require_run(Run(tmp_path / "third"))

    assert str(caught.value) == (
        "error: no run third\n"
        f"cause: {tmp_path}/third/run.json does not exist; runs: first, second\n"
        "fix:   run traitcli extract first, or choose a run with --run"
    )


def test_a_misspelled_run_gets_a_suggestion(tmp_path):
    start(Run(tmp_path / "second"))

    with pytest.raises(RunError) as caught:
        require_run(Run(tmp_path / "secnd"))

    assert caught.value.fix == "did you mean second?"


def test_a_missing_run_is_an_error_without_a_list_if_there_are_none(tmp_path):
    with pytest.raises(RunError) as caught:
        require_run(Run(tmp_path / "runs" / "third"))

    assert caught.value.cause == f"{tmp_path}/runs/third/run.json does not exist"


def test_a_run_has_the_name_of_the_config_by_default(tmp_path):
    config = make_config(tmp_path)

    assert find_run(config, None).folder == tmp_path / "mine"
    assert find_run(config, "Übung 2.b").folder == tmp_path / "Übung 2.b"


@pytest.mark.parametrize(
    "name", ["../x", "..", ".", "a/b", "/etc", "a/", "a\0b", "a\nb", "monitor"]
)
def test_an_invalid_run_name_is_refused(tmp_path, name):
    with pytest.raises(RunError) as caught:
        find_run(make_config(tmp_path), name)

    assert str(caught.value) == (
        f"error: {name!r} is not a valid run name\n"
        f"cause: a run is a folder in {tmp_path}/; reserved names: .., monitor\n"
        "fix:   use letters and digits"
    )


def test_a_config_without_a_name_needs_a_run_name(tmp_path):
    with pytest.raises(RunError, match="'' is not a valid run name"):
        find_run(make_config(tmp_path, name=""), None)


def test_a_digest_depends_on_every_part_and_not_on_the_order_of_keys():
    tree = {"a": [1, {"b": None}], "c": "é"}

    assert digest_of(tree) == digest_of({"c": "é", "a": [1, {"b": None}]})
    assert (
        len(
            {
                digest_of(tree),
                digest_of(tree | {"c": "e"}),
                digest_of(tree | {"a": [{"b": None}, 1]}),
            }
        )
        == 3
    )
