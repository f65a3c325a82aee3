"""What users of the Python API mistake is an error of three lines, or is understood."""

from __future__ import annotations

import contextvars
import copy
import pickle
import threading
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import traitcli as tc
from tests.unit.formal_texts import NEGATIVE, POSITIVE
from traitcli.api.model import Model

PARTS = [{"type": "text", "text": "Why is "}, {"type": "text", "text": "it so?"}]


MISTAKES = {
    "prompts": lambda model, formal: model.generate(["hi", "there"]),
    "no content": lambda model, formal: model.generate([{"role": "user"}]),
    "no prompt": lambda model, formal: model.generate(None),
    "picture": lambda model, formal: model.generate(
        [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]
    ),
    "watch=None": lambda model, formal: model.generate("Hi", watch=None),
    "watch=Path": lambda model, formal: model.generate("Hi", watch=Path("evil")),
    "watch=[1]": lambda model, formal: model.score([("a", "b")], [1]),
    "steer None": lambda model, formal: model.steer(None),
    "steer a list": lambda model, formal: model.steer([("formal", 1)]),
    "steer a number": lambda model, formal: model.steer({3: 1}),
    "steer by None": lambda model, formal: model.steer({formal: None}),
    "steer by a list of None": lambda model, formal: model.steer({formal: [1, None]}),
    "steer by NaN": lambda model, formal: model.steer({formal: float("nan")}),
    "half a layer": lambda model, formal: formal.at(layer=2.5),
    "no tokenizer": lambda model, formal: tc.wrap(model.loaded.model, None),
    "a name for a model": lambda model, formal: tc.vector("evil", "embedded"),
    "no name": lambda model, formal: model.train(None, POSITIVE, NEGATIVE),
    "no examples": lambda model, formal: model.train("x", None, NEGATIVE),
    "save in a folder": lambda model, formal: formal.save("."),
    "pickle": lambda model, formal: pickle.dumps(model),
    "copy": lambda model, formal: copy.deepcopy(model),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_an_error_with_a_cause_and_a_fix(model, formal, name):
    with pytest.raises(tc.TraitError) as raised:
        MISTAKES[name](model, formal)

    assert raised.value.exit_code == 2
    labels = [line[:6] for line in str(raised.value).splitlines()]
    assert labels == ["error:", "cause:", "fix:  "]


def test_text_parts_are_one_prompt(model):
    plain = model.generate("Why is it so?", max_new_tokens=3, seed=1)
    parts = model.generate([{"role": "user", "content": PARTS}], max_new_tokens=3, seed=1)

    assert (parts.prompt, parts.tokens) == (plain.prompt, plain.tokens)


def test_half_a_character_of_a_prompt_is_replaced_as_in_a_file(model):
    assert model.generate("a\ud800", max_new_tokens=1).prompt == "a\N{REPLACEMENT CHARACTER}"


def test_generators_are_examples(model, formal):
    built = model.train("formal", (text for text in POSITIVE), (text for text in NEGATIVE))

    np.testing.assert_array_equal(
        built.directions["response_avg"], formal.directions["response_avg"]
    )


def test_a_frame_of_one_answer_is_that_of_a_list(model, formal):
    answer = model.generate("Hi", watch=formal, max_new_tokens=3)

    assert tc.to_frame(answer).equals(tc.to_frame([answer]))


def test_a_layer_is_a_whole_number_of_any_type(formal):
    assert repr(formal.at(layer=2.0).layer) == repr(formal.at(layer=np.int64(2)).layer) == "2"


def test_one_trait_has_several_brakes(model, formal):
    with model.steer({formal: ["<=0", " >=-1@2", 1]}):
        answer = model.generate("Hi", max_new_tokens=2)

    layer = formal.layer
    texts = [one.text for one in answer.steering]
    assert texts == [f"formal<=0@{layer}", "formal>=-1@2", f"formal=1@{layer}"]


def test_a_gate_looks_at_a_vector_in_memory(model, formal):
    other = (0.5 * formal).renamed("other")
    with model.steer({other: "1 if formal<99"}, watch=formal):
        # The running score that opens the gate needs eight tokens.
        answer = model.generate("Hi", max_new_tokens=12)

    assert [one.text for one in answer.steering] == [f"other=1@{other.layer} if formal<99"]
    assert answer.braked


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"max_new_tokens": 4, "temperature": -1}, "temperature"),
        ({"max_new_tokens": 0, "seed": 1}, "max_new_tokens"),
        ({"top_p": 3, "seed": "x"}, "top_p, seed"),
    ],
)
def test_only_wrong_options_are_named_and_as_they_were_typed(model, options, name):
    with pytest.raises(tc.TraitError) as raised:
        model.generate("hi", **options)

    assert raised.value.problem == f"invalid {name}"
    lines = raised.value.cause.splitlines()
    assert [line.partition(":")[0] for line in lines] == name.split(", ")


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda model: tc.load("embedded", dtype="float7"), "dtype"),
        (lambda model: model.train("x", POSITIVE, NEGATIVE, "mean", 2), "method"),
        (lambda model: model.extract("evil", judge="me", settings={"extract.repeats": 2}), "judge"),
        (lambda model: model.extract("evil", settings={"extract.repeats": 0}), "extract.repeats"),
    ],
)
def test_only_wrong_arguments_are_named_and_as_they_were_typed(model, call, name):
    with pytest.raises(tc.TraitError) as raised:
        call(model)

    assert raised.value.problem == f"invalid {name}"
    assert raised.value.cause.startswith(f"{name}: expected ")


def test_examples_of_one_token_are_named_by_side_and_number(loaded, model):
    # Without a token that begins texts, the first token of a text is left out.
    without_start = Model(loaded("qwen2"), model.config)

    with pytest.raises(tc.TraitError) as raised:
        without_start.train("x", ["a", "c"], ["b", "d"])

    lines = raised.value.cause.splitlines()
    places = ["negative[0]", "negative[1]", "positive[0]", "positive[1]"]
    assert sorted(line.partition(" is one token")[0] for line in lines) == places
    assert raised.value.fix == "lengthen or remove them"


def test_a_layer_that_does_not_exist_is_found_before_the_examples_are_read(model):
    with pytest.raises(tc.TraitError, match=r"vector\.layer 99 does not exist"):
        model.train("x", POSITIVE, ["word " * 600, *NEGATIVE[1:]], layer=99)


def test_a_long_example_is_named_by_side_and_number(model):
    with pytest.raises(tc.TraitError) as raised:
        model.train("x", POSITIVE, [*NEGATIVE[:3], "word " * 600])

    assert raised.value.cause.startswith("negative[3] has ")
    assert raised.value.fix == "shorten or remove them"


@pytest.mark.parametrize("entries", [["hello"], ("a", "b"), pd.DataFrame({"prompt": ["a"]})])
def test_an_entry_of_another_form_says_what_it_may_be(model, formal, entries):
    first = next(iter(entries))

    answer = model.score(entries, formal)[0]

    expected = f"{first!r} is none of (prompt, response), a chat, "
    assert answer.error == expected + "{'prompt': …, 'response': …}"
    assert repr(answer) == f"<Answer error={answer.error!r}>"


def test_bounds_may_have_exponents(model, formal):
    with model.steer({formal: [f"<={1e9}", ">=-1E-05", 1e-7, "2e-7@2"]}):
        answer = model.generate("Hi", max_new_tokens=1)
    watch = model.watch(formal, stop_on=[f"formal>{1e16}", "any(formal)<-1e-3"])

    bounds = [one.score for one in answer.steering[:2]]
    assert bounds == [1e9, -1e-05]
    assert [one.coefficient for one in answer.steering[2:]] == [1e-7, 2e-7]
    assert [rule.bound for rule in watch.rules] == [1e16, -1e-3]


def test_a_condition_without_a_bound_says_so(model, formal):
    with pytest.raises(tc.TraitError) as raised:
        model.steer({formal: "1 if formal"})

    assert raised.value.cause == "the condition has no bound: it is TRAIT>SCORE or TRAIT<SCORE"
    assert raised.value.fix == "for example 'formal=1 if formal>1'"


def test_a_vector_can_be_divided_by_a_number_only(formal):
    assert formal / 2 == (0.5 * formal)
    with pytest.raises(tc.TraitError, match="cannot multiply"):
        formal / 0


def test_a_copy_of_a_vector_is_the_same_vector(model, formal):
    twin = pickle.loads(pickle.dumps(formal))

    assert twin == formal
    assert twin != formal.at(layer=formal.layer + 1)
    assert twin != (2 * formal).renamed("formal")
    assert list(model.watch([formal, twin]).probes) == ["formal"]


@pytest.mark.parametrize("call", ["generate", "stream"])
def test_a_warning_points_at_the_line_of_the_script(model, formal, call):
    with warnings.catch_warnings(record=True) as caught, model.steer({formal: 90.0}):
        warnings.simplefilter("always")
        if call == "generate":
            model.generate("Hi", max_new_tokens=1)
        else:
            list(model.stream("Hi", max_new_tokens=1))

    assert caught
    assert {one.filename for one in caught} == {__file__}


def test_threads_are_steered_in_a_copy_of_the_context(model, formal):
    found = []

    def work():
        found.append(len(model.generate("Hi", max_new_tokens=1).steering))

    with model.steer({formal: 1.0}):
        copied = contextvars.copy_context()
        for target in (work, lambda: copied.run(work)):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()

    assert found == [0, 1]


def test_a_printed_answer_says_what_its_marks_mean(model, formal):
    answer = model.generate("Hi", watch=formal, max_new_tokens=6, seed=1)
    legend = "⟨…⟩⁺ and ⟨…⟩⁻ hold tokens where formal reaches +1 or −1, its class means"

    beyond = replace(answer, calibrated={"formal": (1.5,) * len(answer.tokens)})
    within = replace(answer, calibrated={"formal": (0.5,) * len(answer.tokens)})

    assert str(beyond).count(legend) == 1
    assert "⟩" not in str(within)


def test_a_bound_of_zero_has_no_sign(model, formal):
    with model.steer({formal: "<=0"}):
        answer = model.generate("Hi", max_new_tokens=1)

    assert f"formal ≤ 0 at layer {formal.layer}" in str(answer)
