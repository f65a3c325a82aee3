"""The options that two or more commands share, so that they mean the same and read the same."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from traitcli.errors import UserError

if TYPE_CHECKING:
    from traitcli.config import Override


class SchedulerKind(StrEnum):
    """What runs the workers."""

    local = "local"
    ray = "ray"


# Defaults are part of each help text, and Typer's own are off: it would print `[default: …]` for
# some options, and nothing for those that take their default from the config.

Traits = Annotated[
    list[str] | None,
    typer.Argument(metavar="TRAIT", help="Traits, by name or definition file (default: all)."),
]
ConfigFile = Annotated[
    str,
    typer.Option(
        "-c",
        "--config",
        metavar="CONFIG",
        help="Config: a YAML file or a preset's name (default: default).",
        show_default=False,
    ),
]
RunName = Annotated[
    str | None,
    typer.Option("--run", metavar="NAME", help="Name of the run (default: the config's name)."),
]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show every measurement.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a config key, for example extract.repeats=2. Can be repeated.",
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Run Python code that comes with the model. Read it first."
    ),
]
JudgeName = Annotated[
    str | None,
    typer.Option(
        "--judge",
        metavar="JUDGE",
        help="Use the scores of this judge, named by any unique part (default: the latest).",
    ),
]
MaxCost = Annotated[
    float | None,
    typer.Option(metavar="USD", help="Stop before this run's total judge cost exceeds USD."),
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Ignore cached judge replies.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print what would be done and its cost; do nothing.")
]

Gpus = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Number of GPUs, one worker on each (default: one worker on the config's device).",
    ),
]
Devices = Annotated[
    str | None,
    typer.Option(
        metavar="D,D",
        help="Devices, comma-separated, for example cuda:0,cuda:3 or cpu,cpu "
        "(default: the config's device).",
    ),
]
GpusPerWorker = Annotated[
    int,
    typer.Option(
        metavar="K",
        help="GPUs per worker, for a model too large for one GPU (default: 1).",
        show_default=False,
    ),
]
SchedulerName = Annotated[
    SchedulerKind,
    typer.Option(
        "--scheduler",
        help="Where workers run: on this machine or on a Ray cluster (default: local).",
        show_default=False,
    ),
]
RayAddress = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS",
        help="Ray cluster: auto joins the one on this machine, local starts one, "
        "or HOST:PORT (default: auto).",
        show_default=False,
    ),
]

LabelKey = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="KEY",
        help="Key that is true or 1 where an answer shows the trait (default: label).",
    ),
]
ColorTrait = Annotated[
    str | None,
    typer.Option(
        "--trait", metavar="TRAIT", help="Color tokens by this trait (default: the strongest)."
    ),
]
Layer = Annotated[
    str,
    typer.Option(
        metavar="K|auto",
        help="Layer for all traits; auto takes each vector's own (default: auto).",
        show_default=False,
    ),
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(metavar="N", help="Maximum tokens in an answer (default: the config's)."),
]
Seed = Annotated[
    int | None,
    typer.Option(metavar="N", min=0, help="Seed for sampling (default: the config's)."),
]


def as_text(typed: str) -> str:
    """What the user typed, with question marks for bytes that are not text."""
    # Python keeps bytes that its locale does not know as surrogates; most are UTF-8 all the same.
    text = typed.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return text.replace("\ufffd", "?")


def judge_overrides(
    overrides: list[str] | None, max_cost: float | None, no_cache: bool
) -> list[str | Override]:
    """The --set overrides, followed by those for --max-cost and --no-cache."""
    # Not above, because --help must not load pydantic.
    from traitcli.config import Override

    # Last, so that an option wins over a --set of the same key.
    changes: list[str | Override] = [*(overrides or ())]
    if max_cost is not None:
        changes.append(Override(f"judge.openai.max_cost={max_cost}", f"--max-cost {max_cost:g}"))
    if no_cache:
        changes.append(Override("judge.openai.cache=false", "--no-cache"))
    return changes


def parse_layer(text: str) -> int | None:
    """The layer that --layer names; None for auto. Raises UserError for anything else."""
    if text == "auto":
        return None

    # isdigit alone accepts digits of other scripts and superscripts, which int() may refuse.
    if not (text.isascii() and text.isdigit()):
        raise UserError(
            f"invalid --layer {text}",
            cause=f"{text} is neither a layer number nor auto",
            fix="--layer 16, or --layer auto",
        )
    return int(text)
