"""Finds and reads the weights of a model."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from traitcli.config import EMBEDDED, ModelConfig
from traitcli.errors import ModelError
from traitcli.events import Listener
from traitcli.models.devices import pick_dtype
from traitcli.models.gguf import (
    dequantize,
    embedded_file,
    find_made_up,
    fingerprint,
)
from traitcli.models.load_faults import CHECK_SOURCE, check_files, library_errors, not_loadable


def locate(
    config: ModelConfig,
    on_step: Callable[[str], None] = lambda step: None,
    on_event: Listener = lambda event: None,
) -> tuple[str, str | None]:
    """Where transformers finds the weights, and the revision if it is known.

    A GGUF file is converted first, once. Raises ModelError if there is nothing to read.
    """
    path = embedded_file() if config.id == EMBEDDED else Path(config.id)
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise ModelError(
                f"no model file {path}", cause="the file does not exist", fix="check the path"
            )
        check_files(config.id, path)
        folder = dequantize(config, path, on_step, on_event)
        return str(folder), config.revision or f"GGUF file {fingerprint(path)}"

    if path.is_dir():
        check_files(config.id, path)
        if not (path / "config.json").is_file():
            raise ModelError(
                f"{path} is not a model folder", cause="it has no config.json", fix=CHECK_SOURCE
            )
    elif path.is_absolute() or config.id.startswith((".", "~")) or config.id.count("/") > 1:
        # The hub's client would say that the id has a wrong form.
        raise ModelError(
            f"no model folder {path}", cause="the folder does not exist", fix="check the path"
        )
    # Offline, the hub's client logs every retry, and our error says why it failed.
    logging.getLogger("huggingface_hub.utils._http").setLevel(logging.ERROR)
    return config.id, config.revision


def hub_options(config: ModelConfig, source: str) -> dict[str, str]:
    """The `revision` argument of transformers, if it needs one."""
    is_on_hub = not Path(source).exists()
    return {"revision": config.revision} if config.revision and is_on_hub else {}


def read_weights(config: ModelConfig, source: str, device: str, trust: bool) -> tuple[Any, Any]:
    """The model and its tokenizer.

    Raises ModelError if they do not load, or if weights are missing or have another shape than
    the config says: transformers would fill them with random numbers.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {
        "pretrained_model_name_or_path": source,
        "trust_remote_code": trust,
        **hub_options(config, source),
    }
    with library_errors(config):
        tokenizer = AutoTokenizer.from_pretrained(**options)
        text = AutoConfig.from_pretrained(**options).get_text_config()
        if getattr(text, "attn_logit_softcapping", None):
            # transformers before 5.23 chooses an attention that drops the cap without a word.
            options["attn_implementation"] = "eager"
        model, report = AutoModelForCausalLM.from_pretrained(
            **options,
            dtype=pick_dtype(config.dtype, device, text.dtype),
            device_map=config.device_map or {"": device},
            output_loading_info=True,
            # Not to ignore them: the error of transformers does not say which they are.
            ignore_mismatched_sizes=True,
        )
    if fault := find_made_up(report) or _find_dropped(report, model):
        raise not_loadable(config, fault)
    return model, tokenizer


def _find_dropped(report: Mapping[str, Any], model: Any) -> str:
    """Which block or expert of the weights the model lacks; empty for none.

    A count in config.json that is too small would drop them without a word.
    """
    settings = model.config.get_text_config()
    # Blocks that predict several tokens at once are stored behind the others, and not used.
    unused = getattr(settings, "num_nextn_predict_layers", None) or 0
    allowed = range(settings.num_hidden_layers, settings.num_hidden_layers + unused)
    own = set(model.state_dict())
    for name in sorted(report.get("unexpected_keys") or ()):
        for number in re.finditer(r"(?<=\.)\d+(?=\.)", name):
            first = f"{name[: number.start()]}0{name[number.end() :]}"
            if first in own and int(number[0]) not in allowed:
                return f"the model that config.json describes has no block for {name}"
    return ""
