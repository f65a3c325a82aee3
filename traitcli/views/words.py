"""Words what happens, for the live views and the plain ones alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mode
from typing import Any

from traitcli.events import (
    AlarmRaised,
    ModelLoaded,
    ModelLoading,
    MonitorFinished,
    RunFinished,
    RunStarted,
    TextsRead,
    TraitFailed,
    VectorBuilt,
    Warned,
)
from traitcli.records import Intervention, Usage
from traitcli.vector_quality import VectorQuality
from traitcli.views.formatting import clock_time
from traitcli.views.printable import one_line, printable

_TURNS_TOLD = 6
_DEVICES_TOLD = 8
_ENDINGS = {
    "stop": "ended by the model",
    "length": "stopped at the token limit",
    "alarm": "stopped by an alarm",
}
_SHOWS = {"positive": "should rise", "negative": "should fall", "both": "should rise and fall"}


def run_text(event: RunStarted) -> str:
    """`run smollm2: 8 traits on cuda:0, cuda:1, in runs/smollm2`."""
    traits = f"{len(event.traits)} trait{'' if len(event.traits) == 1 else 's'}"
    named = [one_line(device) for device in event.devices]
    if len(named) > _DEVICES_TOLD:
        named = [*named[:2], f"… {named[-1]} ({len(named)} workers)"]
    devices = f" on {', '.join(named)}" if named else ""
    return f"run {one_line(event.run)}: {traits}{devices}, in {one_line(event.directory)}"


def loading_text(event: ModelLoading) -> str:
    return f"{one_line(event.step)} {one_line(event.model)} on {one_line(event.device)}"


def loaded_text(event: ModelLoaded) -> str:
    size = f"{event.blocks} blocks × {event.hidden_size}"
    return (
        f"loaded {one_line(event.model)} on {one_line(event.device)}: {size}, {event.seconds:.1f} s"
    )


def warning_text(event: Warned) -> str:
    trait = f"{one_line(event.trait)}: " if event.trait else ""
    return trait + printable(event.message)


def failure_text(event: TraitFailed) -> str:
    return f"{one_line(event.trait)} failed at {one_line(event.stage)}: {printable(event.problem)}"


def vector_text(quality: VectorQuality) -> str:
    """`good, AUROC 0.94, layer 15`, without the parts that are not known."""
    parts = [
        one_line(quality.verdict) if quality.verdict else "",
        f"AUROC {quality.auroc:.2f}" if quality.auroc is not None else "",
        f"layer {quality.layer}" if quality.layer is not None else "",
    ]
    return ", ".join(part for part in parts if part)


def built_text(event: VectorBuilt) -> str:
    told = vector_text(event.quality)
    return f"{one_line(event.trait)} vector built{': ' if told else ''}{told}, in {one_line(event.path)}"


def finished_text(event: RunFinished, vectors: int, *, worked: bool) -> str:
    """`finished in 12:03: 8 vectors, 1 trait failed, in runs/smollm2`."""
    if not worked and not event.failures:
        return f"nothing left to do, in {one_line(event.directory)}"
    built = f"{vectors} vector{'' if vectors == 1 else 's'} built"
    failed = (
        f", {event.failures} trait{'' if event.failures == 1 else 's'} failed"
        if event.failures
        else ""
    )
    return (
        f"finished in {clock_time(event.seconds)}: {built}{failed}, in {one_line(event.directory)}"
    )


def usage_text(used: Usage) -> str:
    """`402 requests · 12 from the cache · 210,400 + 402 tokens · $0.0848`; empty when nothing was asked."""
    if not used.requests and not used.cached:
        return ""
    parts = [
        f"{used.requests:,} request{'' if used.requests == 1 else 's'}",
        f"{used.cached:,} from the cache" if used.cached else "",
        f"{used.prompt_tokens:,} + {used.completion_tokens:,} tokens" if used.prompt_tokens else "",
        "cost unknown" if used.usd is None else f"${used.usd:,.4f}",
    ]
    return " · ".join(part for part in parts if part)


def layers_text(layers: Mapping[str, int]) -> str:
    """`layer 22`, or `layer 22 (verbosity 20)` when some differ from the others."""
    if not layers:
        return "layer unknown"
    usual = mode(layers.values())
    others = [f"{one_line(trait)} {layer}" for trait, layer in layers.items() if layer != usual]
    return f"layer {usual}" + (f" ({', '.join(others)})" if others else "")


def about_text(about: Mapping[str, Any]) -> str:
    """`3 of 64 · refusal should rise`, for a prompt of a set; empty for others."""
    if "number" not in about:
        return ""
    shows = _SHOWS.get(str(about.get("shows")), "")
    aim = f"{one_line(str(about['trait']))} {shows}" if about.get("trait") and shows else ""
    return " · ".join(
        part for part in (f"{about['number']} of {about.get('of', '?')}", aim) if part
    )


def steering_text(steering: Sequence[Intervention]) -> str:
    """`steered by evil −2 at layer 22 (dose 0.31)`; empty without steering."""
    told = [
        f"{one_line(push.trait)} {f'{push.coefficient:+g}'.replace('-', '−')} at layer {push.layer}"
        + (f" (dose {push.dose:.2f})" if push.dose else "")
        for push in steering
    ]
    return f"steered by {', '.join(told)}" if told else ""


def alarm_text(event: AlarmRaised) -> str:
    """`alarm evil>1.5: +1.62 at token 12; the answer ends here`."""
    crossing = event.crossing
    score = f"{crossing.score:+.2f}".replace("-", "−")
    told = f"alarm {one_line(crossing.rule)}: {score} at token {crossing.token}"
    return told + ("; the answer ends here" if crossing.action == "stop" else "")


def reading_text(event: TextsRead, seconds: float) -> str:
    """`120 of 1,000 texts · 2,340 tokens/s · 0:12 left`."""
    parts = [f"{event.done:,} of {event.total:,} text{'' if event.total == 1 else 's'}"]
    if event.done and seconds > 0:
        parts.append(f"{event.tokens / seconds:,.0f} tokens/s")
        if event.done < event.total:
            parts.append(f"{clock_time((event.total - event.done) * seconds / event.done)} left")
    return " · ".join(parts)


def raw_note(trait: str) -> Warned:
    """Say why a trait's row has neither bar nor colour."""
    return Warned(
        trait, "its vector has no class means, so the scores are raw projections: no bar, no colour"
    )


def color_changes_text(turns: Sequence[tuple[int, str]], verb: str = "Coloured") -> str:
    """Which trait coloured or marked the tokens; from which token on, when it changed."""
    if not turns:
        return ""
    first, *later = [one_line(trait) for _, trait in turns]
    changes = [
        f"then {trait} from token {index}"
        for (index, _), trait in zip(turns[1:], later, strict=True)
    ]
    left = len(changes) - _TURNS_TOLD
    told = changes if left <= 0 else [*changes[:_TURNS_TOLD], f"and {left} more changes"]
    return f"{verb} by {', '.join([first, *told])}."


def generation_text(event: MonitorFinished) -> str:
    """`42 tokens in 3.5 s, 12.0 tokens/s, ended by the model`."""
    took = f" in {event.seconds:.1f} s" if event.seconds else ""
    parts = [f"{event.tokens:,} token{'' if event.tokens == 1 else 's'}{took}"]
    if event.seconds > 0 and event.tokens:
        parts.append(f"{event.tokens / event.seconds:.1f} tokens/s")
    parts.append(_ENDINGS.get(event.finish_reason, one_line(event.finish_reason)))
    return ", ".join(part for part in parts if part)
