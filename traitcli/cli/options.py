"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class SchedulerKind(StrEnum):
    """What runs the workers."""

    local = "local"
    ray = "ray"


Traits = Annotated[
    list[str] | None,
    typer.Argument(metavar="TRAIT", help="Traits by name or file; all by default."),
]
ConfigFile = Annotated[
    str, typer.Option("-c", "--config", metavar="CONFIG", help="A YAML file, or a preset's name.")
]
RunName = Annotated[
    str | None,
    typer.Option("--run", metavar="NAME", help="The run; named after the config by default."),
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, e.g. extract.repeats=2."),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Run code that comes with the model. Read it first."),
]
MaxCost = Annotated[
    float | None,
    typer.Option(metavar="USD", help="Stop before judging this run has cost more in all."),
]
NoCache = Annotated[
    bool, typer.Option("--no-cache", help="Ask the judge anew what it has answered before.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print what would be done and what it takes.")
]


Gpus = Annotated[int | None, typer.Option(metavar="N", help="Use N GPUs, one worker each.")]
Devices = Annotated[
    str | None,
    typer.Option(metavar="D,D", help="Use these devices, e.g. cuda:0,cuda:3 or cpu,cpu."),
]
GpusPerWorker = Annotated[
    int,
    typer.Option(metavar="K", help="Give each worker K GPUs, for a model that is larger than one."),
]
SchedulerName = Annotated[
    SchedulerKind,
    typer.Option("--scheduler", help="Where workers run: on this machine, or on a Ray cluster."),
]
RayAddress = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS", help="The Ray cluster: auto (one that runs here), local, or HOST:PORT."
    ),
]


def as_text(given: str) -> str:
    """What was typed, with question marks for bytes that are no text."""
    return given.encode("utf-8", "replace").decode()


def judge_overrides(
    overrides: list[str] | None, max_cost: float | None, no_cache: bool
) -> list[str]:
    """The overrides with what the judge's own flags mean."""
    flags = [f"judge.openai.max_cost={max_cost}"] if max_cost is not None else []
    return [*(overrides or ()), *flags, *(["judge.openai.cache=false"] if no_cache else [])]
