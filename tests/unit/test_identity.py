"""Models whose ids end alike: their vectors are told apart, and none replaces another's."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from traitcli.config import Config, ModelConfig
from traitcli.errors import VectorError
from traitcli.files import is_left_over, list_files
from traitcli.generation.projections import make_probes
from traitcli.models.identity import fingerprint_weights, other_model_notes
from traitcli.models.load import load_model
from traitcli.records import TraitVector
from traitcli.traits.definitions import find_traits
from traitcli.vectors.files import load_vectors, write_vector
from traitcli.vectors.formats.read_any import read_any
from traitcli.vectors.ownership import check_owner, owner_notes


@pytest.fixture(scope="module")
def runs(model_folders, tmp_path_factory):
    """Two fine-tunes whose folders end alike, with opposite weights."""
    from transformers import AutoModelForCausalLM

    made = tmp_path_factory.mktemp("runs")
    for run, scale in (("runA", 1.0), ("runB", -1.0)):
        folder = made / run / "checkpoint-500"
        shutil.copytree(model_folders["llama"], folder)
        model = AutoModelForCausalLM.from_pretrained(folder)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(scale)
        model.save_pretrained(folder)
    return made


def opened(folder, **more):
    return load_model(ModelConfig(id=str(folder), device="cpu", **more))


def vector_of(loaded, **identity) -> TraitVector:
    numbers = np.ones((loaded.layer_count, loaded.hidden_size), np.float32)
    built = {"id": loaded.id, "fingerprint": loaded.fingerprint} | identity
    return TraitVector(
        "evil", loaded.name, "mean_difference", 2, {"response_avg": numbers}, {},
        provenance={"model_identity": built},
    )  # fmt: skip


def test_a_fingerprint_tells_fine_tunes_apart_and_not_dtypes(runs):
    first, second = (opened(runs / run / "checkpoint-500") for run in ("runA", "runB"))
    again = opened(runs / "runA" / "checkpoint-500", dtype="bfloat16")

    assert (first.name, len(first.fingerprint)) == (second.name, 12)
    assert first.fingerprint == again.fingerprint != second.fingerprint
    assert first.id == str(runs / "runA" / "checkpoint-500")


def test_a_change_in_one_block_changes_the_fingerprint(model_folders):
    loaded = opened(model_folders["llama"])
    before = fingerprint_weights(loaded.model)
    loaded.model.model.layers[2].mlp.down_proj.weight[0, 0] += 1

    assert fingerprint_weights(loaded.model) != before


def test_vectors_of_another_model_are_noted_with_both_names(runs):
    first, second = (opened(runs / run / "checkpoint-500") for run in ("runA", "runB"))
    own, other = vector_of(first), replace(vector_of(second), trait="refusal")

    [note] = other_model_notes([own, other], first)

    assert note == (
        f"the vectors of refusal were built from {second.id} (weights {second.fingerprint}), "
        f"not from {first.id} (weights {first.fingerprint}): their scores may not carry over"
    )
    assert other_model_notes([own], first) == []


def test_without_a_fingerprint_the_ids_tell_and_without_an_identity_nothing_does(runs):
    loaded = opened(runs / "runA" / "checkpoint-500")

    assert other_model_notes([vector_of(loaded, fingerprint="")], loaded) == []
    [note] = other_model_notes([vector_of(loaded, fingerprint="", id="org/other")], loaded)
    assert note.startswith("the vectors of evil were built from org/other, not from ")
    assert other_model_notes([replace(vector_of(loaded), provenance={})], loaded) == []


def config_of(folder, vectors, **model) -> Config:
    return Config.model_validate(
        {"model": {"id": str(folder), **model}, "paths": {"vectors": str(vectors)}}
    )


def test_a_vector_of_another_model_is_not_replaced(runs, tmp_path):
    first, second = (runs / run / "checkpoint-500" for run in ("runA", "runB"))
    write_vector(tmp_path / "checkpoint-500", vector_of(opened(first)))

    check_owner(config_of(first, tmp_path), ["evil", "refusal"])
    with pytest.raises(VectorError) as error:
        check_owner(config_of(second, tmp_path), ["refusal", "evil"])

    assert error.value.problem == (
        f"{tmp_path}/checkpoint-500/evil.safetensors belongs to another model"
    )
    assert error.value.cause == f"it was built from {first}, not from {second}"
    assert error.value.fix.startswith(f"--set paths.vectors={tmp_path}/")
    check_owner(config_of(second, tmp_path / "other"), ["evil"])


def test_a_vector_of_another_model_in_the_folder_of_ones_own_has_a_note(runs, tmp_path):
    first, second = (runs / run / "checkpoint-500" for run in ("runA", "runB"))
    path = write_vector(tmp_path / "checkpoint-500", vector_of(opened(first)))

    assert owner_notes(config_of(first, tmp_path), [path]) == []
    [note] = owner_notes(config_of(second, tmp_path), [path])

    assert note == f"{path} was built from {first}, not from {second}"
    # A file that the user names may be of any model.
    assert owner_notes(config_of(second, tmp_path / "other"), [path]) == []


def test_vectors_that_do_not_say_their_model_may_be_replaced(runs, tmp_path):
    loaded = opened(runs / "runA" / "checkpoint-500")
    write_vector(tmp_path / "checkpoint-500", replace(vector_of(loaded), provenance={}))

    check_owner(config_of(runs / "runB" / "checkpoint-500", tmp_path), ["evil"])


def test_another_revision_is_another_model(tmp_path):
    vector = TraitVector(
        "evil", "m", "mean_difference", 1, {"response_avg": np.ones((3, 4), np.float32)}, {},
        provenance={"run_settings": {"model.id": "org/m", "model.revision": "v1"}},
    )  # fmt: skip
    write_vector(tmp_path / "m", vector)

    check_owner(config_of("org/m", tmp_path, revision="v1"), ["evil"])
    with pytest.raises(VectorError) as error:
        check_owner(config_of("org/m", tmp_path, revision="v2"), ["evil"])
    assert error.value.cause == "it was built from org/m at v1, not from org/m at v2"


# Vectors that lack layers


def test_a_vector_of_some_layers_is_read_with_the_models_number(loaded, tmp_path):
    model, path = loaded("llama"), tmp_path / "evil.pt"
    torch.save({1: torch.ones(32)}, path)

    assert read_any(path).layer_count == 3
    vector = read_any(path, model.layer_count)

    assert vector.layer_count == 5
    probes = make_probes([vector], model, "response_avg")
    assert probes["evil"].layer == 2
    with pytest.raises(VectorError) as error:
        make_probes([vector], model, "response_avg", 3)
    assert (error.value.problem, error.value.cause, error.value.fix) == (
        "the vector of evil has no layer 3",
        "its file has layers 2",
        "layer 2, or another of these",
    )


def test_a_file_with_more_layers_than_the_model_is_refused(tmp_path):
    path = tmp_path / "evil.pt"
    torch.save({9: torch.ones(32)}, path)

    with pytest.raises(VectorError, match="is not a trait vector"):
        read_any(path, 5)


@pytest.mark.parametrize("shape", [(32,), (1, 32)])
def test_a_single_direction_gets_the_layer_that_the_user_names(tmp_path, shape):
    path = tmp_path / "direction.pt"
    torch.save(torch.ones(shape), path)

    with pytest.raises(VectorError) as error:
        read_any(path, 5)
    vector = read_any(path, 5, 3)

    assert error.value.fix.startswith("name the layer when you monitor: --layer K; ")
    assert (vector.layer, vector.layer_count, vector.quality.layers_provided) == (3, 5, (3,))


# Files that are left over


@pytest.mark.parametrize(
    "name",
    ["._mine.yaml", ".#mine.yaml", "#mine.yaml#", "mine.yaml~", ".mine.yaml.swp", "~$x.yaml"],
)
def test_files_of_editors_and_archives_are_passed_over(tmp_path, name):
    (tmp_path / name).write_bytes(b"\0\x05\x16\x07")
    (tmp_path / "mine.yaml").write_text("x", encoding="utf-8")

    assert is_left_over(name)
    assert list_files(tmp_path, "*.yaml", "*") == [tmp_path / "mine.yaml"]
    assert "mine" in find_traits(tmp_path)
    assert not any(found.startswith((".", "#", "~")) for found in find_traits(tmp_path))


def test_hidden_vectors_are_passed_over(loaded, tmp_path):
    write_vector(tmp_path, vector_of(loaded("llama")))
    (tmp_path / "._evil.safetensors").write_bytes(b"\0\x05\x16\x07")

    assert list(load_vectors(tmp_path)) == ["evil"]


def test_no_other_code_lists_a_users_folder():
    import traitcli

    allowed = {
        "files.py": "list_files itself",
        "models/gguf.py": "a package's own files, and the files of a conversion",
        "models/load_faults.py": "looks for pointers of git-lfs",
    }
    package = __import__("pathlib").Path(traitcli.__file__).parent
    found = set()
    for path in package.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if ".glob(" in text or ".iterdir(" in text or ".rglob(" in text:
            found.add(path.relative_to(package).as_posix())
    assert found == set(allowed)
