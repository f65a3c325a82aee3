"""Loads a causal language model and its tokenizer: hub id, folder, GGUF file or embedded model."""

from __future__ import annotations

import inspect
import time
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from traitcli.config import ModelConfig
from traitcli.errors import ModelError
from traitcli.events import Listener, ModelLoaded, ModelLoading, Warned
from traitcli.files import full_id
from traitcli.models.borrowed import borrowed
from traitcli.models.chat_format import find_chat_format
from traitcli.models.devices import pick_device, use_device
from traitcli.models.identity import fingerprint_weights
from traitcli.models.loaded import LoadedModel, SelfTest
from traitcli.models.memory import memory_explained
from traitcli.models.prompts import chat_notes, resolve_persona_role
from traitcli.models.weights import locate, read_weights

if TYPE_CHECKING:
    import torch

_USE_LESS_MEMORY = "set model.dtype to bfloat16, or use a larger device or a smaller model"


def load_model(
    config: ModelConfig, on_event: Listener = lambda event: None, trust_remote_code: bool = False
) -> LoadedModel:
    """Load the configured model for inference.

    Raises ModelError if it cannot be found, is not a causal language model, does not load, or is
    one that traitcli cannot read correctly.
    """
    return _check_self_test(open_model(config, on_event, trust_remote_code))


def wrap_model(
    model: Any, tokenizer: Any, config: ModelConfig, on_event: Listener = lambda event: None
) -> LoadedModel:
    """Make a model of transformers that is in memory already ready to read and write with.

    It stays on its device, and every use restores what it changes; see `borrowed`.

    Args:
        model: A causal language model of transformers, also a compiled one.
        tokenizer: Its tokenizer; it is copied if it lacks a padding token.
        config: Its name, and how its chat template is used.
        on_event: Receives warnings.

    Raises ModelError if it is not a causal language model, or one that traitcli cannot read
    correctly.
    """
    # torch.compile wraps the model, and its graphs would not see our attention.
    model = getattr(model, "_orig_mod", model)
    if not all(hasattr(model, name) for name in ("config", "get_input_embeddings", "get_decoder")):
        raise ModelError(
            f"cannot wrap a {type(model).__name__}",
            cause="it is not a causal language model of transformers",
            fix="load it with AutoModelForCausalLM",
        )
    if not hasattr(tokenizer, "apply_chat_template"):
        raise ModelError(
            f"cannot use a {type(tokenizer).__name__} as a tokenizer",
            cause="it is not a tokenizer of transformers",
            fix="load it with AutoTokenizer",
        )
    device = str(model.get_input_embeddings().weight.device)
    with borrowed(model):
        loaded = _describe(config, device, model, _with_padding(config.name, model, tokenizer), "")
        loaded = replace(loaded, is_borrowed=True, fingerprint=fingerprint_weights(model))
        return _check_self_test(_finish(loaded, config, on_event))


def _check_self_test(loaded: LoadedModel) -> LoadedModel:
    """Raise ModelError if the model is read correctly in no way."""
    if loaded.self_test and loaded.self_test.problem:
        raise ModelError(
            f"the scores of {loaded.name} would be wrong",
            cause=loaded.self_test.problem,
            fix="use another model, or another version of transformers; "
            "traitcli inspect model shows what was compared",
        )
    return loaded


def open_model(
    config: ModelConfig,
    on_event: Listener = lambda event: None,
    trust_remote_code: bool = False,
    *,
    thorough: bool = False,
) -> LoadedModel:
    """Load the configured model and run its self-test (`thorough` or not), whatever its result.

    Raises ModelError if it cannot be found, is not a causal language model, or does not load.
    """
    from transformers.utils import logging

    from traitcli.models.cpu_packing import pack_weights

    # Messages and progress bars of transformers would break the live view.
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    start = time.monotonic()
    device = pick_device(config.device)
    use_device(device)
    name = config.name

    def on_step(step: str) -> None:
        on_event(ModelLoading(name, device, step))

    on_step("loading")
    with memory_explained(device, _USE_LESS_MEMORY):
        source, revision = locate(config, on_step, on_event)
        model, tokenizer = read_weights(config, source, device, trust_remote_code)
    tokenizer = _with_padding(name, model, tokenizer)
    model = model.eval().requires_grad_(False)
    # Before its weights are packed, which keeps them in another order.
    fingerprint = fingerprint_weights(model)
    pack_weights(model)

    loaded = _describe(config, device, model, tokenizer, revision)
    loaded = replace(loaded, fingerprint=fingerprint)
    loaded = _finish(loaded, config, on_event, thorough=thorough)
    on_event(loaded_event(loaded, device, time.monotonic() - start))
    return loaded


def _finish(
    loaded: LoadedModel, config: ModelConfig, on_event: Listener, *, thorough: bool = False
) -> LoadedModel:
    """Test and measure a model that is in memory."""
    from traitcli.models.massive import measure_massive
    from traitcli.models.self_test import run_self_test

    with memory_explained(loaded.device, _USE_LESS_MEMORY):
        test = run_self_test(loaded, thorough=thorough)
        massive_above = measure_massive(loaded)
    loaded = replace(
        loaded,
        id=full_id(config.id),
        packs=test.packs,
        pads=test.pads,
        self_test=test,
        massive_above=massive_above,
    )
    for note in [*chat_notes(loaded), *_slow_notes(loaded.name, test)]:
        on_event(Warned("", note))
    return loaded


def _with_padding(name: str, model: Any, tokenizer: Any) -> Any:
    """The tokenizer, or a copy with a padding token; raises ModelError if it does not fit."""
    rows = model.get_input_embeddings().weight.shape[0]
    _check_vocabulary(name, rows, tokenizer)
    # Padding is masked everywhere, so any token will do that has an embedding.
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= rows:
        tokenizer = deepcopy(tokenizer)
        tokenizer.pad_token_id = tokenizer.eos_token_id or 0
    return tokenizer


def _check_vocabulary(name: str, rows: int, tokenizer: Any) -> None:
    """Raise ModelError for a token of plain text beyond the model's `rows` of embeddings.

    A special token may lack one: a padding token that was added and never used does no harm.
    """
    if max(len(tokenizer) - 1, *tokenizer.added_tokens_decoder, 0) < rows:
        return  # as nearly always: looking at every token takes a while
    special = set(tokenizer.all_special_ids)
    special |= {index for index, added in tokenizer.added_tokens_decoder.items() if added.special}
    beyond = {
        index: token
        for token, index in tokenizer.get_vocab().items()
        if index >= rows and index not in special
    }
    if beyond:
        first = min(beyond)
        raise ModelError(
            f"the tokenizer of {name} does not fit the model",
            cause=f"its token {beyond[first]!r} has the id {first}; the model has embeddings for "
            f"{rows} ids",
            fix="use the tokenizer that belongs to the weights, or resize the embeddings "
            "(model.resize_token_embeddings) and save",
        )


def loaded_event(loaded: LoadedModel, device: str, seconds: float = 0.0) -> ModelLoaded:
    """The event that a model is ready, `seconds` after loading began."""
    return ModelLoaded(
        loaded.name,
        device,
        loaded.blocks,
        loaded.hidden_size,
        seconds,
        loaded.revision,
        _gpu_name(loaded.device),
        loaded.id,
        loaded.fingerprint,
    )


def _slow_notes(name: str, test: SelfTest) -> list[str]:
    """Why the model is not read in the fastest way."""
    if not test.slow_reason or test.problem:
        return []
    way = "in padded batches" if test.pads else "one text at a time"
    return [f"{name} is read {way}, which is slower: {test.slow_reason}"]


def _describe(
    config: ModelConfig, device: str, model: Any, tokenizer: Any, revision: str | None
) -> LoadedModel:
    """What is known of a model before it has run."""
    import torch

    text = model.config.get_text_config()
    chat = find_chat_format(tokenizer, config.name, dict(config.template_options))
    # With a device map, inputs go where the embeddings are.
    input_device = torch.device(device)
    if config.device_map:
        input_device = model.get_input_embeddings().weight.device

    return LoadedModel(
        name=config.name,
        revision=revision or str(getattr(model.config, "_commit_hash", None) or ""),
        model=model,
        tokenizer=tokenizer,
        device=input_device,
        blocks=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        # If the config has no limit, no prompt is refused as too long.
        context=int(getattr(text, "max_position_embeddings", 0) or 2**31),
        persona_in=resolve_persona_role(chat, config.name, config.persona_in),
        chat=chat,
        stop_ids=_stop_ids(model, tokenizer),
        last_logits="logits_to_keep" in inspect.signature(model.forward).parameters,
    )


def _gpu_name(device: torch.device) -> str:
    """The name of a GPU; empty for a CPU."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""


def _stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """End-of-text ids of the model and of its tokenizer: chat models may have several."""
    listed = model.generation_config.eos_token_id if model.generation_config else None
    ids = listed if isinstance(listed, list) else [listed]
    return frozenset(i for i in [*ids, tokenizer.eos_token_id] if i is not None)
