"""traitcli monitor"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from traitcli.cli.options import ConfigFile, Json, Overrides, TrustRemoteCode


def monitor(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to ask the model.")],
    config: ConfigFile = "default",
    traits: Annotated[str | None, typer.Option(metavar="A,B", help="Traits to watch; all that have vectors.")] = None,
    layer: Annotated[int | None, typer.Option(metavar="K", help="Row to read, for all traits.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(metavar="N", help="End the answer after N tokens.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Seed of the sampling.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the record goes.")] = None,
    overrides: Overrides = None,
    as_json: Json = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Watch the traits, token by token, in a live answer."""
    from traitcli.cli.watch import watch
    from traitcli.config import load_config

    given = {"monitor.sampling.max_new_tokens": max_new_tokens, "monitor.seed": seed}
    flags = [f"{key}={value}" for key, value in given.items() if value is not None]
    settings = load_config(config, [*(overrides or ()), *flags])
    names = [name.strip() for name in (traits or "").split(",") if name.strip()]
    watch(prompt, settings, names, layer, out, as_json=as_json, trust=trust_remote_code)
