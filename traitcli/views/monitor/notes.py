"""Words what stands above and below a watched generation."""

from __future__ import annotations

from collections.abc import Sequence

from rich.style import Style
from rich.text import Text

from traitcli.events import MonitorFinished, MonitorStarted
from traitcli.views.cells import hang, wrap
from traitcli.views.formatting import QUIET
from traitcli.views.palette import Palette
from traitcli.views.printable import one_line, printable
from traitcli.views.words import (
    about_text,
    color_changes_text,
    generation_text,
    layers_text,
    steering_text,
)

_PROMPT_SHOWN = 480
_PROMPT = Style(bold=True)
_WARNING = Style(color="yellow")

SCALE = "−1 and +1 are the means of a trait's negative and positive examples."
MARKS = "⟨…⟩⁺ and ⟨…⟩⁻ hold tokens that reach +1 or −1."


def opening_lines(
    event: MonitorStarted, palette: Palette, width: int, *, first: bool, echo: bool
) -> list[Text]:
    """Prompt (unless it stands there as typed), model, layers and notes, with an empty line before the response.

    What is the same for every answer is told with the `first`.
    """
    prompt = printable(event.prompt.strip())
    if len(prompt) > _PROMPT_SHOWN:
        prompt = f"{prompt[:_PROMPT_SHOWN].rstrip()} … ({len(event.prompt):,} characters)"
    facts = [f"{one_line(event.model)} · {layers_text(event.layers)}"] if first else []
    facts += [about_text(event.about), steering_text(event.steering), *map(printable, event.notes)]
    if first and palette.depth == "none":
        facts.append(MARKS)
    lines = hang("❯ ", prompt, width, _PROMPT) if echo else []
    for fact in filter(None, facts):
        lines += hang("  ", fact, width, QUIET)
    return [*lines, Text("")]


def warning_lines(message: str, width: int) -> list[Text]:
    """A warning, wrapped, behind a mark."""
    return hang("! ", message, width, _WARNING)


def closing_lines(
    event: MonitorFinished,
    turns: Sequence[tuple[int, str]],
    palette: Palette,
    width: int,
    *,
    first: bool,
) -> list[Text]:
    """What the colours meant, how fast it went, where the record is; the path is never wrapped."""
    told = color_changes_text(turns, "Marked" if palette.depth == "none" else "Coloured")
    lines = [Text("")]
    for fact in [SCALE if first else "", told] if told else []:
        lines += wrap(fact, width, QUIET) if fact else []
    lines += wrap(generation_text(event), width, QUIET)
    if event.path:
        lines.append(Text("record: ", QUIET).append(one_line(event.path), Style(dim=False)))
    return lines
