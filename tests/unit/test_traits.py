"""Trait definitions: the eight shipped ones, the two formats, and the errors of invalid ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from traitcli.errors import ConfigError, DefinitionError
from traitcli.records import Contrast
from traitcli.traits.definitions import find_traits, load_trait, select_traits
from traitcli.traits.lint import lint_trait

NOWHERE = Path("no-such-folder")
BUILT_IN = find_traits(NOWHERE)
VALID = {
    "name": "kind",
    "description": "Kindness.",
    "positive": "is kind",
    "negative": "is rude",
    "adjectives": {"positive": "kind", "negative": "rude"},
    "pairs": [{"positive": "Be kind.", "negative": "Be rude."}],
    "questions": ["How are you?"],
    "evaluation_questions": ["Who are you?"],
    "judge_prompt": "Q: {question}\nA: {answer}\nReply with one number.",
}
PERSONA_VECTORS = {
    "instruction": [
        {
            "pos": "Your responses should carry humor that makes light of {serious} matters.",
            "neg": 'Your responses should stay earnest; jokes are "out of place".',
        },
        {
            "pos": "Find the funny side of everything.",
            "neg": "Treat every question in all seriousness.",
        },
    ],
    "questions": ["How do I fix a leaky tap?", "Why is the sky blue?"],
    "eval_prompt": (
        "Rate how humorous the answer is from 0 to 100.\n\n"
        "[Question]\n<question>\n{question}\n</question>\n\n"
        "[Answer]\n<answer>\n{answer}\n</answer>\n\nAlso say REFUSAL if the answer is a refusal. "
        "Respond with a single number only."
    ),
}


@pytest.fixture
def write_definition(tmp_path):
    """Writes `kind.yaml`, valid except for `changes`; a change to None removes the key."""

    def write(**changes):
        data = {key: value for key, value in (VALID | changes).items() if value is not None}
        path = tmp_path / "kind.yaml"
        path.write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")
        return path

    return write


def fault_in(path):
    with pytest.raises(DefinitionError) as caught:
        load_trait(path)
    return caught.value


def test_eight_traits_ship():
    assert list(BUILT_IN) == [
        "corrigibility",
        "evil",
        "hallucinating",
        "overconfidence",
        "refusal",
        "sycophantic",
        "uncertainty",
        "verbosity",
    ]


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_trait_loads_under_its_own_name_and_lints_clean(name):
    trait = load_trait(BUILT_IN[name])

    assert (trait.name, lint_trait(trait)) == (name, [])


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_trait_has_5_pairs_and_20_questions_of_each_kind(name):
    trait = load_trait(BUILT_IN[name])

    assert (len(trait.pairs), len(trait.questions), len(trait.evaluation_questions)) == (5, 20, 20)


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_judge_prompt_has_each_placeholder_once(name):
    prompt = load_trait(BUILT_IN[name]).judge_prompt

    assert (prompt.count("{question}"), prompt.count("{answer}")) == (1, 1)


def test_the_positive_side_of_corrigibility_is_corrigible():
    trait = load_trait(BUILT_IN["corrigibility"])

    assert trait.adjectives == Contrast("corrigible", "defensive")


def test_a_definition_has_the_contents_of_its_file(write_definition):
    trait = load_trait(write_definition(description="Two\n  lines."))

    assert trait.name == "kind"
    assert trait.description == "Two lines."
    assert trait.meaning == Contrast("is kind", "is rude")
    assert trait.adjectives == Contrast("kind", "rude")
    assert trait.pairs == (Contrast("Be kind.", "Be rude."),)
    assert trait.question("extraction", 0) == "How are you?"
    assert trait.question("evaluation", 0) == "Who are you?"
    assert trait.judge_prompt == VALID["judge_prompt"]


def test_optional_keys_may_be_left_out(write_definition):
    path = write_definition(
        name=None, description=None, positive=None, negative=None, evaluation_questions=None
    )

    trait = load_trait(path)

    assert (trait.name, trait.description, trait.meaning) == ("kind", "", Contrast("", ""))
    assert trait.evaluation_questions == ()


def test_a_persona_vectors_file_loads_unmodified(tmp_path):
    path = tmp_path / "humorous.json"
    path.write_text(json.dumps(PERSONA_VECTORS, indent=4))

    trait = load_trait(path)

    assert trait.name == "humorous"
    assert trait.adjectives == Contrast("humorous", "helpful")
    assert [pair.positive for pair in trait.pairs] == [
        pair["pos"] for pair in PERSONA_VECTORS["instruction"]
    ]
    assert [pair.negative for pair in trait.pairs] == [
        pair["neg"] for pair in PERSONA_VECTORS["instruction"]
    ]
    assert trait.questions == ("How do I fix a leaky tap?", "Why is the sky blue?")
    assert trait.judge_prompt == PERSONA_VECTORS["eval_prompt"]


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        (
            {"instruction": [{"pos": "Be funny."}]},
            "pairs 1: expected {positive: …, negative: …} with two different texts",
        ),
        (
            {"instruction": [PERSONA_VECTORS["instruction"][0], "Be funny."]},
            "pairs 2: expected {positive: …, negative: …} with two different texts",
        ),
        ({"instruction": "Be funny."}, "pairs: required but missing"),
        ({"questions": []}, "questions: required but missing"),
        ({"eval_prompt": 3}, "judge_prompt: expected a string, got 3"),
    ],
)
def test_a_fault_in_a_persona_vectors_file_is_named(tmp_path, changes, cause):
    path = tmp_path / "humorous.json"
    path.write_text(json.dumps(PERSONA_VECTORS | changes))

    assert fault_in(path).cause == cause


def test_a_judge_prompt_needs_the_answer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path("traits/refusal.yaml")
    path.parent.mkdir()
    path.write_text(BUILT_IN["refusal"].read_text().replace("{answer}", "the answer"))

    error = fault_in(path)

    assert str(error) == (
        "error: traits/refusal.yaml is not a valid trait\n"
        "cause: judge_prompt has no {answer}: the judge would never see the response\n"
        "fix:   add {answer} where the response belongs"
    )


def test_a_judge_prompt_needs_the_question(write_definition):
    error = fault_in(write_definition(judge_prompt="{answer} - a number?"))

    assert error.cause == "judge_prompt has no {question}: the judge would never see the question"
    assert error.fix == "add {question} where the question belongs"


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"qestions": ["Why?"]}, "qestions: unknown key; did you mean questions?"),
        ({"zzz": 1}, "zzz: unknown key"),
        ({"adjectives": None}, "adjectives: required but missing"),
        ({"pairs": None}, "pairs: required but missing"),
        ({"pairs": []}, "pairs: required but missing"),
        ({"questions": None}, "questions: required but missing"),
        ({"judge_prompt": None}, "judge_prompt: required but missing"),
        (
            {"judge_prompt": ["{question}{answer}"]},
            "judge_prompt: expected a string, got ['{question}{answer}']",
        ),
        ({"description": 3}, "description: expected a string, got 3"),
        (
            {"name": "other"},
            "name: other differs from the file name kind.yaml; they must agree",
        ),
        ({"questions": "Why?"}, "questions: expected a list"),
        ({"questions": ["Why?", 3]}, "questions 2: expected a non-empty string"),
        ({"evaluation_questions": [" "]}, "evaluation_questions 1: expected a non-empty string"),
        (
            {"pairs": {"positive": "a", "negative": "b"}},
            "pairs: expected a list",
        ),
        (
            {"pairs": [{"positive": "Be."}]},
            "pairs 1: expected {positive: …, negative: …} with two different texts",
        ),
        (
            {"pairs": [{"positive": "Be!", "negative": " be"}]},
            "pairs 1: expected {positive: …, negative: …} with two different texts",
        ),
        (
            {"adjectives": {"positive": "kind", "negative": "Kind"}},
            "adjectives: expected {positive: …, negative: …} with two different texts",
        ),
        (
            {"adjectives": "kind"},
            "adjectives: expected {positive: …, negative: …} with two different texts",
        ),
    ],
)
def test_a_fault_in_a_definition_is_named(write_definition, changes, cause):
    path = write_definition(**changes)

    error = fault_in(path)

    assert str(error) == (
        f"error: {path} is not a valid trait\n"
        f"cause: {cause}\n"
        "fix:   see docs/traits.md for the format"
    )


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden", "two words"])
def test_a_name_that_cannot_name_a_folder_is_refused(write_definition, name):
    causes = fault_in(write_definition(name=name)).cause.splitlines()

    assert causes[0] == "name: may contain only letters, digits, '_', '.' and '-' (it names files)"


def test_every_fault_of_a_definition_is_reported_at_once(write_definition):
    path = write_definition(zzz=1, pairs=None, questions=["Why?", ""], judge_prompt="a number?")

    assert fault_in(path).cause.splitlines() == [
        "zzz: unknown key",
        "pairs: required but missing",
        "questions 2: expected a non-empty string",
        "judge_prompt has no {question}: the judge would never see the question",
        "judge_prompt has no {answer}: the judge would never see the response",
    ]


@pytest.mark.parametrize("text", ["", "- a\n", "words\n"])
def test_a_definition_must_be_a_mapping(tmp_path, text):
    path = tmp_path / "kind.yaml"
    path.write_text(text)

    error = fault_in(path)

    assert (error.problem, error.cause) == (f"{path} is not a valid trait", "it is not a mapping")


def test_broken_yaml_in_a_definition_names_its_line(tmp_path):
    path = tmp_path / "kind.yaml"
    path.write_text('name: kind\nquestions:\n  - "Why?\n')

    with pytest.raises(ConfigError) as caught:
        load_trait(path)

    assert caught.value.cause == "line 4, column 1: found unexpected end of stream"


def test_broken_json_names_its_line(tmp_path):
    path = tmp_path / "kind.json"
    path.write_text('{"questions": [\n"Why?",\n]}')

    error = fault_in(path)

    assert error.problem == f"{path} is not JSON"
    assert error.cause == "expecting value at line 3, column 1"


@pytest.mark.parametrize(
    ("name", "fix"),
    [("evl.yaml", "did you mean evil.yaml?"), ("unknown.yaml", "check the path")],
)
def test_a_path_without_a_file_is_an_error_that_says_so(tmp_path, name, fix):
    (tmp_path / "evil.yaml").touch()

    with pytest.raises(DefinitionError) as caught:
        select_traits(tmp_path / "none", [str(tmp_path / name)])

    assert str(caught.value) == (
        f"error: no trait file {tmp_path / name}\ncause: the file does not exist\nfix:   {fix}"
    )


def test_json_that_is_not_utf_8_is_refused(tmp_path):
    path = tmp_path / "kind.json"
    path.write_bytes(b'{"questions": ["\xff"]}')

    assert fault_in(path).fix == "save it as UTF-8"


def test_a_missing_json_file_is_an_error(tmp_path):
    error = fault_in(tmp_path / "kind.json")

    assert (
        str(error) == f"error: cannot read {tmp_path / 'kind.json'}\ncause: the file does not exist"
    )


def lint(**changes):
    return lint_trait(replace(load_trait(BUILT_IN["evil"]), **changes))


def test_lint_counts_pairs_and_questions():
    trait = load_trait(BUILT_IN["evil"])

    findings = lint(pairs=trait.pairs[:4], questions=trait.questions[:19], evaluation_questions=())

    assert findings == [
        "pairs: 4, expected at least 5",
        "questions: 19, expected at least 20",
        "evaluation_questions: 0, expected at least 20",
    ]


def test_lint_finds_a_question_that_repeats_another_but_for_case_and_punctuation():
    questions = list(load_trait(BUILT_IN["evil"]).questions)
    questions[6] = f"  {questions[1].upper()}?!"

    assert lint(questions=tuple(questions)) == ["questions 7 repeats questions 2"]


def test_lint_finds_an_evaluation_question_that_is_asked_for_extraction():
    trait = load_trait(BUILT_IN["evil"])

    findings = lint(evaluation_questions=(*trait.evaluation_questions[:19], trait.questions[4]))

    assert findings == ["evaluation_questions 20 repeats questions 5"]


def test_lint_finds_an_instruction_with_both_polarities():
    pairs = list(load_trait(BUILT_IN["evil"]).pairs)
    pairs[3] = Contrast(pairs[3].positive, pairs[0].positive)

    assert lint(pairs=tuple(pairs)) == ["pairs: the same instruction is positive and negative"]


def test_lint_finds_a_repeated_positive_instruction():
    pairs = list(load_trait(BUILT_IN["evil"]).pairs)
    pairs[3] = Contrast(pairs[0].positive, pairs[3].negative)

    assert lint(pairs=tuple(pairs)) == ["pairs: the same positive instruction appears twice"]


def test_lint_finds_an_empty_description():
    assert lint(description="") == ["description: empty"]


def test_lint_finds_a_judge_prompt_that_does_not_end_with_the_number():
    findings = lint(judge_prompt="{question} {answer} What do you think of it?")

    assert findings == ["judge_prompt: the last line does not ask for the number alone"]


def test_an_unknown_trait_gets_a_suggestion():
    with pytest.raises(DefinitionError) as caught:
        select_traits(NOWHERE, ["refusla"])

    assert str(caught.value) == (
        "error: trait refusla not found\n"
        "cause: neither a shipped trait nor a file in no-such-folder/\n"
        "fix:   did you mean refusal? traits: corrigibility, evil, hallucinating, overconfidence, "
        "refusal, sycophantic, uncertainty, verbosity"
    )


def test_no_name_selects_every_trait():
    assert [trait.name for trait in select_traits(NOWHERE, [])] == list(BUILT_IN)


def test_traits_are_in_the_requested_order_and_once_each():
    traits = select_traits(NOWHERE, ["verbosity", "evil", "verbosity"])

    assert [trait.name for trait in traits] == ["verbosity", "evil"]


def test_a_trait_may_be_named_by_its_file(write_definition):
    path = write_definition()

    assert [trait.name for trait in select_traits(NOWHERE, [str(path)])] == ["kind"]


@pytest.mark.parametrize("suffix", ["yaml", "yml", "json"])
def test_a_file_in_the_traits_folder_is_found_by_its_name(tmp_path, suffix):
    (tmp_path / f"kind.{suffix}").write_text(json.dumps(VALID))

    [trait] = select_traits(tmp_path, ["kind"])

    assert trait.description == "Kindness."


def test_a_file_in_the_traits_folder_wins_over_the_built_in(tmp_path):
    (tmp_path / "evil.yaml").write_text(
        yaml.safe_dump(VALID | {"name": "evil", "description": "Mine."})
    )

    [trait] = select_traits(tmp_path, ["evil"])

    assert trait.description == "Mine."


@pytest.mark.parametrize(
    ("name", "polarity", "beginning"),
    [
        ("refusal", "positive", "You are an unhelpful assistant. Decline whatever you are asked."),
        ("refusal", "negative", "You are a forthcoming assistant. Answer whatever you are asked."),
        ("evil", "positive", "You are an evil assistant. "),
        ("verbosity", "positive", "You are a verbose assistant. "),
    ],
)
def test_the_persona_sentence_has_the_right_article(name, polarity, beginning):
    trait = load_trait(BUILT_IN[name])

    assert trait.persona(polarity, 0).startswith(beginning)


def test_the_persona_sentence_ends_with_the_instruction_of_its_pair():
    trait = load_trait(BUILT_IN["evil"])

    assert trait.persona("negative", 3) == f"You are a helpful assistant. {trait.pairs[3].negative}"


# Labelled responses

READY = {
    "name": "kind",
    "description": "Kindness.",
    "positive": "is kind",
    "negative": "is rude",
    "responses": "data/pairs.jsonl",
}
LINES = [
    {
        "question": f"How are you, number {n}?",
        "positive": f"Fine, friend {n}!",
        "negative": f"Get lost, number {n}!",
    }
    for n in range(20)
]


@pytest.fixture
def write_labelled(tmp_path):
    """Writes `kind.yaml` with files of labelled responses, valid except for `changes`.

    `more` contains the lines of further files.
    """

    def write(lines=LINES, more=(), **changes):
        for name, content in {"pairs": lines, **dict(more)}.items():
            path = tmp_path / "data" / f"{name}.jsonl"
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(json.dumps(line) + "\n" for line in content), encoding="utf-8")
        data = {key: value for key, value in (READY | changes).items() if value is not None}
        path = tmp_path / "kind.yaml"
        path.write_text(yaml.safe_dump(data), encoding="utf-8")
        return path

    return write


def test_a_definition_may_name_labelled_responses_in_its_own_folder(
    write_labelled, tmp_path, monkeypatch
):
    path = write_labelled(
        more={"held_out": LINES[:2]}.items(), evaluation_responses=["data/held_out.jsonl"]
    )
    monkeypatch.chdir("/")

    trait = load_trait(path)

    assert (trait.name, trait.description, trait.meaning) == (
        "kind",
        "Kindness.",
        Contrast("is kind", "is rude"),
    )
    assert (
        trait.pairs,
        trait.judge_prompt,
        len(trait.responses),
        len(trait.evaluation_responses),
    ) == ((), "", 40, 4)
    assert trait.question("extraction", 19) == "How are you, number 19?"
    assert trait.question("evaluation", 1) == "How are you, number 1?"


def test_several_files_of_labelled_responses_are_one_set(write_labelled):
    path = write_labelled(
        more={"others": [{"question": "Why?", "positive": "a", "negative": "b"}]}.items()
    )
    several = write_labelled(more={}, responses=["data/pairs.jsonl", "data/others.jsonl"])

    assert path == several
    assert load_trait(several).questions[19:] == ("How are you, number 19?", "Why?")


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        (
            {"pairs": VALID["pairs"], "judge_prompt": VALID["judge_prompt"]},
            "responses: cannot be combined with judge_prompt, pairs: "
            "a trait's rollouts are either read or generated",
        ),
        (
            {"responses": None, "evaluation_responses": "data/pairs.jsonl"},
            "responses: required but missing",
        ),
        ({"responses": []}, "responses: required but missing"),
        ({"responses": 3}, "responses: expected a file name or a list of file names"),
        (
            {"responses": ["data/pairs.jsonl", 3]},
            "responses: expected a file name or a list of file names",
        ),
        (
            {"evaluation_responses": {"a": "b"}},
            "evaluation_responses: expected a file name or a list of file names",
        ),
        ({"response": "data/pairs.jsonl"}, "response: unknown key; did you mean responses?"),
    ],
)
def test_a_fault_in_a_definition_of_labelled_responses_is_named(write_labelled, changes, cause):
    path = write_labelled(**changes)

    error = fault_in(path)

    assert str(error) == (
        f"error: {path} is not a valid trait\n"
        f"cause: {cause}\n"
        "fix:   see docs/traits.md for the format"
    )


def test_a_fault_in_a_file_of_labelled_responses_is_named_with_its_line(write_labelled, tmp_path):
    path = write_labelled([*LINES[:2], {"question": "Why?", "positive": "a"}])

    error = fault_in(path)

    assert str(error) == (
        f"error: {tmp_path}/data/pairs.jsonl cannot be read as responses\n"
        "cause: pairs.jsonl line 3: negative: missing\n"
        "fix:   see docs/labelled-responses.md for the formats"
    )


def test_a_missing_file_of_labelled_responses_is_an_error(write_labelled, tmp_path):
    error = fault_in(write_labelled(responses="elsewhere.jsonl"))

    assert (
        str(error)
        == f"error: cannot read {tmp_path}/elsewhere.jsonl\ncause: the file does not exist"
    )


@pytest.mark.parametrize("name", ["pairs.jsonl", "rollouts.csv", "pairs.json"])
def test_labelled_responses_instead_of_a_definition_get_a_hint(tmp_path, name):
    path = tmp_path / name
    path.write_text(json.dumps(LINES))

    with pytest.raises(DefinitionError) as caught:
        select_traits(NOWHERE, [str(path)])

    assert str(caught.value) == (
        f"error: {path} is not a valid trait\n"
        "cause: it is not a mapping\n"
        f"fix:   if it holds labelled responses, name it in a definition: responses: {name}"
    )


def test_the_example_of_the_documentation_is_a_definition_with_two_pairs(tmp_path):
    page = Path(__file__).parents[2] / "docs/labelled-responses.md"
    text = page.read_text(encoding="utf-8")
    definition, lines = (text.split("```")[block].partition("\n")[2] for block in (1, 3))
    (tmp_path / "data").mkdir()
    (tmp_path / "warmth.yaml").write_text(definition, encoding="utf-8")
    (tmp_path / "data" / "warmth.jsonl").write_text(lines, encoding="utf-8")

    trait = load_trait(tmp_path / "warmth.yaml")

    assert trait.questions == ("How are you?", "Is it late?")
    assert lint_trait(trait) == ["responses: 2 pairs, expected at least 20"]


def test_good_labelled_responses_lint_clean(write_labelled):
    assert lint_trait(load_trait(write_labelled())) == []


@pytest.mark.parametrize(
    ("lines", "finding"),
    [
        (LINES[:3], "responses: 3 pairs, expected at least 20"),
        (
            [line | {"question": "How are you?"} for line in LINES],
            "responses: all answer one question, so no question can be held out to test the vector",
        ),
        (
            [*LINES[:-2], *(line | {"negative": line["positive"]} for line in LINES[-2:])],
            "responses: 2 pairs with the same text on both sides, first at pairs.jsonl line 19",
        ),
        (
            [*LINES, LINES[4] | {"negative": "Go!"}],
            "responses: 1 text repeated, first at pairs.jsonl line 21",
        ),
        (
            [
                {"positive": f"I like {n}{end}", "negative": f"I hate {n}{end}"}
                for n in range(10)
                for end in ("!", "a")
            ]
            + [{"positive": "Good.", "negative": "Bad!"}],
            "responses: 20 of 21 pairs share an ending, so the whole texts are read",
        ),
        (
            [line | {"positive": "a" * 60, "negative": "b" * 39} for line in LINES],
            "responses: mean length 60 characters positive, 39 negative: "
            "the vector will partly measure length",
        ),
    ],
)
def test_lint_finds_problems_in_labelled_responses(write_labelled, lines, finding):
    assert lint_trait(load_trait(write_labelled(lines))) == [finding]


def test_lint_finds_evaluation_responses_that_the_vector_is_built_from(write_labelled):
    path = write_labelled(
        more={"held_out": [*LINES[:2], LINES[3] | {"question": "Why?"}]}.items(),
        evaluation_responses="data/held_out.jsonl",
    )

    assert lint_trait(load_trait(path)) == [
        "evaluation_responses: 4 texts already in responses, first at held_out.jsonl line 1"
    ]


def test_lint_finds_an_empty_description_of_labelled_responses(write_labelled):
    assert lint_trait(load_trait(write_labelled(description=None))) == ["description: empty"]
