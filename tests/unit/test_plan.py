"""The planned rollouts of a trait and their counts."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from traitcli.__main__ import main
from traitcli.config import Config, ExtractConfig, JudgeConfig
from traitcli.events import STAGES
from traitcli.pipeline.estimate import count_todo, plan_rows, plan_trait
from traitcli.pipeline.ledgers import RunLedgers
from traitcli.pipeline.plan import plan_rollouts
from traitcli.pipeline.snapshot import TraitSnapshot
from traitcli.pipeline.speed_cache import remember_speed
from traitcli.records import Rollout, RolloutKey
from traitcli.runs.run import Run, start_run
from traitcli.runs.states import stack_neutral
from traitcli.traits.definitions import find_traits, load_trait

TRAIT = load_trait(find_traits(Path("no-such-folder"))["refusal"])


def make_config(folder, judge="fake", **extract):
    judging = judge if isinstance(judge, dict) else {"backend": judge}
    return Config.model_validate(
        {
            "model": {"id": "org/tiny"},
            "extract": extract,
            "judge": judging,
            "paths": {"runs": folder},
        }
    )


def make_rollout(key):
    return Rollout(
        key.id,
        key.trait,
        key.split,
        key.polarity,
        key.pair,
        key.question,
        key.repeat,
        0,
        "",
        "",
        1,
        1,
        "stop",
    )


def counted(keys):
    return Counter((key.split, key.polarity) for key in keys)


@pytest.mark.parametrize(("repeats", "a_side"), [(1, 100), (10, 1000)])
def test_extraction_asks_for_5_pairs_times_20_questions_times_n_a_side(repeats, a_side):
    keys = plan_rollouts(TRAIT, ExtractConfig(repeats=repeats))

    assert counted(keys)["extraction", "positive"] == a_side
    assert counted(keys)["extraction", "negative"] == a_side


@pytest.mark.parametrize("repeats", [1, 10])
def test_evaluation_questions_are_asked_once_for_any_number_of_repeats(repeats):
    keys = plan_rollouts(TRAIT, ExtractConfig(repeats=repeats))

    assert counted(keys)["evaluation", "positive"] == 100
    assert {key.repeat for key in keys if key.split == "evaluation"} == {0}


def test_every_combination_is_asked_exactly_once():
    keys = plan_rollouts(TRAIT, ExtractConfig(repeats=3))

    assert len(set(keys)) == len(keys) == 2 * 5 * (20 * 3 + 20)


@pytest.mark.parametrize(
    ("questions", "evaluation_questions", "expected"),
    [(2, 1, (20, 10)), (99, 99, (200, 200)), (None, 0, (200, 0)), (3, None, (30, 200))],
)
def test_the_questions_asked_can_be_limited(questions, evaluation_questions, expected):
    keys = plan_rollouts(
        TRAIT, ExtractConfig(questions=questions, evaluation_questions=evaluation_questions)
    )

    splits = Counter(key.split for key in keys)
    assert (splits["extraction"], splits["evaluation"]) == expected


def test_a_reduced_plan_is_part_of_the_whole_one():
    few = plan_rollouts(TRAIT, ExtractConfig(questions=2, evaluation_questions=1))

    assert set(few) < set(plan_rollouts(TRAIT, ExtractConfig(repeats=2)))


def test_a_trait_without_evaluation_questions_is_planned_without_them():
    keys = plan_rollouts(replace(TRAIT, evaluation_questions=()), ExtractConfig())

    assert counted(keys) == {("extraction", "positive"): 100, ("extraction", "negative"): 100}


def test_the_order_is_fixed_with_extraction_first():
    trait = replace(TRAIT, pairs=TRAIT.pairs[:2])

    keys = plan_rollouts(trait, ExtractConfig(repeats=2, questions=1, evaluation_questions=1))

    assert [key.id for key in keys] == [
        "refusal-pos-p0-q0-r0",
        "refusal-pos-p0-q0-r1",
        "refusal-neg-p0-q0-r0",
        "refusal-neg-p0-q0-r1",
        "refusal-pos-p1-q0-r0",
        "refusal-pos-p1-q0-r1",
        "refusal-neg-p1-q0-r0",
        "refusal-neg-p1-q0-r1",
        "refusal-eval-pos-p0-q0-r0",
        "refusal-eval-neg-p0-q0-r0",
        "refusal-eval-pos-p1-q0-r0",
        "refusal-eval-neg-p1-q0-r0",
    ]


def test_ids_are_unique():
    keys = plan_rollouts(TRAIT, ExtractConfig(repeats=10))

    assert len({key.id for key in keys}) == len(keys)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (RolloutKey("evil", "extraction", "positive", 4, 19, 9), "evil-pos-p4-q19-r9"),
        (RolloutKey("evil", "evaluation", "negative", 0, 7, 0), "evil-eval-neg-p0-q7-r0"),
    ],
)
def test_ids_never_change_because_runs_resume_by_them(key, name):
    assert key.id == name


def test_a_new_run_has_nothing_done(tmp_path):
    plan = plan_trait(TRAIT, make_config(tmp_path), RunLedgers(Run(tmp_path / "new")), "fake")

    assert (plan.rollouts, plan.rollouts_done, plan.judged_rollouts) == (400, 0, 200)


def test_rollouts_in_the_ledger_count_as_done_when_they_are_planned(tmp_path):
    config, run = make_config(tmp_path, questions=2, evaluation_questions=1), Run(tmp_path / "mine")
    keys = plan_rollouts(TRAIT, config.extract)
    beyond = RolloutKey("refusal", "extraction", "positive", 0, 19, 0)
    run.trait("refusal").add_rollouts([make_rollout(key) for key in (*keys[:7], beyond)])

    plan = plan_trait(TRAIT, config, RunLedgers(run), "fake")

    assert (plan.rollouts, plan.rollouts_done) == (30, 7)


@pytest.mark.parametrize(
    ("judge", "calls"),
    [
        ("fake", 200),
        ({"backend": "likelihood", "likelihood": {"pairs": 2}}, 200 * 2 * 2),
        ({"backend": "likelihood", "likelihood": {"pairs": 99}}, 200 * 2 * 4),
        ({"backend": "openai"}, 200 * 2),
        ({"backend": "openai", "openai": {"coherence": False}}, 200),
    ],
)
def test_judge_calls_are_counted_for_extraction_rollouts(tmp_path, judge, calls):
    plan = plan_trait(
        TRAIT, make_config(tmp_path, judge), RunLedgers(Run(tmp_path / "new")), "fake"
    )

    assert plan.judge_calls == calls


def test_the_published_run_takes_32_000_judge_calls_for_eight_traits(tmp_path):
    plan = plan_trait(
        TRAIT,
        make_config(tmp_path, "openai", repeats=10),
        RunLedgers(Run(tmp_path / "new")),
        "fake",
    )

    assert 8 * plan.judge_calls == 32_000


def test_the_published_run_costs_about_2_dollars_40_of_gpt_4o_mini(tiny_config):
    judge = {"backend": "openai", "openai": {"price_in": 0.15, "price_out": 0.60}}
    extract = {"repeats": 10, "sampling": {"max_new_tokens": 256}}
    config = Config.model_validate(tiny_config.model_dump() | {"judge": judge, "extract": extract})
    traits = [load_trait(path) for path in find_traits(Path("no-such-folder")).values()]

    rows = plan_rows(traits, config, RunLedgers(Run(config.paths.runs / "new")))

    assert 2.40 / 2 < sum(row["cost_usd"] for row in rows) < 2.40 * 2


def test_a_local_judge_costs_nothing(tiny_config):
    [row] = plan_rows([TRAIT], tiny_config, RunLedgers(Run(tiny_config.paths.runs / "new")))

    assert row["cost_usd"] is None


def test_prompt_tokens_are_estimated_from_the_length_of_the_texts(tmp_path):
    config = make_config(tmp_path, questions=3)
    keys = plan_rollouts(TRAIT, config.extract)
    texts = [TRAIT.persona(k.polarity, k.pair) + TRAIT.question(k.split, k.question) for k in keys]

    plan = plan_trait(TRAIT, config, RunLedgers(Run(tmp_path / "new")), "fake")

    assert plan.prompt_tokens == pytest.approx(
        sum(len(text) / 4.2 + 30 for text in texts), rel=0.001
    )


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2)])
def test_disk_space_is_that_of_answers_readings_and_prompts_as_they_are_stored(
    tiny_config, dtype, size
):
    changes = {
        "extract": {"repeats": 10},
        "model": tiny_config.model.model_dump() | {"dtype": dtype},
    }
    config = Config.model_validate(tiny_config.model_dump() | changes)

    [row] = plan_rows([TRAIT], config, RunLedgers(Run(config.paths.runs / "new")))

    answers, readings, prompts, numbers = 2200, 2200, 400, 5 * 32
    states = answers + readings + 2 * prompts
    assert row["disk_mb"] == round(states * numbers * size / 2**20, 1)
    # Every rollout had three positions and a reading of its own, in float32.
    before = 4 * answers * numbers * 4 / 2**20
    assert row["disk_mb"] < before * (0.3 if size == 2 else 0.6)


def test_memory_is_that_of_all_rollouts_behind_both_prompts_and_one_pair(tiny_config):
    config = Config.model_validate(tiny_config.model_dump() | {"extract": {"repeats": 10}})

    [row] = plan_rows([TRAIT], config, RunLedgers(Run(config.paths.runs / "new")))

    assert row["memory_mb"] == round((2 * 2200 + 2000 // 5) * 5 * 32 * 4 / 2**20, 1)


def config_of_its_own(tiny_config, tokens):
    """A config whose speeds no other test knows: they are stored by answer length."""
    extract = tiny_config.extract.model_dump() | {"sampling": {"max_new_tokens": tokens}}
    return Config.model_validate(tiny_config.model_dump() | {"extract": extract})


def test_time_is_unknown_until_every_stage_has_been_measured_here(tiny_config):
    run, config = Run(tiny_config.paths.runs / "mine"), config_of_its_own(tiny_config, 77)
    stored = [make_rollout(key) for key in plan_rollouts(TRAIT, config.extract)[:4]]
    run.trait("refusal").add_rollouts(stored)

    remember_speed(config, "rollouts", 2.0)
    remember_speed(config, "judgements", 0.5)
    before = plan_rows([TRAIT], config, RunLedgers(run))
    remember_speed(config, "readings", 0.25)
    after = plan_rows([TRAIT], config, RunLedgers(run))

    assert before[0]["seconds"] is None
    assert after[0]["seconds"] == (30 - 4) * 2.0 + 30 * 0.25 + 20 * 0.5


def test_an_endpoint_judges_while_responses_are_generated_and_read(tiny_config):
    local = config_of_its_own(tiny_config, 78)
    config = local.model_copy(update={"judge": JudgeConfig(backend="openai")})
    for stage, seconds in (("rollouts", 2.0), ("readings", 0.25), ("judgements", 0.5)):
        remember_speed(config, stage, seconds)

    [row] = plan_rows([TRAIT], config, RunLedgers(Run(config.paths.runs / "new")))

    assert row["seconds"] == 30 * 2.0 + 30 * 0.25


def test_only_responses_that_lack_a_neutral_reading_are_still_to_be_read(tmp_path):
    config = make_config(tmp_path, questions=3)
    keys, trait = plan_rollouts(TRAIT, config.extract), Run(tmp_path / "mine").trait("refusal")
    empty = replace(make_rollout(keys[0]), response="", response_tokens=0)
    trait.add_rollouts([empty, *map(make_rollout, keys[1:4])])
    trait.add_states(stack_neutral("refusal", {keys[1].id: np.zeros((5, 32), np.float32)}))

    plan = plan_trait(TRAIT, config, RunLedgers(Run(tmp_path / "mine")), "fake")

    assert (plan.readings, plan.readings_done) == (len(keys) - 1, 1)


def test_what_a_command_has_to_make_is_counted_for_its_stages_only(tiny_config):
    ledgers = RunLedgers(Run(tiny_config.paths.runs / "new"))

    whole = count_todo([TRAIT, TRAIT], tiny_config, ledgers, STAGES)
    judging = count_todo([TRAIT], tiny_config, ledgers, ("judgements",))

    assert whole == {"rollouts": 60, "readings": 60, "judgements": 40}
    assert judging == {"judgements": 20}


def test_response_tokens_are_bounded_by_the_answer_length(tmp_path):
    config = make_config(tmp_path, sampling={"max_new_tokens": 7})

    plan = plan_trait(TRAIT, config, RunLedgers(Run(tmp_path / "new")), "fake")

    assert plan.response_tokens_max == 400 * 7


OWN_CODE = """
from transformers import LlamaConfig

class OwnConfig(LlamaConfig):
    model_type = "own"
"""


@pytest.fixture
def remote_model(tmp_path, tiny_config):
    """The tiny Llama under a model type that only code in its own folder defines."""
    folder = shutil.copytree(tiny_config.model.id, tmp_path / "own-model")
    settings = json.loads((folder / "config.json").read_text())
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own_code.OwnConfig"}}
    (folder / "config.json").write_text(json.dumps(settings | own))
    (folder / "own_code.py").write_text(OWN_CODE)
    return folder


def exit_code():
    try:
        main()
    except SystemExit as ended:
        return ended.code or 0
    return 0


@pytest.mark.parametrize("command", ["extract", "judge"])
def test_a_dry_run_trusts_remote_code_when_the_command_does(
    tmp_path, remote_model, monkeypatch, capsys, command
):
    (tmp_path / "own.yaml").write_text(f"model: {{id: '{remote_model}', device: cpu}}\n")
    (tmp_path / "runs" / "own").mkdir(parents=True)
    (tmp_path / "runs" / "own" / "run.json").write_text('{"settings": {}, "traits": {"evil": ""}}')
    monkeypatch.chdir(tmp_path)
    arguments = [command, "evil", "-c", "own.yaml", "--dry-run", "--json"]

    codes = []
    for flags in ([], ["--trust-remote-code"]):
        monkeypatch.setattr("sys.argv", ["traitcli", *arguments, *flags])
        codes.append(exit_code())
        shown = capsys.readouterr()

    assert codes == [2, 0]
    assert json.loads(shown.out)["workers"][0]["needed_mb"] > 0


def test_fewer_pairs_per_question_spread_the_rollouts_over_all_pairs_in_turn():
    keys = plan_rollouts(TRAIT, ExtractConfig(pairs_per_question=2))

    asked = {}
    for key in keys:
        asked.setdefault((key.split, key.question), {}).setdefault(key.pair, set()).add(
            key.polarity
        )
    assert all(len(pairs) == 2 for pairs in asked.values())
    assert all(sides == {"positive", "negative"} for by in asked.values() for sides in by.values())
    counts = Counter(key.pair for key in keys if key.split == "extraction")
    assert set(counts) == set(range(len(TRAIT.pairs)))
    assert max(counts.values()) - min(counts.values()) <= 2  # one question, both polarities


@pytest.mark.parametrize("each", [None, len(TRAIT.pairs), 99])
def test_all_pairs_are_asked_in_their_order(each):
    keys = plan_rollouts(TRAIT, ExtractConfig(pairs_per_question=each))

    assert keys == plan_rollouts(TRAIT, ExtractConfig())
    assert list(dict.fromkeys(key.pair for key in keys)) == list(range(len(TRAIT.pairs)))


def test_a_run_tells_its_total_by_the_pairs_that_it_asks_under(tmp_path):
    config, run = make_config(tmp_path, pairs_per_question=1), Run(tmp_path / "mine")
    start_run(run, config, [TRAIT])
    assert TraitSnapshot.read(run, "refusal", TRAIT).planned == 80

    # as an earlier version wrote it
    manifest = run.manifest()
    del manifest["settings"]["extract.pairs_per_question"]
    (run.folder / "run.json").write_text(json.dumps(manifest))

    assert TraitSnapshot.read(run, "refusal", TRAIT).planned == 400
