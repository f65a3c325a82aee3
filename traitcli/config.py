"""Settings: a YAML file and `--set` overrides become one frozen, validated object."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from traitcli.errors import ConfigError, suggest
from traitcli.faults import list_faults
from traitcli.settings import (
    EMBEDDED,
    Config,
    Device,
    ExtractConfig,
    FilterConfig,
    JudgeConfig,
    LikelihoodConfig,
    LocalJudgeConfig,
    ModelConfig,
    MonitorConfig,
    MonitorSamplingConfig,
    OpenAIConfig,
    PathsConfig,
    SamplingConfig,
    Section,
    VectorConfig,
    WorkersConfig,
)
from traitcli.shipped import find_shipped, list_shipped
from traitcli.yaml_files import parse_yaml, read_yaml

__all__ = [
    "DEFAULT",
    "EMBEDDED",
    "Config",
    "Device",
    "ExtractConfig",
    "FilterConfig",
    "JudgeConfig",
    "LikelihoodConfig",
    "LocalJudgeConfig",
    "ModelConfig",
    "MonitorConfig",
    "MonitorSamplingConfig",
    "OpenAIConfig",
    "Override",
    "PathsConfig",
    "SamplingConfig",
    "Section",
    "VectorConfig",
    "WorkersConfig",
    "change_config",
    "load_config",
]

DEFAULT = "default"
_SEE = "see docs/configs.md"
_RENAMED = {
    "workers.tries": "workers.max_crashes",
    "workers.patience": "workers.heartbeat_timeout",
}
"""Old key -> new key: a config that still uses the old one gets the new one as its suggestion."""


@dataclass(frozen=True, slots=True)
class Override:
    """A `KEY=VALUE` text that changes a setting; VALUE is YAML.

    option  what the user typed for it, for example "--threshold 70"; empty for --set
    """

    text: str
    option: str = ""

    @property
    def typed(self) -> str:
        return self.option or f"--set {self.text}"


def load_config(source: str = DEFAULT, overrides: Sequence[str | Override] = ()) -> Config:
    """Load a config file or a preset, apply overrides, and validate the result.

    Args:
        source: path of a YAML file, or the name of a preset.
        overrides: `KEY=VALUE` texts such as "extract.repeats=2"; VALUE is YAML. An error
            names the option of an Override.

    Returns:
        The settings; sections are attributes.

    Raises:
        ConfigError: it names every fault at once.

    Example:
        >>> load_config("demo", ["extract.repeats=2"]).extract.repeats
        2
    """
    path = find_config(source)
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path} is not a valid config", cause="it is not a mapping of sections", fix=_SEE
        )
    # After the overrides, one of which may name the run.
    typed = [one if isinstance(one, Override) else Override(one) for one in overrides]
    changed = deepcopy(data)
    for override in typed:
        _apply(changed, override)
    changed.setdefault("name", path.stem)
    try:
        return Config.model_validate(changed)
    except ValidationError as error:
        faults = dict(list_faults(error, Config, _RENAMED))
    raise _invalid(path, faults, _faults_without_overrides(data), typed)


def change_config(
    config: Config, changes: Mapping[str, Any], typed: Mapping[str, str] | None = None
) -> Config:
    """The same config with other values; keys are those of --set, such as "extract.repeats".

    `typed` is key -> what the user typed for it, if that is another name. Raises ConfigError: it
    names every fault at once.
    """
    data = config.model_dump()
    for key, value in changes.items():
        _put(data, key, value, key)
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        found = dict(list_faults(error, Config, _RENAMED))
    names = {path: (typed or {}).get(path, path) for path in found}
    faults = [names[path] + fault.removeprefix(path) for path, fault in found.items()]
    raise ConfigError(
        f"invalid {', '.join(names.values())}",
        cause="\n".join(faults),
        fix=f"correct it, or {_SEE}",
    )


def find_config(source: str) -> Path:
    """The file at a path, or of a preset in ./configs or among the shipped ones.

    Raises ConfigError if there is neither.
    """
    if Path(source).is_file():
        return Path(source)
    # Your own preset comes before a shipped one of the same name.
    local = Path("configs") / f"{source}.yaml"
    if local.is_file():
        return local
    shipped = find_shipped("configs") / f"{source}.yaml"
    # "../secrets" must not leave the folder of presets.
    if "/" not in source and shipped.is_file():
        return shipped
    presets = sorted(path.stem for path in list_shipped("configs", "*.yaml"))
    fix = f"{suggest(source, presets)} presets: {', '.join(presets)}".strip()
    raise ConfigError(f"config {source} not found", cause="neither a file nor a preset", fix=fix)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} -> {'a.b': 1}: the form in which settings are compared and named."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _faults_without_overrides(data: dict[str, Any]) -> set[str]:
    """The faults that the config file has on its own."""
    try:
        Config.model_validate(data)
    except ValidationError as error:
        return {found for _, found in list_faults(error, Config, _RENAMED)}
    return set()


def _invalid(
    path: Path, faults: Mapping[str, str], of_file: Collection[str], overrides: Sequence[Override]
) -> ConfigError:
    """The error for faults (path of the key -> text), which names the options that cause them."""
    added = [key for key, fault in faults.items() if fault not in of_file]
    culprits: dict[str, str] = {}
    for override in overrides:
        own = override.text.partition("=")[0]
        if any(f"{own}.".startswith(f"{key}.") or key.startswith(f"{own}.") for key in added):
            # Of several for one key, the last one counts.
            culprits[own] = override.typed
    if not culprits:
        fix = f"correct the key, or {_SEE}"
        return ConfigError(f"{path} is not valid", cause="\n".join(faults.values()), fix=fix)

    listed = ", ".join(culprits.values())
    is_only = len(added) == len(faults)
    problem = f"invalid {listed}" if is_only else f"{path} and {listed} are not valid"
    fix = f"correct the option, or {_SEE}"
    return ConfigError(problem, cause="\n".join(faults.values()), fix=fix)


def _apply(data: dict[str, Any], override: Override) -> None:
    """Set one KEY=VALUE override in the data of a config file."""
    key, equals, text = override.text.partition("=")
    if not equals or not key:
        fix = "for example --set extract.repeats=2"
        raise ConfigError(f"invalid {override.typed}", cause="expected KEY=VALUE", fix=fix)
    try:
        value = parse_yaml(text)
    except yaml.YAMLError:
        cause = f"{text!r} is not YAML"
        raise ConfigError(f"invalid {override.typed}", cause=cause, fix="quote the value") from None
    _put(data, key, value, override.typed)


def _put(data: dict[str, Any], key: str, value: Any, typed: str) -> None:
    """Set a dotted key in the data of a config; errors name what was `typed`."""
    *parents, last = key.split(".")
    section: Any = data
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            cause = f"{parent} is a value, not a section"
            raise ConfigError(f"invalid {typed}", cause=cause, fix=_SEE)
    section[last] = value
