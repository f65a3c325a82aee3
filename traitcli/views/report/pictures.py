"""Writes the report as PNG pictures, for papers."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from traitcli.files import write_atomic
from traitcli.report_records import Report
from traitcli.views.palette import LIMIT
from traitcli.views.report import charts
from traitcli.views.report.contents import contents, distinct, scores_of
from traitcli.views.report.token_picture import DPI, ColoredText, draw_tokens

Row = dict[str, Any]
Scores = Mapping[str, Mapping[str, Sequence[float | None]]]
Picture = tuple[str, str, Callable[[], Figure | None]]
"""(file name without suffix, description, function that draws it)."""

_SLUG = 60
"""Maximum characters that the name of a record or set adds to a file name."""
_USUAL = 0.98
"""Share of raw projections within the color scale, so that one outlier does not fade the rest."""


def write_pictures(
    folder: Path,
    report: Report,
    trait: str | None = None,
    on_step: Callable[[str], None] = lambda step: None,
) -> list[Path]:
    """Write a PNG file for each picture that has something to show, and return the files in order.

    trait    colors the tokens; default: the strongest trait of each record
    on_step  called with a description of each picture before it is drawn

    Raises StorageError.
    """
    data = contents(report)
    styles = charts.TraitStyles(_traits(data))
    pictures: list[Picture] = []
    for slug, record in _slugs(data["records"]):
        pictures += _of_record(slug, record, trait, styles)
    for slug, each in _slugs(data["sets"]):
        pictures += _of_set(slug, each, styles)

    written = []
    for name, description, draw in pictures:
        on_step(f"drawing {description}")
        if picture := _render(draw):
            path = folder / f"{name}.png"
            write_atomic(path, picture)
            written.append(path)
    return written


def _of_record(
    slug: str, record: Row, trait: str | None, styles: charts.TraitStyles
) -> Iterator[Picture]:
    name = charts.short(str(record.get("name", "")), 60)
    scores = scores_of(record)
    shown = trait or _strongest(scores)
    yield f"tokens-{slug}", f"the tokens of {name}", lambda: _tokens(record, scores, shown)
    yield f"lines-{slug}", f"the scores of {name}", lambda: charts.draw_lines(scores, shown, styles)


def _of_set(slug: str, each: Row, styles: charts.TraitStyles) -> Iterator[Picture]:
    name, vectors = charts.short(str(each.get("name", "")), 60), each["vectors"]
    yield (
        f"magnitude-{slug}",
        f"the magnitudes of {name}",
        lambda: charts.draw_magnitude(vectors, styles),
    )
    yield (
        f"separation-{slug}",
        f"the separation of {name}",
        lambda: charts.draw_separation(vectors, styles),
    )
    yield f"contrast-{slug}", f"the contrasts of {name}", lambda: charts.draw_contrast(vectors)
    yield (
        f"cosines-{slug}",
        f"the cosines of {name}",
        lambda: charts.draw_cosines(vectors, each.get("cosines") or ()),
    )
    yield f"scores-{slug}", f"the judge's scores of {name}", lambda: charts.draw_scores(vectors)


def _tokens(record: Row, scores: Scores, trait: str) -> Figure | None:
    shown = scores["calibrated"].get(trait, ())
    unit = "calibrated score: −1 and +1 are the means of the two classes"
    limit = LIMIT
    if all(score is None for score in shown):
        shown = scores["raw"].get(trait, ())
        sizes = sorted(abs(score) for score in shown if score is not None)
        if not sizes:
            return None
        unit = "projection, in activation units; this vector has no calibration"
        # If nearly all projections are zero, any limit will do, but zero cannot be one.
        limit = sizes[math.ceil(_USUAL * len(sizes)) - 1] or LIMIT

    layer = (record.get("layers") or {}).get(trait)
    label = charts.short(trait, 30) + ("" if layer is None else f" at layer {layer}")
    tokens = [str(token) for token in record["tokens"]]
    return draw_tokens(
        ColoredText(str(record.get("prompt", "")), tokens, shown, limit, unit, label)
    )


def _strongest(scores: Scores) -> str:
    """The trait with the largest mean absolute score; calibrated scores if there are any."""
    table = scores["calibrated"] or scores["raw"]
    return max(table, key=lambda trait: _mean_size(table[trait]), default="")


def _mean_size(scores: Sequence[float | None]) -> float:
    sizes = [abs(score) for score in scores if score is not None]
    return sum(sizes) / len(sizes) if sizes else 0.0


def _traits(data: Row) -> list[str]:
    """All traits, in the order in which the page shows them."""
    traits: list[str] = []
    for record in data["records"]:
        for table in scores_of(record).values():
            traits += table
    for each in data["sets"]:
        traits += [vector["trait"] for vector in each["vectors"]]
    return traits


def _slugs(rows: Sequence[Row]) -> list[tuple[str, Row]]:
    """(file name of lower-case letters, digits and dashes, row); no name occurs twice."""
    slugs = [_slug(str(row.get("name", ""))) for row in rows]
    return list(zip(distinct(slugs, "{}-{}"), rows, strict=True))


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower())[:_SLUG].strip("-") or "unnamed"


def _render(draw: Callable[[], Figure | None]) -> bytes | None:
    """Draw a picture as PNG, without the user's own matplotlib settings."""
    with style.context(["default", charts.STYLE]), warnings.catch_warnings():
        # matplotlib draws a box for a missing character. That is clear enough without a warning.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font")
        figure = draw()
        if figure is None:
            return None
        # Agg directly and not pyplot, which keeps global state and may look for a display.
        FigureCanvasAgg(figure)
        file = io.BytesIO()
        # "tight" crops the margins of charts. The grid of a text must not move by a pixel.
        box = "tight" if figure.get_layout_engine() else None
        # Without matplotlib's version in its metadata, the same report gives the same file.
        figure.savefig(file, dpi=DPI, bbox_inches=box, pad_inches=0.05, metadata={"Software": None})
        return file.getvalue()
