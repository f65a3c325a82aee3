"""The sections of a configuration, with the default and the bounds of every key."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
)

from traitcli.records import Context, Position

Percent = Annotated[float, Field(ge=0, le=100)]
# Without an upper bound, a slip of the finger fails in a library, hours later, or not at all.
PositiveInt = Annotated[int, Field(ge=1, le=10**9)]
NonNegativeInt = Annotated[int, Field(ge=0, le=10**9)]
PositiveFloat = Annotated[float, Field(gt=0, le=1e9)]
Price = Annotated[float, Field(ge=0, le=1e9)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""torch takes signed 64-bit seeds."""
_MIN_TEMPERATURE = 0.001


def _check_temperature(value: float) -> float:
    # Logits are divided by it: they would become infinite.
    if 0 < value < _MIN_TEMPERATURE:
        raise ValueError(f"expected 0, which is greedy, or a number from {_MIN_TEMPERATURE} to 100")
    return value


Temperature = Annotated[float, Field(ge=0, le=100), AfterValidator(_check_temperature)]
EMBEDDED = "embedded"
Device = str
"""A torch device: 'cpu', 'cuda', 'cuda:1', 'mps', or 'auto'."""


class Section(BaseModel):
    """A part of the configuration: frozen, and unknown keys are an error."""

    # use_attribute_docstrings: docs/make_configs.py writes the table of settings from them.
    # protected_namespaces: pydantic would warn about our own keys that begin with "model_".
    # allow_inf_nan: YAML can write .nan and .inf for every number.
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        protected_namespaces=(),
        allow_inf_nan=False,
    )


def _check_options(value: object) -> object:
    if not isinstance(value, Mapping):
        return value
    for name, option in value.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"{name!r} cannot name an argument of a template")
        if name in _OWN_ARGUMENTS:
            raise ValueError(f"traitcli sets {name} itself")
        if not isinstance(option, str | int | float | bool | None):
            raise ValueError(f"{name} must be a string, a number, true, false or null")
    # Hashable, as the rest of a frozen section: models are kept by their settings.
    return tuple(sorted(value.items()))


_OWN_ARGUMENTS = {
    *("conversation", "messages", "tools", "documents", "chat_template", "add_generation_prompt"),
    *("continue_final_message", "tokenize", "padding", "truncation", "max_length"),
    *("return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"),
}
TemplateOptions = Annotated[
    tuple[tuple[str, str | int | float | bool | None], ...],
    BeforeValidator(_check_options),
    PlainSerializer(dict),
]


def _expand_user(value: object) -> object:
    """The shell expands ~ on the command line only."""
    return os.path.expanduser(value) if isinstance(value, str) else value  # noqa: PTH111


UserPath = Annotated[Path, BeforeValidator(_expand_user)]


class ModelConfig(Section):
    """The model to read."""

    id: Annotated[str, BeforeValidator(_expand_user)]
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
    decode_loop: Literal["moving", "fixed", "graph"] = "moving"
    """moving: the last answer moves to the slot of one that has ended, and the CPU picks up each
    token before the next step starts. fixed: answers keep their slots, and tokens are picked up one
    step late. graph: fixed, and each step is a CUDA graph. fixed and graph have not been measured
    on a GPU. See engines.md."""
    persona_in: Literal["auto", "system", "user"] = "auto"
    """The message that holds the persona sentence. auto: system if the chat template shows system
    messages, else user."""

    template_options: TemplateOptions = ()
    """Arguments of the chat template, such as {enable_thinking: false}. See chat-templates.md."""

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

    temperature: Temperature = 1.0
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
    pairs_per_question: PositiveInt | None = None
    """Contrast pairs that each question is asked under, in turn. null: all. With fewer, the same
    number of rollouts covers more questions."""
    evaluation_questions: NonNegativeInt | None = None
    """Number of evaluation questions to ask per trait. null: all. 0: no held-out check."""
    batch_size: PositiveInt | Literal["auto"] = "auto"
    """Sequences decoded or read together. auto: as many as fit into memory, halved when memory runs
    out."""
    seed: Seed = 0
    """Each rollout derives its own seed from this number and its id."""
    engine: Literal["traitcli", "vllm"] = "traitcli"
    """Generation backend. traitcli captures activations while generating; vllm generates first and
    re-reads the text in a second pass. See engines.md."""
    skip_thinking: bool = False
    """Leave the thinking part of an answer out of its mean activation. It is then read a second
    time."""
    sampling: SamplingConfig = SamplingConfig()


class LikelihoodConfig(Section):
    """A judge without a second model: it compares how well personas explain an answer."""

    pairs: PositiveInt = 4
    """Other contrast pairs to compare for each answer, at most the number of pairs − 1."""
    sharpness: PositiveFloat = 10.0
    """How strongly the per-token log ratio counts: score = 100·σ(sharpness·ratio)."""
    batch_size: PositiveInt = 64
    """Answers scored together; fewer when memory runs out."""


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
    thinking_room: PositiveInt | None = None
    """Tokens that a reply may have if the judge model thinks first. null: found out, and doubled
    up to 16384 when a reply is cut off."""
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
    price_in: Price | None = None
    """US dollars for a million prompt tokens. null: from configs/prices/, if it has the model."""
    price_out: Price | None = None
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
    """Prompts read together; fewer when memory runs out."""


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
    context: Context = "persona"
    """persona: build from responses behind the prompt that they answered. neutral: behind the bare
    question, which only response_avg has."""
    position: Position = "response_avg"
    """The tokens whose hidden states make the direction that is monitored and evaluated."""
    layer: PositiveInt | Literal["auto"] = "auto"
    """The layer to read. auto: between 25 % and 75 % of depth, of the layers whose held-out-pair
    AUROC is within one standard error of the best, the one nearest to the middle."""


class MonitorSamplingConfig(SamplingConfig):
    """How the next token is sampled while monitoring."""

    temperature: Temperature = 0.7
    """0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Sample from the most likely tokens until their probabilities add up to this. 1: from all."""


class MonitorConfig(Section):
    """How a monitored answer is generated."""

    sampling: MonitorSamplingConfig = MonitorSamplingConfig()
    seed: Seed = 0
    """The same seed samples the same answer again."""
    system: str | None = None
    """A system message."""
    skip_thinking: bool = False
    """Leave the thinking part of an answer out of means and alarms; its tokens are still shown."""


class WorkersConfig(Section):
    """What happens when a worker process crashes or hangs. Several devices have one worker each."""

    max_crashes: PositiveInt = 3
    """Maximum consecutive worker crashes without progress, per trait and per device. Then the trait
    fails, or the device is no longer used."""
    heartbeat_timeout: PositiveFloat = 1800.0
    """Seconds without a heartbeat after which a worker counts as hung and is stopped."""


class PathsConfig(Section):
    """Where files are, relative to the working folder."""

    runs: UserPath = Path("runs")
    """Run folders, monitoring records and the report."""
    vectors: UserPath = Path("vectors")
    """Vectors, in one folder per model."""
    traits: UserPath = Path("traits")
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


def setting_keys(section: type[Section] = Config, prefix: str = "") -> Iterator[str]:
    """Every key of the configuration, as `--set` takes it.

    Example: `model.id`, `extract.sampling.temperature`.
    """
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from setting_keys(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
