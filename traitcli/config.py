"""Settings: a YAML file and `--set` overrides become one frozen, validated object."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from traitcli.errors import ConfigError, suggest
from traitcli.faults import list_faults
from traitcli.records import Position
from traitcli.shipped import find_shipped, list_shipped
from traitcli.yaml_files import parse_yaml, read_yaml

Percent = Annotated[float, Field(ge=0, le=100)]
EMBEDDED = "embedded"
Device = str
"""A torch device: 'cpu', 'cuda', 'cuda:1', 'mps', or 'auto'."""


class Section(BaseModel):
    """A part of the configuration: frozen, and unknown keys are an error."""

    # use_attribute_docstrings: docs/make_configs.py writes the table of settings from them.
    # protected_namespaces: pydantic would warn about our own keys that begin with "model_".
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=()
    )


class ModelConfig(Section):
    """The model to read."""

    id: str
    """A Hugging Face id, a folder, a .gguf file, or 'embedded' for SmolLM2-135M-Instruct."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: on a CPU float32; on a GPU bfloat16 if it supports that, else float16 if the weights
    are stored in it."""
    device: Device = "auto"
    """auto: the first CUDA GPU, else Apple's GPU, else the CPU."""
    device_map: Literal["auto"] | None = None
    """auto: accelerate spreads the model over all devices, for a model larger than one of them.
    null: the whole model on `device`."""
    persona_in: Literal["auto", "system", "user"] = "auto"
    """The message that holds the persona sentence. auto: system if the chat template shows system
    messages, else user."""

    @property
    def name(self) -> str:
        """The folder name of the model's vectors: 'google/gemma-2-2b-it' -> 'gemma-2-2b-it'."""
        if self.id == EMBEDDED:
            return "smollm2-135m-instruct"
        path = Path(self.id)
        stem = path.stem if path.suffix == ".gguf" else path.name
        # Lower case, because some file systems take names of other case for the same folder.
        return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-.") or "model"


class SamplingConfig(Section):
    """How the next token is sampled."""

    temperature: Annotated[float, Field(ge=0)] = 1.0
    """0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sample from the most likely tokens until their probabilities add up to this. 1: from all."""
    top_k: NonNegativeInt = 0
    """Sample from this many most likely tokens. 0: from all."""
    max_new_tokens: PositiveInt = 128
    """Maximum length of an answer, in tokens."""


class ExtractConfig(Section):
    """How rollouts are generated."""

    repeats: PositiveInt = 1
    """Answers for each question, pair and polarity."""
    questions: PositiveInt | None = None
    """Number of extraction questions to ask per trait. null: all."""
    evaluation_questions: NonNegativeInt | None = None
    """Number of evaluation questions to ask per trait. null: all. 0: no held-out check."""
    batch_size: PositiveInt | Literal["auto"] = "auto"
    """Sequences decoded together. auto: as many as fit into memory, halved when memory runs out."""
    seed: NonNegativeInt = 0
    """Each rollout derives its own seed from this number and its id."""
    engine: Literal["traitcli", "vllm"] = "traitcli"
    """Generation backend. traitcli captures activations while generating; vllm generates first and
    re-reads the text in a second pass. See engines.md."""
    sampling: SamplingConfig = SamplingConfig()


class LikelihoodConfig(Section):
    """A judge without a second model: it compares how well personas explain an answer."""

    pairs: PositiveInt = 4
    """Other contrast pairs to compare for each answer, at most the number of pairs − 1."""
    sharpness: PositiveFloat = 10.0
    """How strongly the per-token log ratio counts: score = 100·σ(sharpness·ratio)."""
    batch_size: PositiveInt = 64
    """Answers scored together."""


class OpenAIConfig(Section):
    """A judge behind an OpenAI-compatible endpoint. The key comes from OPENAI_API_KEY only."""

    model: str = "gpt-4.1-mini"
    """Name of the judge model at the endpoint."""
    base_url: str | None = None
    """null: OPENAI_BASE_URL, else api.openai.com."""
    scale: Literal["0_100", "0_10", "binary", "binary_text"] = "0_100"
    """The kind of score to ask for. See judging.md."""
    coherence: bool = True
    """Ask for a coherence score too. Doubles the calls."""
    logprobs: Literal["auto", "required", "never"] = "auto"
    """auto: use log-probabilities if the endpoint returns them, else the number in the text."""
    samples: PositiveInt = 1
    """Replies to average when there are no log-probabilities. 1: one reply, at temperature 0 if the
    endpoint allows it."""
    max_concurrency: PositiveInt = 256
    """Maximum requests in flight. The number in use adapts to the endpoint."""
    requests_per_minute: PositiveInt | None = None
    """The endpoint's request limit, if you know it. null: no limit of our own."""
    tokens_per_minute: PositiveInt | None = None
    """The endpoint's limit on prompt and completion tokens. null: no limit of our own."""
    timeout: PositiveFloat = 60.0
    """Maximum seconds for one request."""
    cache: bool = True
    """Keep replies in the user cache, so that no question is paid for twice."""
    price_in: Annotated[float, Field(ge=0)] | None = None
    """US dollars for a million prompt tokens. null: from configs/prices/, if it has the model."""
    price_out: Annotated[float, Field(ge=0)] | None = None
    """US dollars for a million completion tokens. null: as for price_in."""
    max_cost: PositiveFloat | None = None
    """Stop before this run's total judge cost exceeds this many US dollars."""


class LocalJudgeConfig(Section):
    """A judge model in this process. It is asked for a number, which is read digit by digit."""

    model: ModelConfig | None = None
    """The judge model, with the keys of `model`. null: the model that wrote the answers. A judge on
    its own device judges while rollouts are generated."""
    scale: Literal["0_100", "0_10", "binary"] = "0_100"
    """The kind of score to ask for. See judging.md."""
    coherence: bool = True
    """Ask for a coherence score too. Doubles the work."""
    batch_size: PositiveInt = 32
    """Prompts read together."""


class JudgeConfig(Section):
    """The judge that scores the rollouts. Each backend has its own section."""

    backend: Literal["likelihood", "openai", "local", "fake"] = "likelihood"
    """Which judge scores. fake is instant and meaningless, for trying things out."""
    likelihood: LikelihoodConfig = LikelihoodConfig()
    openai: OpenAIConfig = OpenAIConfig()
    local: LocalJudgeConfig = LocalJudgeConfig()


class FilterConfig(Section):
    """Which rollouts a vector is built from."""

    threshold: Percent = 50
    """Keep positive rollouts that score at least this, and negative ones below 100 − this."""
    coherence: Percent = 50
    """Minimum coherence of both, if the judge scores coherence."""
    pairing: Literal["paired", "independent"] = "paired"
    """paired: keep an answer only if its counterpart passes too, as published."""
    min_auroc: Annotated[float, Field(ge=0, le=1)] = 0.6
    """Skip the filter if the judge separates the two polarities with a lower AUROC than this."""


class VectorConfig(Section):
    """How kept rollouts become a direction."""

    method: Literal["mean_difference", "logistic", "whitened_difference", "pca_of_differences"] = (
        "mean_difference"
    )
    """mean_difference: mean of the positive activations − mean of the negative ones. `traitcli
    inspect methods` compares it with the others."""
    position: Position = "response_avg"
    """The tokens whose hidden states make the direction that is monitored and evaluated."""
    layer: PositiveInt | Literal["auto"] = "auto"
    """The layer to read. auto: between 25 % and 75 % of depth, the earliest layer whose
    held-out-pair AUROC is within one standard error of the best."""


class MonitorSamplingConfig(SamplingConfig):
    """How the next token is sampled while monitoring."""

    temperature: Annotated[float, Field(ge=0)] = 0.7
    """0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Sample from the most likely tokens until their probabilities add up to this. 1: from all."""


class MonitorConfig(Section):
    """How a monitored answer is generated."""

    sampling: MonitorSamplingConfig = MonitorSamplingConfig()
    seed: NonNegativeInt = 0
    """The same seed samples the same answer again."""
    system: str | None = None
    """A system message."""


class WorkersConfig(Section):
    """What happens when a worker process crashes or hangs. Several devices have one worker each."""

    max_crashes: PositiveInt = 3
    """Maximum consecutive worker crashes without progress, per trait and per device. Then the trait
    fails, or the device is no longer used."""
    heartbeat_timeout: Annotated[float, Field(gt=0)] = 1800.0
    """Seconds without a heartbeat after which a worker counts as hung and is stopped."""


class PathsConfig(Section):
    """Where files are, relative to the working folder."""

    runs: Path = Path("runs")
    """Run folders, monitoring records and the report."""
    vectors: Path = Path("vectors")
    """Vectors, in one folder per model."""
    traits: Path = Path("traits")
    """Your own trait files. A file with the name of a shipped trait replaces it."""


class Config(Section):
    """All settings of a command."""

    name: str = ""
    """Name of the run. Empty: the config file's name."""
    model: ModelConfig
    traits: tuple[str, ...] = ()
    """Traits to use when the command names none. Empty: all."""
    extract: ExtractConfig = ExtractConfig()
    judge: JudgeConfig = JudgeConfig()
    filter: FilterConfig = FilterConfig()
    vector: VectorConfig = VectorConfig()
    monitor: MonitorConfig = MonitorConfig()
    workers: WorkersConfig = WorkersConfig()
    paths: PathsConfig = PathsConfig()


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
    *parents, last = key.split(".")
    section: Any = data
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            cause = f"{parent} is a value, not a section"
            raise ConfigError(f"invalid {override.typed}", cause=cause, fix=_SEE)
    section[last] = value
