"""traitcli monitor"""

from __future__ import annotations

import json
from typing import Any

from traitcli.cli import monitor_options as option
from traitcli.cli.options import ConfigFile, Json, Overrides, TrustRemoteCode, as_text


def monitor(
    prompt: option.Prompt = None,
    config: ConfigFile = "default",
    chat: option.Chat = False,
    prompts: option.Prompts = None,
    text: option.Input = None,
    replay: option.Replay = None,
    speed: option.Speed = 1.0,
    traits: option.Traits = None,
    trait: option.Trait = None,
    layer: option.Layer = "auto",
    per_layer: option.PerLayer = False,
    prompt_tokens: option.PromptTokens = False,
    raw: option.Raw = False,
    steer: option.Steer = None,
    stop_on: option.StopOn = None,
    fail_on: option.FailOn = None,
    system: option.System = None,
    max_new_tokens: option.MaxNewTokens = None,
    temperature: option.Temperature = None,
    top_p: option.TopP = None,
    top_k: option.TopK = None,
    seed: option.Seed = None,
    vectors: option.Vectors = None,
    out: option.Out = None,
    overrides: Overrides = None,
    as_json: Json = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Watch the traits, token by token, in a live answer.

    A RULE is evil>1.5 (any token), mean(evil)>0.8 (the whole answer), or run(evil,5)>1 (five tokens in a row).
    """
    from traitcli.cli.monitor_modes import watch
    from traitcli.cli.session import MonitorOptions
    from traitcli.config import load_config

    sampling = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
    }
    given = {
        "system": system,
        "seed": seed,
        **{f"sampling.{key}": value for key, value in sampling.items()},
    }
    wanted = MonitorOptions(
        prompt=prompt and as_text(prompt),
        chat=chat,
        prompts=prompts,
        text=text,
        replay=replay,
        speed=speed,
        traits=tuple(name.strip() for name in (traits or "").split(",") if name.strip()),
        trait=trait,
        layer=layer,
        per_layer=per_layer,
        prompt_tokens=prompt_tokens,
        raw=raw,
        steer=tuple(steer or ()),
        stop_on=tuple(stop_on or ()),
        fail_on=tuple(fail_on or ()),
        vectors=vectors,
        out=out,
        as_json=as_json,
        trust=trust_remote_code,
    )
    watch(wanted, load_config(config, [*(overrides or ()), *_as_overrides(given)]))


def _as_overrides(given: dict[str, Any]) -> list[str]:
    texts = {
        key: as_text(value) if isinstance(value, str) else value for key, value in given.items()
    }
    return [
        f"monitor.{key}={json.dumps(value)}" for key, value in texts.items() if value is not None
    ]
