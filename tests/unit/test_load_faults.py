"""Models of other people that do not load: what is wrong, and what to do about it."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import suppress

import pytest
import torch

import traitcli.models.load as load_module
import traitcli.models.weights as weights_module
from tests.conftest import make_model
from tests.gguf_models import make_gguf
from traitcli.config import ModelConfig
from traitcli.errors import ModelError
from traitcli.events import Warned
from traitcli.models.footprint import find_footprint
from traitcli.models.load import load_model
from traitcli.models.load_faults import CHECK_SOURCE, library_errors

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d4d\nsize 538090408\n"


@pytest.fixture(autouse=True)
def own_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(model_folders, tmp_path):
    """A copy of the tiny Llama that a test may damage."""
    return shutil.copytree(model_folders["llama"], tmp_path / "model")


def edit(folder, file, **changes):
    data = json.loads((folder / file).read_text(encoding="utf-8"))
    (folder / file).write_text(json.dumps(data | changes), encoding="utf-8")


def refusal_of(path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        load_model(ModelConfig(id=str(path), device="cpu"))
    return caught.value


def test_a_package_that_a_checkpoint_needs_is_named(folder):
    edit(folder, "config.json",
         quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})  # fmt: skip

    error = refusal_of(folder)

    assert error.problem == f"cannot load the model {folder}"
    assert "requires bitsandbytes" in error.cause
    assert error.fix == "pip install bitsandbytes"


def test_weights_of_another_shape_are_named_with_both_shapes(folder):
    vocabulary = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    edit(folder, "config.json", vocab_size=vocabulary + 64)

    error = refusal_of(folder)

    assert error.cause == (
        f"lm_head.weight has the shape [{vocabulary}, 32] in the weights and "
        f"[{vocabulary + 64}, 32] in config.json; 2 differ"
    )
    assert error.fix.startswith("download or merge it again")


def test_blocks_that_the_config_does_not_count_are_not_dropped(folder):
    edit(folder, "config.json", num_hidden_layers=3)

    error = refusal_of(folder)

    assert error.cause == (
        "the model that config.json describes has no block for "
        "model.layers.3.input_layernorm.weight"
    )
    assert error.fix.startswith("download or merge it again")


def test_blocks_that_predict_further_tokens_are_left_out(folder):
    edit(folder, "config.json", num_hidden_layers=3, num_nextn_predict_layers=1)

    assert load_model(ModelConfig(id=str(folder), device="cpu")).layer_count == 4


def add_token(folder, content, special):
    """Give the tokenizer one more token, with an id beyond the embeddings."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    tokenizer["added_tokens"].append({"id": 700, "content": content, "special": special, **flags})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(folder):
    add_token(folder, "Hi", special=False)

    error = refusal_of(folder)

    assert error.problem == "the tokenizer of model does not fit the model"
    assert error.cause == "its token 'Hi' has the id 700; the model has embeddings for 700 ids"


def test_a_special_token_that_no_text_contains_does_no_harm(folder):
    add_token(folder, "[PAD]", special=True)
    edit(folder, "tokenizer_config.json", pad_token="[PAD]")

    loaded = load_model(ModelConfig(id=str(folder), device="cpu"))

    assert loaded.tokenizer.pad_token_id < 700


def test_weights_that_are_code_are_not_run(folder):
    (folder / "model.safetensors").unlink()
    torch.save(print, folder / "pytorch_model.bin")

    error = refusal_of(folder)

    assert "Weights only load failed" in error.cause
    assert "\x1b" not in error.cause
    assert error.fix.startswith("use weights in safetensors")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_pointer_of_git_lfs_is_not_the_file(folder, name):
    (folder / name).write_text(POINTER, encoding="utf-8")

    error = refusal_of(folder)

    assert error.cause == f"{name} is a pointer of git-lfs, not the file itself"
    assert error.fix == f"run git lfs pull in {folder}"


def test_a_gguf_file_may_be_a_pointer_too(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_text(POINTER, encoding="utf-8")

    assert refusal_of(path).fix == f"run git lfs pull in {tmp_path}"


def test_an_adapter_names_its_base_model(tmp_path):
    adapter = {"base_model_name_or_path": "some/base", "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter), encoding="utf-8")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")

    error = refusal_of(tmp_path)

    assert error.problem == f"{tmp_path} is an adapter, not a whole model"
    assert "names some/base" in error.cause
    assert error.fix.startswith("merge the adapter into some/base")


def test_code_of_the_model_is_not_run_unless_asked_for(folder):
    edit(folder, "config.json", model_type="mine", auto_map={"AutoConfig": "mine.Config"})
    (folder / "mine.py").write_text("raise SystemExit", encoding="utf-8")

    error = refusal_of(folder)

    assert "contains custom code" in error.cause
    assert error.fix.endswith("add --trust-remote-code")


def test_an_unknown_architecture_is_refused(folder):
    edit(folder, "config.json", model_type="gpt17")

    error = refusal_of(folder)

    assert "gpt17" in error.cause
    assert error.fix.startswith("upgrade transformers")
    with pytest.raises(ModelError) as found:
        find_footprint(ModelConfig(id=str(folder)))
    assert found.value.cause == error.cause


@pytest.mark.parametrize(
    "damage", ["{", "[]", "[" * 100_000, '"x"', "\udcff", '{"vocab_size": "x"}']
)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_file_is_an_error_and_no_traceback(folder, name, damage):
    (folder / name).write_bytes(damage.encode("utf-8", "surrogateescape"))
    # Some are harmless: transformers then takes its defaults.
    with suppress(ModelError):
        load_model(ModelConfig(id=str(folder), device="cpu"))


@pytest.mark.parametrize(
    "error",
    [
        KeyError("mamba9"),
        RuntimeError("x"),
        AssertionError(),
        RecursionError("deep"),
        IndexError("1"),
    ],
)
def test_whatever_a_library_raises_is_explained(error):
    with pytest.raises(ModelError) as caught, library_errors(ModelConfig(id="org/m")):
        raise error

    assert caught.value.problem == "cannot load the model org/m"
    assert type(error).__name__ in caught.value.cause
    assert caught.value.fix == CHECK_SOURCE


def test_an_error_of_our_own_keeps_its_traceback(folder, monkeypatch):
    monkeypatch.setattr(weights_module, "find_made_up", lambda report: report["no such key"])

    with pytest.raises(KeyError):
        load_model(ModelConfig(id=str(folder), device="cpu"))

    monkeypatch.setattr(load_module, "resolve_persona_role", lambda *arguments: 1 / 0)
    monkeypatch.setattr(weights_module, "find_made_up", lambda report: "")
    with pytest.raises(ZeroDivisionError):
        load_model(ModelConfig(id=str(folder), device="cpu"))


def test_a_gguf_file_is_read_and_its_conversion_is_kept(tmp_path):
    path = make_gguf(tmp_path / "tiny.gguf")

    first = load_model(ModelConfig(id=str(path), device="cpu"))
    [kept] = (tmp_path / "cache" / "traitcli" / "models").iterdir()
    before = (kept / "model.safetensors").stat().st_mtime_ns
    again = load_model(ModelConfig(id=str(path), device="cpu"))

    assert first.layer_count == again.layer_count == 3
    assert (kept / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "missing", ["blk.1.ffn_up", "output_norm", "token_embd", "blk.0.attn_norm"]
)
def test_a_gguf_file_without_some_tensors_is_refused_and_not_kept(tmp_path, missing):
    path = make_gguf(tmp_path / "tiny.gguf", keep=lambda name: not name.startswith(missing))

    error = refusal_of(path)

    assert re.match(r"1 weight is missing: model\.|10 weights are missing: ", error.cause)
    assert list((tmp_path / "cache" / "traitcli" / "models").iterdir()) == []


def test_a_gguf_file_without_a_block_is_refused(tmp_path):
    path = make_gguf(tmp_path / "tiny.gguf", keep=lambda name: not name.startswith("blk.1"))

    error = refusal_of(path)

    assert error.cause == "its header counts 2 blocks, and it holds the weights of 1"


@pytest.mark.parametrize("count", [1, 2**31])
def test_a_gguf_file_whose_number_of_blocks_is_damaged_is_refused(tmp_path, count):
    path = make_gguf(tmp_path / "tiny.gguf")
    key = b"llama.block_count" + (4).to_bytes(4, "little")  # its type: uint32
    before, after = path.read_bytes().split(key)
    path.write_bytes(before + key + count.to_bytes(4, "little") + after[4:])

    assert refusal_of(path).cause == (
        f"its header counts {count} blocks, and it holds the weights of 2"
    )


def test_a_gguf_file_whose_tensors_overlap_is_refused(tmp_path):
    path = make_gguf(tmp_path / "tiny.gguf")
    content = bytearray(path.read_bytes())
    name = b"output.weight"
    at = content.index(name) + len(name) + 4 + 2 * 8 + 4  # behind its shape and type
    content[at : at + 8] = bytes(8)
    path.write_bytes(content)

    assert refusal_of(path).cause == ("the weights of output.weight are not where its header says")


def test_a_gguf_file_without_an_output_layer_uses_its_embeddings(tmp_path):
    path = make_gguf(tmp_path / "tiny.gguf", keep=lambda name: name != "output")

    loaded = load_model(ModelConfig(id=str(path), device="cpu"))

    embeddings = loaded.model.get_input_embeddings().weight
    assert torch.equal(loaded.model.lm_head.weight, embeddings)


@pytest.mark.parametrize("name", ["m-00001-of-00003.gguf", "m.gguf"])
def test_a_part_of_a_split_file_says_how_to_merge(tmp_path, name):
    path = make_gguf(tmp_path / name, split_count=3)

    error = refusal_of(path)

    assert error.problem == f"{path} is one part of a split file"
    assert error.cause == "split.count in its header is 3"
    assert error.fix == f"merge the parts: llama-gguf-split --merge {path} whole.gguf"


def test_a_later_part_names_the_first(tmp_path):
    path = make_gguf(tmp_path / "m-00002-of-00003.gguf", split_count=3)

    assert f"--merge {tmp_path}/m-00001-of-00003.gguf whole.gguf" in refusal_of(path).fix


def test_a_gguf_file_of_an_unknown_architecture_is_refused(tmp_path):
    error = refusal_of(make_gguf(tmp_path / "tiny.gguf", architecture="gpt17"))

    assert "gpt17" in error.cause
    assert "GGUF" in error.fix


@pytest.mark.parametrize("size", [0, 3, 30, 3000])
def test_a_gguf_file_that_was_cut_is_refused(tmp_path, size):
    path = make_gguf(tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes()[:size])

    error = refusal_of(path)
    assert error.problem == f"cannot load the model {path}"
    assert error.fix == "download the file again: it is damaged or incomplete"


@pytest.mark.parametrize("damage", ["delete", "cut", "unmark"])
def test_a_conversion_that_is_not_whole_is_made_anew(tmp_path, damage):
    path = make_gguf(tmp_path / "tiny.gguf")
    expected = load_model(ModelConfig(id=str(path), device="cpu")).model.lm_head.weight.clone()
    [kept] = (tmp_path / "cache" / "traitcli" / "models").iterdir()
    if damage == "delete":
        (kept / "tokenizer.json").unlink()
    elif damage == "cut":
        (kept / "model.safetensors").unlink()
        (kept / "model.safetensors").write_bytes(b"cut")
    else:
        (kept / "traitcli-whole.json").unlink()

    found = load_model(ModelConfig(id=str(path), device="cpu")).model.lm_head.weight

    assert torch.equal(found, expected)
    assert (kept / "traitcli-whole.json").is_file()


def test_another_file_of_the_same_name_and_size_is_converted_again(tmp_path):
    path = make_gguf(tmp_path / "tiny.gguf")
    first = load_model(ModelConfig(id=str(path), device="cpu")).model.lm_head.weight
    size = path.stat().st_size
    path.unlink()
    assert make_gguf(path, seed=1).stat().st_size == size

    second = load_model(ModelConfig(id=str(path), device="cpu")).model.lm_head.weight

    assert not torch.equal(first, second)


def test_without_a_cache_the_conversion_is_temporary_and_a_warning_says_so(tmp_path, monkeypatch):
    path = make_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/x")
    events = []

    load_model(ModelConfig(id=str(path), device="cpu"), events.append)

    [warning] = [event.message for event in events if isinstance(event, Warned)]
    assert warning == (
        "cannot write the cache /dev/null/x/traitcli/models (Not a directory): "
        "the model is converted again every time; set XDG_CACHE_HOME"
    )


def test_an_index_that_names_a_missing_shard_is_refused(tmp_path, model_folders):
    from transformers import AutoModelForCausalLM

    folder = shutil.copytree(model_folders["llama"], tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="60KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    shards[1].unlink()

    assert shards[1].name in refusal_of(folder).cause or "missing" in refusal_of(folder).cause


def test_a_classifier_is_not_a_language_model(tmp_path):
    """Its head would be random."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    folder = make_model(tmp_path / "m", "llama", None, True)
    config = AutoConfig.from_pretrained(folder)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)

    assert refusal_of(folder).cause == "1 weight is missing: lm_head.weight"
