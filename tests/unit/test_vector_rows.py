"""Rows of vectors with the results on labelled answers that were kept for them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.test_verdict import TEST
from traitcli.config import load_config
from traitcli.errors import VectorError
from traitcli.inspection.vector_rows import vector_rows
from traitcli.vectors.files import find_vectors, read_vector, vector_folder
from traitcli.vectors.fingerprint import fingerprint
from traitcli.vectors.labelled import keep_test, path_of_tests, read_tests


@pytest.fixture
def config(tmp_path):
    return load_config("smollm2-135m", [f"paths.vectors={tmp_path}"])


def kept_for(config, **changed):
    """A result on a shipped vector without results, kept where `inspect labels` keeps it."""
    vector = read_vector(find_vectors(config, ["evil"])["evil"])
    own = fingerprint(vector, "response_avg", vector.layer)
    test = replace(TEST, layer=vector.layer, fingerprint=own, **changed)
    return keep_test(vector_folder(config) / "evil.safetensors", test)


def test_a_result_on_a_shipped_vector_counts(config):
    kept_for(config)

    [row] = vector_rows(config, ["evil"])

    assert (row["verdict"], row["outdated_tests"]) == ("carries over", [])
    assert row["verdict_reason"].startswith("xstest: AUROC 0.92")
    assert [test["name"] for test in row["labelled_tests"]] == ["xstest"]


def test_a_result_of_another_layer_is_named_and_does_not_count(config):
    [before] = vector_rows(config, ["evil"])
    vector = read_vector(find_vectors(config, ["evil"])["evil"])
    other = fingerprint(vector, "response_avg", vector.layer - 1)
    test = replace(TEST, layer=vector.layer, fingerprint=other)
    keep_test(vector_folder(config) / "evil.safetensors", test)

    [row] = vector_rows(config, ["evil"])

    assert row["verdict"] != "carries over"
    assert row == before | {"outdated_tests": ["xstest"]}


def test_a_result_replaces_the_one_of_its_name(config):
    path = kept_for(config)
    kept_for(config, name="other")
    kept_for(config, auroc=0.8)

    tests = read_tests(vector_folder(config) / "evil.safetensors")

    assert path == path_of_tests(vector_folder(config) / "evil.safetensors")
    assert [(test.name, test.auroc) for test in tests] == [("other", 0.92), ("xstest", 0.8)]


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"format": 2}', '{"format": 1, "tests": [{"name": 3}]}', '{"format": 1}'],
)
def test_a_damaged_file_of_results_is_an_error_that_names_it(config, content):
    kept_for(config).write_text(content)

    with pytest.raises(VectorError, match=r"cannot read .*evil\.labels\.json"):
        vector_rows(config, ["evil"])


def test_results_that_ship_count_until_yours_replace_them(config):
    """Whoever measures a shipped vector again, under the same name, knows better."""
    [shipped] = vector_rows(config, ["refusal"])
    vector = read_vector(find_vectors(config, ["refusal"])["refusal"])
    own = fingerprint(vector, "response_avg", vector.layer)
    worse = replace(TEST, layer=vector.layer, fingerprint=own, low=0.3, high=0.4)
    keep_test(vector_folder(config) / "refusal.safetensors", worse)

    [row] = vector_rows(config, ["refusal"])

    names = [test["name"] for test in shipped["labelled_tests"]]
    assert shipped["verdict"] == "carries over"
    assert [test["name"] for test in row["labelled_tests"]] == names
    assert row["verdict_reason"].startswith(f"does not carry over to {TEST.name}")
