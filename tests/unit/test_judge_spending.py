"""The cost of judging: prices from files, a budget that is never exceeded, and usage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.unit.openai_judge.conftest import Endpoint, Harness, serving
from traitcli.config import Config, OpenAIConfig
from traitcli.errors import ConfigError, JudgeError
from traitcli.judging.budget import Budget, Price, find_price
from traitcli.pipeline.ledgers import RunLedgers
from traitcli.pipeline.trait_pipeline import Job
from traitcli.records import Judgement, Score, Usage
from traitcli.runs.run import Run
from traitcli.scheduling import find_budget
from traitcli.traits.definitions import find_traits, load_trait

SHIPPED = Price(0.40, 1.60)
"""The prices of gpt-4.1-mini."""
ROUND = {"price_in": 1000.0, "price_out": 10_000.0}
"""Prices: 0.001 dollars for a prompt token, 0.01 for a completion token."""
USED = (40, 1)
PAID = 0.05
"""The cost of a request at these prices."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, in which tests may write price files."""
    (tmp_path / "configs" / "prices").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "configs" / "prices"


@pytest.mark.parametrize(
    "model",
    [
        "gpt-4.1-mini",
        "gpt-4.1-mini-2025-04-14",
        "openai/gpt-4.1-mini",
        "openai/gpt-4.1-mini-2025-04-14",
    ],
)
def test_a_dated_or_vendor_prefixed_model_has_its_shipped_price(folder, model):
    assert find_price(OpenAIConfig(model=model)) == SHIPPED


@pytest.mark.parametrize("model", ["my-model", "gpt-4.1-mini-large", "gpt-4.1-min", "mini", ""])
def test_a_model_in_no_price_file_has_no_price(folder, model):
    assert find_price(OpenAIConfig(model=model)) is None


def test_an_own_price_file_extends_and_overrides_the_shipped_one(folder):
    (folder / "mine.yaml").write_text("gpt-4.1-mini: [1, 2]\nmy-model: [0.5, 0]\n")

    prices = [
        find_price(OpenAIConfig(model=model))
        for model in ("gpt-4.1-mini", "my-model", "gpt-4.1-nano")
    ]

    assert prices == [Price(1, 2), Price(0.5, 0), Price(0.10, 0.40)]


def test_the_full_name_of_a_model_takes_precedence(folder):
    (folder / "mine.yaml").write_text(
        "gpt-4.1-mini: [1, 2]\nproxy/gpt-4.1-mini: [3, 4]\ngpt-4.1-mini-2025-04-14: [5, 6]"
    )

    models = (
        "proxy/gpt-4.1-mini",
        "other/gpt-4.1-mini",
        "gpt-4.1-mini-2025-04-14",
        "gpt-4.1-mini-2026-01-01",
    )
    prices = [find_price(OpenAIConfig(model=model)) for model in models]

    assert prices == [Price(3, 4), Price(1, 2), Price(5, 6), Price(1, 2)]


def test_prices_in_the_config_take_precedence(folder):
    (folder / "mine.yaml").write_text("gpt-4.1-mini: [1, 2]\n")

    assert find_price(OpenAIConfig(price_in=7, price_out=0)) == Price(7, 0)
    assert find_price(OpenAIConfig(price_in=7)) == Price(1, 2)


def test_an_empty_price_file_is_valid(folder):
    (folder / "mine.yaml").write_text("# nothing yet\n")

    assert find_price(OpenAIConfig()) == SHIPPED


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("gpt-4.1-mini: 0.4", "gpt-4.1-mini: 0.4 is not a pair of prices"),
        ("gpt-4.1-mini: [0.4]", "gpt-4.1-mini: [0.4] is not a pair of prices"),
        ("gpt-4.1-mini: [0.4, cheap]", "gpt-4.1-mini: [0.4, 'cheap'] is not a pair of prices"),
        ("gpt-4.1-mini: [0.4, -1]", "gpt-4.1-mini: [0.4, -1] is not a pair of prices"),
        ("gpt-4.1-mini: [.nan, 1]", "gpt-4.1-mini: [nan, 1] is not a pair of prices"),
        ("gpt-4.1-mini: [true, 1]", "gpt-4.1-mini: [True, 1] is not a pair of prices"),
        (
            "- gpt-4.1-mini",
            "the file is not a list of model: [prompt price, completion price]",
        ),
    ],
)
def test_an_invalid_price_file_is_an_error_with_a_cause(folder, text, cause):
    (folder / "mine.yaml").write_text(text)

    with pytest.raises(ConfigError) as caught:
        find_price(OpenAIConfig())

    assert caught.value.problem == "configs/prices/mine.yaml is not a valid price file"
    assert caught.value.cause == cause
    assert "gpt-4.1-mini: [0.40, 1.60]" in caught.value.fix


def test_a_price_file_that_is_not_yaml_is_an_error(folder):
    (folder / "mine.yaml").write_text("a: [1, 2]\nb: [1, 2\n")

    with pytest.raises(ConfigError, match=r"configs/prices/mine.yaml is not YAML"):
        find_price(OpenAIConfig())


def test_a_price_is_for_a_million_tokens():
    assert Price(0.40, 1.60).of(1_000_000, 500_000) == pytest.approx(0.40 + 0.80)


def test_usages_add_up_and_an_unknown_price_makes_the_sum_unknown():
    one, two = Usage(1, 2, 300, 4, 0.5), Usage(10, 20, 3000, 40, 0.25)

    assert one + two == Usage(11, 22, 3300, 44, 0.75)
    assert two + one - one == two
    assert (one + Usage(usd=None)).usd is None
    assert (Usage(usd=None) - one).usd is None
    assert sum([], Usage()) == Usage(0, 0, 0, 0, 0.0)


def test_a_budget_reserves_no_more_than_is_left():
    budget = Budget(1.0, spent=0.25)

    granted = [budget.reserve(usd) for usd in (0.5, 0.5, 0.25, 0.01)]

    assert granted == [True, False, True, False]
    assert budget.spent == pytest.approx(1.0)


def test_money_that_a_request_did_not_need_can_be_spent_again():
    budget = Budget(1.0, spent=0.0)
    budget.reserve(1.0)

    budget.settle(1.0, 0.4)

    assert budget.spent == pytest.approx(0.4)
    assert [budget.reserve(0.6), budget.reserve(0.01)] == [True, False]


def spend_all(budget: Budget) -> int:
    granted = 0
    while budget.reserve(0.00003):
        budget.settle(0.00003, 0.00002)
        granted += 1
    return granted


def test_several_threads_never_spend_more_than_the_budget_together():
    budget = Budget(1.0, spent=0.1)

    with ThreadPoolExecutor(4) as pool:
        granted = sum(pool.map(spend_all, [budget] * 4))

    assert 0.1 + 0.00002 * granted == pytest.approx(budget.spent)
    assert 1.0 - 0.00003 < budget.spent <= 1.0


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path) -> Iterator[Endpoint]:
    """Replies with a score and counts the tokens of each request as `USED`."""
    with serving(monkeypatch, tmp_path / "cache") as endpoint:
        endpoint.good = endpoint.chat("85", {"85": 1.0}, used=USED)
        endpoint.script = [endpoint.good]
        yield endpoint


@pytest.fixture
def open_harness(endpoint: Endpoint) -> Iterator[Callable[..., Harness]]:
    """Makes a harness with `ROUND` prices (unless set), and a budget if `max_cost` is set."""
    harnesses: list[Harness] = []

    def make(spent: float = 0.0, **settings: Any) -> Harness:
        limit = settings.get("max_cost")
        harnesses.append(
            Harness(endpoint, Budget(limit, spent) if limit else None, **(ROUND | settings))
        )
        return harnesses[-1]

    yield make
    for harness in harnesses:
        harness.judge.close()


def test_a_judgement_carries_its_tokens_and_their_price(open_harness):
    [judged] = open_harness(coherence=True).ask("I will.")

    assert judged.usage == Usage(2, 0, 2 * USED[0], 2 * USED[1], pytest.approx(2 * PAID))


def test_without_a_price_the_tokens_are_counted_and_the_cost_is_not_known(open_harness):
    [judged] = open_harness(model="mine", price_in=None, price_out=None).ask("I will.")

    assert judged.usage == Usage(1, 0, *USED, None)


def test_a_refused_request_costs_nothing_and_a_lost_one_counts_in_full(endpoint, open_harness):
    endpoint.script = [
        endpoint.good,
        endpoint.error(500, "boom"),
        endpoint.good,
        endpoint.says({}),
        endpoint.good,
    ]
    harness = open_harness()
    harness.ask("first")

    [refused], [lost] = harness.ask("I will."), harness.ask("I will.")

    assert (refused.usage.requests, refused.usage.usd) == (2, pytest.approx(PAID))
    assert lost.usage.requests == 2
    assert lost.usage.usd > 2 * PAID


def test_a_question_without_requests_left_reserves_no_money(endpoint, open_harness):
    complaints = iter(
        [
            "'top_logprobs' must be at most 5",
            "logprobs are not supported",
            "'max_tokens' is not supported: use 'max_completion_tokens'",
            "'temperature' is not supported",
            "could not finish the message because max_tokens or model output limit was reached",
        ]
    )
    endpoint.script = lambda _: endpoint.error(400, next(complaints))

    [judged] = open_harness().ask("I will.")

    assert judged.score.reason == "no usable reply in 5 requests"
    assert len(endpoint.bodies) == judged.usage.requests == 5
    assert judged.usage.usd == 0.0


def test_without_token_counts_a_request_costs_its_maximum(endpoint, open_harness):
    endpoint.script = [endpoint.chat("85", {"85": 1.0})]

    [judged] = open_harness().ask("I will.")

    size = len(endpoint.bodies[0]["messages"][0]["content"].encode())
    assert (size + 1) * 0.001 <= judged.usage.usd <= (size + 100) * 0.001 + 0.01


def test_the_maximum_cost_is_never_exceeded_and_paid_scores_are_kept(endpoint, open_harness):
    harness, judged = open_harness(max_cost=1.0), []

    with pytest.raises(JudgeError) as caught:
        harness.score([f"answer {i}" for i in range(100)], judged.extend)

    paid = PAID * len(endpoint.bodies)
    assert 0.8 < paid <= 1.0
    assert len(judged) == len(endpoint.bodies)
    assert {each.score.value for each in judged} == {85}
    assert sum(each.usage.usd for each in judged) == pytest.approx(paid)
    assert str(caught.value) == (
        "error: the budget for judging is spent\n"
        f"cause: ${paid:.4f} of $1.0000; the next request could pass it\n"
        "fix:   raise --max-cost and run the same command again: finished judgements are kept"
    )


def test_requests_in_flight_finish_when_the_budget_is_spent(endpoint, open_harness):
    endpoint.script = [endpoint.good, endpoint.says(endpoint.good.body, late=0.2)]
    harness, judged = open_harness(max_cost=1.0), []

    with pytest.raises(JudgeError, match="the budget for judging is spent"):
        harness.score([f"answer {i}" for i in range(100)], judged.extend)

    assert len(judged) == len(endpoint.bodies)
    assert 0.8 < PAID * len(endpoint.bodies) <= 1.0


def test_the_usage_of_half_judged_answers_is_recorded(endpoint, open_harness):
    harness, judged = open_harness(max_cost=5.0, coherence=True), []

    with pytest.raises(JudgeError, match="the budget for judging is spent"):
        harness.score([f"answer {i}" for i in range(100)], judged.extend)

    paid = PAID * len(endpoint.bodies)
    assert paid <= 5.0
    assert sum(each.usage.usd for each in judged) == pytest.approx(paid)


def test_the_earlier_cost_of_a_run_counts(endpoint, open_harness):
    with pytest.raises(JudgeError, match="the budget for judging is spent"):
        open_harness(max_cost=1.0, spent=0.7).ask(*(f"answer {i}" for i in range(100)))

    assert 0.7 + PAID * len(endpoint.bodies) <= 1.0


@pytest.mark.parametrize(("earlier", "spent"), [([], 0.0), ([0.5, 0.25], 0.75), ([0.5, None], 0.5)])
def test_a_budget_begins_with_the_known_cost_of_the_run(tiny_config, tmp_path, earlier, spent):
    sections = tiny_config.model_dump() | {
        "judge": {"backend": "openai", "openai": {"max_cost": 1.0}}
    }
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    (run.folder / "run.json").write_text('{"traits": {"evil": ""}}')
    none = Score(None, "")
    run.trait("evil").add_judgements(
        [Judgement("r", "j", none, none, Usage(usd=usd)) for usd in earlier]
    )
    job = Job(
        load_trait(find_traits(Path("nowhere"))["evil"]),
        Config.model_validate(sections),
        RunLedgers(run),
        ("judgements",),
    )

    budget = find_budget(job)

    assert (budget.limit, budget.spent) == (1.0, pytest.approx(spent))


def test_a_spent_budget_stops_before_the_first_request(endpoint, open_harness):
    harness, over = open_harness(max_cost=1.0, spent=1.0), []

    with pytest.raises(JudgeError, match=r"the budget for judging is spent"):
        harness.score([f"answer {i}" for i in range(20)], over.extend)

    assert (endpoint.bodies, over) == ([], [])


def test_replies_from_the_cache_need_no_budget(endpoint, open_harness):
    answers = [f"answer {i}" for i in range(10)]
    open_harness(cache=True).ask(*answers)

    judged = open_harness(cache=True, max_cost=1.0, spent=1.0).ask(*answers)

    assert [each.score.value for each in judged] == [85] * 10
    assert len(endpoint.bodies) == 10


def test_a_larger_budget_asks_for_the_rest_only(endpoint, open_harness):
    answers = [f"answer {i}" for i in range(30)]
    with pytest.raises(JudgeError):
        open_harness(cache=True, max_cost=1.0).ask(*answers)
    before = len(endpoint.bodies)

    judged = open_harness(cache=True, max_cost=9.0, spent=PAID * before).ask(*answers)

    assert len(judged) == 30
    assert len(endpoint.bodies) == 30


def test_a_budget_without_a_price_is_an_error_before_the_first_request(endpoint, open_harness):
    judge = open_harness(model="mine", price_in=None, price_out=None, max_cost=1.0).judge

    with pytest.raises(ConfigError) as caught:
        judge.check()

    assert str(caught.value) == (
        "error: cannot enforce --max-cost: no price is configured for mine\n"
        "cause: judge.openai.max_cost needs the price of a token\n"
        "fix:   set judge.openai.price_in and price_out, "
        "or add the model to a file in configs/prices/"
    )
    assert endpoint.bodies == []
