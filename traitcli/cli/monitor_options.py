"""The options that only monitor has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Prompt = Annotated[
    str | None,
    typer.Argument(
        metavar="PROMPT",
        help="What to ask the model. With --input TEXTFILE: what the text answers.",
    ),
]
Chat = Annotated[bool, typer.Option("--chat", help="Chat in several turns.")]
Prompts = Annotated[
    str | None,
    typer.Option(metavar="SET", help="Run a prompt set: teaching, fluctuations, or a file."),
]
Input = Annotated[
    Path | None,
    typer.Option(
        "--input",
        metavar="PATH",
        help="Score existing text (JSONL, chats or plain text), or all logs in a folder; "
        "nothing is generated.",
    ),
]
By = Annotated[
    str | None,
    typer.Option(
        "--by",
        metavar="KEY",
        help="With --input: a table by day, file or any key of the log (default: by file, for a "
        "folder).",
    ),
]
Replay = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Replay a stored record at its original speed.")
]
Speed = Annotated[
    float,
    typer.Option(
        metavar="X", help="Replay X times as fast as the original (default: 1).", show_default=False
    ),
]
# An option here and an argument elsewhere: the argument of monitor is the prompt.
Traits = Annotated[
    str | None,
    typer.Option(
        metavar="A,B", help="Traits to monitor, comma-separated (default: all with vectors)."
    ),
]
PerLayer = Annotated[
    bool,
    typer.Option("--per-layer", help="Show the scores of one trait at every layer, as a heat map."),
]
PromptTokens = Annotated[
    bool, typer.Option("--prompt-tokens", help="Score the prompt's tokens too.")
]
Raw = Annotated[
    bool, typer.Option("--raw", help="Show raw projections instead of calibrated scores.")
]
Steer = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TRAIT=X[@K]",
        help="Add X times the trait's vector at layer K while generating, for example evil=-2. "
        "Brakes: evil=ablate, 'evil<=0.5', 'refusal=1 if evil>1'. Can be repeated.",
    ),
]
StopOn = Annotated[
    list[str] | None,
    typer.Option(
        metavar="RULE",
        help="End the answer when RULE is met, for example 'refusal>2'. Can be repeated.",
    ),
]
FailOn = Annotated[
    list[str] | None,
    typer.Option(
        metavar="RULE",
        help="Exit with code 3 when RULE is met, for example 'evil@fpr=1%'. Can be repeated.",
    ),
]
SkipThinking = Annotated[
    bool,
    typer.Option(
        "--skip-thinking",
        help="Leave the thinking part of an answer out of means and alarms; it is shown dim.",
    ),
]
System = Annotated[
    str | None, typer.Option(metavar="TEXT", help="System message (default: the config's).")
]
Temperature = Annotated[
    float | None,
    typer.Option(metavar="T", help="Sampling temperature; 0 is greedy (default: the config's)."),
]
TopP = Annotated[
    float | None,
    typer.Option(
        metavar="P",
        help="Sample from the most likely tokens that together have probability P "
        "(default: the config's).",
    ),
]
TopK = Annotated[
    int | None,
    typer.Option(
        metavar="K",
        help="Sample from the K most likely tokens; 0 means all (default: the config's).",
    ),
]
Vectors = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="Folder of vectors, or one vector file in any supported format "
        "(default: the config's folder).",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Output file. A .jsonl file is appended to. With --input, .csv and .parquet get a "
        "row of mean scores for each text.",
    ),
]
