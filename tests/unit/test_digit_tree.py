"""The digit tree, against toy models whose replies can all be listed."""

from __future__ import annotations

import itertools
import math
import random
from collections import defaultdict

import pytest

from traitcli.judging.local.digit_tree import (
    MIN_PROBABILITY,
    build_answer_tokens,
    expand_digit_tree,
    vocabulary_texts,
)
from traitcli.judging.scales import read_probabilities

DIGITS = tuple("0123456789")
NUMBERS = tuple(str(n) for n in range(101))


class Toy:
    """A model as a table: written tokens -> next token -> probability. The rest ends the reply."""

    def __init__(self, table, scale="0_100"):
        self.table = table
        self.texts = sorted(
            {text for nexts in table.values() for text in nexts} | set(itertools.chain(*table))
        )
        self.tokens = build_answer_tokens(scale, self.texts)
        self.asked = []

    def next_tokens(self, paths):
        self.asked.append(paths)
        return [self._following(tuple(self.texts[i] for i in ids)) for _, ids in paths]

    def _following(self, written):
        nexts = self.table.get(written, {})
        return [nexts.get(self.texts[token], 0.0) for token in self.tokens.ids]

    def expand(self, **options):
        return expand_digit_tree(1, self.tokens, self.next_tokens, **options)[0]


def positive(found):
    return {text: pytest.approx(p) for text, p in found.items() if p > 0}


@pytest.mark.parametrize(
    ("alternatives", "value"),
    [
        ({"REF": 0.8, "100": 0.15, "95": 0.04}, None),
        ({"1": 0.3, "100": 0.3}, 50.5),
        ({" 85": 0.5, "90": 0.3}, 86.875),
        ({"70": 0.24}, None),
        ({"70": 0.25}, 70),
    ],
)
def test_a_model_with_whole_number_tokens_scores_as_the_scale_says(alternatives, value):
    found = Toy({(): alternatives}).expand()

    assert read_probabilities("0_100", found).value == (
        None if value is None else pytest.approx(value)
    )


def test_digits_join_and_a_digit_alone_counts_if_none_follows():
    found = Toy({(): {"8": 0.8, "0": 0.1}, ("8",): {"5": 0.6, "!": 0.4}}).expand()

    assert positive(found) == {"8": 0.32, "85": 0.48, "0": 0.1}


def test_one_ten_and_a_hundred_are_different_answers():
    found = Toy({(): {"1": 1.0}, ("1",): {"0": 0.9}, ("1", "0"): {"0": 0.7}}).expand()

    assert positive(found) == {"1": 0.1, "10": 0.9 * 0.3, "100": 0.63}


def test_a_number_counts_however_it_is_split_into_tokens():
    table = {
        (): {"85": 0.1, " 85": 0.2, "8": 0.3, " 8": 0.05, " ": 0.2},
        ("8",): {"5": 0.5},
        (" 8",): {"5": 1.0},
        (" ",): {"8": 0.5, "85": 0.25, " 85": 0.25},
        (" ", "8"): {"5": 1.0},
    }

    found = Toy(table).expand()

    assert positive(found) == {"85": 0.1 + 0.2 + 0.15 + 0.05 + 0.2, "8": 0.15}


@pytest.mark.parametrize("text", ["150", "00", "05", "101", "1000", "٨٥", "x85", "-5"])
def test_a_token_that_is_not_a_number_of_the_scale_counts_for_nothing(text):
    assert Toy({(): {text: 0.9}}).expand() == {}


def test_a_digit_that_continues_beyond_the_scale_is_not_dropped():
    found = Toy({(): {"10": 1.0, "8": 0.0}, ("10",): {"5": 0.6, "0": 0.3}}).expand()

    assert positive(found) == {"10": 0.1, "100": 0.3}


def test_a_token_that_ends_its_number_is_not_continued():
    found = Toy({(): {"8.": 0.5, "85%": 0.2}, ("8.",): {"5": 1.0}}).expand()

    assert positive(found) == {"8": 0.5, "85": 0.2}


@pytest.mark.parametrize(
    ("whitespace", "p", "is_found"),
    [
        (("\n",), 0.01, True),
        (("\n",), 0.0099, False),
        (("\n", " "), 1, True),
        (("\n", " ", " "), 1, False),
    ],
)
def test_one_or_two_likely_whitespace_tokens_may_come_first(whitespace, p, is_found):
    table = {whitespace[:i]: {token: p} for i, token in enumerate(whitespace)}
    table[whitespace] = {"70": 0.5}

    found = Toy(table).expand()

    assert positive(found) == ({"70": pytest.approx(0.5 * p)} if is_found else {})


def test_whitespace_after_a_digit_ends_the_number():
    found = Toy({(): {"8": 1.0}, ("8",): {" 5": 0.5, " ": 0.5}}).expand()

    assert positive(found) == {"8": 1.0}


def test_an_improbable_path_is_not_expanded_and_the_error_stays_within_its_bound():
    table = {
        (): {"8": 0.5, "9": MIN_PROBABILITY / 2, "7": MIN_PROBABILITY / 2},
        ("8",): {},
        ("9",): {"9": 1.0},
        ("7",): {},
    }
    toy, exact = Toy(table), Toy(table)

    value = read_probabilities("0_100", toy.expand()).value

    assert {toy.texts[i] for _, ids in toy.asked[1] for i in ids} == {"8"}
    missed = 100 * MIN_PROBABILITY / 0.5
    assert (
        0
        < abs(value - read_probabilities("0_100", exact.expand(min_probability=0)).value)
        <= missed
    )


def test_one_call_for_each_level_asks_about_all_replies():
    toy = Toy({(): {"8": 0.5, "1": 0.5}, ("8",): {}, ("1",): {"0": 1.0}})

    expand_digit_tree(3, toy.tokens, toy.next_tokens)

    assert [len(paths) for paths in toy.asked] == [3, 6, 3]
    assert [{len(ids) for _, ids in paths} for paths in toy.asked] == [{0}, {1}, {2}]


def test_whole_number_tokens_and_single_digits_give_the_same_probabilities():
    chance = random.Random(1)
    weights = {n: chance.random() ** 4 for n in NUMBERS}
    p = {n: weight / math.fsum(weights.values()) for n, weight in weights.items()}
    by_digit = defaultdict(dict)
    for start in ("", *NUMBERS):
        starting = math.fsum(p[n] for n in NUMBERS if n.startswith(start))
        for digit in DIGITS:
            continuing = math.fsum(
                p[n] for n in NUMBERS if n.startswith(start + digit) and start != "0"
            )
            if continuing:
                by_digit[tuple(start)][digit] = continuing / starting

    whole, expanded = (
        Toy({(): p}).expand(min_probability=0),
        Toy(by_digit).expand(min_probability=0),
    )

    assert expanded == pytest.approx(whole)


def test_the_tree_gives_the_same_result_as_reading_every_reply():
    vocabulary = ["0", "1", "8", "10", " 8", "00", "85", "8.", "\n", "x"]
    toy = Toy({(): dict.fromkeys(vocabulary, 0.1)})
    chances = random.Random(7)
    toy.table = {
        written: dict(zip(vocabulary, shares(chances, len(vocabulary)), strict=True))
        for length in range(5)
        for written in itertools.product(vocabulary, repeat=length)
    }
    read = defaultdict(float)
    for reply in itertools.product(vocabulary, repeat=5):
        p = math.prod(toy.table[reply[:i]][token] for i, token in enumerate(reply))
        likely = math.prod(
            toy.table[reply[:i]][token]
            for i, token in enumerate(itertools.takewhile(str.isspace, reply))
        )
        if likely >= 0.01:
            read[stated(reply)] += p

    found = toy.expand(min_probability=0)

    assert sum(found.values()) > 0.5
    assert found == pytest.approx({text: p for text, p in read.items() if text is not None})


def shares(chances, parts):
    weights = [chances.random() ** 2 for _ in range(parts)]
    return [weight / sum(weights) for weight in weights]


def stated(reply):
    """The number that a reply states, read token by token."""
    tokens = list(reply)
    whitespace = 0
    while tokens and tokens[0].isspace():
        tokens.pop(0)
        whitespace += 1
    if whitespace > 2 or not tokens:
        return None
    written = tokens[0].strip()
    for following in tokens[1:]:
        if written not in {str(n) for n in range(1, 11)} or not following[0].isdigit():
            break
        written += following
    number = written.rstrip(".")
    return number if number in NUMBERS else None


def test_on_0_10_single_digits_are_scores_and_ten_is_not():
    found = Toy({(): {"7": 0.5, "1": 0.4}, ("7",): {"5": 1.0}, ("1",): {"0": 0.9}}, "0_10").expand()

    assert positive(found) == {"7": 0.5, "1": 0.04}


def test_words_count_in_any_case_and_over_several_tokens():
    table = {
        (): {"YES": 0.1, " yes": 0.1, "Y": 0.4, "no": 0.1, "N": 0.1, "Not": 0.1, "Yesterday": 0.1},
        ("Y",): {"ES": 0.5, "ou": 0.5},
        ("N",): {"O.": 1.0},
    }

    found = Toy(table, "binary").expand()

    assert positive(found) == {"YES": 0.4, "NO": 0.2}


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_text_of_a_token_is_its_text_in_the_middle_of_a_sentence(loaded, family):
    tokenizer = loaded(family).tokenizer

    texts = vocabulary_texts(tokenizer)

    ids = {text: token for token, text in enumerate(texts) if text}
    assert texts[tokenizer.eos_token_id] == ""
    assert {"8", " 1", " 20", "20", " ", "\n"} <= set(ids)
    assert tokenizer.decode([ids["a"], ids[" 20"], ids["8"], ids["\n"]]) == "a 208\n"


def test_a_byte_token_is_the_digit_that_it_encodes(loaded):
    tokenizer = loaded("gemma2").tokenizer
    texts = vocabulary_texts(tokenizer)

    tokens = build_answer_tokens("0_100", texts)

    eights = [tokens.ids[token.index] for token in tokens.first if token.text == "8"]
    assert sorted(tokenizer.convert_ids_to_tokens(eights)) == ["8", "<0x38>"]
