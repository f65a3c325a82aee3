"""Makes a model: by name, from a folder or file, or from one that is in memory already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from traitcli.api.model import Model
from traitcli.api.vector import Vector
from traitcli.api.vector_model import warn_user
from traitcli.config import EMBEDDED, Config, ModelConfig, change_config, load_config
from traitcli.errors import UserError
from traitcli.generation.load import wrap_model

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


def load(
    name_or_path: str | None = None,
    config: str | Config | None = None,
    device: str = "auto",
    dtype: Dtype = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Model:
    """Load a model, and check that traitcli reads it correctly.

    Args:
        name_or_path: A Hugging Face id, a folder, a `.gguf` file, or "embedded" (the default): the
            SmolLM2-135M-Instruct that comes with traitcli and has vectors.
        config: A preset or a YAML file with other settings, as behind `-c` on the command line.
        device: "cpu", "cuda", "cuda:1", "mps", or "auto": the first GPU, else the CPU.
        dtype: "auto": float32 on a CPU, bfloat16 on a GPU that has it.
        revision: A branch, tag or commit on the hub.
        trust_remote_code: Run the model's own code.

    Returns:
        The model, ready to generate, score, train and extract.

    Raises:
        ModelError: It cannot be found, is no causal language model, or would be read wrongly.
        ConfigError: There is no such preset or file, or a setting is not valid.

    Example:
        >>> tc.load("embedded").name
        'smollm2-135m-instruct'
    """
    options = {"device": device, "dtype": dtype, "revision": revision}
    found = _settings(name_or_path, config, {k: v for k, v in options.items() if v not in _UNSET})
    return Model.open(found, trust=trust_remote_code)


def wrap(
    model: Any, tokenizer: Any, name: str | None = None, config: str | Config | None = None
) -> Model:
    """Use a causal language model of transformers that is in memory already.

    It stays where it is, and is left as it was: every call restores its training mode, its
    attention and its hooks. Its weights never change. A self-test runs once.

    Args:
        model: The model, on any device and in any dtype.
        tokenizer: Its tokenizer.
        name: The model's id, by which its vectors are found (default: the one it was loaded by).
        config: As for `load`.

    Returns:
        The same object that `load` returns.

    Raises:
        ModelError: It is no causal language model of transformers, or would be read wrongly.
        ConfigError: As for `load`.

    Example:
        >>> wrapped = tc.wrap(model.loaded.model, model.loaded.tokenizer, name="embedded")
        >>> wrapped.generate("Hello!", watch="evil", max_new_tokens=3).layers
        {'evil': 15}
    """
    own = str(getattr(getattr(model, "config", None), "name_or_path", "") or type(model).__name__)
    settings = _settings(name or own, config, {})
    return Model(wrap_model(model, tokenizer, settings.model, warn_user), settings)


def vector(name: str, model: Model) -> Vector:
    """Find a vector of a model, as the command line does.

    Args:
        name: A trait, whose vector is in the vectors folder or shipped; or a vector file.
        model: The model that it must fit.

    Returns:
        The vector.

    Raises:
        VectorError: There is none, or it cannot be read.
        UserError: The model is not loaded.

    Example:
        >>> tc.vector("evil", model).layer
        15
    """
    if not isinstance(model, Model):
        raise UserError(
            f"{model!r:.60} is not a loaded model",
            cause=f"it is of type {type(model).__name__}",
            fix='load it first: model = traitcli.load("embedded")',
        )
    return model.vector(name)


_UNSET = ("auto", None)


def _settings(name: str | None, config: str | Config | None, options: Mapping[str, Any]) -> Config:
    """The settings of a model: those of the config, else what suits the model."""
    if isinstance(config, str):
        config = load_config(config)
    if config is None:
        model = ModelConfig(id=name or EMBEDDED)
        # The default preset is made for the embedded model, under whatever name it was loaded.
        is_embedded = model.name == ModelConfig(id=EMBEDDED).name
        config = load_config() if is_embedded else Config(name=model.name, model=model)
    changes = {"model.id": name} if name else {}
    changes |= {f"model.{key}": value for key, value in options.items()}
    typed = {key: key.removeprefix("model.") for key in changes} | {"model.id": "name_or_path"}
    return change_config(config, changes, typed) if changes else config
