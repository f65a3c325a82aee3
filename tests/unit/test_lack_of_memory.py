"""Whatever reads with a model reads less at a time when memory runs out, with the same results."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from tests.unit.local_judge.models import ANSWERS as JUDGED
from tests.unit.local_judge.models import TRAIT as NUMBERS
from tests.unit.local_judge.models import SingleModelProvider as OneJudgeModel
from tests.unit.local_judge.models import number_model
from tests.unit.test_decode import TOLERANCE, relative_error
from tests.unit.test_likelihood import ANSWERS, TRAIT, SingleModelProvider
from tests.unit.test_read_texts import TEXTS
from tests.unit.test_score_texts import EXCHANGES, watch_of
from traitcli.config import LikelihoodConfig, LocalJudgeConfig, SamplingConfig
from traitcli.errors import TraitError
from traitcli.events import Warned
from traitcli.generation.batch_size import choose_read_size
from traitcli.generation.external_engine import Callbacks, write_then_read
from traitcli.generation.mean_activations import MeanReader
from traitcli.generation.request import Request
from traitcli.generation.skip_thinking import OwnWriter
from traitcli.judging.likelihood import LikelihoodJudge
from traitcli.judging.local.judge import LocalJudge
from traitcli.judging.local.yes_no import ask_yes_no
from traitcli.models.batch_size import BatchSize, shrinking
from traitcli.models.read_texts import log_probabilities, read_texts
from traitcli.monitoring.score_texts import score_texts
from traitcli.pipeline.read_responses import PlannedReading, choose_size, read_planned
from traitcli.records import POSITIONS
from traitcli.scheduling.worker import WorkerLoop

pytestmark = pytest.mark.usefixtures("few_objects")
packed_and_padded = pytest.mark.parametrize("packs", [True, False], ids=["packed", "padded"])


class SmallDevice:
    """A device that has memory for passes of a certain size.

    It counts the `failures` and remembers the size of the `largest` pass.

    size  (hidden states at a block) -> the size of a pass; by default its tokens
    """

    def __init__(self, limit, size=lambda hidden: hidden.shape[0] * hidden.shape[1]):
        self.limit, self.size = limit, size
        self.failures = self.largest = 0

    def check(self, module, args):
        self.largest = max(self.largest, self.size(args[0]))
        if self.size(args[0]) > self.limit:
            self.failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    @contextmanager
    def holding(self, model):
        hook = model.model.model.layers[2].register_forward_pre_hook(self.check)
        try:
            yield
        finally:
            hook.remove()


def rows(hidden):
    return hidden.shape[0]


def assert_same(found, expected):
    """The mean activations of one text, rounding aside."""
    for position in POSITIONS:
        one, other = torch.as_tensor(found[position]), torch.as_tensor(expected[position])
        assert relative_error(one, other) < TOLERANCE


@packed_and_padded
@pytest.mark.parametrize("limit", [40, 32])
def test_hidden_states_are_the_same_after_memory_ran_out(loaded, packs, limit):
    model = replace(loaded("gemma2"), packs=packs)
    expected, found = MeanReader(model), MeanReader(model)
    list(read_texts(model, TEXTS, 64, expected))
    warnings, device = [], SmallDevice(limit)
    size = shrinking(len(TEXTS), "texts", warnings.append)

    with device.holding(model):
        read = list(read_texts(model, TEXTS, size, found))

    assert sorted(read) == list(range(len(TEXTS)))
    for index in range(len(TEXTS)):
        assert_same(found.finished[index], expected.finished[index])
    assert device.failures == len(warnings) > 0
    assert warnings[0] == "out of memory with 7 texts at a time: continuing with 3"


@packed_and_padded
@pytest.mark.parametrize("limit", [40, 32])
def test_log_probabilities_are_the_same_after_memory_ran_out(loaded, packs, limit):
    model = replace(loaded("llama"), packs=packs)
    expected = list(log_probabilities(model, TEXTS, 64))
    device = SmallDevice(limit)

    with device.holding(model):
        found = list(log_probabilities(model, TEXTS, shrinking(len(TEXTS), "texts")))

    assert device.failures
    assert [index for index, _ in found] == list(range(len(TEXTS)))
    for (_, values), (_, right) in zip(found, expected, strict=True):
        torch.testing.assert_close(values, right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fatal", range(1, 8))
def test_any_pass_may_fail(loaded, fatal):
    model = loaded("llama")
    expected, found = MeanReader(model), MeanReader(model)
    list(read_texts(model, TEXTS, 3, expected))
    passes = 0

    def size(hidden):
        nonlocal passes
        passes += 1
        return passes == fatal

    with SmallDevice(0, size).holding(model):
        assert len(list(read_texts(model, TEXTS, BatchSize(3, 3), found))) == len(TEXTS)

    for index in range(len(TEXTS)):
        assert_same(found.finished[index], expected.finished[index])


def test_a_pass_of_long_texts_shrinks_with_the_number_of_texts(loaded):
    # Two texts fill a pass, so that fewer than 64 texts alone would change nothing.
    model = loaded("llama")
    long = [replace(TEXTS[2], response=tuple(range(200, 600)) * 5) for _ in range(2)]
    device = SmallDevice(2100)

    with device.holding(model):
        list(read_texts(model, long, size := BatchSize(64, 64), MeanReader(model)))

    assert (device.failures, size.now) == (1, 32)


def test_a_number_of_texts_stays_and_the_error_is_raised(loaded):
    model = loaded("llama")

    with SmallDevice(40).holding(model), pytest.raises(torch.OutOfMemoryError):
        list(read_texts(model, TEXTS, 64, MeanReader(model)))


def planned_of(make_rollout_for):
    return [PlannedReading(make_rollout_for(index), text) for index, text in enumerate(TEXTS)]


def read_with(model, tiny_config, batch_size):
    """Read TEXTS as labelled responses are; returns means by id, and warnings."""
    from types import SimpleNamespace

    extract = tiny_config.extract.model_copy(update={"batch_size": batch_size})
    config = tiny_config.model_copy(update={"extract": extract})
    planned = planned_of(lambda index: SimpleNamespace(id=index))
    sent = []
    size = choose_size(model, planned, config, "evil", sent.append)
    made = read_planned(model, planned, size, lambda tokens: None, lambda unstarted: 0)
    return {one.rollout.id: one.activations for one in made}, sent


def test_labelled_responses_are_read_with_a_warning(loaded, tiny_config):
    model = loaded("llama")
    expected, _ = read_with(model, tiny_config, "auto")

    with SmallDevice(40).holding(model):
        found, sent = read_with(model, tiny_config, "auto")

    assert sent[0].trait == "evil"
    assert sent[0].message.startswith("out of memory with 64 texts at a time")
    for index in range(len(TEXTS)):
        assert_same(found[index], expected[index])


def test_a_configured_batch_size_of_labelled_responses_is_kept(loaded, tiny_config):
    with (
        SmallDevice(40).holding(loaded("llama")),
        pytest.raises(TraitError, match="out of memory") as caught,
    ):
        read_with(loaded("llama"), tiny_config, 16)

    assert "lower extract.batch_size" in caught.value.fix


def test_the_texts_of_another_engine_are_read_with_a_warning(loaded):
    model = loaded("llama")

    class Writer(OwnWriter):
        def write(self, requests, sampling, on_step):
            return [(text.response, "length") for text in TEXTS]

    requests = [Request(text.prompt, 0) for text in TEXTS]
    warnings = []
    callbacks = Callbacks(lambda: choose_read_size(model, 200, "auto", warnings.append))

    def read():
        writer = Writer(model, BatchSize(1))
        return dict(write_then_read(model, writer, requests, SamplingConfig(), callbacks))

    expected = read()
    with SmallDevice(40).holding(model):
        found = read()

    assert warnings[0] == "out of memory with 64 texts at a time: continuing with 32"
    for index in range(len(TEXTS)):
        assert_same(found[index].activations, expected[index].activations)


def test_texts_are_scored_with_one_warning_for_all_chunks(loaded):
    from traitcli.monitoring.score_texts import ReadingLimits

    model = loaded("llama")
    limits, events = ReadingLimits(batch=2, chunk=3), []
    with (alone := SmallDevice(10**6)).holding(model):
        expected = list(
            score_texts(model, watch_of(model), EXCHANGES, limits=ReadingLimits(batch=1, chunk=3))
        )

    with SmallDevice(alone.largest).holding(model):
        found = list(
            score_texts(model, watch_of(model), EXCHANGES, on_event=events.append, limits=limits)
        )

    assert [event.message for event in events if isinstance(event, Warned)] == [
        "out of memory with 2 texts at a time: continuing with 1"
    ]
    for one, other in zip(found, expected, strict=True):
        assert one.raw.keys() == other.raw.keys()
        for trait, scores in one.raw.items():
            assert scores == pytest.approx(other.raw[trait], rel=1e-3, abs=1e-3)


def scores_of(judge, trait, answers):
    found = {}
    judge.score(trait, answers, lambda made: found.update({one.rollout: one for one in made}))
    return [found[answer.rollout].score.value for answer in answers]


def test_the_likelihood_judge_gives_the_same_scores(loaded):
    model = loaded("llama")
    judge = LikelihoodJudge(LikelihoodConfig(), SingleModelProvider(model))
    expected = scores_of(judge, TRAIT, ANSWERS)
    assert judge.take_notes() == []

    with SmallDevice(60).holding(model):
        found = scores_of(judge, TRAIT, ANSWERS)

    assert found[:3] == pytest.approx(expected[:3])
    assert judge.take_notes()[0] == "out of memory with 64 answers at a time: continuing with 32"
    assert judge.take_notes() == []


def test_the_local_judge_gives_the_same_scores(loaded):
    model = number_model(loaded("llama"), digits=9.0)

    def judge():
        return LocalJudge(LocalJudgeConfig(batch_size=4), OneJudgeModel(model))

    expected = scores_of(judge(), NUMBERS, JUDGED)

    with SmallDevice(1, rows).holding(loaded("llama")):
        small = judge()
        found = scores_of(small, NUMBERS, JUDGED)

    assert found == pytest.approx(expected, abs=0.02)
    assert small.take_notes() == [
        "out of memory with 4 prompts at a time: continuing with 2",
        "out of memory with 2 prompts at a time: continuing with 1",
    ]


def test_the_local_judge_explains_that_not_even_one_prompt_fits(loaded):
    model = number_model(loaded("llama"), digits=9.0)
    judge = LocalJudge(LocalJudgeConfig(), OneJudgeModel(model))

    with SmallDevice(0).holding(loaded("llama")), pytest.raises(TraitError, match="out of memory"):
        scores_of(judge, NUMBERS, JUDGED)


def test_yes_or_no_is_asked_with_a_warning(loaded):
    model = number_model(loaded("llama"), words=16.0)
    texts = [(answer.question, answer.response) for answer in JUDGED]
    expected = ask_yes_no(model, NUMBERS, texts)
    warnings = []

    with SmallDevice(2, rows).holding(loaded("llama")):
        found = ask_yes_no(model, NUMBERS, texts, warn=warnings.append)

    assert found == pytest.approx(expected, abs=1e-2)
    assert warnings[-1] == "out of memory with 4 prompts at a time: continuing with 2"


def test_a_worker_passes_on_what_its_judge_has_noted(tiny_config):
    from tests.unit.test_worker import Inbox
    from traitcli.judging.fake import FakeJudge
    from traitcli.pipeline.messages import ScoreTask
    from traitcli.pipeline.worker_context import Worker

    class Noting(FakeJudge):
        def take_notes(self):
            return ["out of memory with 2 prompts at a time: continuing with 1"]

    sent = []
    worker = Worker(tiny_config, "cpu", sent.append)
    worker.__dict__["judge"] = Noting()

    WorkerLoop(worker, Inbox(sent), sent.append).run_task(ScoreTask(TRAIT, ()))

    assert Warned("grumpy", "out of memory with 2 prompts at a time: continuing with 1") in sent
