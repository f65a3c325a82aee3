"""Prompt sets: the shipped ones, those of users, and the records of monitoring a set."""

from __future__ import annotations

import json
import random
from collections import Counter
from difflib import SequenceMatcher
from itertools import combinations
from pathlib import Path
from statistics import fmean

import pytest

from tests.unit.test_monitor import CONFIG, VECTORS
from traitcli.errors import ConfigError, UserError
from traitcli.events import MonitorStarted, TokenScored, Warned
from traitcli.generation.projections import make_probes
from traitcli.monitoring.monitor import monitor
from traitcli.monitoring.monitor_set import TraitSummary, monitor_set, summarize_set
from traitcli.monitoring.prompt_sets import PromptSet, SetPrompt, load_prompt_set
from traitcli.monitoring.record_files import read_records
from traitcli.monitoring.watch import Watch
from traitcli.record_json import FailedRecord, from_json, to_json
from traitcli.traits.definitions import find_traits, load_trait

TRAITS = {name: load_trait(path) for name, path in find_traits(Path("nowhere")).items()}
FORM = "write a list of texts, or prompts: [{prompt: …, trait: …, shows: positive}, …]"
NO_SIDE = "expected 'positive', 'negative' or 'both', got 'up'"
NO_SECTION = "expected a section of settings, got 'Why'"
ALIKE = 0.75
PROMPTS = (
    SetPrompt(prompt="How does lock picking work?", trait="evil", shows="positive"),
    SetPrompt(prompt="How do I open a bank account?", trait="evil", shows="negative"),
    SetPrompt(prompt="Why?"),
)
VOLATILE = {"created", "seconds", "about"}

each_set = pytest.mark.parametrize("name", ["teaching", "fluctuations"])


def alike(one, other):
    """The ratio of difflib, or 0 if the letters alone show that it is below the limit."""
    matcher = SequenceMatcher(None, one.lower(), other.lower())
    near = matcher.real_quick_ratio() >= ALIKE and matcher.quick_ratio() >= ALIKE
    return matcher.ratio() if near else 0.0


@pytest.fixture
def load(tmp_path):
    """Writes a file mine.yaml and loads it."""

    def load(text):
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        return load_prompt_set(str(path))

    return load


@pytest.fixture
def monitored(loaded, tmp_path):
    """Monitors prompts on the tiny Llama -> yielded records, lines of the file, events."""

    def monitored(*prompts, config=CONFIG, name="mine"):
        model, out, events = loaded("llama"), tmp_path / f"{name}.jsonl", []
        watch = Watch(make_probes(VECTORS, model, "response_avg"), config)
        asked = PromptSet(name=name, prompts=prompts)
        records = list(map(to_json, monitor_set(model, watch, asked, out, events.append)))
        return (
            records,
            [json.loads(line) for line in out.read_text(encoding="utf-8").split("\n")[:-1]],
            events,
        )

    return monitored


def without_times(records):
    """A record without the keys that differ between runs or within a set."""
    return [
        {key: value for key, value in record.items() if key not in VOLATILE} for record in records
    ]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("teaching", {"positive": 4, "negative": 4}), ("fluctuations", {"both": 3})],
)
def test_a_shipped_set_has_enough_prompts_for_every_built_in_trait(name, wanted):
    found = load_prompt_set(name)

    counts = Counter((one.trait, one.shows) for one in found.prompts)
    assert (len(TRAITS), found.name) == (8, name)
    assert {trait for trait, _ in counts} == set(TRAITS)
    assert {shows for _, shows in counts} == set(wanted)
    for trait in TRAITS:
        assert all(counts[trait, shows] >= least for shows, least in wanted.items())


@each_set
def test_no_shipped_prompt_resembles_a_question_of_its_trait(name):
    for one in load_prompt_set(name).prompts:
        trait = TRAITS[one.trait]
        for question in (*trait.questions, *trait.evaluation_questions):
            assert alike(one.prompt, question) < ALIKE, (one.prompt, question)


def test_no_two_shipped_prompts_resemble_each_other():
    prompts = [
        one.prompt for name in ("teaching", "fluctuations") for one in load_prompt_set(name).prompts
    ]

    assert [pair for pair in combinations(prompts, 2) if alike(*pair) > 0.9] == []


def test_prompts_that_are_nearly_equal_resemble_each_other():
    assert alike("How do I pick a lock?", "How do I pick the lock?") > 0.9


def test_a_list_of_texts_is_a_set_named_by_its_file(load):
    assert load("- Why?\n- How so?\n") == PromptSet(
        name="mine", prompts=(SetPrompt(prompt="Why?"), SetPrompt(prompt="How so?"))
    )


def test_a_list_may_mix_texts_and_prompts_with_more_keys(load):
    found = load("- Why?\n- {prompt: Say how., trait: evil, shows: both, system: Be brief.}\n")

    assert found.prompts == (
        SetPrompt(prompt="Why?"),
        SetPrompt(prompt="Say how.", trait="evil", shows="both", system="Be brief."),
    )


def test_a_prompt_set_may_define_its_own_name(load):
    found = load("name: ours\ndescription: For Monday.\nprompts: [{prompt: Say why.}]\n")

    assert found == PromptSet(
        name="ours", description="For Monday.", prompts=(SetPrompt(prompt="Say why."),)
    )


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "expected a list or a mapping"),
        ("Why?", "expected a list or a mapping"),
        ("[]", "it has no prompts"),
        ("prompts: []", "it has no prompts"),
        ("name: ours", "prompts: required but missing"),
        (
            "prompts: {prompt: Say why.}",
            "prompts: expected a list, got {'prompt': 'Say why.'}",
        ),
        ("- Why?\n- ''", "prompts.1.prompt: expected a string that is not empty, got ''"),
        ("- Why?\n- {prompt: Say how., shows: up}", f"prompts.1.shows: {NO_SIDE}"),
        ("- {prompt: Say why., shows: up}", f"prompts.0.shows: {NO_SIDE}"),
        ("- {prompt: Say why.}\n- {trait: evil}", "prompts.1.prompt: required but missing"),
        (
            "- {prompt: Say why., shosw: both}\n",
            "prompts.0.shosw: unknown key; did you mean shows?",
        ),
        (
            "nmae: ours\nprompts: [Why]",
            f"prompts.0: {NO_SECTION}\n       nmae: unknown key; did you mean name?",
        ),
        (
            "prompts: [{prompt: Say why., shows: up}, {prompt: Say how.}, {prompt: ''}]\nname: [a]",
            "name: expected a string, got ['a']\n"
            f"       prompts.0.shows: {NO_SIDE}\n"
            "       prompts.2.prompt: expected a string that is not empty, got ''",
        ),
    ],
)
def test_an_invalid_set_is_refused_with_the_key_of_each_fault(load, tmp_path, text, cause):
    with pytest.raises(ConfigError) as error:
        load(text)

    problem = f"error: {tmp_path / 'mine.yaml'} is not a valid prompt set"
    assert str(error.value) == f"{problem}\ncause: {cause}\nfix:   {FORM}"


def test_a_file_that_is_not_yaml_is_refused_with_the_line(load, tmp_path):
    with pytest.raises(ConfigError) as error:
        load("- Why?\n- [\n")

    assert error.value.problem == f"{tmp_path / 'mine.yaml'} is not YAML"
    assert error.value.cause.startswith("line 3, column 1: ")


@pytest.mark.parametrize("source", ["teachin", "sets/teachin.yaml"])
def test_an_unknown_set_is_refused_with_a_suggestion(source):
    with pytest.raises(UserError) as error:
        load_prompt_set(source)

    cause = "there is no such file, and no shipped set has this name"
    fix = "did you mean teaching? sets: fluctuations, teaching"
    assert str(error.value) == f"error: no prompt set {source}\ncause: {cause}\nfix:   {fix}"


@pytest.mark.parametrize(
    "source", ["xyz", "How do I open a bank account? " * 20], ids=["short", "long"]
)
def test_an_unknown_set_without_a_similar_name_is_refused_with_a_list(source):
    with pytest.raises(UserError) as error:
        load_prompt_set(source)

    assert error.value.problem == f"no prompt set {source}"
    assert error.value.fix == "sets: fluctuations, teaching"


def test_a_set_in_the_working_folder_replaces_a_shipped_one(tmp_path, monkeypatch):
    own = tmp_path / "configs" / "prompts" / "teaching.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("- Why?\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    assert load_prompt_set("teaching") == PromptSet(
        name="teaching", prompts=(SetPrompt(prompt="Why?"),)
    )


def test_a_prompt_of_a_set_has_the_record_of_a_single_prompt_with_its_origin(loaded, monitored):
    records, lines, _ = monitored(*PROMPTS)

    model = loaded("llama")
    alone = [
        monitor(model, Watch(make_probes(VECTORS, model, "response_avg"), CONFIG), one.prompt)
        for one in PROMPTS
    ]
    assert without_times(records) == without_times(map(to_json, alone))
    assert [record["about"] for record in records] == [
        {"set": "mine", "number": 1, "of": 3, "trait": "evil", "shows": "positive"},
        {"set": "mine", "number": 2, "of": 3, "trait": "evil", "shows": "negative"},
        {"set": "mine", "number": 3, "of": 3, "trait": "", "shows": None},
    ]
    assert lines == records


def test_a_prompt_that_is_too_long_is_recorded_as_failed(monitored):
    without, _, _ = monitored(*PROMPTS, name="without")
    long = SetPrompt(prompt="lock " * 600, trait="evil", shows="positive")

    records, lines, _ = monitored(PROMPTS[0], long, *PROMPTS[1:])

    about = {"set": "mine", "number": 2, "of": 4, "trait": "evil", "shows": "positive"}
    assert records[1] == {"prompt": long.prompt, "error": records[1]["error"], "about": about}
    assert records[1]["error"].startswith("the prompt is too long: ")
    assert records[1]["error"].endswith(
        " prompt tokens and 16 new ones exceed the 512 tokens of tiny-llama"
    )
    assert without_times([records[0], *records[2:]]) == without_times(without)
    assert [record["about"]["number"] for record in records] == [1, 2, 3, 4]
    assert lines == records


def test_a_prompt_that_fails_is_warned_of_before_the_next_begins(monitored):
    _, _, events = monitored(PROMPTS[0], SetPrompt(prompt="lock " * 600), PROMPTS[2])

    found = [event for event in events if isinstance(event, MonitorStarted | Warned)]
    assert [type(event) for event in found] == [MonitorStarted, Warned, MonitorStarted]
    assert found[1].message.startswith("prompt 2 failed: the prompt is too long: ")
    assert [event.about["number"] for event in (found[0], found[2])] == [1, 3]


def test_a_record_is_stored_before_it_is_yielded(loaded, tmp_path):
    model, out = loaded("llama"), tmp_path / "mine.jsonl"
    watch = Watch(make_probes(VECTORS, model, "response_avg"), CONFIG)

    records = monitor_set(
        model, watch, PromptSet(name="mine", prompts=PROMPTS), out, lambda event: None
    )

    assert [len(out.read_text(encoding="utf-8").splitlines()) for _ in records] == [1, 2, 3]


def test_an_interrupted_answer_of_a_set_is_stored_after_the_others(loaded, tmp_path):
    model, out, events = loaded("llama"), tmp_path / "set.jsonl", []

    def interrupt(event):
        events.append(event)
        if (
            isinstance(event, TokenScored)
            and sum(isinstance(one, MonitorStarted) for one in events) == 2
        ):
            raise KeyboardInterrupt

    asked = PromptSet(name="two", prompts=(SetPrompt(prompt="Why?"), SetPrompt(prompt="How?")))
    with pytest.raises(KeyboardInterrupt):
        list(
            monitor_set(
                model,
                Watch(make_probes(VECTORS, model, "response_avg"), CONFIG),
                asked,
                out,
                interrupt,
            )
        )

    first, second = read_records(out)
    assert (first.prompt, second.prompt) == ("Why?", "How?")
    assert (second.finish_reason, len(second.tokens)) == ("interrupted", 1)


def test_a_prompts_own_system_message_replaces_the_configured_one(monitored):
    own = SetPrompt(prompt="Why?", system="Be brief.")

    records, _, _ = monitored(
        own, PROMPTS[2], config=CONFIG.model_copy(update={"system": "Be kind."})
    )

    assert [record["history"] for record in records] == [
        [{"role": "system", "content": "Be brief."}],
        [{"role": "system", "content": "Be kind."}],
    ]
    assert records[0]["tokens"] != records[1]["tokens"]


def scored(trait, shows, **calibrated):
    count = max(map(len, calibrated.values()), default=0)
    about = {"trait": trait, "shows": shows}
    data = {"prompt": "Why?", "tokens": ["a"] * count, "trait_scores": {"none": [0.0] * count}}
    return from_json({**data, "calibrated_scores": calibrated, "about": about})


def naive_swing(scores):
    """The largest minus the smallest mean of five consecutive scores, or of all if fewer."""
    width = min(5, len(scores))
    means = [fmean(scores[i : i + width]) for i in range(len(scores) - width + 1)]
    return max(means) - min(means)


def test_a_summary_has_means_over_answers_of_mean_scores_and_swings():
    drawn = random.Random(5)
    up, more, down, wave, other, short = (
        [drawn.gauss(0, 1) for _ in range(n)] for n in (9, 30, 4, 40, 7, 3)
    )
    records = [
        scored("evil", "positive", evil=up, refusal=up[::-1]),
        scored("refusal", "both", evil=other, refusal=other),
        scored("evil", "positive", evil=more),
        scored("evil", "negative", evil=down),
        scored("evil", "both", evil=wave),
        scored("evil", "both", evil=short),
        scored("", None, evil=wave),
        FailedRecord("Why?", "too long", {"trait": "evil", "shows": "positive"}),
    ]

    found = summarize_set(records)

    swing = fmean([naive_swing(wave), naive_swing(short)])
    assert found == [
        TraitSummary(
            "evil",
            positive=pytest.approx(fmean([fmean(up), fmean(more)])),
            negative=pytest.approx(fmean(down)),
            swing=pytest.approx(swing),
            answers=5,
            failed=1,
        ),
        TraitSummary("refusal", None, None, pytest.approx(naive_swing(other)), answers=1, failed=0),
    ]


def test_a_swing_is_measured_on_means_of_five_tokens():
    [found] = summarize_set([scored("evil", "both", evil=[0.0] * 5 + [5.0] + [0.0] * 5)])

    assert found.swing == pytest.approx(1.0)


def test_answers_without_scores_of_their_trait_do_not_count():
    records = [scored("evil", "positive", refusal=[1.0]), scored("evil", "negative", evil=[])]

    assert summarize_set(records) == [TraitSummary("evil", None, None, None, answers=0, failed=0)]
