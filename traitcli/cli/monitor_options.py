"""The options of monitor alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Prompt = Annotated[
    str | None,
    typer.Argument(
        metavar="PROMPT", help="What to ask the model; what a plain-text --input answers."
    ),
]
Chat = Annotated[bool, typer.Option("--chat", help="Talk in several turns.")]
Prompts = Annotated[
    str | None,
    typer.Option(
        metavar="SET", help="Ask all prompts of a set: teaching, fluctuations, or a file."
    ),
]
Input = Annotated[
    Path | None,
    typer.Option(
        "--input", metavar="FILE", help="Score what was said already: JSONL, chats, text."
    ),
]
Replay = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Play a record again, at its own pace.")
]
Speed = Annotated[float, typer.Option(metavar="X", help="Play it X times as fast.")]
Traits = Annotated[
    str | None, typer.Option(metavar="A,B", help="Traits to watch; all that have vectors.")
]
Trait = Annotated[
    str | None, typer.Option(metavar="A", help="The trait that gives the colours; the strongest.")
]
Layer = Annotated[
    str,
    typer.Option(metavar="K|auto", help="Row to read, for all traits; auto: each vector's own."),
]
PerLayer = Annotated[
    bool, typer.Option("--per-layer", help="Show that trait at every layer: a heat map.")
]
PromptTokens = Annotated[
    bool, typer.Option("--prompt-tokens", help="Score the prompt's tokens too.")
]
Raw = Annotated[bool, typer.Option("--raw", help="Show projections in place of calibrated scores.")]
Steer = Annotated[
    list[str] | None,
    typer.Option(
        metavar="A=X[@K]",
        help="Add X times A's vector at layer K while the model writes, e.g. evil=-2.",
    ),
]
StopOn = Annotated[
    list[str] | None, typer.Option(metavar="RULE", help="End the answer there, e.g. 'refusal>2'.")
]
FailOn = Annotated[
    list[str] | None, typer.Option(metavar="RULE", help="Exit with 3 if crossed, e.g. 'evil>1.5'.")
]
System = Annotated[str | None, typer.Option(metavar="TEXT", help="A system message.")]
MaxNewTokens = Annotated[
    int | None, typer.Option(metavar="N", help="End the answer after N tokens.")
]
Temperature = Annotated[float | None, typer.Option(metavar="T", help="0 is greedy.")]
TopP = Annotated[
    float | None,
    typer.Option(metavar="P", help="Draw from the likeliest tokens of this probability."),
]
TopK = Annotated[
    int | None, typer.Option(metavar="K", help="Draw from the K likeliest tokens; 0: all.")
]
Seed = Annotated[int | None, typer.Option(metavar="N", help="Seed of the sampling.")]
Vectors = Annotated[
    Path | None, typer.Option(metavar="PATH", help="A folder of vectors, or a file of any format.")
]
Out = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Where the record goes; a .jsonl file gets a line more."),
]
