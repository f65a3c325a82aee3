"""Vector files: everything written is read back, and other files are refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

import traitcli.config
from traitcli.config import Config
from traitcli.errors import VectorError
from traitcli.records import POSITIONS, ClassStats, TraitVector
from traitcli.vector_quality import VectorQuality
from traitcli.vectors.files import (
    VectorHeader,
    find_vectors,
    load_vectors,
    read_header,
    read_vector,
    vector_folder,
    write_vector,
)

LAYERS, HIDDEN = 5, 8
SAME = ", with the same -c and --set"
STATS = ("positive_mean", "negative_mean", "positive_spread", "negative_spread")


QUALITY = VectorQuality(auroc=0.9, auroc_by_layer=(0.5, 0.9), verdict="good")


def make_vector(trait="evil", positions=POSITIONS, with_stats=True):
    rng = np.random.default_rng(len(trait))
    directions = {
        position: rng.normal(size=(LAYERS, HIDDEN)).astype(np.float32) for position in positions
    }
    stats = {
        p: ClassStats(*rng.normal(size=(4, LAYERS)).astype(np.float32))
        for p in positions
        if with_stats
    }
    return TraitVector(
        trait=trait,
        model="tiny-model",
        method="mean_difference",
        layer=3,
        directions=directions,
        stats=stats,
        quality=QUALITY,
        provenance={"run": "Übung", "versions": {"torch": "2"}},
    )


def stored_header(path):
    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["traitcli"])


def make_config(folder):
    return Config.model_validate({"model": {"id": "org/Tiny-Model"}, "paths": {"vectors": folder}})


def fault_in(path):
    with pytest.raises(VectorError) as caught:
        read_vector(path)
    return caught.value


def test_everything_written_is_read_back(tmp_path):
    vector = make_vector()

    read = read_vector(write_vector(tmp_path, vector))

    for name in (
        "trait",
        "model",
        "method",
        "layer",
        "quality",
        "provenance",
        "layer_count",
        "hidden_size",
    ):
        assert getattr(read, name) == getattr(vector, name)
    for position in POSITIONS:
        np.testing.assert_array_equal(
            read.directions[position], vector.directions[position], strict=True
        )
        for name in STATS:
            present, written = (
                getattr(read.stats[position], name),
                getattr(vector.stats[position], name),
            )
            np.testing.assert_array_equal(present, written, strict=True)


def test_a_vector_of_one_position_without_stats_is_read_again(tmp_path):
    read = read_vector(
        write_vector(tmp_path, make_vector(positions=("prompt_last",), with_stats=False))
    )

    assert (list(read.directions), read.stats) == (["prompt_last"], {})


def test_the_header_is_read_without_the_tensors(tmp_path):
    header = read_header(write_vector(tmp_path, make_vector()))

    assert header == VectorHeader(
        trait="evil",
        model="tiny-model",
        method="mean_difference",
        layer=3,
        quality=QUALITY,
        provenance={"run": "Übung", "versions": {"torch": "2"}},
    )


def test_the_stored_header_names_the_layer_after_the_final_norm(tmp_path):
    stored = stored_header(write_vector(tmp_path, make_vector()))

    assert stored["quality"]["auroc_by_layer"] == [0.5, 0.9]
    assert (stored["format"], stored["layer"], stored["final_norm_layer"]) == (1, 3, 4)


def test_a_vector_is_one_safetensors_file_and_one_pt_file_for_each_position(tmp_path):
    path = write_vector(tmp_path / "new" / "folder", make_vector())

    assert path == tmp_path / "new" / "folder" / "evil.safetensors"
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "evil.safetensors",
        "evil_prompt_avg_diff.pt",
        "evil_prompt_last_diff.pt",
        "evil_response_avg_diff.pt",
    ]


@pytest.mark.parametrize("position", POSITIONS)
def test_a_pt_file_is_a_bare_float32_tensor_that_loads_without_pickled_code(tmp_path, position):
    vector = make_vector()
    write_vector(tmp_path, vector)

    tensor = torch.load(tmp_path / f"evil_{position}_diff.pt", weights_only=True)

    assert (type(tensor), tensor.dtype, tensor.shape) == (
        torch.Tensor,
        torch.float32,
        (LAYERS, HIDDEN),
    )
    np.testing.assert_array_equal(tensor.numpy(), vector.directions[position])


def test_a_vector_written_again_replaces_the_first(tmp_path):
    write_vector(tmp_path, make_vector())
    other = make_vector()
    other.directions["response_avg"][0, 0] = 42

    path = write_vector(tmp_path, other)

    assert read_vector(path).directions["response_avg"][0, 0] == 42


def test_a_missing_file_is_reported_as_missing(tmp_path):
    path = tmp_path / "evil.safetensors"

    error = fault_in(path)

    assert (
        str(error)
        == f"error: no vector file {path}\ncause: the file does not exist\nfix:   check the path"
    )


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 4000, b"{}\n" * 100])
def test_random_bytes_are_refused_as_a_vector(tmp_path, content):
    path = tmp_path / "evil.safetensors"
    path.write_bytes(content)

    error = fault_in(path)

    assert (error.problem, error.fix) == (
        f"{path} is not a trait vector",
        "copy it again, or see docs/interop.md for what can be read",
    )


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_vector_is_refused(tmp_path, share):
    path = write_vector(tmp_path, make_vector())
    content = path.read_bytes()

    path.write_bytes(content[: int(len(content) * share)])

    assert fault_in(path).problem == f"{path} is not a trait vector"


def test_a_folder_is_refused_as_a_vector(tmp_path):
    assert fault_in(tmp_path).problem == f"{tmp_path} is not a trait vector"


@pytest.mark.parametrize(
    "metadata", [None, {"format": "pt"}, {"traitcli": "null"}, {"traitcli": "[1]"}]
)
def test_a_foreign_safetensors_file_is_refused_as_a_vector(tmp_path, metadata):
    path = tmp_path / "model.safetensors"
    save_file({"weight": np.zeros(3, np.float32)}, path, metadata)

    error = fault_in(path)

    assert (error.problem, error.cause) == (
        f"{path} is not a vector of traitcli",
        "another program wrote it, without the data that traitcli adds",
    )


def test_every_bad_file_of_a_folder_is_reported_at_once(tmp_path):
    write_vector(tmp_path, make_vector("evil"))
    for name in ("bad", "worse"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"garbage")

    with pytest.raises(VectorError) as caught:
        load_vectors(tmp_path)

    assert caught.value.problem == "2 of 3 vector files cannot be read"
    assert [line.split(" is ")[0] for line in caught.value.cause.splitlines()] == [
        f"{tmp_path}/bad.safetensors",
        f"{tmp_path}/worse.safetensors",
    ]


def test_a_header_without_json_is_refused(tmp_path):
    path = tmp_path / "evil.safetensors"
    save_file({"response_avg": np.zeros((2, 2), np.float32)}, path, {"traitcli": "{"})

    assert fault_in(path).problem == f"{path} is not a trait vector"


@pytest.mark.parametrize("header", ['{"format": 2}', '{"format": 1, "trait": "evil"}', "{}"])
def test_another_format_is_refused(tmp_path, header):
    path = tmp_path / "evil.safetensors"
    save_file({"response_avg": np.zeros((2, 2), np.float32)}, path, {"traitcli": header})

    error = fault_in(path)

    assert (error.problem, error.cause) == (f"{path} has another format", "expected format 1")


def test_a_vector_without_a_direction_is_refused(tmp_path):
    path = tmp_path / "evil.safetensors"
    header = stored_header(write_vector(tmp_path / "whole", make_vector()))
    save_file({"elsewhere": np.zeros((2, 2), np.float32)}, path, {"traitcli": json.dumps(header)})

    error = fault_in(path)

    assert (error.problem, error.cause) == (
        f"{path} holds no direction",
        "none of response_avg, prompt_avg, prompt_last",
    )


def write_native(path, tensors=None, **header):
    """One of our files with some entries and tensors replaced; None removes a tensor."""
    entries = {
        "format": 1,
        "trait": "evil",
        "model": "tiny",
        "method": "mean",
        "layer": 1,
        "quality": {},
        "provenance": {},
    }
    whole = {"response_avg": np.ones((LAYERS, HIDDEN), np.float32)} | (tensors or {})
    present = {name: tensor for name, tensor in whole.items() if tensor is not None}
    save_file(present, path, {"traitcli": json.dumps(entries | header)})
    return path


@pytest.mark.parametrize(
    ("header", "cause"),
    [
        ({"layer": "16"}, "its layer is '16', not of type int"),
        ({"layer": 1.5}, "its layer is '1.5', not of type int"),
        ({"layer": True}, "its layer is 'True', not of type int"),
        ({"layer": LAYERS}, f"its layer is {LAYERS}, its layers are 0 to {LAYERS - 1}"),
        ({"layer": -1}, f"its layer is -1, its layers are 0 to {LAYERS - 1}"),
        ({"quality": []}, "its quality is '[]', not of type dict"),
        ({"provenance": None}, "its provenance is 'None', not of type dict"),
        ({"model": 7}, "its model is '7', not of type str"),
        ({"trait": "../evil"}, "its trait is '../evil', which cannot name a file"),
        ({"trait": ""}, "its trait is '', which cannot name a file"),
    ],
)
def test_a_header_that_makes_no_sense_is_refused(tmp_path, header, cause):
    error = fault_in(write_native(tmp_path / "evil.safetensors", **header))

    assert error.cause == cause


@pytest.mark.parametrize(
    ("tensors", "cause"),
    [
        ({"response_avg": np.ones((5, 8))}, "response_avg is F64 [5, 8], not F32 [5, 8]"),
        ({"response_avg": np.ones((5, 8), np.int32)}, "response_avg is I32 [5, 8], not F32 [5, 8]"),
        ({"response_avg": np.ones(8, np.float32)}, "response_avg is [8], not [L+1, H]"),
        ({"response_avg": np.ones((1, 8), np.float32)}, "response_avg is [1, 8], not [L+1, H]"),
        ({"response_avg": np.ones((5, 0), np.float32)}, "response_avg is [5, 0], not [L+1, H]"),
        ({"prompt_avg": np.ones((6, 8), np.float32)}, "prompt_avg is F32 [6, 8], not F32 [5, 8]"),
        (
            {"response_avg.positive_mean": np.ones(5, np.float32)},
            "it lacks response_avg.negative_mean",
        ),
        (
            {"response_avg": np.full((5, 8), np.nan, np.float32)},
            "response_avg holds NaN or infinity, first at layer 0",
        ),
        (
            {f"response_avg.{name}": np.ones(4, np.float32) for name in STATS},
            "positive_mean is F32 [4], not F32 [5]",
        ),
        (
            {f"response_avg.{name}": np.full(5, np.inf, np.float32) for name in STATS},
            "response_avg.positive_mean holds NaN or infinity, first at layer 0",
        ),
    ],
)
def test_tensors_without_the_shape_of_a_vector_are_refused(tmp_path, tensors, cause):
    error = fault_in(write_native(tmp_path / "evil.safetensors", tensors))

    assert error.problem == f"{tmp_path}/evil.safetensors is not a trait vector"
    assert error.cause.endswith(cause)


def test_unrelated_tensors_are_ignored(tmp_path):
    path = write_native(tmp_path / "evil.safetensors", {"notes": np.ones((2, 3, 4), np.int8)})

    assert list(read_vector(path).directions) == ["response_avg"]


def test_vectors_are_in_a_folder_of_their_model(tmp_path):
    assert vector_folder(make_config(tmp_path)) == tmp_path / "tiny-model"


def test_every_vector_of_the_model_is_found_by_its_trait(tmp_path):
    config = make_config(tmp_path)
    paths = {
        trait: write_vector(vector_folder(config), make_vector(trait))
        for trait in ("refusal", "evil")
    }
    write_vector(tmp_path / "another-model", make_vector("verbosity"))

    assert find_vectors(config) == {"evil": paths["evil"], "refusal": paths["refusal"]}


def test_named_vectors_are_in_the_requested_order(tmp_path):
    config = make_config(tmp_path)
    for trait in ("evil", "refusal", "verbosity"):
        write_vector(vector_folder(config), make_vector(trait))

    assert list(find_vectors(config, ["verbosity", "evil"])) == ["verbosity", "evil"]


@pytest.mark.parametrize(
    ("asked", "missing", "command"),
    [
        (["evil", "kind"], "kind", "build with: traitcli extract kind{}"),
        (["kind", "evil", "rude"], "kind, rude", "build with: traitcli extract kind rude{}"),
    ],
)
def test_missing_vectors_are_named_with_the_command_that_makes_them(
    tmp_path, asked, missing, command
):
    config = make_config(tmp_path)
    write_vector(vector_folder(config), make_vector("evil"))

    with pytest.raises(VectorError) as caught:
        find_vectors(config, asked)

    assert str(caught.value) == (
        f"error: no vector of {missing} for tiny-model\n"
        f"cause: looked in {tmp_path}/tiny-model; found: evil\n"
        f"fix:   {command.format(SAME)}"
    )


def test_a_misspelled_trait_gets_a_suggestion_before_the_advice_to_build_it(tmp_path):
    config = make_config(tmp_path)
    write_vector(vector_folder(config), make_vector("evil"))

    with pytest.raises(VectorError) as caught:
        find_vectors(config, ["evl"])

    assert caught.value.fix == "did you mean evil?"


def test_without_any_vector_the_error_explains_how_to_build_one(tmp_path):
    with pytest.raises(VectorError) as caught:
        find_vectors(make_config(tmp_path))

    assert str(caught.value) == (
        "error: no vector of any trait for tiny-model\n"
        f"cause: looked in {tmp_path}/tiny-model\n"
        "fix:   build with: traitcli extract" + SAME
    )


def test_own_vectors_win_over_the_shipped_ones(tmp_path):
    installed = tmp_path / "site" / "traitcli"
    shutil.copytree(
        Path(traitcli.config.__file__).parent,
        installed,
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    write_vector(installed / "shipped" / "vectors" / "tiny-model", make_vector("evil"))
    write_vector(installed / "shipped" / "vectors" / "tiny-model", make_vector("refusal"))
    write_vector(tmp_path / "mine" / "tiny-model", make_vector("evil"))
    script = (
        "from traitcli.config import Config\n"
        "from traitcli.vectors.files import find_vectors\n"
        "fields = {'model': {'id': 'org/tiny-model'}, 'paths': {'vectors': 'mine'}}\n"
        "config = Config.model_validate(fields)\n"
        "print(*find_vectors(config).values())\n"
    )

    found = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    shipped = installed / "shipped" / "vectors" / "tiny-model" / "refusal.safetensors"
    assert found == f"mine/tiny-model/evil.safetensors {shipped}\n"
