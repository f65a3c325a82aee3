"""Loads a causal language model and its tokenizer: hub id, folder, GGUF file or the embedded one."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traitcli.config import EMBEDDED, ModelConfig
from traitcli.errors import ModelError
from traitcli.events import Listener, ModelLoaded, ModelLoading, Warned
from traitcli.models.devices import pick_device, pick_dtype
from traitcli.models.gguf import dequantise, embedded_file, fingerprint
from traitcli.models.loaded import LoadedModel
from traitcli.models.memory import memory_explained
from traitcli.models.prompts import resolve_persona_role

if TYPE_CHECKING:
    import torch

_NEEDS = "check the id, the folder or your access to the hub; a folder needs config.json, weights and a tokenizer"
_TOO_LARGE = "set model.dtype to bfloat16, or take a larger device or a smaller model"


def load_model(
    config: ModelConfig, on_event: Listener = lambda event: None, trust_remote_code: bool = False
) -> LoadedModel:
    """Load the configured model for inference.

    Raises ModelError when it cannot be found, is no causal language model, or does not load.
    """
    import torch
    from transformers.utils import logging

    from traitcli.models.cpu_packing import pack_weights
    from traitcli.models.packing_check import find_packing_problem

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    start = time.monotonic()
    device = pick_device(config.device)
    name = config.name
    say: Callable[[str], None] = lambda step: on_event(ModelLoading(name, str(device), step))  # noqa: E731
    say("loading")
    source, revision = _locate(config, say)
    with memory_explained(device, _TOO_LARGE):
        model, tokenizer = _read(config, source, device, trust_remote_code)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = tokenizer.eos_token_id or 0
    model = model.eval().requires_grad_(False)
    pack_weights(model)
    text = model.config.get_text_config()
    loaded = LoadedModel(
        name=name,
        revision=revision or str(getattr(model.config, "_commit_hash", None) or ""),
        model=model,
        tokenizer=tokenizer,
        device=model.get_input_embeddings().weight.device
        if config.device_map
        else torch.device(device),
        blocks=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        context=int(getattr(text, "max_position_embeddings", 0) or 2**31),
        persona_in=resolve_persona_role(tokenizer, name, config.persona_in),
        stop_ids=_stop_ids(model, tokenizer),
        last_logits="logits_to_keep" in inspect.signature(model.forward).parameters,
    )
    with memory_explained(device, _TOO_LARGE):
        reason = find_packing_problem(loaded)
    if reason:
        on_event(Warned("", f"{name} is decoded with padding, which is slower: {reason}"))
    loaded = replace(loaded, packs=not reason)
    seconds = time.monotonic() - start
    told = loaded.revision, _hardware(loaded.device)
    on_event(ModelLoaded(name, str(device), loaded.blocks, loaded.hidden_size, seconds, *told))
    return loaded


def locate_model(config: ModelConfig) -> tuple[str, dict[str, str]]:
    """Where transformers finds a model, and the revision to name there."""
    source, revision = _locate(config, lambda step: None)
    return source, {"revision": revision} if revision and not Path(source).exists() else {}


def _locate(config: ModelConfig, say: Callable[[str], None]) -> tuple[str, str | None]:
    """Where transformers finds the weights, and the revision when we know it."""
    path = embedded_file() if config.id == EMBEDDED else Path(config.id)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(
                f"no model file {path}", cause="there is no such file", fix="check the path"
            )
        return str(dequantise(path, say)), config.revision or f"GGUF file {fingerprint(path)}"
    if path.is_dir() and not (path / "config.json").is_file():
        raise ModelError(f"{path} is no model", cause="the folder has no config.json", fix=_NEEDS)
    return config.id, config.revision


def _hardware(device: torch.device) -> str:
    """What a GPU is called; empty for a CPU."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""


def _read(config: ModelConfig, source: str, device: str, trust: bool) -> tuple[Any, Any]:
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"pretrained_model_name_or_path": source, "trust_remote_code": trust}
    if config.revision and not Path(source).exists():
        where["revision"] = config.revision
    try:
        tokenizer = AutoTokenizer.from_pretrained(**where)
        own = AutoConfig.from_pretrained(**where).get_text_config().dtype
        model, told = AutoModelForCausalLM.from_pretrained(
            **where,
            dtype=pick_dtype(config.dtype, device, own),
            device_map=config.device_map or {"": device},
            output_loading_info=True,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise not_loadable(config, error) from error
    if missing := sorted(told["missing_keys"]):  # transformers would make them up
        raise not_loadable(config, f"it lacks {len(missing)} weights, {missing[0]} among them")
    return model, tokenizer


def not_loadable(config: ModelConfig, error: Exception | str) -> ModelError:
    """The error for a model that is there and cannot be used."""
    first, *more = str(error).strip().splitlines() or [repr(error)]
    return ModelError(
        f"cannot load the model {config.id}",
        cause=" ".join([first, *more]) if first.rstrip().endswith(":") else first,
        fix=_NEEDS,
    )


def _stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    listed = model.generation_config.eos_token_id if model.generation_config else None
    ids = listed if isinstance(listed, list) else [listed]
    return frozenset(i for i in [*ids, tokenizer.eos_token_id] if i is not None)
