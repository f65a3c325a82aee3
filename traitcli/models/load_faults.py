"""Turns whatever a library raises while a model loads into a ModelError with a cause and a fix."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from traitcli.config import ModelConfig
from traitcli.errors import ModelError, TraitError
from traitcli.models.memory import ran_out_of_memory

CHECK_SOURCE = (
    "check the id, the folder or your access to the hub; "
    "a folder needs config.json, weights and a tokenizer"
)
_POINTER = b"version https://git-lfs"
_POINTER_BYTES = 1024
"""A git-lfs pointer is shorter than this; weights and tokenizers are longer."""
_TOKENIZER = re.compile(r"token|vocab|merges|tekken|.*\.(model|tiktoken|bpe)$")
"""Names of files that hold a vocabulary."""
_ADAPTER = "adapter_config.json"
_STYLE = re.compile(r"\x1b\[[0-9;]*m")
_INSTALL = re.compile(r"pip3? install (?:(?:-U|--upgrade|-q) )*[\"']?([A-Za-z0-9_.\[\]-]+)")
_REQUIRED = re.compile(r"requires? (?:the )?[`'\"]?([A-Za-z0-9_-]+)[`'\"]? (?:library|package)")
_INCOMPLETE = "weights? (is|are) missing|has the shape|has no block"
_FIXES = (
    (
        "trust_remote_code|custom code",
        "read the code that comes with the model, then add --trust-remote-code",
    ),
    (
        r"gated|\b40[13]\b|restricted|authenticated|access token",
        "accept the terms on the model's page, then run hf auth login or set HF_TOKEN",
    ),
    (
        "GGUF.*(architecture|supported)|architecture.*GGUF",
        "convert it with a newer transformers, or use the model's safetensors instead of its GGUF",
    ),
    ("for this kind of AutoModel", "use a language model that reads text only"),
    (
        "model type|does not recognize this architecture|Unrecognized model",
        "upgrade transformers: pip install -U transformers; or use another model",
    ),
    ("from_tf|from_flax|TensorFlow|Flax", "save it with transformers in PyTorch, as safetensors"),
    (
        "connect|offline|resolve|timed? ?out",
        "check the network and the id; files that were downloaded before work offline",
    ),
    (
        _INCOMPLETE,
        "download or merge it again: config.json and the weights must belong together",
    ),
    ("deserializing header", "download it again: its weights are damaged or incomplete"),
    (
        "weights only load failed",
        "use weights in safetensors: this file holds code, which traitcli does not run",
    ),
)
"""A pattern of what a library says, and what to do then; the first that fits counts."""


def check_files(model_id: str, path: Path) -> None:
    """Raise ModelError for a folder or file that cannot be a model, before a library tries.

    That is an adapter without its base model, or pointers of git-lfs in place of files.
    """
    files = [path] if path.is_file() else sorted(path.iterdir())
    pointers = [file.name for file in files if _is_pointer(file)]
    if pointers:
        raise ModelError(
            f"{model_id} is not downloaded yet",
            cause=f"{pointers[0]} is a pointer of git-lfs, not the file itself",
            fix=f"run git lfs pull in {path if path.is_dir() else path.parent}",
        )
    names = {file.name for file in files}
    if "config.json" in names and not any(_TOKENIZER.match(name) for name in names):
        raise ModelError(
            f"{model_id} has no tokenizer",
            cause=f"no tokenizer.json, tokenizer.model or vocabulary is in {path}",
            fix="copy the tokenizer files of its base model into the folder",
        )
    if path.is_dir() and (path / _ADAPTER).is_file() and not (path / "config.json").is_file():
        raise _adapter_error(model_id, path / _ADAPTER)


@contextmanager
def library_errors(config: ModelConfig) -> Iterator[None]:
    """Raise ModelError for whatever a library raises inside; let memory run out as it does.

    Only calls of libraries belong inside: an error of our own must show its traceback.
    """
    try:
        yield
    except TraitError:
        raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise not_loadable(config, error) from error
    # Any kind: transformers alone raises OSError, ValueError, KeyError, ImportError, RuntimeError,
    # and what tokenizers and quantizers raise is an Exception or a panic.
    except Exception as error:
        if ran_out_of_memory(error):
            raise
        raise not_loadable(config, error) from error


def not_loadable(config: ModelConfig, error: Exception | str) -> ModelError:
    """The error for a model that exists but cannot be used."""
    return ModelError(
        f"cannot load the model {config.id}",
        cause=find_cause(error),
        fix=find_fix(config, error),
    )


def find_cause(error: Exception | str) -> str:
    """The library's own sentence."""
    if isinstance(error, KeyError):
        return f"{type(error).__name__}: {error}"
    text = _STYLE.sub("", str(error))
    first, *more = text.strip().splitlines() or [repr(error)]
    # Libraries put lists below a line that ends with a colon: alone it would say nothing.
    cause = " ".join([first, *more]) if first.rstrip().endswith(":") else first
    # A bare file name or number, as some libraries raise it, needs the kind of error beside it.
    if isinstance(error, Exception) and len(cause.split()) < 3:
        return f"{type(error).__name__}: {cause}"
    return cause


def find_fix(config: ModelConfig, error: Exception | str) -> str:
    """What to do about an error of a library."""
    text = str(error)
    is_gguf = config.id.lower().endswith(".gguf")
    if is_gguf and re.search(_INCOMPLETE, text):
        return "download or convert the file again: it lacks weights"
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"pip install {error.name.partition('.')[0]}"
    for words, fix in _FIXES:
        if re.search(words, text, re.IGNORECASE):
            return fix
    for pattern in (_INSTALL, _REQUIRED):
        if found := pattern.search(text):
            return f"pip install {found[1]}"
    if is_gguf:
        return "download the file again: it is damaged or incomplete"
    return CHECK_SOURCE


def _is_pointer(path: Path) -> bool:
    with suppress(OSError):
        if path.is_file() and path.stat().st_size < _POINTER_BYTES:
            return path.read_bytes().startswith(_POINTER)
    return False


def _adapter_error(model_id: str, path: Path) -> ModelError:
    base = "its base model"
    with suppress(OSError, ValueError, AttributeError):
        base = json.loads(path.read_bytes()).get("base_model_name_or_path") or base
    return ModelError(
        f"{model_id} is an adapter, not a whole model",
        cause=f"it has {_ADAPTER}, which names {base}, and no config.json",
        fix=f"merge the adapter into {base} (peft: merge_and_unload), save that, and load it",
    )
