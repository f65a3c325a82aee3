"""Settings: a YAML file and `--set` overrides become one frozen, checked object."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

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

from traitcli.errors import ConfigError
from traitcli.records import Position
from traitcli.shipped import find_shipped, list_shipped
from traitcli.yaml_files import parse_yaml, read_yaml

Percent = Annotated[float, Field(ge=0, le=100)]
EMBEDDED = "embedded"
Device = str
"""A torch device: 'cpu', 'cuda', 'cuda:1', 'mps', or 'auto'."""


class Section(BaseModel):
    """A part of the configuration: frozen, and unknown keys are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=()
    )


class ModelConfig(Section):
    """Which model is read."""

    id: str
    """A Hugging Face id, a folder, a .gguf file, or 'embedded' for SmolLM2-135M-Instruct."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: bfloat16 on GPUs that have it, else float16 if the weights are that, float32 on a CPU."""
    device: Device = "auto"
    """auto: the first GPU, else Apple's, else the CPU."""
    device_map: Literal["auto"] | None = None
    """auto: spread over all devices by accelerate, for a model larger than one of them; none: all on `device`."""
    persona_in: Literal["auto", "system", "user"] = "auto"
    """Where the persona sentence goes; auto: system, if the chat template shows it there."""

    @property
    def name(self) -> str:
        """The folder name of the model's vectors: 'google/gemma-2-2b-it' -> 'gemma-2-2b-it'."""
        if self.id == EMBEDDED:
            return "smollm2-135m-instruct"
        path = Path(self.id)
        stem = path.stem if path.suffix == ".gguf" else path.name
        return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-.") or "model"


class SamplingConfig(Section):
    """How the next token is drawn."""

    temperature: Annotated[float, Field(ge=0)] = 1.0
    """0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Draws from the likeliest tokens that together have this probability."""
    top_k: NonNegativeInt = 0
    """0 keeps every token."""
    max_new_tokens: PositiveInt = 128
    """The longest answer, in tokens."""


class ExtractConfig(Section):
    """How rollouts are generated."""

    repeats: PositiveInt = 1
    """Answers for each question, pair and polarity."""
    questions: PositiveInt | None = None
    """How many of a trait's extraction questions to ask; none: all."""
    evaluation_questions: NonNegativeInt | None = None
    """How many of a trait's evaluation questions to ask; none: all, 0: no held-out check."""
    batch_size: PositiveInt | Literal["auto"] = "auto"
    """Sequences decoded together; auto: what fits into memory, halved when that runs out."""
    seed: NonNegativeInt = 0
    """Every rollout's own seed is derived from this and its id."""
    engine: Literal["traitcli", "vllm"] = "traitcli"
    """Who writes: our own loop, which reads along; or vLLM, whose text the model then reads. See engines.md."""
    sampling: SamplingConfig = SamplingConfig()


class LikelihoodConfig(Section):
    """The judge without a second model: which persona explains the answer better?"""

    pairs: PositiveInt = 4
    """Other contrast pairs asked about each answer (at most the number of pairs − 1)."""
    sharpness: PositiveFloat = 10.0
    """The per-token log ratio counts as this many tokens of evidence: score = 100·σ(sharpness·ratio)."""
    batch_size: PositiveInt = 64
    """Answers scored together."""


class OpenAIConfig(Section):
    """A judge behind an OpenAI-compatible endpoint; the key comes from OPENAI_API_KEY only."""

    model: str = "gpt-4.1-mini"
    """The judge model's name at the endpoint."""
    base_url: str | None = None
    """None: OPENAI_BASE_URL, else api.openai.com."""
    scale: Literal["0_100", "0_10", "binary", "binary_text"] = "0_100"
    """What the judge is asked for; see judging.md."""
    coherence: bool = True
    """Ask for a coherence score too; doubles the calls."""
    logprobs: Literal["auto", "required", "never"] = "auto"
    """auto: log-probabilities if the endpoint gives them, else the number in the text."""
    samples: PositiveInt = 1
    """Replies averaged where there are no log-probabilities; 1: a single one, at temperature 0 if it can be had."""
    max_concurrency: PositiveInt = 256
    """Requests under way at the same time, at most; how many it takes is found out."""
    requests_per_minute: PositiveInt | None = None
    """What the endpoint allows, if you know; none: no cap of our own."""
    tokens_per_minute: PositiveInt | None = None
    """Prompt and completion tokens a minute, the same way."""
    timeout: PositiveFloat = 60.0
    """Seconds for one request, at most; far fewer where the endpoint has shown to be fast."""
    cache: bool = True
    """Keep replies in the user cache, so that the same question is never paid for twice."""
    price_in: Annotated[float, Field(ge=0)] | None = None
    """US dollars for a million prompt tokens; none: from configs/prices/, if the model is there."""
    price_out: Annotated[float, Field(ge=0)] | None = None
    """The same for completion tokens."""
    max_cost: PositiveFloat | None = None
    """US dollars that judging a run may cost in all; it stops before it would cost more."""


class LocalJudgeConfig(Section):
    """A judge model in this process, asked for a number and read digit by digit."""

    model: ModelConfig | None = None
    """The judge model, with the keys of `model`; none: the one that wrote the answers. On a device of its own it
    judges while rollouts are generated."""
    scale: Literal["0_100", "0_10", "binary"] = "0_100"
    """What the judge is asked for; see judging.md."""
    coherence: bool = True
    """Ask for a coherence score too; doubles the reading."""
    batch_size: PositiveInt = 32
    """Prompts read together."""


class JudgeConfig(Section):
    """Who scores the rollouts; each backend has its own section."""

    backend: Literal["likelihood", "openai", "local", "fake"] = "likelihood"
    """Which judge scores; fake is instant, and for trying things out."""
    likelihood: LikelihoodConfig = LikelihoodConfig()
    openai: OpenAIConfig = OpenAIConfig()
    local: LocalJudgeConfig = LocalJudgeConfig()


class FilterConfig(Section):
    """Which rollouts a vector is built from."""

    threshold: Percent = 50
    """A positive rollout needs a score ≥ this, a negative one < 100 − this."""
    coherence: Percent = 50
    """Both need at least this coherence, where the judge gives one."""
    pairing: Literal["paired", "independent"] = "paired"
    """paired: keep an index only when both sides pass (the published procedure)."""
    min_auroc: Annotated[float, Field(ge=0, le=1)] = 0.6
    """A judge that separates the instructions less well than this does not filter at all."""


class VectorConfig(Section):
    """How kept rollouts become a direction."""

    method: Literal["mean_difference", "logistic", "whitened_difference", "pca_of_differences"] = (
        "mean_difference"
    )
    """mean_difference: mean of the positive activations − mean of the negative ones; the others are compared
    with it by `traitcli inspect methods`."""
    position: Position = "response_avg"
    """The position whose direction is monitored and judged."""
    layer: PositiveInt | Literal["auto"] = "auto"
    """A row; auto: between 25 % and 75 % of depth, the earliest that separates left-out pairs as well as the best one
    does, within one standard error."""


class MonitorSamplingConfig(SamplingConfig):
    """How the next token is drawn while a generation is watched."""

    temperature: Annotated[float, Field(ge=0)] = 0.7
    """0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Draws from the likeliest tokens that together have this probability."""


class MonitorConfig(Section):
    """How a watched generation is made."""

    sampling: MonitorSamplingConfig = MonitorSamplingConfig()
    seed: NonNegativeInt = 0
    """Draws the same answer again; --seed sets it."""
    system: str | None = None
    """A system message."""


class WorkersConfig(Section):
    """What happens to a worker process that is lost; there are some with several devices."""

    tries: PositiveInt = 3
    """Workers that may die over the same rollouts, finishing none, before their trait counts as failed; and on a
    device, one after the other, before it is left alone."""
    patience: Annotated[float, Field(gt=0)] = 1800.0
    """Seconds without a sign of life after which a worker counts as hung, and is ended."""


class PathsConfig(Section):
    """Where things lie, relative to the working folder."""

    runs: Path = Path("runs")
    """Run directories, monitoring records and the report."""
    vectors: Path = Path("vectors")
    """Vectors, in a folder for each model."""
    traits: Path = Path("traits")
    """Your own trait files; one with the name of a built-in trait replaces it."""


class Config(Section):
    """Everything a command can be told in a file."""

    name: str = ""
    """Names the run; empty: the config file's name."""
    model: ModelConfig
    traits: tuple[str, ...] = ()
    """Traits to work on when the command names none; empty: all."""
    extract: ExtractConfig = ExtractConfig()
    judge: JudgeConfig = JudgeConfig()
    filter: FilterConfig = FilterConfig()
    vector: VectorConfig = VectorConfig()
    monitor: MonitorConfig = MonitorConfig()
    workers: WorkersConfig = WorkersConfig()
    paths: PathsConfig = PathsConfig()


DEFAULT = "default"


def load_config(source: str = DEFAULT, overrides: Sequence[str] = ()) -> Config:
    """Read a config file or a preset's name, apply `KEY=VALUE` overrides, check everything.

    Raises ConfigError naming every fault at once.
    """
    path = find_config(source)
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path} is not a valid config", cause="it is not a mapping of sections", fix=_SEE
        )
    for override in overrides:
        _apply(data, override)
    data.setdefault("name", path.stem)
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError(
            f"{path} is not valid",
            cause=faults_told(error, Config),
            fix=f"correct the key, or {_SEE}",
        ) from None


def find_config(source: str) -> Path:
    """The file for a path, or for the name of a preset in ./configs or among the shipped ones."""
    if Path(source).is_file():
        return Path(source)
    local = Path("configs") / f"{source}.yaml"
    if local.is_file():
        return local
    shipped = find_shipped("configs") / f"{source}.yaml"
    if "/" not in source and shipped.is_file():
        return shipped
    presets = sorted(p.stem for p in list_shipped("configs", "*.yaml"))
    close = difflib.get_close_matches(source, presets, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise ConfigError(
        f"no config {source}",
        cause="neither a file nor a preset",
        fix=f"{hint}presets: {', '.join(presets)}",
    )


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} -> {'a.b': 1}: how settings are compared and named in messages."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


_SEE = "see docs/configs.md"


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(
            f"--set {override} is not an override",
            cause="it has no KEY=VALUE form",
            fix="for example --set extract.repeats=2",
        )
    try:
        value = parse_yaml(text)
    except yaml.YAMLError:
        raise ConfigError(
            f"--set {override} has no valid value", cause=f"{text!r} is not YAML", fix="quote it"
        ) from None
    *parents, last = key.split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise ConfigError(
                f"--set {override} goes too deep",
                cause=f"{parent} is a value, not a section",
                fix=_SEE,
            )
    data[last] = value


def faults_told(error: ValidationError, kind: type[Section]) -> str:
    """Every fault of what should have been a section of a kind, a line each: where it is, and what."""
    return "\n".join(dict.fromkeys(_faults(error, kind)))


def _faults(error: ValidationError, kind: type[Section]) -> Iterator[str]:
    for fault in error.errors():
        place = ".".join(str(part) for part in fault["loc"] if not _is_union_tag(part))
        if fault["type"] == "extra_forbidden":
            *section, key = map(str, fault["loc"])
            close = difflib.get_close_matches(key, _known_keys(kind, section), n=1)
            yield f"{'.'.join([*section, key])}: unknown key" + (
                f"; did you mean {close[0]}?" if close else ""
            )
        elif fault["type"] == "model_type":
            yield f"{place}: not a section of settings (it is {fault['input']!r})"
        elif fault["type"] == "missing":
            yield f"{place}: required, and not given"
        else:
            yield f"{place}: {fault['msg'][:1].lower()}{fault['msg'][1:]} (it is {fault['input']!r})"


def _is_union_tag(part: object) -> bool:
    """Pydantic puts the tried member of a union in the location: constrained-int, literal[...]."""
    return isinstance(part, str) and ("[" in part or "-" in part or part in {"int", "str", "float"})


def _known_keys(kind: type[Section], location: Iterable[str]) -> list[str]:
    section: Any = kind
    for part in location:
        if part.isdigit():  # of a list, whose member it is already
            continue
        inner = section.model_fields[part].annotation
        section = next((member for member in get_args(inner) if member is not type(None)), inner)
    return list(section.model_fields)
