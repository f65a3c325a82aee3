"""traitcli serve"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from traitcli.cli.monitor_options import StopOn, Traits
from traitcli.cli.options import ConfigFile, Overrides, TrustRemoteCode

Host = Annotated[
    str,
    typer.Option(
        metavar="HOST",
        help="Address to listen on; others than this machine's own need --api-key "
        "(default: 127.0.0.1).",
        show_default=False,
    ),
]
Port = Annotated[
    int,
    typer.Option(
        metavar="PORT",
        min=0,
        max=65535,
        help="Port; 0 takes a free one (default: 8000).",
        show_default=False,
    ),
]
Record = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Keep the record of each answer, with its prompt, in this folder "
        "(default: the last 256 in memory).",
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="Key that clients must send (default: TRAITCLI_API_KEY, which no process list shows).",
    ),
]
Cors = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ORIGIN",
        help="Let pages of ORIGIN read answers, for example https://chat.example.org. "
        "Can be repeated.",
    ),
]
Slots = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, help="Answers written at once (default: what fits in memory, up to 32)."
    ),
]
Queue = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=1,
        help="Answers that may wait; more get status 429 (default: 256).",
        show_default=False,
    ),
]
Context = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=2,
        help="Tokens of a prompt and its answer, within the model's limit (default: 4096).",
        show_default=False,
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Tokens of an answer whose request does not say (default: what --context leaves).",
    ),
]
Timeout = Annotated[
    float,
    typer.Option(
        metavar="S",
        min=0.001,
        help="Seconds that a request may take, waiting included (default: 600).",
        show_default=False,
    ),
]
MaxBody = Annotated[
    int,
    typer.Option(
        metavar="KIB",
        min=1,
        help="Size of a request in KiB, at most (default: 1024).",
        show_default=False,
    ),
]


def serve(
    config: ConfigFile = "default",
    host: Host = "127.0.0.1",
    port: Port = 8000,
    traits: Traits = None,
    stop_on: StopOn = None,
    record: Record = None,
    api_key: ApiKey = None,
    cors: Cors = None,
    slots: Slots = None,
    queue: Queue = 256,
    context: Context = 4096,
    max_tokens: MaxTokens = None,
    timeout: Timeout = 600.0,
    max_body: MaxBody = 1024,
    overrides: Overrides = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Answer requests in OpenAI's form, with trait scores for each token.

    Serves /v1/chat/completions, /v1/completions, /v1/models, /health and /metrics until Ctrl-C.
    """
    from traitcli.cli.monitor import split_names
    from traitcli.cli.serving import ServeOptions, serve_model
    from traitcli.config import load_config

    options = ServeOptions(
        host=host,
        port=port,
        traits=split_names(traits),
        stop_on=tuple(stop_on or ()),
        record=record,
        api_key=api_key,
        cors=tuple(cors or ()),
        slots=slots,
        queue=queue,
        context=context,
        max_tokens=max_tokens,
        timeout=timeout,
        max_body=max_body * 1024,
        trust=trust_remote_code,
    )
    serve_model(options, load_config(config, overrides or ()))
