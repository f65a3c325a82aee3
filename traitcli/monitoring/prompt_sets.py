"""Prompt sets: what each prompt is to show, and what was seen when all were watched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from jinja2.exceptions import TemplateError
from pydantic import Field, ValidationError

from traitcli.config import Section, format_faults
from traitcli.errors import ConfigError, TraitError, UserError, suggest
from traitcli.events import Event, Listener, MonitorFinished, Warned
from traitcli.models.loaded import LoadedModel
from traitcli.monitoring.monitor import Watch, monitor
from traitcli.monitoring.record_files import append_records
from traitcli.record_json import FailedRecord, to_json
from traitcli.shipped import find_shipped, list_shipped
from traitcli.yaml_files import read_yaml

Shows = Literal["positive", "negative", "both"]
_WINDOW = 5
"""Tokens that are averaged before a rise and a fall are measured."""


class SetPrompt(Section):
    """One prompt of a set."""

    prompt: Annotated[str, Field(min_length=1)]
    """What the model is asked."""
    trait: str = ""
    """The trait that the answer should show."""
    shows: Shows | None = None
    """How it should show: positive, negative, or both within one answer."""
    system: str | None = None
    """A system message, in place of the config's."""


class PromptSet(Section):
    """Prompts to be watched one after another."""

    name: str = ""
    """Names the record's file."""
    description: str = ""
    """What the set is for."""
    prompts: tuple[SetPrompt, ...]
    """In the order in which they are asked."""


def load_prompt_set(source: str) -> PromptSet:
    """Read a set by path, or by name from ./configs/prompts or among the shipped ones; raises ConfigError.

    A list of texts is a set too.
    """
    path = _find(source)
    data = read_yaml(path)
    if isinstance(data, list):
        data = {"prompts": [{"prompt": one} if isinstance(one, str) else one for one in data]}
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path} is no prompt set", cause="it is neither a list nor a mapping", fix=_FORM
        )
    try:
        found = PromptSet.model_validate({"name": path.stem} | data)
    except ValidationError as error:
        raise ConfigError(
            f"{path} is no prompt set", cause=format_faults(error, PromptSet), fix=_FORM
        ) from None
    if not found.prompts:
        raise ConfigError(f"{path} is no prompt set", cause="it holds no prompt", fix=_FORM)
    return found


def watch_set(
    loaded: LoadedModel, watch: Watch, asked: PromptSet, out: Path, on_event: Listener
) -> Iterator[dict[str, Any]]:
    """Answer one prompt after another; gives the record of each, a line of `out` by then.

    One that fails is recorded as failed, and the next one is asked.
    """
    for number, one in enumerate(asked.prompts, start=1):
        about = {
            "set": asked.name,
            "number": number,
            "of": len(asked.prompts),
            "trait": one.trait,
            "shows": one.shows,
        }
        config = (
            watch.config.model_copy(update={"system": one.system}) if one.system else watch.config
        )
        try:
            written = replace(watch, config=config, about=about)
            record = to_json(
                monitor(loaded, written, one.prompt, None, _kept_if_cut(out, on_event))
            )
        except (TraitError, TemplateError) as error:
            problem = (
                f"{error.problem}: {error.cause}" if isinstance(error, TraitError) else str(error)
            )
            on_event(Warned("", f"prompt {number} failed: {problem}"))
            record = to_json(FailedRecord(one.prompt, problem, about))
        append_records(out, [record])
        yield record


def _kept_if_cut(out: Path, on_event: Listener) -> Listener:
    """A listener that keeps the record of an answer that is interrupted; the others are kept when they are complete."""

    def listen(event: Event) -> None:
        if (
            isinstance(event, MonitorFinished)
            and event.record
            and event.finish_reason == "interrupted"
        ):
            append_records(out, [to_json(event.record)])
        on_event(event)

    return listen


@dataclass(frozen=True, slots=True)
class Shown:
    """What a set's prompts showed of one trait: means over answers of calibrated scores, none where there is none.

    swing   largest − least mean of five tokens in a row, within an answer that should show both
    """

    trait: str
    positive: float | None
    negative: float | None
    swing: float | None
    answers: int
    failed: int


def sum_up(records: Sequence[Mapping[str, Any]]) -> list[Shown]:
    """One row for each trait that a set's prompts are to show."""
    traits = dict.fromkeys(record["about"].get("trait", "") for record in records)
    return [
        _shown(trait, [one for one in records if one["about"].get("trait") == trait])
        for trait in traits
        if trait
    ]


def _shown(trait: str, records: Sequence[Mapping[str, Any]]) -> Shown:
    scored = [one for one in records if one.get("calibrated_scores", {}).get(trait)]
    means = {
        side: [
            np.mean(one["calibrated_scores"][trait])
            for one in scored
            if one["about"]["shows"] == side
        ]
        for side in ("positive", "negative")
    }
    swings = [
        _swing(one["calibrated_scores"][trait]) for one in scored if one["about"]["shows"] == "both"
    ]
    positive, negative, swing = (
        float(np.mean(values)) if values else None
        for values in (means["positive"], means["negative"], swings)
    )
    return Shown(
        trait, positive, negative, swing, len(scored), sum("error" in one for one in records)
    )


def _swing(scores: Sequence[float]) -> float:
    width = min(_WINDOW, len(scores))
    smooth = np.convolve(scores, np.ones(width) / width, mode="valid")
    return float(smooth.max() - smooth.min())


def _find(source: str) -> Path:
    places = [
        Path(source),
        Path("configs/prompts") / f"{source}.yaml",
        find_shipped("configs/prompts") / f"{source}.yaml",
    ]
    for path in places:
        with suppress(OSError):  # a name too long to be one
            if path.is_file():
                return path
    names = sorted(path.stem for path in list_shipped("configs/prompts", "*.yaml"))
    raise UserError(
        f"no prompt set {source}",
        cause="neither a file nor a set that ships",
        fix=f"{suggest(Path(source).stem, names)} sets: {', '.join(names)}".strip(),
    )


_FORM = "it is a list of texts, or has prompts: [{prompt: …, trait: …, shows: positive}, …]"
