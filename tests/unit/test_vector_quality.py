"""The quality record of a vector: the contents of files under current and old keys."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from traitcli.files import parse_json
from traitcli.vector_quality import SCALARS, VectorQuality
from traitcli.vectors.files import read_vector

SHIPPED = sorted(Path(__file__).parents[2].glob("vectors/*/*.safetensors"))
OLD_HEADER = Path(__file__).with_name("old_vector_header.json")
"""The header of a vector that shipped with an earlier version."""
OLD_KEYS = {
    "rows": "layer_count",
    "magnitude_rows": "magnitude_by_layer",
    "activation_rows": "activation_norm_by_layer",
    "massive_rows": "massive_share_by_layer",
    "auroc_pairs": "auroc_by_pair",
    "auroc_rows": "auroc_by_layer",
    "auroc_error_rows": "auroc_error_by_layer",
    "d_rows": "d_by_layer",
    "words_auroc": "embedding_layer_auroc",
    "words_do_as_well": "embedding_layer_does_as_well",
}


OLD_CHOICE = (
    "auto: the earliest row in 25–75 % of depth within one standard error of the best "
    "left-out-pair AUROC, on extraction rollouts"
)
PRESENT_CHOICE = (
    "auto: the earliest layer in 25–75 % of depth within one standard error of the best "
    "held-out-pair AUROC, on extraction rollouts"
)


def as_stored(path):
    with safe_open(path, framework="numpy") as file:
        return parse_json(file.metadata()["traitcli"])["quality"]


def as_read(path):
    """The record that is read from a file, with lists as JSON has them."""
    read = asdict(read_vector(path).quality)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in read.items()}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_vector_is_read_as_it_is_stored_and_has_every_measurement(path):
    stored = as_stored(path)

    read = as_read(path)

    assert {key: read[key] for key in stored} == stored
    # Only a vector of another tool lacks layers.
    assert {key for key, value in read.items() if value is None} == {"layers_provided"}


def test_every_number_of_a_vector_of_an_earlier_version_is_read(tmp_path):
    header = OLD_HEADER.read_text(encoding="utf-8")
    stored = parse_json(header)["quality"]
    assert stored.keys() >= OLD_KEYS.keys()
    assert stored["layer_choice"] == OLD_CHOICE
    path = tmp_path / "refusal.safetensors"
    direction = np.ones((stored["rows"], stored["hidden_size"]), np.float32)
    save_file({"response_avg": direction}, path, {"traitcli": header})

    read = as_read(path)

    for key, value in (stored | {"layer_choice": PRESENT_CHOICE}).items():
        assert read[OLD_KEYS.get(key, key)] == value
    missing = {key for key, value in read.items() if value is None}
    neutral = {key for key in read if key.startswith("neutral_")}
    assert missing == neutral | {"layers_provided", "context", "to_raise"}


def test_the_vectors_that_ship_are_tested():
    assert len(SHIPPED) >= 8


def test_the_provided_layers_of_an_old_export_are_read():
    assert VectorQuality.parse({"rows_given": [2, 3]}).layers_provided == (2, 3)


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        (OLD_CHOICE, PRESENT_CHOICE),
        ("told by the file", "set by the file"),
        ("the middle row that is given", "the middle one of the layers provided"),
        ("set", "set"),
    ],
)
def test_an_old_reason_for_the_layer_is_read_in_present_words(stored, shown):
    assert VectorQuality.parse({"layer_choice": stored}).layer_choice == shown


def test_a_record_is_read_again_as_it_was_written():
    quality = VectorQuality(
        auroc=0.9,
        auroc_by_layer=(0.5, None),
        doubts=("a", "b"),
        judge_trusted=False,
        verdict="weak",
    )

    assert VectorQuality.parse(asdict(quality)) == quality


def test_a_key_that_is_not_known_is_ignored():
    assert VectorQuality.parse({"auroc": 0.9, "later": {"deep": [1]}}) == VectorQuality(auroc=0.9)


@pytest.mark.parametrize(
    ("stored", "fault"),
    [
        ({"auroc": "0.9"}, "quality.auroc is '0.9': expected a number"),
        ({"contrast": float("nan")}, "quality.contrast is nan: expected a finite number"),
        ({"contrast": float("inf")}, "quality.contrast is inf: expected a finite number"),
        ({"auroc": [1.0]}, "quality.auroc is [1.0]: expected a number"),
        ({"d": True}, "quality.d is True: expected a number"),
        (
            {"magnitude": 1e15},
            "quality.magnitude is 1000000000000000.0: expected a number below 1e+15",
        ),
        ({"magnitude": 10**400}, f"quality.magnitude is {10**400!r:.80}: expected a"),
        ({"rows": 5.5}, "quality.layer_count is 5.5: expected a whole number"),
        (
            {"auroc_rows": [1, "x"]},
            "quality.auroc_by_layer.1 is 'x': expected a number",
        ),
        ({"d_by_layer": 0.5}, "quality.d_by_layer is 0.5: expected a list"),
        ({"doubts": "length"}, "quality.doubts is 'length': expected a list"),
        ({"verdict": 3}, "quality.verdict is 3: expected a string"),
        (
            {"words_do_as_well": 1},
            "quality.embedding_layer_does_as_well is 1: expected true or false",
        ),
    ],
)
def test_a_quality_value_of_the_wrong_type_is_refused_in_one_line(stored, fault):
    with pytest.raises(ValueError, match=r"^quality\.") as caught:
        VectorQuality.parse(stored)

    assert str(caught.value).startswith(fault)
    assert "\n" not in str(caught.value)


def test_the_scalar_columns_are_the_fields_without_lists():
    lists = {"layers_provided", "doubts", "auroc_by_pair"}
    lists |= {each.name for each in fields(VectorQuality) if each.name.endswith("_by_layer")}

    assert set(SCALARS) == {each.name for each in fields(VectorQuality)} - lists
