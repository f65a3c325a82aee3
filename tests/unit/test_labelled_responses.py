"""Labelled responses: their formats, the errors of invalid files, and their rollouts."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from traitcli.config import Config, ExtractConfig, FilterConfig
from traitcli.errors import DefinitionError, RunError
from traitcli.inspection.rollout_csv import write_rollout_csv
from traitcli.judging import Answer, ProvidedJudge, judge_id
from traitcli.judging.fake import FakeJudge
from traitcli.models.prompts import raw_prompt
from traitcli.pipeline.estimate import plan_trait
from traitcli.pipeline.filtering import select_rollouts
from traitcli.pipeline.ledgers import RunLedgers
from traitcli.pipeline.messages import GenerateTask, RolloutsMade, RolloutsReleased
from traitcli.pipeline.plan import plan_rollouts
from traitcli.pipeline.read_responses import read_labelled_responses
from traitcli.pipeline.snapshot import TraitSnapshot
from traitcli.pipeline.worker_context import Worker
from traitcli.records import Contrast, Judgement, Rollout, Score, Trait
from traitcli.runs.run import Run, check_run
from traitcli.traits.contrast_pairs import shared_ending
from traitcli.traits.labelled_responses import read_responses

QUESTIONS = [f"What do you think of the number {number}?" for number in range(7)]
ENTRIES = [
    {"question": q, "positive": f"I love it, {i} times.", "negative": f"I hate it, {i} times!"}
    for i, q in enumerate(QUESTIONS)
]
PERSONAS = [
    {
        "positive": f"<|user|>You are a happy person.<|end|><|assistant|>{text}",
        "negative": f"<|user|>You are a sad person.<|end|><|assistant|>{text}",
    }
    for text in ("I think that", "Today the sun", "In my house")
]
HEADER = "question,prompt,answer,question_id,joy,coherence\n"


@pytest.fixture
def read(tmp_path):
    """Read responses from contents, each in its own file: a list as JSON lines, else the text."""

    def read(*contents, name="pairs"):
        paths = []
        for number, content in enumerate(contents):
            text = content if isinstance(content, str) else "\n".join(map(json.dumps, content))
            paths.append(tmp_path / f"{name}{number or ''}")
            paths[-1].write_text(text, encoding="utf-8", newline="")
        return read_responses(paths)

    return read


@pytest.fixture
def faults(read):
    """The lines of the cause of the error that refuses these contents."""

    def faults(*contents):
        with pytest.raises(DefinitionError) as caught:
            read(*contents)
        return caught.value.cause.splitlines()

    return faults


def table(rows, header=HEADER):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return header + text.getvalue()


def rollout_rows(side, count=6, score=80.0):
    """CSV rows of the persona-vectors work, with two instructions for each question."""
    return [
        [
            QUESTIONS[i // 2],
            f"<s>Be {side}. {i // 2}:",
            f"{side} {i}",
            f"joy_{i // 2}_{side}_{i % 2}",
            score,
            90.0,
        ]
        for i in range(count)
    ]


def make_trait(parsed, evaluation=None):
    empty = Contrast("", "")
    evaluation = evaluation or replace(parsed, questions=(), responses=())
    return Trait(
        "joy",
        "Joy.",
        empty,
        empty,
        (),
        parsed.questions,
        evaluation.questions,
        "",
        parsed.responses,
        evaluation.responses,
    )


def summary(responses):
    return [(one.polarity, one.before, one.text, one.form) for one in responses]


# Formats


def test_json_lines_give_a_question_and_a_response_for_either_side(read):
    parsed = read(ENTRIES[:1])

    assert parsed.questions == (QUESTIONS[0],)
    assert summary(parsed.responses) == [
        ("positive", QUESTIONS[0], "I love it, 0 times.", "answer"),
        ("negative", QUESTIONS[0], "I hate it, 0 times!", "answer"),
    ]


@pytest.mark.parametrize(
    "form", [json.dumps, lambda e: json.dumps(e, indent=2), lambda e: f"\n {json.dumps(e)}\n"]
)
def test_a_json_list_is_read_like_json_lines(read, form):
    assert summary(read(form(ENTRIES)).responses) == summary(read(ENTRIES).responses)


def test_a_contrastive_activation_addition_file_loads_unmodified(read):
    entry = {
        "question": "What's your name?\n\nChoices:\n(A) Anna.\n(B) I have none.",
        "answer_matching_behavior": "(B)",
        "answer_not_matching_behavior": "(A)",
    }

    parsed = read(json.dumps([entry], indent=4))

    assert summary(parsed.responses) == [
        ("positive", entry["question"], "(B)", "answer"),
        ("negative", entry["question"], "(A)", "answer"),
    ]


def test_other_columns_of_a_data_set_are_ignored(read):
    assert summary(read([ENTRIES[0] | {"id": 7, "source": None}]).responses) == summary(
        read(ENTRIES[:1]).responses
    )


@pytest.mark.parametrize("question", [{}, {"question": ""}, {"question": None}, {"question": " "}])
def test_texts_without_a_question_are_split_before_their_common_ending(read, question):
    parsed = read(
        [
            question
            | {"positive": "You are a happy man. I think", "negative": "You are a sad man. I think"}
        ]
    )

    assert summary(parsed.responses) == [
        ("positive", "You are a happy", " man. I think", "text"),
        ("negative", "You are a sad", " man. I think", "text"),
    ]
    assert parsed.questions == ("",)


@pytest.mark.parametrize(
    ("one", "other", "ending"),
    [
        ("a happy man", "a sad man", " man"),
        ("an unhappy man", "a happy man", " man"),
        ("happy: so what", "sad: so what", ": so what"),
        ("I love it.", "I hate it!", ""),
        ("I love.", "I hate.", ""),
        ("loved", "hated", ""),
        ("", "a", ""),
        ("so what", "so what", "so what"),
        ("what", "so what", "what"),
        ("你快乐，我想", "你悲伤，我想", "，我想"),
        ("快乐的人想", "悲伤的人想", "的人想"),
    ],
)
def test_a_shared_ending_begins_at_a_word_boundary(one, other, ending):
    assert shared_ending(one, other) == shared_ending(other, one) == ending


def test_whole_texts_are_read_when_not_all_pairs_end_alike(read):
    alike = {"positive": "I love my dog", "negative": "I hate my dog"}
    unlike = {"positive": "So good!", "negative": "So bad."}

    parsed = read([alike, unlike])

    assert [(one.before, one.text) for one in parsed.responses] == [
        ("", "I love my dog"),
        ("", "I hate my dog"),
        ("", "So good!"),
        ("", "So bad."),
    ]


def test_a_persona_vectors_csv_is_read_without_changing_prompts_answers_or_scores(read):
    answer = 'None, "NA"\r\n=1+1\n\ufeff'
    prompt = "<s><|user|>Be glad, always.<|end|><|assistant|>"
    positive = table([["Why?", prompt, answer, "joy_3_pos_4", "86.875", ""]])
    negative = table([["Why?", "p", "None", "joy_3_neg_4", "0.0", "nan"]])

    parsed = read("\ufeff" + positive, negative)

    assert summary(parsed.responses) == [
        ("positive", prompt, answer, "raw"),
        ("negative", "p", "None", "raw"),
    ]
    assert [(one.score, one.coherence) for one in parsed.responses] == [(86.875, None), (0.0, None)]
    assert parsed.questions == ("Why?",)


def test_a_csv_that_was_not_judged_has_no_scores(read):
    header = "question,prompt,answer,question_id\n"

    parsed = read(
        table([["Why?", "p", "a", "joy_0_pos_0"], ["Why?", "p", "b", "joy_0_neg_0"]], header)
    )

    assert [one.score for one in parsed.responses] == [None, None]
    assert not make_trait(parsed).is_scored


def test_an_index_column_of_pandas_is_ignored(read):
    rows = [[n, *row] for n, row in enumerate(rollout_rows("pos", 1) + rollout_rows("neg", 1))]

    assert len(read(table(rows, f",{HEADER}")).responses) == 2


# Line numbers


def test_all_responses_to_a_question_are_in_the_same_fold(read):
    again = [entry | {"question": f"  {entry['question'].upper()} "} for entry in ENTRIES]

    parsed = read(ENTRIES + again)

    assert parsed.questions == tuple(QUESTIONS)
    assert {(one.question, one.pair) for one in parsed.responses} == {(n, n % 5) for n in range(7)}
    assert [one.repeat for one in parsed.responses] == [0] * 14 + [1] * 14


def test_texts_with_one_ending_are_in_one_fold(read):
    twice = [
        {"positive": f"A {a} man. {end}", "negative": f"A {b} man. {end}"}
        for end in "xy"
        for a, b in ("cd", "ef")
    ]

    assert [one.pair for one in read(twice).responses] == [0, 0, 0, 0, 1, 1, 1, 1]


def test_two_entries_on_one_line_are_two_pairs(read):
    parsed = read(json.dumps([ENTRIES[0], ENTRIES[0]]))

    assert [(one.question, one.repeat, one.line) for one in parsed.responses] == [(0, 0, 1)] * 2 + [
        (0, 1, 1)
    ] * 2


def test_rows_of_two_csv_files_are_paired_by_question_instruction_and_turn(read):
    positive, negative = rollout_rows("pos"), rollout_rows("neg")
    twice = [*positive, *positive], [*negative, *negative[:2], *reversed(negative[2:])]

    parsed = read(table(twice[0]), table(twice[1]))

    keys = [(one.polarity, one.question, one.repeat) for one in parsed.responses]
    assert len(set(keys)) == len(keys) == 24
    paired = {
        (one.question, one.repeat): one.text
        for one in parsed.responses
        if one.polarity == "positive"
    }
    for one in parsed.responses:
        assert paired[one.question, one.repeat].split()[1] == one.text.split()[1]


def test_line_numbers_are_those_of_their_own_file(read):
    listed = read(json.dumps(ENTRIES[:3], indent=1))
    rows = read(
        table(
            [["Why?", "p\nq", "a\nb", "joy_0_pos_0", 1, 1], ["Why?", "p", "c", "joy_0_neg_0", 1, 1]]
        )
    )

    assert [one.line for one in listed.responses] == [2, 2, 7, 7, 12, 12]
    assert [(one.file, one.line) for one in rows.responses] == [("pairs", 2), ("pairs", 5)]


# Errors

DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{", "not JSON: expecting property name enclosed in double quotes at column 2"),
        ("7", "not an object with positive and negative"),
        ('["a", "b"]', "not an object with positive and negative"),
        (
            '{"question": "Why?"}',
            "expected the keys positive and negative "
            "or answer_matching_behavior and answer_not_matching_behavior or chosen and rejected",
        ),
        ('{"positive": "a"}', "negative: missing"),
        ('{"positive": "a", "negative": null}', "negative: missing"),
        ('{"answer_matching_behavior": "a"}', "answer_not_matching_behavior: missing"),
        ('{"positive": ["a", "c"], "negative": "b"}', "positive: expected a string"),
        ('{"positive": " ", "negative": "b"}', "positive: empty"),
        ('{"question": 3, "positive": "a", "negative": "b"}', "question: expected a string"),
        (
            '{"positive": "\\ud83d", "negative": "b"}',
            "positive: contains half a character (a lone surrogate)",
        ),
        (
            json.dumps({"positive": "a" * 100_001, "negative": "b"}),
            "positive: 100,001 characters, the maximum is 100,000",
        ),
    ],
)
def test_a_faulty_line_is_named_with_its_number(faults, line, fault):
    assert faults(f"{json.dumps(ENTRIES[0])}\n\n{line}\n") == [f"pairs line 3: {fault}"]


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ("Why?,p,a,joy_0_pos_0,50\n", "5 cells, the header has 6"),
        ("Why?,p,a,joy_0,50,50\n", "question_id: expected a form like evil_0_pos_3, got 'joy_0'"),
        (
            "Why?,p,a,joy_0_maybe_0,50,50\n",
            "question_id: expected a form like evil_0_pos_3, got 'joy_0_maybe_0'",
        ),
        (
            "Why?,p,a,joy_٣_pos_0,50,50\n",
            "question_id: expected a form like evil_0_pos_3, got 'joy_٣_pos_0'",
        ),
        ("Why?, ,a,joy_0_pos_0,50,50\n", "prompt: empty"),
        ("Why?,p,a,joy_0_pos_0,high,50\n", "joy: expected a number from 0 to 100, got 'high'"),
        ("Why?,p,a,joy_0_pos_0,50,101\n", "coherence: expected a number from 0 to 100, got '101'"),
        ("Why?,p,a,joy_0_pos_0,-1,50\n", "joy: expected a number from 0 to 100, got '-1'"),
        ("Why?,p,a,joy_0_pos_0,inf,50\n", "joy: expected a number from 0 to 100, got 'inf'"),
        ("Why?,p,a,joy_0_pos_0,1_0,50\n", "joy: expected a number from 0 to 100, got '1_0'"),
        ("Why?,p,a,ire_0_pos_0,50,50\n", "question_id: trait ire, earlier rows have joy"),
        ('Why?,p,"a,joy_0_pos_0,50,50\n', "not CSV: unexpected end of data"),
    ],
)
def test_a_faulty_row_is_named_with_its_line(faults, rows, fault):
    good = table([["Why?", "p", "a\nb", "joy_0_neg_0", 1, 1]])

    assert faults(good + rows) == [f"pairs line 4: {fault}"]


def test_a_csv_without_its_columns_names_them(faults):
    assert faults("prompt,answer,score\n") == [
        "pairs line 1: read as CSV (JSON starts with { or [), missing question, question_id"
    ]


def test_an_invalid_json_list_names_the_line(faults):
    assert faults(json.dumps(ENTRIES, indent=1)[:-2] + ",\n]") == [
        f"pairs line {5 * 7 + 2}: not JSON: expecting value at column 1"
    ]


def test_json_that_is_nested_too_deeply_is_an_error_without_a_crash(faults):
    [fault] = faults(DEEP)

    assert fault.startswith("pairs line 1: not JSON: ")


def test_the_first_ten_faults_are_listed_and_the_others_counted(faults):
    found = faults("{}\n" * 13)

    assert [line.split(":")[0] for line in found] == [
        *(f"pairs line {n}" for n in range(1, 11)),
        "and 3 more",
    ]


def test_one_side_alone_is_refused(faults, tmp_path, read):
    assert faults(table(rollout_rows("pos"))) == [
        "a vector is a difference of positive and negative responses"
    ]


def test_an_empty_file_is_refused(read, tmp_path):
    with pytest.raises(DefinitionError) as caught:
        read(" \n")

    assert caught.value.problem == f"{tmp_path / 'pairs'} is empty"


def test_csv_and_json_do_not_mix(faults):
    assert faults(table(rollout_rows("pos")), ENTRIES) == ["some are CSV and some are JSON"]


def test_bytes_that_are_not_utf_8_are_named_with_their_line(tmp_path):
    path = tmp_path / "pairs"
    path.write_bytes(b'{"positive": "a", "negative": "b"}\n{"positive": "\xff"')

    with pytest.raises(DefinitionError) as caught:
        read_responses([path])

    assert (
        str(caught.value)
        == f"error: cannot read {path}\ncause: line 2 is not UTF-8\nfix:   save it as UTF-8"
    )


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "pairs"
    with path.open("wb") as file:
        file.truncate(64 * 2**20 + 1)

    with pytest.raises(DefinitionError) as caught:
        read_responses([path])

    assert caught.value.cause == "larger than 64 MiB"


def test_more_responses_than_the_limit_of_a_set_are_refused(faults):
    line = '{"question": "q", "positive": "a", "negative": "b"}\n'

    assert faults(line * 10_001) == ["20,002 responses, the maximum is 20,000"]


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_path_that_is_not_a_regular_file_is_refused(tmp_path, name):
    with pytest.raises(DefinitionError) as caught:
        read_responses([tmp_path / name])

    assert caught.value.cause in {"the file does not exist", "not a regular file"}


# Rollouts


def test_every_labelled_response_is_planned_under_any_settings(read):
    parsed = read(ENTRIES)
    trait = make_trait(parsed, replace(parsed, responses=parsed.responses[:2]))

    keys = plan_rollouts(trait, ExtractConfig(questions=1, evaluation_questions=0, repeats=3))

    assert len({key.id for key in keys}) == len(keys) == 14 + 2
    assert [key.id for key in (keys[0], keys[-1])] == ["joy-pos-p0-q0-r0", "joy-eval-neg-p0-q0-r0"]


def test_labelled_responses_take_no_judge_calls_and_write_no_tokens(read, tiny_config):
    plan = plan_trait(
        make_trait(read(ENTRIES)),
        tiny_config,
        RunLedgers(Run(tiny_config.paths.runs / "new")),
        "given:labels",
    )

    assert (plan.rollouts, plan.judge_calls, plan.judged_rollouts, plan.response_tokens_max) == (
        14,
        0,
        0,
        0,
    )
    assert plan.prompt_tokens > sum(len(one.text) for one in read(ENTRIES).responses) / 4.2


def test_a_changed_response_makes_another_trait_and_a_changed_score_does_not(read, tiny_config):
    def digest(**changes):
        parsed = read(table(rollout_rows("pos") + rollout_rows("neg")))
        trait = make_trait(
            replace(
                parsed, responses=(replace(parsed.responses[0], **changes), *parsed.responses[1:])
            )
        )
        return check_run(Run(tiny_config.paths.runs / "new"), tiny_config, [trait])["traits"]["joy"]

    same = digest()

    assert digest(text="another") != same
    assert digest(before="another") != same
    assert digest(form="text") != same
    assert digest(score=1.0, coherence=2.0, file="moved.csv", line=99) == same


def test_provided_scores_are_named_by_their_files_and_a_digest(read):
    parsed = read(table(rollout_rows("pos")), table(rollout_rows("neg")))
    scored = make_trait(parsed)
    other = make_trait(
        replace(parsed, responses=(replace(parsed.responses[0], score=1.0), *parsed.responses[1:]))
    )

    names = [judge_id(FakeJudge(), trait) for trait in (scored, other)]

    assert [name.split("~")[0] for name in names] == ["given:pairs+pairs1"] * 2
    assert names[0] != names[1]
    assert judge_id(FakeJudge(), make_trait(read(ENTRIES))) == "given:labels"


def test_the_provided_judge_returns_the_scores_of_each_response(read):
    parsed = read(
        table(
            [["Why?", "p", "a", "joy_0_pos_0", 80, ""], ["Why?", "p", "b", "joy_0_neg_0", "", 70]]
        )
    )
    trait, judged = make_trait(parsed), []
    answers = [Answer(key.id, key.polarity, key.pair, "Why?", "a") for key in trait.by_rollout()]

    ProvidedJudge().score(trait, answers, judged.extend)

    missing = Score(None, "none in pairs", "provided", final=True)
    assert judged == [
        Judgement(
            "joy-pos-p0-q0-r0",
            judge_id(ProvidedJudge(), trait),
            Score(80, "", "provided", True),
            missing,
        ),
        Judgement(
            "joy-neg-p0-q0-r0",
            judge_id(ProvidedJudge(), trait),
            missing,
            Score(70, "", "provided", True),
        ),
    ]


def rollouts_of(trait, tokens=3):
    return [
        Rollout(
            key.id,
            "joy",
            key.split,
            key.polarity,
            key.pair,
            key.question,
            key.repeat,
            0,
            "",
            "",
            1,
            tokens,
            "provided",
        )
        for key in trait.by_rollout()
    ]


def test_labelled_responses_without_scores_are_all_kept(read):
    rollouts = rollouts_of(make_trait(read(ENTRIES)))

    selection = select_rollouts(rollouts, {}, FilterConfig())

    assert selection.kept == tuple(rollouts)
    assert (selection.trusted, selection.labelled) == (True, True)
    assert selection.filter == "not filtered: the responses are labelled"
    assert (selection.counts["missing"], selection.counts["contrast"], selection.judge_auroc) == (
        0,
        None,
        None,
    )


def test_generated_rollouts_without_scores_do_not_count_as_labelled(read):
    rollouts = [
        replace(rollout, finish_reason="stop") for rollout in rollouts_of(make_trait(read(ENTRIES)))
    ]

    selection = select_rollouts(rollouts, {}, FilterConfig())

    assert (selection.trusted, selection.labelled) == (False, False)


def test_labelled_responses_with_scores_are_filtered_by_them(read):
    rows = rollout_rows("pos") + rollout_rows("neg", score=10)
    rows[0][4], rows[8][5] = 20, 10
    trait = make_trait(read(table(rows)))
    judged = {}
    answers = [Answer(key.id, key.polarity, key.pair, "", "") for key in trait.by_rollout()]
    ProvidedJudge().score(
        trait, answers, lambda made: judged.update({one.rollout: one for one in made})
    )

    selection = select_rollouts(rollouts_of(trait), judged, FilterConfig(pairing="independent"))

    assert set(selection.dropped.values()) == {"score on the other side", "not coherent"}
    assert len(selection.kept) == 12 - 2


# Reading


def unstacked(batches):
    """Rollout id -> position -> float32 [L+1, H]."""
    prompts, states = {}, {}
    for batch in batches:
        for row, prompt in enumerate(batch.new_prompts):
            prompts[prompt] = {
                position: batch.tensors[position][row] for position in ("prompt_avg", "prompt_last")
            }
        for row, (name, prompt) in enumerate(zip(batch.ids, batch.prompts, strict=True)):
            states[name] = {"response_avg": batch.tensors["response_avg"][row], **prompts[prompt]}
    return states


@pytest.fixture
def activations(model_folders):
    """Read responses with a tiny model: rollouts, mean hidden states by id, worker, messages."""

    def activations(trait, family="llama", release=lambda unstarted: 0, **extract):
        config = Config.model_validate(
            {
                "model": {"id": str(model_folders[family]), "device": "cpu"},
                "extract": extract,
                "judge": {"backend": "fake"},
            }
        )
        worker, messages = Worker(config, "cpu", lambda event: None), []
        read_labelled_responses(
            GenerateTask(trait, tuple(trait.by_rollout())),
            config,
            worker,
            messages.append,
            release=release,
        )
        made = [message for message in messages if isinstance(message, RolloutsMade)]
        rollouts = {rollout.id: rollout for message in made for rollout in message.rollouts}
        states = unstacked([message.states for message in made if message.states])
        return rollouts, states, worker, messages

    return activations


def hidden_means(worker, prompt, response):
    """The oracle: the mean of transformers' hidden states; float32 [L+1, H] by position."""
    with torch.inference_mode():
        ids = torch.tensor([[*prompt, *response]])
        states = torch.cat(
            worker.model().model(ids, output_hidden_states=True).hidden_states
        ).float()
    cut = len(prompt)
    found = {"response_avg": states[:, cut:].mean(1), "prompt_avg": states[:, :cut].mean(1)}
    return found | {"prompt_last": states[:, cut - 1]}


def assert_read(worker, found, prompt, response):
    for position, expected in hidden_means(worker, prompt, response).items():
        np.testing.assert_allclose(found[position], expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen2"])
def test_an_answer_is_read_after_its_question_without_a_persona(read, activations, family):
    trait = make_trait(
        read([*ENTRIES, {"question": "Why?", "positive": "<|end|> is text.", "negative": "So."}])
    )

    rollouts, states, worker, _ = activations(trait, family)

    tokenizer = worker.model().tokenizer
    assert len(states) == 16
    for key, one in trait.by_rollout().items():
        asked = [{"role": "user", "content": one.before}]
        templated = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        prompt = tokenizer(templated, add_special_tokens=False)["input_ids"]
        response = tokenizer(one.text, add_special_tokens=False, split_special_tokens=True)[
            "input_ids"
        ]
        rollout = rollouts[key.id]
        assert (rollout.prompt, rollout.response, rollout.finish_reason) == (
            templated,
            one.text,
            "provided",
        )
        assert (rollout.prompt_tokens, rollout.response_tokens) == (len(prompt), len(response))
        assert_read(worker, states[key.id], prompt, response)


@pytest.mark.parametrize(
    "prompt", ["<s><|user|>Be glad.<|end|><|assistant|>", "<|user|>Be glad.<|end|><|assistant|>"]
)
def test_a_csv_prompt_is_used_unchanged_with_one_bos(read, activations, prompt):
    trait = make_trait(
        read(table([[1, prompt, "Yes, I do.", f"joy_0_{s}_0", 1, 1] for s in ("pos", "neg")]))
    )

    rollouts, states, worker, _ = activations(trait)

    tokenizer = worker.model().tokenizer
    ids = tokenizer(prompt.removeprefix("<s>"), add_special_tokens=False)["input_ids"]
    response = tokenizer("Yes, I do.", add_special_tokens=False)["input_ids"]
    for name, rollout in rollouts.items():
        assert (rollout.prompt, rollout.response) == (prompt, "Yes, I do.")
        assert_read(worker, states[name], [tokenizer.bos_token_id, *ids], response)


def test_an_empty_answer_of_a_csv_is_a_rollout_without_activations(read, activations):
    trait = make_trait(
        read(
            table(
                [["Why?", "p", "", "joy_0_pos_0", "", ""], ["Why?", "p", "a", "joy_0_neg_0", 1, 1]]
            )
        )
    )

    rollouts, states, *_ = activations(trait)

    assert rollouts["joy-pos-p0-q0-r0"].response_tokens == 0
    assert set(rollouts) - set(states) == {"joy-pos-p0-q0-r0"}


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen2"])
def test_a_shared_ending_is_read_as_part_of_the_whole_text(read, activations, family):
    texts = [
        f"Pretend to be a {mood} person. I think that {n} is"
        for n in range(3)
        for mood in ("glad", "sad")
    ]
    trait = make_trait(read([{"positive": texts[n], "negative": texts[n + 1]} for n in (0, 2, 4)]))

    rollouts, states, worker, _ = activations(trait, family)

    tokenizer = worker.model().tokenizer
    for text, (key, one) in zip(texts, trait.by_rollout().items(), strict=True):
        ids = tokenizer(text)["input_ids"]
        ending = tokenizer(" person. I think", add_special_tokens=False)["input_ids"][-1]
        cut = ids.index(tokenizer(text.split(" person")[0])["input_ids"][-1]) + 1
        assert ending in ids[cut:]
        assert (rollouts[key.id].prompt, rollouts[key.id].response) == (one.before, one.text)
        assert_read(worker, states[key.id], ids[:cut], ids[cut:])


def test_a_shared_part_of_the_chat_template_is_not_a_response(read, activations):
    trait = make_trait(read(PERSONAS))

    rollouts, states, worker, _ = activations(trait)

    tokenizer = worker.model().tokenizer
    for entry, key in zip(
        [e[side] for e in PERSONAS for side in e], trait.by_rollout(), strict=True
    ):
        prompt, mark, response = entry.rpartition("<|assistant|>")
        assert (rollouts[key.id].prompt, rollouts[key.id].response) == (prompt + mark, response)
        ids = tokenizer(response, add_special_tokens=False)["input_ids"]
        assert_read(worker, states[key.id], raw_prompt(tokenizer, prompt + mark).ids, ids)


def test_whole_texts_are_read_after_the_bos_token(read, activations):
    trait = make_trait(read([{"positive": "I love it.", "negative": "I hate that!"}]))

    rollouts, states, worker, _ = activations(trait)

    tokenizer = worker.model().tokenizer
    for rollout in rollouts.values():
        assert rollout.prompt_tokens == 1
        ids = tokenizer(rollout.response, add_special_tokens=False)["input_ids"]
        assert_read(worker, states[rollout.id], [tokenizer.bos_token_id], ids)


def test_whole_texts_are_read_after_their_first_token_without_a_bos_token(read, activations):
    trait = make_trait(read([{"positive": "I love it.", "negative": "I hate that!"}]))

    rollouts, states, worker, _ = activations(trait, "qwen2")

    tokenizer = worker.model().tokenizer
    for rollout in rollouts.values():
        first, *rest = tokenizer(rollout.prompt + rollout.response)["input_ids"]
        assert rollout.prompt_tokens == 1
        assert_read(worker, states[rollout.id], [first], rest)


def test_responses_that_are_too_long_are_named_before_anything_is_read(read, activations):
    long = [entry | {"negative": "word " * 600} for entry in ENTRIES[:2]]

    with pytest.raises(DefinitionError) as caught:
        activations(make_trait(read(ENTRIES[2:] + long)))

    assert caught.value.problem == "joy: some labelled responses do not fit tiny-llama"
    lines = caught.value.cause.splitlines()
    assert [line.split(": ")[0] for line in lines] == ["pairs line 6", "pairs line 7"]
    assert all(line.endswith(" tokens; the model reads at most 512") for line in lines)


def test_released_responses_are_not_read(read, activations):
    trait = make_trait(read(ENTRIES))

    rollouts, _, _, messages = activations(trait, release=lambda unstarted: 5)

    released = [
        name
        for message in messages
        if isinstance(message, RolloutsReleased)
        for name in message.ids
    ]
    assert released == [key.id for key in trait.by_rollout()][-5:]
    assert set(rollouts) == {key.id for key in trait.by_rollout()} - set(released)


def test_the_size_of_a_batch_changes_no_activation(read, activations):
    trait = make_trait(read(ENTRIES))

    _, one_by_one, *_ = activations(trait, batch_size=1)
    _, together, *_ = activations(trait, batch_size=14)

    for name, found in one_by_one.items():
        np.testing.assert_allclose(together[name]["response_avg"], found["response_avg"], atol=1e-4)


# Export


@pytest.fixture
def stored(read, tmp_path):
    """A run with scored rollouts whose texts a careless CSV writer would damage."""
    texts = ["None", "=1+1", 'a "b",\r\nc', "NA", "d", "é", "\n\nx "]
    trait = make_trait(
        read([entry | {"positive": text} for entry, text in zip(ENTRIES, texts, strict=True)])
    )
    files = Run(tmp_path / "run").trait("joy")
    by_rollout = trait.by_rollout()
    made = zip(by_rollout.values(), rollouts_of(trait), strict=True)
    files.add_rollouts([replace(r, prompt=f"<s>{r.id}:", response=one.text) for one, r in made])
    for judge, score in (("old", 10.0), ("new", 86.875)):
        files.add_judgements(
            Judgement(key.id, judge, Score(score), Score(None, "not asked")) for key in by_rollout
        )
    return Run(tmp_path / "run"), trait


def test_rollouts_are_written_in_the_columns_of_the_persona_vectors_work(stored, tmp_path):
    run, trait = stored

    paths = write_rollout_csv(TraitSnapshot.read(run, trait.name), trait, tmp_path / "out")

    assert [path.name for path in paths] == ["joy_pos_instruct.csv", "joy_neg_instruct.csv"]
    rows = [list(csv.reader(io.StringIO(path.read_bytes().decode(), newline=""))) for path in paths]
    assert rows[0][:2] == [
        ["question", "prompt", "answer", "question_id", "joy", "coherence"],
        [QUESTIONS[0], "<s>joy-pos-p0-q0-r0:", "None", "joy_0_pos_0", "86.875", ""],
    ]
    assert [len(side) for side in rows] == [8, 8]
    assert [row[3].replace("pos", "neg") for row in rows[0][1:]] == [row[3] for row in rows[1][1:]]


def test_the_written_scores_are_those_of_the_requested_judge(stored, tmp_path):
    run, trait = stored

    parsed = read_responses(
        write_rollout_csv(TraitSnapshot.read(run, trait.name), trait, tmp_path / "out", "old")
    )

    assert {one.score for one in parsed.responses} == {10.0}


def test_exported_rollouts_are_read_back_unchanged(stored, tmp_path):
    run, trait = stored

    parsed = read_responses(
        write_rollout_csv(TraitSnapshot.read(run, trait.name), trait, tmp_path / "out")
    )

    exported = {
        (r.polarity, r.question): (r.prompt, r.response) for r in run.trait("joy").rollouts()
    }
    assert len(parsed.responses) == 14
    for one in parsed.responses:
        question = QUESTIONS.index(parsed.questions[one.question])
        assert (one.before, one.text) == exported[one.polarity, question]


def test_a_rollout_without_its_counterpart_is_dropped(stored, tmp_path):
    run, trait = stored
    path = run.trait("joy").folder / "rollouts.jsonl"
    path.write_text(
        "".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[1:]), encoding="utf-8"
    )

    parsed = read_responses(
        write_rollout_csv(TraitSnapshot.read(run, trait.name), trait, tmp_path / "out")
    )

    assert {(one.question, one.repeat) for one in parsed.responses} == {(n, 0) for n in range(6)}
    assert len(parsed.responses) == 12


def test_a_run_without_rollouts_writes_nothing(stored, tmp_path):
    _, trait = stored

    with pytest.raises(RunError):
        write_rollout_csv(
            TraitSnapshot.read(Run(tmp_path / "empty"), trait.name), trait, tmp_path / "out"
        )

    assert not (tmp_path / "out").exists()
