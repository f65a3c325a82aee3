"""traitcli monitor"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from traitcli.cli import monitor_options as option
from traitcli.cli.options import (
    ColorTrait,
    ConfigFile,
    Json,
    Layer,
    MaxNewTokens,
    Overrides,
    Seed,
    TrustRemoteCode,
    as_text,
    parse_layer,
)

if TYPE_CHECKING:
    from traitcli.config import Override


def monitor(
    prompt: option.Prompt = None,
    config: ConfigFile = "default",
    chat: option.Chat = False,
    prompts: option.Prompts = None,
    text: option.Input = None,
    by: option.By = None,
    replay: option.Replay = None,
    speed: option.Speed = 1.0,
    traits: option.Traits = None,
    trait: ColorTrait = None,
    layer: Layer = "auto",
    per_layer: option.PerLayer = False,
    prompt_tokens: option.PromptTokens = False,
    raw: option.Raw = False,
    steer: option.Steer = None,
    stop_on: option.StopOn = None,
    fail_on: option.FailOn = None,
    skip_thinking: option.SkipThinking = False,
    system: option.System = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: option.Temperature = None,
    top_p: option.TopP = None,
    top_k: option.TopK = None,
    seed: Seed = None,
    vectors: option.Vectors = None,
    out: option.Out = None,
    overrides: Overrides = None,
    as_json: Json = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Show trait scores for each token while the model writes.

    A RULE is evil>1.5 (8 tokens' mean), evil@fpr=1% (see calibrate) or mean(evil)>0.8 (answer).
    """
    from traitcli.cli.monitor_modes import monitor_source
    from traitcli.cli.session import Display, MonitorOptions, Source
    from traitcli.config import load_config

    options = MonitorOptions(
        Source(prompt and as_text(prompt), chat, prompts, text, replay, speed).from_pipe(),
        Display(trait, per_layer, prompt_tokens, raw, as_json, by),
        traits=split_names(traits),
        layer=parse_layer(layer),
        steer=tuple(steer or ()),
        stop_on=tuple(stop_on or ()),
        fail_on=tuple(fail_on or ()),
        vectors=vectors,
        out=out,
        trust=trust_remote_code,
    )
    changes = [
        *(overrides or ()),
        *as_override("skip_thinking", skip_thinking or None),
        *(as_override("system", system and as_text(system)) + as_override("seed", seed)),
        *as_override("sampling.max_new_tokens", max_new_tokens),
        *as_override("sampling.temperature", temperature),
        *(as_override("sampling.top_p", top_p) + as_override("sampling.top_k", top_k)),
    ]
    monitor_source(options, load_config(config, changes))


def split_names(text: str | None) -> tuple[str, ...]:
    """The names of a comma-separated list."""
    names = [name.strip() for name in (text or "").split(",")]
    return tuple(name for name in names if name)


def as_override(key: str, value: str | float | None) -> list[Override]:
    """An override of a key in the config's monitor section; none for an option that is not set."""
    from traitcli.config import Override

    if value is None:
        return []
    typed = f"{value:g}" if isinstance(value, float) else value
    option = f"--{key.rpartition('.')[2].replace('_', '-')} {typed}"
    # Not an assignment to the config, so that it validates the value like one of --set. JSON,
    # because YAML would read the unquoted system message "yes" as true.
    return [Override(f"monitor.{key}={json.dumps(value)}", option)]
