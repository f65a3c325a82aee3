"""Words the lines above and below a monitored response."""

from __future__ import annotations

from collections.abc import Sequence

from rich.style import Style
from rich.text import Text

from traitcli.events import MonitorFinished, MonitorStarted
from traitcli.views.cells import wrap, wrap_labelled
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
"""Characters of a prompt; a longer one would push the answer off the screen."""
_PROMPT = Style(bold=True)
_WARNING = Style(color="yellow")

SCALE = "−1 and +1 are the means of a trait's negative and positive examples."
MARKS = "⟨…⟩⁺ and ⟨…⟩⁻ hold tokens that reach +1 or −1."


def opening_lines(
    event: MonitorStarted, palette: Palette, width: int, *, first: bool, echo: bool
) -> list[Text]:
    """Prompt, model, layers and notes, and an empty line before the response.

    first  whether this is the first response of the session; the model is named only there
    echo   whether to show the prompt; a chat already shows what the user typed
    """
    prompt = printable(event.prompt.strip())
    if len(prompt) > _PROMPT_SHOWN:
        prompt = f"{prompt[:_PROMPT_SHOWN].rstrip()} … ({len(event.prompt):,} characters)"

    facts = [f"{one_line(event.model)} · {layers_text(event.layers)}"] if first else []
    facts += [about_text(event.about), steering_text(event.steering), *map(printable, event.notes)]
    if first and palette.depth == "none":
        facts.append(MARKS)

    lines = wrap_labelled("❯ ", prompt, width, _PROMPT) if echo else []
    for fact in filter(None, facts):
        lines += wrap_labelled("  ", fact, width, QUIET)
    return [*lines, Text("")]


def warning_lines(message: str, width: int) -> list[Text]:
    """A wrapped warning with a mark."""
    return wrap_labelled("! ", message, width, _WARNING)


def closing_lines(
    event: MonitorFinished,
    changes: Sequence[tuple[int, str]],
    palette: Palette,
    width: int,
    *,
    first: bool,
) -> list[Text]:
    """What the colors mean, the speed, and the path of the record."""
    verb = "Marked" if palette.depth == "none" else "Colored"
    colored_by = color_changes_text(changes, verb)

    lines = [Text("")]
    # Without a calibrated trait nothing has a color, and the scale means nothing.
    if colored_by and first:
        lines += wrap(SCALE, width, QUIET)
    if colored_by:
        lines += wrap(colored_by, width, QUIET)
    lines += wrap(generation_text(event), width, QUIET)

    # The path is never wrapped, so that it can be copied with a double click.
    if event.path:
        lines.append(Text("record: ", QUIET).append(one_line(event.path), Style(dim=False)))
    return lines
