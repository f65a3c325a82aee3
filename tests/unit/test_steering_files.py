"""Files that steer other tools: vllm-lens JSON and lm-eval's `steered`, out and back."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from tests.unit.test_foreign_vectors import (
    IDS,
    LAYERS,
    fault_in,
    logits,
    make_matrix,
    make_vector,
)
from traitcli.config import ModelConfig
from traitcli.errors import VectorError
from traitcli.models.block_names import path_in, path_of_blocks
from traitcli.models.hooks import find_blocks, tap
from traitcli.models.load import load_model
from traitcli.models.steerer import ActivationSteerer
from traitcli.vectors.formats.export import export_vector, save_vector
from traitcli.vectors.formats.read_any import read_any

FORMS = ["vllm-lens", "lm-eval"]
POSITION = "response_avg"
FAMILIES = {"llama": "layers", "gemma2": "layers", "gpt2": "h"}
EVIL = [1.0, -2.0, 0.5]


def steered_logits(model, vector, layer):
    direction = vector.directions[POSITION][layer]
    with ActivationSteerer(model, direction, layer_idx=layer - 1, positions="all"):
        return logits(model)


def lens(**changes):
    """One vector of vllm-lens as its documentation has it: [1, 3] of float32 for block 15."""
    rows = np.array([EVIL], "<f4")
    activations = {
        "data": base64.b64encode(rows.tobytes()).decode(),
        "dtype": "float32",
        "original_dtype": "torch.float32",
        "shape": [1, 3],
    }
    vector = {"activations": activations, "layer_indices": [15], "scale": 1.0, "norm_match": False}
    return vector | changes


def tensor(**changes):
    return lens()["activations"] | changes


def entry(**changes):
    """One entry of `steered`, as its documentation has it."""
    own = {
        "steering_vector": torch.tensor(EVIL),
        "steering_coefficient": 1.0,
        "action": "add",
        "bias": None,
        "head_index": None,
    }
    return own | changes


@pytest.fixture(scope="module")
def folders(model_folders, tmp_path_factory):
    """Family -> a folder with its tiny model; GPT-2 calls its blocks by another name."""
    folder = tmp_path_factory.mktemp("gpt2")
    tokenizer = AutoTokenizer.from_pretrained(model_folders["llama"])
    tokenizer.save_pretrained(folder)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=4, n_head=4)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return {**model_folders, "gpt2": folder}


def load(folder):
    return load_model(ModelConfig(id=str(folder), device="cpu")).model


@pytest.fixture
def lens_file(tmp_path):
    def write(*vectors, name="evil.json"):
        path = tmp_path / name
        path.write_text(json.dumps(list(vectors)), encoding="utf-8")
        return path

    return write


@pytest.fixture
def steered_file(tmp_path):
    def write(content, name="evil.pt"):
        torch.save(content, path := tmp_path / name)
        return path

    return write


# Out and back


@pytest.mark.parametrize("form", FORMS)
def test_the_layer_of_a_vector_comes_back_with_everything_known_about_it(tmp_path, form):
    vector = make_vector(layer=2)

    (path,) = export_vector(vector, "prompt_last", form, tmp_path)
    read = read_any(path.rename(tmp_path / f"renamed{path.suffix}"))

    expected = np.zeros_like(vector.directions["prompt_last"])
    expected[2] = vector.directions["prompt_last"][2]
    np.testing.assert_array_equal(read.directions["prompt_last"], expected, strict=True)
    assert (read.trait, read.model, read.method, read.layer, read.layer_count) == (
        "evil",
        "tiny",
        "mean_difference",
        2,
        LAYERS,
    )
    assert read.quality.layers_provided == (2,)


def test_files_are_named_after_trait_and_position(tmp_path):
    names = [
        path.name
        for form in FORMS
        for path in export_vector(make_vector(), "prompt_last", form, tmp_path)
    ]

    assert names == ["evil_prompt_last.json", "evil_prompt_last_steered.pt"]


def test_a_name_ending_in_json_saves_for_vllm_lens(tmp_path):
    save_vector(path := tmp_path / "evil.json", make_vector(), POSITION)

    assert json.loads(path.read_text())[0]["layer_indices"] == [2]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layer", [0, LAYERS - 1])
def test_a_layer_that_no_block_computes_is_not_exported(tmp_path, form, layer):
    with pytest.raises(VectorError) as caught:
        export_vector(make_vector(layer=layer), POSITION, form, tmp_path)

    assert f"its layer is {layer}," in caught.value.cause
    assert "vector.layer=K, 1 to 3" in caught.value.fix
    assert list(tmp_path.iterdir()) == []


def test_the_json_holds_what_vllm_lens_documents(tmp_path):
    vector = make_vector(layer=2)

    (path,) = export_vector(vector, POSITION, "vllm-lens", tmp_path)
    (written,) = json.loads(path.read_text(encoding="utf-8"))

    stored = written["activations"]
    rows = np.frombuffer(base64.b64decode(stored["data"]), stored["dtype"]).reshape(stored["shape"])
    np.testing.assert_array_equal(rows, vector.directions[POSITION][[2]], strict=True)
    assert (written["layer_indices"], written["scale"], written["norm_match"]) == ([1], 1.0, False)
    assert (stored["original_dtype"], written["position_indices"]) == ("torch.float32", None)


# Files of others


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("packed", [False, True])
def test_numbers_of_vllm_lens_are_read_in_each_type_with_and_without_compression(
    lens_file, kind, packed
):
    numbers = torch.tensor([EVIL], dtype=getattr(torch, kind))
    is_half = kind == "bfloat16"
    data = (numbers.view(torch.int16) if is_half else numbers).numpy().tobytes()
    stored = {"shape": [1, 3], "dtype": "int16" if is_half else kind}
    if packed:
        zstandard = pytest.importorskip("zstandard", reason="zstandard is not installed")
        data = zstandard.ZstdCompressor(level=1).compress(data)
        stored["compression"] = "zstd"
    stored |= {"original_dtype": f"torch.{kind}", "data": base64.b64encode(data).decode()}

    read = read_any(lens_file(lens(activations=stored)), layer_count=31)

    assert read.directions[POSITION][16].tolist() == EVIL
    assert (read.quality.layers_provided, read.trait) == ((16,), "evil")


def test_several_vectors_and_a_single_object_are_read(lens_file, tmp_path):
    (alone := tmp_path / "alone.json").write_text("\ufeff" + json.dumps(lens()), encoding="utf-8")

    both = read_any(lens_file(lens(layer_indices=[3]), lens()))

    assert both.quality.layers_provided == (4, 16)
    assert (both.layer_count, read_any(alone).layer_count) == (17, 17)


def test_how_the_file_steers_is_kept_and_the_direction_is_not_scaled(lens_file, steered_file):
    scaled = read_any(lens_file(lens(scale=-4, norm_match=True)))
    clamped = read_any(steered_file({"h.15": entry(steering_coefficient=3, action="clamp")}))

    for read in (scaled, clamped):
        assert read.directions[POSITION][16].tolist() == EVIL
    assert scaled.provenance["steering"] == [{"blocks": [15], "scale": -4.0, "norm_match": True}]
    assert clamped.provenance["steering"] == [{"block": 15, "coefficient": 3.0, "action": "clamp"}]


@pytest.mark.parametrize(
    "name", ["layers.15", "h.15", "language_model.layers.15", "decoder.layers.15", "blocks.15"]
)
def test_a_block_of_steered_is_found_under_the_names_of_its_model(steered_file, name):
    assert read_any(steered_file({name: entry()})).quality.layers_provided == (16,)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ({"layers.3.mlp": entry()}, "it steers 'layers.3.mlp', which is not a whole block"),
        ({"layers.3.self_attn.q_proj": entry()}, "which is not a whole block"),
        ({"layers.3": entry(head_index=2)}, "it steers one attention head"),
        ({"layers.3": entry(), "h.3": entry()}, "two entries belong to block 3"),
        ({"layers.3": entry(steering_vector=1.0)}, "'layers.3' holds no tensor"),
        ({"layers.3": entry(steering_vector=torch.ones(1, 8))}, "its directions are [1, 8]"),
        ({"layers.3": entry(steering_vector=torch.full((8,), torch.nan))}, "NaN"),
    ],
)
def test_a_steered_file_without_a_direction_of_a_block_is_refused(steered_file, content, cause):
    assert cause in fault_in(steered_file(content)).cause


@pytest.mark.parametrize(
    ("vector", "cause"),
    [
        ({"role": "user"}, "its JSON has no activations and layer_indices"),
        ("evil", "its JSON has no activations"),
        (lens(layer_indices=[-1]), "not a list of block numbers"),
        (lens(layer_indices=[True]), "not a list of block numbers"),
        (lens(layer_indices=15), "not a list of block numbers"),
        (lens(layer_indices=[1, 2]), "it has 1 directions for 2 blocks"),
        (lens(layer_indices=[2, 2]), "name a block twice"),
        (lens(activations=tensor(shape=[1, 1, 3])), "they differ by the position"),
        (lens(activations=tensor(shape="[1, 3]")), "not a tensor with a shape"),
        (lens(activations=[EVIL]), "not a tensor with a shape"),
        (lens(activations=tensor(shape=[1, 4])), "have 12 bytes, not 16"),
        (lens(activations=tensor(shape=[1, 2**40])), "its shape would be"),
        (lens(activations=tensor(shape=[1, -3])), "its shape would be"),
        (lens(activations=tensor(dtype="int64")), "'torch.float32', not floats"),
        (lens(activations=tensor(data="####")), "damaged"),
        (lens(activations=tensor(compression="zstd")), "damaged"),
        (lens(layer_indices=[10**9]), "its shape would be"),
    ],
)
def test_json_that_is_no_steering_vector_is_refused(lens_file, vector, cause):
    pytest.importorskip("zstandard", reason="zstandard is not installed")

    assert cause in fault_in(lens_file(vector)).cause


def test_two_vectors_for_one_block_are_refused(lens_file):
    assert fault_in(lens_file(lens(), lens())).cause == "two directions belong to block 15"


def test_a_small_file_that_unpacks_to_much_is_refused_before_it_takes_memory(lens_file):
    zstandard = pytest.importorskip("zstandard", reason="zstandard is not installed")
    bomb = zstandard.ZstdCompressor().compress(b"\x00" * 2**28)

    packed = tensor(compression="zstd", data=base64.b64encode(bomb).decode())

    assert "have 13 bytes, not 12" in fault_in(lens_file(lens(activations=packed))).cause


# Names of blocks


@pytest.mark.parametrize(("family", "name"), FAMILIES.items())
def test_the_blocks_are_found_by_the_name_that_steered_looks_for(folders, family, name):
    model = load(folders[family])

    assert path_of_blocks(ModelConfig(id=str(folders[family]))) == name
    assert dict(model.base_model.named_modules())[f"{path_in(model)}.2"] is find_blocks(model)[2]


def test_a_model_that_cannot_be_found_has_the_usual_name(tmp_path):
    assert path_of_blocks(ModelConfig(id=str(tmp_path / "none"))) == "layers"


# The tools themselves, where they are installed


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_lm_eval_loads_our_file_and_adds_the_vector_at_the_same_layer(folders, tmp_path, family):
    steered = pytest.importorskip(
        "lm_eval.models.hf_steered", reason="lm-eval is not installed (pip install lm_eval)"
    )
    model, layer = load(folders[family]), 2
    vector = make_vector(layer=layer)
    blocks = path_of_blocks(ModelConfig(id=str(folders[family])))
    (path,) = export_vector(vector, POSITION, "lm-eval", tmp_path, blocks=blocks)

    theirs = steered.SteeredModel(str(folders[family]), str(path), device="cpu", dtype="auto")

    ids = torch.tensor(IDS)
    before, after = {}, {}
    with torch.inference_mode():
        with tap(theirs.model, range(layer + 1), before.__setitem__):
            theirs.model(ids)
        with (
            steered.steer(theirs.model, theirs.hook_to_steer),
            tap(theirs.model, range(layer + 1), after.__setitem__),
        ):
            theirs.model(ids)
        answered = theirs._model_call(ids)[0].numpy()
    for below in range(layer):
        torch.testing.assert_close(after[below], before[below], rtol=0, atol=0)
    added = (after[layer] - before[layer]).numpy()
    direction = np.broadcast_to(vector.directions[POSITION][layer], added.shape)
    np.testing.assert_allclose(added, direction, atol=1e-5)
    np.testing.assert_allclose(answered, steered_logits(model, vector, layer), atol=1e-5)


def test_vllm_lens_reads_our_file_and_its_own_comes_back(loaded, tmp_path):
    package = pytest.importorskip(
        "vllm_lens", reason="vllm-lens is not installed: it needs Python 3.12 and vllm 0.30"
    )
    model, vector = loaded("llama").model, make_vector(layer=2)
    (path,) = export_vector(vector, POSITION, "vllm-lens", tmp_path)

    (sent,) = json.loads(path.read_text(encoding="utf-8"))
    theirs = package.SteeringVector.model_validate(sent)
    ((block, row),) = theirs.layer_index_map.items()
    step = theirs.scale * theirs.activations[row]
    hook = find_blocks(model)[block].register_forward_hook(
        lambda module, args, output: (
            (output[0] + step, *output[1:]) if isinstance(output, tuple) else output + step
        )
    )
    added = logits(model)
    hook.remove()

    np.testing.assert_array_equal(added, steered_logits(model, vector, 2))
    for kind in (torch.float32, torch.bfloat16, torch.float16):
        rows = torch.from_numpy(make_matrix(2)).to(kind)
        own = package.SteeringVector(activations=rows, layer_indices=[0, 2], scale=2.0)
        other = tmp_path / f"{kind}.json"
        other.write_text(json.dumps([own.model_dump(mode="json")]), encoding="utf-8")
        read = read_any(other, layer_count=LAYERS)
        assert read.quality.layers_provided == (1, 3)
        np.testing.assert_array_equal(read.directions[POSITION][[1, 3]], rows.float().numpy())
