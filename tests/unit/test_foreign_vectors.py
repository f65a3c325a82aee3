"""Vectors of other tools: imports get the right layers, and exports get the right blocks."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from traitcli.errors import VectorError
from traitcli.models.hooks import find_blocks
from traitcli.models.steerer import ActivationSteerer
from traitcli.records import POSITIONS, ClassStats, TraitVector
from traitcli.vectors.files import write_vector
from traitcli.vectors.formats.export import export_vector
from traitcli.vectors.formats.gguf_files import write_control_vector
from traitcli.vectors.formats.layers import from_layer_directions, middle_of, to_layer_directions
from traitcli.vectors.formats.read_any import read_any

LAYERS, HIDDEN = 5, 32
IDS = [[5, 90, 17, 250, 33, 8]]


def make_matrix(layer_count=LAYERS, hidden=HIDDEN, seed=0):
    return np.random.default_rng(seed).normal(size=(layer_count, hidden)).astype(np.float32)


def make_vector(**changes):
    directions = {position: make_matrix(seed=seed) for seed, position in enumerate(POSITIONS)}
    stats = {position: ClassStats(*make_matrix(4, LAYERS)) for position in POSITIONS}
    defaults = {"trait": "evil", "model": "tiny", "method": "mean_difference", "layer": 3}
    return TraitVector(**{**defaults, "directions": directions, "stats": stats, **changes})


def save_gguf(path, tensors, **fields):
    writer = GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", fields.get("hint", "llama"))
    writer.add_uint32("controlvector.layer_count", len(tensors))
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def fault_in(path, **options):
    with pytest.raises(VectorError) as caught:
        read_any(path, **options)
    return caught.value


# Import


def test_our_own_file_is_read_back_with_its_class_means(tmp_path):
    vector = make_vector()

    read = read_any(write_vector(tmp_path, vector))

    assert (read.trait, read.model, read.method, read.layer) == (
        "evil",
        "tiny",
        "mean_difference",
        3,
    )
    assert list(read.stats) == list(POSITIONS)


@pytest.mark.parametrize("position", POSITIONS)
def test_the_name_of_a_persona_vectors_file_gives_trait_and_position(tmp_path, position):
    matrix = make_matrix()
    torch.save(torch.from_numpy(matrix), path := tmp_path / f"very_evil_{position}_diff.pt")

    read = read_any(path)

    assert (read.trait, read.model, read.method, read.stats) == (
        "very_evil",
        "unknown",
        "unknown",
        {},
    )
    np.testing.assert_array_equal(read.directions[position], matrix, strict=True)
    assert (list(read.directions), read.quality.layers_provided) == ([position], (0, 1, 2, 3, 4))


def test_a_bare_tensor_under_another_name_is_of_the_answer(tmp_path):
    torch.save(torch.from_numpy(make_matrix()), path := tmp_path / "grumpy.pth")

    read = read_any(path)

    assert (read.trait, list(read.directions)) == ("grumpy", ["response_avg"])
    assert read.provenance == {"format": "torch, all layers", "file": "grumpy.pth"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_any_size_become_float32(tmp_path, dtype):
    tensor = torch.from_numpy(make_matrix()).to(dtype)
    torch.save(tensor, path := tmp_path / "evil.pt")
    save_torch_file({"v": tensor}, other := tmp_path / "evil.safetensors")

    for read in (read_any(path), read_any(other)):
        np.testing.assert_array_equal(
            read.directions["response_avg"], tensor.to(torch.float32).numpy(), strict=True
        )


def test_a_part_of_a_larger_tensor_and_a_parameter_are_read(tmp_path):
    whole = torch.from_numpy(make_matrix(2 * LAYERS))
    torch.save(torch.nn.Parameter(whole[LAYERS:].T.contiguous().T), path := tmp_path / "evil.pt")

    np.testing.assert_array_equal(read_any(path).directions["response_avg"], whole[LAYERS:].numpy())


@pytest.mark.parametrize(
    "names",
    [
        {1: 1, 3: 3},
        {"1": 1, "3": 3},
        {"layer_1": 1, "layers.3": 3},
        {"blocks.1": 1, "direction.3": 3},
    ],
)
def test_a_number_counts_blocks_from_0_and_block_k_is_layer_k_plus_1(tmp_path, names):
    matrix = make_matrix()
    torch.save(
        {name: torch.from_numpy(matrix[block]) for name, block in names.items()},
        path := tmp_path / "evil.pt",
    )

    read = read_any(path, layer_count=8)

    expected = np.zeros((8, HIDDEN), np.float32)
    expected[[2, 4]] = matrix[[1, 3]]
    np.testing.assert_array_equal(read.directions["response_avg"], expected, strict=True)
    assert read.quality.layers_provided == (2, 4)


def test_a_number_after_row_or_hidden_states_is_read_as_a_layer(tmp_path):
    matrix = make_matrix(2)
    save_file(
        {"row_3": matrix[0], "hidden_states.4": matrix[1]}, path := tmp_path / "evil.safetensors"
    )

    read = read_any(path)

    np.testing.assert_array_equal(read.directions["response_avg"][3:], matrix)
    assert (read.layer_count, read.quality.layers_provided) == (5, (3, 4))


def test_tensors_by_layer_in_safetensors_are_read(tmp_path):
    matrix = make_matrix(4)
    save_file(
        {f"layers.{block}": matrix[block] for block in range(4)},
        path := tmp_path / "evil.safetensors",
    )

    np.testing.assert_array_equal(read_any(path).directions["response_avg"][1:], matrix)


def test_a_steering_vector_saved_as_a_dict_is_read_if_it_is_of_whole_blocks(tmp_path):
    layers = {2: torch.ones(HIDDEN)}
    torch.save(
        {"layer_activations": layers, "layer_type": "decoder_block"}, good := tmp_path / "good.pt"
    )
    torch.save({"layer_activations": layers, "layer_type": "mlp"}, bad := tmp_path / "bad.pt")

    assert read_any(good).quality.layers_provided == (3,)
    assert fault_in(bad).cause == "it steers 'mlp'"


def test_a_control_vector_of_llama_cpp_is_read(tmp_path):
    matrix = make_matrix(3)
    path = save_gguf(
        tmp_path / "evil.gguf", {f"direction.{block}": matrix[block - 1] for block in (1, 2, 3)}
    )

    read = read_any(path)

    np.testing.assert_array_equal(read.directions["response_avg"][2:], matrix)
    assert (read.layer_count, read.quality.layers_provided, read.trait) == (5, (2, 3, 4), "evil")
    assert read.provenance == {
        "format": "gguf control vector",
        "file": "evil.gguf",
        "model_hint": "llama",
        "layer_count_unknown": True,
    }


@pytest.mark.parametrize(
    ("provided", "layer_count", "layer"),
    [(range(31), 31, 15), ([1, 2, 16, 17, 29], 31, 17), ([1, 2], 31, 2), ([0, 1], 2, 1)],
)
def test_the_layer_read_is_the_middle_one_provided_in_the_middle_half(provided, layer_count, layer):
    assert middle_of(provided, layer_count) == layer


@pytest.mark.parametrize(
    ("content", "cause", "fix"),
    [
        (torch.ones(8), "it does not say for which layer", "{15: tensor}"),
        (torch.ones(2, 3, 4), "its tensor is [2, 3, 4]", "[L+1, H]"),
        (torch.ones(4, 8, dtype=torch.int64), "does not hold floats", "torch.save"),
        (torch.full((4, 8), torch.nan), "NaN", "rebuild it"),
        (torch.full((4, 8), 1e300, dtype=torch.float64), "float32 cannot hold", "rebuild it"),
        (torch.zeros(4, 8), "all its directions are zero", "rebuild it"),
        (torch.ones(1, 8), "one direction of 8 numbers", "--layer K"),
        ([torch.ones(8)], "it holds a list", "torch.save"),
        ({}, "it holds no direction", "docs/interop.md"),
        ({-1: torch.ones(8)}, "'-1' does not say which layer it is", "{15: tensor}"),
        ({"q_proj": torch.ones(8)}, "'q_proj' does not say which layer it is", "{15: tensor}"),
        ({1: torch.ones(8), 2: torch.ones(9)}, "its directions are [8] and [9]", "hidden size"),
        (
            {1: torch.ones(8), "row_2": torch.ones(8)},
            "two tensors belong to layer 2",
            "{15: tensor}",
        ),
        ({1: "ones"}, "'1' holds a str, not a tensor", "{15: tensor}"),
    ],
)
def test_content_that_is_not_a_vector_is_refused_with_what_is_missing(
    tmp_path, content, cause, fix
):
    torch.save(content, path := tmp_path / "evil.pt")

    error = fault_in(path)

    assert error.problem == f"{path} is not a trait vector"
    assert cause in error.cause
    assert fix in error.fix


@pytest.mark.parametrize(
    ("tensors", "cause"),
    [
        ({"direction.1": np.ones((2, 8), np.float32)}, "direction.1 has 2 dimensions"),
        ({"direction.1": np.ones(8, np.float16)}, "direction.1 is of GGML type 1"),
        ({"direction.x": np.ones(8, np.float32)}, "'direction.x'"),
        ({"blk.0.weight": np.ones(8, np.float32)}, "'blk.0.weight'"),
        (
            {"direction.1": np.ones(8, np.float32), "direction.2": np.ones(9, np.float32)},
            "[8] and [9]",
        ),
        ({"direction.1": np.full(8, np.inf, np.float32)}, "infinity"),
        ({}, "no direction"),
    ],
)
def test_a_gguf_file_that_llama_cpp_cannot_load_is_refused(tmp_path, tensors, cause):
    assert cause in fault_in(save_gguf(tmp_path / "evil.gguf", tensors)).cause


def test_a_gguf_model_is_refused_as_a_control_vector(tmp_path):
    writer = GGUFWriter(path := tmp_path / "model.gguf", "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()

    assert fault_in(path).cause == "its architecture is 'llama', not 'controlvector'"


def test_layers_that_do_not_fit_the_model_are_refused(tmp_path):
    torch.save(torch.from_numpy(make_matrix()), all_layers := tmp_path / "evil.pt")
    torch.save({7: torch.ones(8)}, by_layer := tmp_path / "grumpy.pt")

    assert fault_in(all_layers, layer_count=6).cause == "it has 5 layers, not 6"
    assert (
        fault_in(by_layer, layer_count=8).cause == "it provides layer 8, but layers go from 0 to 7"
    )


# Export


def test_safetensors_is_the_file_itself(tmp_path):
    vector = make_vector()
    native = write_vector(tmp_path / "native", vector)

    paths = export_vector(vector, "response_avg", "safetensors", tmp_path / "out")

    assert paths == [tmp_path / "out" / "evil.safetensors"]
    assert paths[0].read_bytes() == native.read_bytes()


def test_pt_is_every_position_as_in_persona_vectors(tmp_path):
    vector = make_vector()

    paths = export_vector(vector, "prompt_avg", "pt", tmp_path)

    assert [path.name for path in paths] == [f"evil_{position}_diff.pt" for position in POSITIONS]
    for path, position in zip(paths, POSITIONS, strict=True):
        tensor = torch.load(path, weights_only=True)
        np.testing.assert_array_equal(tensor.numpy(), vector.directions[position], strict=True)


def test_a_control_vector_contains_layers_2_to_l_minus_1(
    tmp_path,
):
    vector = make_vector()

    (path,) = export_vector(vector, "prompt_last", "gguf", tmp_path, model_hint="llama")

    reader = GGUFReader(path)
    by_name = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    assert path.name == "evil_prompt_last.gguf"
    assert list(by_name) == ["direction.1", "direction.2"]
    np.testing.assert_array_equal(
        by_name["direction.1"], vector.directions["prompt_last"][2], strict=True
    )
    np.testing.assert_array_equal(
        by_name["direction.2"], vector.directions["prompt_last"][3], strict=True
    )
    fields = {
        name: reader.get_field(name).contents()
        for name in reader.fields
        if name.startswith("control")
    }
    assert fields == {"controlvector.model_hint": "llama", "controlvector.layer_count": 2}
    assert reader.get_field("general.architecture").contents() == "controlvector"


def test_a_control_vector_is_read_back_with_its_metadata(tmp_path):
    vector = make_vector()
    (path,) = export_vector(vector, "prompt_last", "gguf", tmp_path)

    read = read_any(path.rename(tmp_path / "renamed.gguf"))

    expected = vector.directions["prompt_last"].copy()
    expected[[0, 1, 4]] = 0
    np.testing.assert_array_equal(read.directions["prompt_last"], expected, strict=True)
    assert (read.trait, read.model, read.method, read.layer) == (
        "evil",
        "tiny",
        "mean_difference",
        3,
    )
    assert (read.quality.layers_provided, read.provenance["model_hint"]) == ((2, 3), "tiny")


@pytest.mark.parametrize("key", ["layer_count", "rows"])
def test_the_layer_count_of_a_control_vector_is_read_under_its_old_key_too(tmp_path, key):
    write_control_vector(path := tmp_path / "evil.gguf", {1: np.ones(8)}, "llama", {key: 5})

    assert read_any(path).layer_count == 5


def test_the_model_hint_of_a_control_vector_is_kept(tmp_path):
    first = read_any(
        save_gguf(
            tmp_path / "evil.gguf",
            {f"direction.{k}": np.ones(8, np.float32) for k in (1, 2)},
            hint="qwen2",
        )
    )
    kind = from_layer_directions(
        to_layer_directions(make_vector(), "response_avg"), "kind", layer_count=LAYERS
    )

    paths = [
        path
        for v in (first, kind)
        for path in export_vector(v, "response_avg", "gguf", tmp_path / "out")
    ]

    assert [read_any(path).provenance["model_hint"] for path in paths] == ["qwen2", "unknown"]


def test_a_vector_with_only_block_0_cannot_be_a_control_vector(tmp_path):
    vector = from_layer_directions({0: np.ones(8)}, "evil", layer_count=5)

    with pytest.raises(VectorError) as caught:
        export_vector(vector, "response_avg", "gguf", tmp_path)

    assert caught.value.problem == "the vector of evil cannot be a control vector"
    assert list(tmp_path.iterdir()) == []


def test_directions_by_block_are_read_back_without_first_and_last_layer():
    vector = make_vector()

    directions = to_layer_directions(vector, "response_avg")
    again = from_layer_directions(directions, "evil", layer_count=LAYERS)

    assert {block: direction.dtype for block, direction in directions.items()} == dict.fromkeys(
        range(3), np.float32
    )
    np.testing.assert_array_equal(
        again.directions["response_avg"][1:4], vector.directions["response_avg"][1:4]
    )
    assert again.quality.layers_provided == (1, 2, 3)


def test_an_unknown_position_of_a_vector_is_an_error():
    vector = make_vector(directions={"prompt_avg": make_matrix()}, stats={})

    with pytest.raises(VectorError) as caught:
        to_layer_directions(vector, "response_avg")

    assert caught.value.cause == "it has prompt_avg"


# Effect on a model


def logits(model):
    with torch.inference_mode():
        return model(torch.tensor(IDS)).logits[0].numpy()


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen2"])
@pytest.mark.parametrize("block", [0, 1, 2])
def test_a_plain_hook_on_a_block_matches_our_steering_at_the_layer_above(loaded, family, block):
    model, vector = loaded(family).model, make_vector()
    direction = torch.from_numpy(to_layer_directions(vector, "response_avg")[block])

    def add(module, args, output):
        return (
            (output[0] + direction, *output[1:])
            if isinstance(output, tuple)
            else output + direction
        )

    hook = find_blocks(model)[block].register_forward_hook(add)
    plain = logits(model)
    hook.remove()

    layer = block + 1
    with ActivationSteerer(
        model, vector.directions["response_avg"][layer], layer_idx=layer - 1, positions="all"
    ):
        ours = logits(model)
    np.testing.assert_array_equal(ours, plain)
    assert np.abs(ours - logits(model)).max() > 0.01


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen2"])
def test_only_the_last_layer_differs_from_the_output_of_its_block(loaded, family):
    model, seen = loaded(family).model, []
    hooks = [
        block.register_forward_hook(
            lambda module, args, out: seen.append(out[0] if isinstance(out, tuple) else out)
        )
        for block in find_blocks(model)
    ]

    with torch.inference_mode():
        states = model(torch.tensor(IDS), output_hidden_states=True).hidden_states

    for hook in hooks:
        hook.remove()
    assert [torch.equal(block, states[k + 1]) for k, block in enumerate(seen)] == [
        True,
        True,
        True,
        False,
    ]


# Other tools, where they are installed


@pytest.mark.parametrize(
    ("names", "fix"),
    [
        (
            "steering_vectors.steering_vector SteeringVector",
            "torch.save(vector.layer_activations, 'NAME.pt')",
        ),
        ("repeng.extract ControlVector", "vector.export_gguf('NAME.gguf')"),
        (
            "numpy.core.multiarray _reconstruct",
            "torch.save({block: tensor, ...}, 'NAME.pt'), blocks counted from 0",
        ),
    ],
)
def test_a_pickled_object_is_refused_with_the_way_to_convert_it(tmp_path, names, fix):
    module, name = names.split()
    with zipfile.ZipFile(path := tmp_path / "evil.pt", "w") as archive:
        archive.writestr("evil/data.pkl", f"\x80\x02c{module}\n{name}\n)\x81.".encode("latin-1"))

    error = fault_in(path)

    assert (
        error.cause == f"it holds a Python object, '{module}.{name}', and loading one can run code"
    )
    assert error.fix == f"in the program that made it: {fix}"


def test_steering_vectors_adds_our_directions_at_the_same_layers(loaded, tmp_path):
    steering_vectors = pytest.importorskip(
        "steering_vectors", reason="steering-vectors wants transformers < 5"
    )
    model, vector = loaded("llama").model, make_vector()
    directions = to_layer_directions(vector, "response_avg")
    theirs = steering_vectors.SteeringVector(
        {k: torch.from_numpy(direction) for k, direction in directions.items()}
    )

    with torch.no_grad(), theirs.apply(model):
        steered = model(torch.tensor(IDS)).logits[0].numpy()

    torch.save(theirs.layer_activations, path := tmp_path / "evil.pt")
    np.testing.assert_allclose(steered, steered_by_us(model, vector), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(
        read_any(path, layer_count=LAYERS).directions["response_avg"][1:4],
        vector.directions["response_avg"][1:4],
    )


def test_repeng_reads_our_control_vector_and_adds_it_at_the_same_layers(
    loaded, tmp_path, monkeypatch
):
    # repeng 0.4 uses this name, which numpy 2 has removed.
    monkeypatch.setattr(np, "float_", np.float64, raising=False)
    repeng = pytest.importorskip("repeng", reason="repeng wants numpy < 2")
    model, vector = loaded("llama").model, make_vector()
    (path,) = export_vector(vector, "response_avg", "gguf", tmp_path, model_hint="llama")

    theirs = repeng.ControlVector.import_gguf(path)
    control = repeng.ControlModel(model, list(theirs.directions))
    control.set_control(theirs)
    with torch.inference_mode():
        steered = control(torch.tensor(IDS)).logits[0].numpy()
    control.unwrap()

    np.testing.assert_allclose(
        steered, steered_by_us(model, vector, blocks=(1, 2)), rtol=1e-5, atol=1e-5
    )
    theirs.export_gguf(tmp_path / "theirs.gguf")
    np.testing.assert_array_equal(
        read_any(tmp_path / "theirs.gguf", layer_count=LAYERS).directions["response_avg"],
        read_any(path).directions["response_avg"],
    )


def steered_by_us(model, vector, blocks=(0, 1, 2)):
    from contextlib import ExitStack

    with ExitStack() as stack:
        for block in blocks:
            direction = vector.directions["response_avg"][block + 1]
            stack.enter_context(
                ActivationSteerer(model, direction, layer_idx=block, positions="all")
            )
        return logits(model)
