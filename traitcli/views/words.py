"""Words events as sentences, for the live views and the plain ones."""

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
from traitcli.interventions import Ablate, Cap, Gate, Intervention
from traitcli.records import Usage
from traitcli.vector_quality import VectorQuality
from traitcli.views.formatting import clock_time, with_minus
from traitcli.views.printable import one_line, printable

_MAX_CHANGES = 6
"""More changes of color than this are only counted."""
_MAX_DEVICES = 8
"""More devices than this are only counted."""
_ENDINGS = {
    "stop": "ended by the model",
    "length": "stopped at the token limit",
    "alarm": "stopped by an alarm",
}
_SHOWS = {"positive": "should rise", "negative": "should fall", "both": "should rise and fall"}


def count_text(count: int, noun: str) -> str:
    """`1 trait`, `1,024 traits`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def run_text(event: RunStarted) -> str:
    """`run smollm2: 8 traits on cuda:0, cuda:1, in runs/smollm2`."""
    names = [one_line(device) for device in event.devices]
    # A cluster can have hundreds of devices, and this is one line.
    if len(names) > _MAX_DEVICES:
        names = [*names[:2], f"… {names[-1]} ({len(names)} workers)"]
    traits = count_text(len(event.traits), "trait")
    devices = f" on {', '.join(names)}" if names else ""
    return f"run {one_line(event.run)}: {traits}{devices}, in {one_line(event.directory)}"


def loading_text(event: ModelLoading) -> str:
    return f"{one_line(event.step)} {one_line(event.model)} on {one_line(event.device)}"


def loaded_text(event: ModelLoaded) -> str:
    model = f"{one_line(event.model)} on {one_line(event.device)}"
    return f"loaded {model}: {event.blocks} blocks × {event.hidden_size}, {event.seconds:.1f} s"


def warning_text(event: Warned) -> str:
    trait = f"{one_line(event.trait)}: " if event.trait else ""
    return trait + printable(event.message)


def failure_text(event: TraitFailed) -> str:
    return f"{one_line(event.trait)} failed at {one_line(event.stage)}: {printable(event.problem)}"


def vector_text(quality: VectorQuality) -> str:
    """`reads its own texts, AUROC 0.74, layer 15`, without the parts that are not known."""
    # The one that the verdict is about: without the persona where that was measured.
    auroc = quality.auroc if quality.neutral_auroc is None else quality.neutral_auroc
    parts = [
        one_line(quality.verdict) if quality.verdict else "",
        f"AUROC {auroc:.2f}" if auroc is not None else "",
        f"layer {quality.layer}" if quality.layer is not None else "",
    ]
    return ", ".join(part for part in parts if part)


def built_text(event: VectorBuilt) -> str:
    """`evil vector built: not shown, AUROC 0.54, layer 15, in vectors/tiny/evil.safetensors`."""
    quality = vector_text(event.quality)
    built = f"{one_line(event.trait)} vector built"
    return f"{built}{': ' if quality else ''}{quality}, in {one_line(event.path)}"


def finished_text(event: RunFinished, vectors: int, *, worked: bool) -> str:
    """`finished in 12:03: 8 vectors, 1 trait failed, in runs/smollm2`."""
    # "0 vectors built" would look like a failure when everything was on disk already.
    if not worked and not event.failures:
        return f"nothing left to do, in {one_line(event.directory)}"
    parts = [f"finished in {clock_time(event.seconds)}: {count_text(vectors, 'vector')} built"]
    if event.failures:
        parts.append(f"{count_text(event.failures, 'trait')} failed")
    return ", ".join([*parts, f"in {one_line(event.directory)}"])


def usage_text(used: Usage) -> str:
    """`402 requests · 12 from the cache · 210,400 + 402 tokens · $0.0848`.

    Empty if the judge was not asked.
    """
    if not used.requests and not used.cached:
        return ""
    parts = [
        count_text(used.requests, "request"),
        f"{used.cached:,} from the cache" if used.cached else "",
        f"{used.prompt_tokens:,} + {used.completion_tokens:,} tokens" if used.prompt_tokens else "",
        "cost unknown" if used.usd is None else f"${used.usd:,.4f}",
    ]
    return " · ".join(part for part in parts if part)


def layers_text(layers: Mapping[str, int]) -> str:
    """`layer 22`, or `layer 22 (verbosity 20)` if some traits differ from most."""
    # A record may lack layers: only its tokens and raw scores are required.
    if not layers:
        return "layer unknown"
    usual = mode(layers.values())
    others = [f"{one_line(trait)} {layer}" for trait, layer in layers.items() if layer != usual]
    return f"layer {usual}" + (f" ({', '.join(others)})" if others else "")


def about_text(about: Mapping[str, Any]) -> str:
    """`3 of 64 · refusal should rise`, for a prompt of a set; empty for others."""
    if "number" not in about:
        return ""
    parts = [f"{about['number']} of {about.get('of', '?')}"]
    shows = _SHOWS.get(str(about.get("shows")), "")
    if about.get("trait") and shows:
        parts.append(f"{one_line(str(about['trait']))} {shows}")
    return " · ".join(parts)


def steering_text(steering: Sequence[Intervention]) -> str:
    """`steered by evil −2 at layer 22 (dose 0.31), refusal ≤ +0.5 at layer 17`; empty without."""
    return f"steered by {', '.join(map(intervention_text, steering))}" if steering else ""


def intervention_text(one: Intervention) -> str:
    """`evil −2 at layer 22`, `evil ablated at every layer`, `evil ≤ +0.5 at layer 22`."""
    trait = one_line(one.trait)
    if isinstance(one, Ablate):
        return f"{trait} ablated at {'every layer' if one.layer is None else f'layer {one.layer}'}"
    if isinstance(one, Cap):
        return f"{trait} {'≤' if one.at_most else '≥'} {_signed(one.score)} at layer {one.layer}"
    condition = ""
    if isinstance(one, Gate):
        side = ">" if one.when.above else "<"
        condition = f" if {one_line(one.when.trait)} {side} {_signed(one.when.score)}"
    # A dose of zero is one that is not measured yet.
    dose = f" (dose {one.dose:.2f})" if one.dose else ""
    return f"{trait} {_signed(one.coefficient)} at layer {one.layer}{condition}{dose}"


def brakes_of(steering: Sequence[Intervention]) -> list[str]:
    """The caps and gates, which hold at some tokens only; as a user types them."""
    return [one.text for one in steering if isinstance(one, Cap | Gate)]


def brakes_text(held: Mapping[str, int], tokens: int) -> str:
    """`underlined: evil<=0.5@22 held at 12 of 40 tokens`."""
    parts = [f"{one_line(brake)} held at {count:,}" for brake, count in held.items()]
    return f"underlined: {', '.join(parts)} of {count_text(tokens, 'token')}"


def _signed(number: float) -> str:
    return with_minus(f"{number:+g}") if number else "0"


def alarm_text(event: AlarmRaised) -> str:
    """`alarm evil>1.5: +1.62 at token 12; the answer ends here`."""
    crossing = event.crossing
    score = with_minus(f"{crossing.score:+.2f}")
    text = f"alarm {one_line(crossing.rule)}: {score} at token {crossing.token}"
    return text + ("; the answer ends here" if crossing.action == "stop" else "")


def reading_text(event: TextsRead, seconds: float) -> str:
    """`120 of 1,000 texts · 2,340 tokens/s · 0:12 left`."""
    scored, total = event.done - event.skipped, count_text(event.total, "text")
    parts = [f"{scored:,} of {total}"]
    if event.skipped:
        parts = [f"{scored:,} of {total} scored, {event.skipped:,} skipped"]
    if event.done and seconds > 0:
        parts.append(f"{event.tokens / seconds:,.0f} tokens/s")
        if event.done < event.total:
            parts.append(f"{clock_time((event.total - event.done) * seconds / event.done)} left")
    return " · ".join(parts)


def raw_note(trait: str) -> Warned:
    """The warning that explains why a trait has neither bar nor color."""
    return Warned(
        trait, "its vector has no class means, so the scores are raw projections: no bar, no color"
    )


MASSIVE_NOTE = (
    "the state of a token is many times longer than usual, so its score means nothing: "
    "it is marked and not counted"
)


def color_changes_text(turns: Sequence[tuple[int, str]], verb: str = "Colored") -> str:
    """`Colored by evil, then refusal from token 12.`; empty without turns."""
    if not turns:
        return ""
    (_, first), *later = turns
    changes = [f"then {one_line(trait)} from token {index}" for index, trait in later]
    # If the user chooses no trait, the one that colors a long answer may change often.
    if len(changes) > _MAX_CHANGES:
        changes[_MAX_CHANGES:] = [f"and {len(changes) - _MAX_CHANGES} more changes"]
    return f"{verb} by {', '.join([one_line(first), *changes])}."


def ending_text(finish_reason: str) -> str:
    """`ended by the model`; the reason itself if it is not known."""
    return _ENDINGS.get(finish_reason, one_line(finish_reason))


def generation_text(event: MonitorFinished) -> str:
    """`42 tokens in 3.5 s, 12.0 tokens/s, ended by the model`."""
    duration = f" in {event.seconds:.1f} s" if event.seconds else ""
    parts = [f"{count_text(event.tokens, 'token')}{duration}"]
    if event.seconds > 0 and event.tokens:
        parts.append(f"{event.tokens / event.seconds:.1f} tokens/s")
    parts.append(ending_text(event.finish_reason))
    return ", ".join(part for part in parts if part)
