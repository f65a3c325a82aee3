"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from typing import Annotated

import typer

Traits = Annotated[list[str] | None, typer.Argument(metavar="TRAIT", help="Traits by name or file; all by default.")]
ConfigFile = Annotated[str, typer.Option("-c", "--config", metavar="CONFIG", help="A YAML file, or a preset's name.")]
RunName = Annotated[
    str | None, typer.Option("--run", metavar="NAME", help="The run; named after the config by default.")
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, e.g. extract.repeats=2.")
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the model. Read it first.")
]
MaxCost = Annotated[
    float | None, typer.Option(metavar="USD", help="Stop before judging this run has cost more in all.")
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Ask the judge anew what it has answered before.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done and what it takes.")]


def judge_overrides(overrides: list[str] | None, max_cost: float | None, no_cache: bool) -> list[str]:
    """The overrides with what the judge's own flags mean."""
    flags = [f"judge.openai.max_cost={max_cost}"] if max_cost is not None else []
    return [*(overrides or ()), *flags, *(["judge.openai.cache=false"] if no_cache else [])]
