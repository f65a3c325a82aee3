"""Static pictures of the report, for papers."""

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
from traitcli.records import Report
from traitcli.views.palette import LIMIT
from traitcli.views.report import charts
from traitcli.views.report.contents import contents, distinct, scores_of
from traitcli.views.report.token_picture import DPI, Coloured, draw_tokens

Row = dict[str, Any]
Scores = Mapping[str, Mapping[str, Sequence[float | None]]]
Picture = tuple[str, str, Callable[[], Figure | None]]
"""Its file without the ending, what it shows in words, and what draws it."""

_SLUG = 60
"""Letters of a file's name that come from a record's or a set's."""
_USUAL = 0.98
"""Share of a text's projections that are at most as vivid as the colours get."""


def write_pictures(
    folder: Path,
    report: Report,
    trait: str | None = None,
    on_step: Callable[[str], None] = lambda step: None,
) -> list[Path]:
    """Write a PNG file for each picture that has something to show; gives the files in order.

    `trait` colours the tokens, by default each record's strongest; a record without its scores has no picture of
    tokens. `on_step` is told in words which picture is drawn. Raises StorageError.
    """
    told = contents(report)
    inks = charts.Inks(_traits(told))
    pictures = [
        *(
            picture
            for slug, record in _slugs(told["records"])
            for picture in _of_record(slug, record, trait, inks)
        ),
        *(picture for slug, each in _slugs(told["sets"]) for picture in _of_set(slug, each, inks)),
    ]
    written = []
    for name, words, draw in pictures:
        on_step(f"drawing {words}")
        if picture := _drawn(draw):
            path = folder / f"{name}.png"
            write_atomic(path, picture)
            written.append(path)
    return written


def _of_record(slug: str, record: Row, trait: str | None, inks: charts.Inks) -> Iterator[Picture]:
    name = charts.short(str(record.get("name", "")), 60)
    scores = scores_of(record)
    shown = trait or _strongest(scores)
    yield f"tokens-{slug}", f"the tokens of {name}", lambda: _tokens(record, scores, shown)
    yield f"lines-{slug}", f"the scores of {name}", lambda: charts.draw_lines(scores, shown, inks)


def _of_set(slug: str, each: Row, inks: charts.Inks) -> Iterator[Picture]:
    name, vectors = charts.short(str(each.get("name", "")), 60), each["vectors"]
    yield (
        f"magnitude-{slug}",
        f"the magnitudes of {name}",
        lambda: charts.draw_magnitude(vectors, inks),
    )
    yield (
        f"separation-{slug}",
        f"the separation of {name}",
        lambda: charts.draw_separation(vectors, inks),
    )
    yield f"contrast-{slug}", f"the contrasts of {name}", lambda: charts.draw_contrast(vectors)
    yield (
        f"cosines-{slug}",
        f"the cosines of {name}",
        lambda: charts.draw_cosines(vectors, each.get("cosines") or ()),
    )
    yield f"scores-{slug}", f"the judge's scores of {name}", lambda: charts.draw_scores(vectors)


def _tokens(record: Row, scores: Scores, trait: str) -> Figure | None:
    rows = {unit: scores[unit].get(trait, ()) for unit in ("calibrated", "raw")}
    unit = next((unit for unit, row in rows.items() if any(score is not None for score in row)), "")
    if not unit:
        return None
    row = rows[unit]
    told = "calibrated score: −1 and +1 are the means of the two classes"
    full = LIMIT
    if unit == "raw":
        sizes = sorted(abs(value) for value in row if value is not None)
        full = sizes[math.ceil(_USUAL * len(sizes)) - 1] or LIMIT
        told = "projection, in activation units; this vector has no calibration"
    layer = (record.get("layers") or {}).get(trait)
    about = charts.short(trait, 30) + ("" if layer is None else f" at layer {layer}")
    tokens = [str(token) for token in record["tokens"]]
    return draw_tokens(Coloured(str(record.get("prompt", "")), tokens, row, full, told, about))


def _strongest(scores: Scores) -> str:
    """The trait with the largest mean size of its scores: of calibrated ones, else of projections."""
    rows = scores["calibrated"] or scores["raw"]
    return max(rows, key=lambda trait: _size(rows[trait]), default="")


def _size(row: Sequence[float | None]) -> float:
    sizes = [abs(value) for value in row if value is not None]
    return sum(sizes) / len(sizes) if sizes else 0.0


def _traits(told: Row) -> list[str]:
    """All traits, in the order in which the report names them."""
    watched = [
        trait for record in told["records"] for rows in scores_of(record).values() for trait in rows
    ]
    return watched + [vector["trait"] for each in told["sets"] for vector in each["vectors"]]


def _slugs(rows: Sequence[Row]) -> list[tuple[str, Row]]:
    """Each row behind a file name of its own, of small letters, digits and dashes."""
    names = [
        re.sub(r"[^a-z0-9]+", "-", str(row.get("name", "")).lower())[:_SLUG].strip("-")
        for row in rows
    ]
    return list(zip(distinct((name or "unnamed" for name in names), "{}-{}"), rows, strict=True))


def _drawn(draw: Callable[[], Figure | None]) -> bytes | None:
    """The picture as PNG, whatever the user's own settings of matplotlib are."""
    with style.context(["default", charts.STYLE]), warnings.catch_warnings():
        # A character that the font lacks is drawn as a box, which says as much.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font")
        figure = draw()
        if figure is None:
            return None
        FigureCanvasAgg(figure)
        file = io.BytesIO()
        # A text's grid of characters is exact already; charts lose the margins that their layout has left over.
        box = "tight" if figure.get_layout_engine() else None
        figure.savefig(file, dpi=DPI, bbox_inches=box, pad_inches=0.05, metadata={"Software": None})
        return file.getvalue()
