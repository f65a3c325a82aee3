"""A vector with its kept results, as a report shows it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.test_verdict import TEST
from traitcli.config import load_config
from traitcli.errors import VectorError
from traitcli.events import Warned
from traitcli.inspection.kept_results import read_known
from traitcli.inspection.report_data import gather_report
from traitcli.monitoring.summaries import Summary
from traitcli.monitoring.thresholds import (
    Threshold,
    Thresholds,
    thresholds_path,
    write_thresholds,
)
from traitcli.vectors.files import find_vectors, read_vector, vector_folder, write_vector
from traitcli.vectors.fingerprint import fingerprint
from traitcli.vectors.labelled import keep_test, path_of_tests
from traitcli.vectors.methods import calibrate


@pytest.fixture
def config(tmp_path):
    return load_config("smollm2-135m", [f"paths.vectors={tmp_path}", f"paths.runs={tmp_path}"])


@pytest.fixture
def shipped(config):
    return find_vectors(config, ["refusal"])["refusal"]


@pytest.fixture
def beside(config):
    """Where results for the shipped vector of refusal are kept."""
    return vector_folder(config) / "refusal.safetensors"


def keep_thresholds(vector, folder, layer=None):
    """One threshold for the mean of 8 tokens and one for the rolling mean; returns the first."""
    layer = vector.layer if layer is None else layer
    points = []
    for value, summary in ((7.0, Summary("mean")), (9.0, Summary("rolling"))):
        points.append(Threshold(summary, 8, 400, 0.01, value, value - 1, value + 1))
    own = fingerprint(vector, "response_avg", layer)
    thresholds = Thresholds("refusal", own, "response_avg", layer, "benign.jsonl", tuple(points))
    write_thresholds(thresholds_path(folder, "refusal"), thresholds)
    return 7.0


def test_the_verdict_of_an_old_file_is_worded_again(shipped, beside):
    vector = read_vector(shipped)
    old = write_vector(
        beside.parent, replace(vector, quality=replace(vector.quality, verdict="weak"))
    )

    known = read_known(old, old, pytest.fail)

    assert read_vector(old).quality.verdict == "weak"
    assert known.vector.quality.verdict == "reads its own texts"
    assert known.thresholds == ()


def test_the_results_that_come_with_a_vector_count(shipped, beside):
    assert read_known(shipped, beside, pytest.fail).vector.quality.verdict == "carries over"


def test_a_report_counts_a_kept_test(config):
    path = find_vectors(config, ["evil"])["evil"]
    vector = read_vector(path)
    own = fingerprint(vector, "response_avg", vector.layer)
    beside = vector_folder(config) / path.name
    keep_test(beside, replace(TEST, layer=vector.layer, fingerprint=own))

    [shown] = gather_report([], config).sets

    verdicts = {row["trait"]: row["verdict"] for row in shown["vectors"]}
    assert verdicts["evil"] == "carries over"
    assert verdicts["uncertainty"] != "carries over"


def test_a_threshold_is_calibrated_as_the_scores_are(shipped, beside):
    vector = read_vector(shipped)
    value = keep_thresholds(vector, beside.parent)

    [row] = read_known(shipped, beside, pytest.fail).thresholds

    calibrated = float(calibrate(value, vector.stats["response_avg"], vector.layer))
    assert (row["fpr"], row["tokens"], row["threshold"]) == (0.01, 8, calibrated)


def test_thresholds_of_another_layer_are_left_out_with_a_warning(shipped, beside):
    vector = read_vector(shipped)
    keep_thresholds(vector, beside.parent, layer=3)
    events = []

    known = read_known(shipped, beside, events.append)

    cause = (
        "they are of response_avg at layer 3, and the monitor reads response_avg at layer "
        f"{vector.layer}"
    )
    assert known.thresholds == ()
    assert events == [Warned("refusal", f"its thresholds are left out: {cause}")]


def test_damaged_thresholds_are_left_out_with_a_warning(shipped, beside):
    path = thresholds_path(beside.parent, "refusal")
    path.parent.mkdir(parents=True)
    path.write_text("{", encoding="utf-8")
    events = []

    known = read_known(shipped, beside, events.append)

    [event] = events
    assert known.thresholds == ()
    assert event.message.startswith("its thresholds are left out: ")


def test_damaged_tests_are_an_error(shipped, beside):
    path = path_of_tests(beside)
    path.parent.mkdir(parents=True)
    path.write_text("{", encoding="utf-8")

    with pytest.raises(VectorError, match="cannot read"):
        read_known(shipped, beside, pytest.fail)
