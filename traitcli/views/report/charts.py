"""Draws a report's charts on figures of matplotlib; each gives None where it has nothing to show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from rich.cells import cell_len

from traitcli.views.cells import fit
from traitcli.views.palette import BLUE, CLASS_MEAN, ORANGE
from traitcli.views.printable import one_line

Row = Mapping[str, Any]

COLOURS = ("#1f6fb8", "#c8384f", "#22854a", "#8455c0", "#a67600", "#0b8793", "#80532d", "#59626f")
"""Of traits, in the order in which a report names them; beyond these they come again, dashed."""
_QUIET, _DIM = "#8a94a0", "#3a434e"
STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#b8c0ca",
    "axes.grid": True,
    "axes.labelcolor": "#101418",
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 8,
    "font.size": 8,
    "grid.color": "#e6eaef",
    "grid.linewidth": 0.6,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "text.color": "#101418",
    "text.parse_math": False,
    "xtick.color": _QUIET,
    "xtick.labelcolor": _DIM,
    "xtick.labelsize": 7.5,
    "xtick.major.size": 2.5,
    "xtick.major.width": 0.6,
    "ytick.color": _QUIET,
    "ytick.labelcolor": _DIM,
    "ytick.labelsize": 7.5,
    "ytick.major.size": 2.5,
    "ytick.major.width": 0.6,
}
"""On top of matplotlib's defaults; a `$` in a name is a dollar."""

_WIDTH = 5.5
"""Inches: the text of a page, so that 8 points stay 8 points."""
_FEW_TOKENS = 150
"""Up to here lines are easily told apart; among more the leader stands out."""
_NAME = 22
"""Cells of a trait's name."""
_CALIBRATED, _RAW = "calibrated score", "projection (activation units)"


class Inks:
    """A colour and a dash for each trait, the same in all pictures of a report."""

    def __init__(self, traits: Sequence[str]) -> None:
        self._places = {trait: place for place, trait in enumerate(dict.fromkeys(traits))}

    def of(self, trait: str) -> dict[str, Any]:
        turn, place = divmod(self._places[trait], len(COLOURS))
        return {"color": COLOURS[place], "linestyle": "--" if turn else "-"}


def draw_lines(
    scores: Mapping[str, Mapping[str, Sequence[float | None]]], leader: str, inks: Inks
) -> Figure | None:
    """All traits over the tokens, the leader thicker: calibrated scores if there are some, else projections."""
    unit = "calibrated" if scores["calibrated"] else "raw"
    shown = {
        trait: gaps(row)
        for trait, row in scores[unit].items()
        if not all(map(math.isnan, gaps(row)))
    }
    if not shown:
        return None
    others = [trait for trait in scores["raw"] if trait not in shown]
    figure, axes = _open(2.6, len(shown) + len(others))
    axes.axhline(0, color=_QUIET, linewidth=0.6, zorder=1)
    if unit == "calibrated":
        for mean in (-CLASS_MEAN, CLASS_MEAN):
            axes.axhline(mean, color=_QUIET, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    count = max(map(len, shown.values()))
    thin, faint = (0.9, 1.0) if count <= _FEW_TOKENS else (0.6, 0.6)
    for trait, row in shown.items():
        width, alpha, above = (1.7, 1.0, 3) if trait == leader else (thin, faint, 2)
        dot = "o" if count == 1 else None
        look = {
            "linewidth": width,
            "alpha": alpha,
            "zorder": above,
            "marker": dot,
            **inks.of(trait),
        }
        axes.plot(range(1, len(row) + 1), row, label=short(trait), **look)
    for trait in others:  # they have no calibration, and their own unit
        axes.plot([], [], linestyle="none", label=f"{short(trait)} (not calibrated)")
    axes.set_xlim(1 - 0.01 * count, count + 0.01 * count)
    axes.set(xlabel="token", ylabel=_CALIBRATED if unit == "calibrated" else _RAW)
    _legend(figure)
    return figure


def draw_magnitude(vectors: Sequence[Row], inks: Inks) -> Figure | None:
    """‖v‖ row by row; the last row apart, which is read after the final norm and has another scale."""
    shown = [(vector["trait"], gaps(vector.get("magnitude_by_layer") or ())) for vector in vectors]
    shown = [(trait, row) for trait, row in shown if len(row) > 1]
    if not shown:
        return None
    figure, axes = _open(2.6, len(shown) + 1)
    for trait, row in shown:
        _plot_rows(axes, row, trait, inks)
    _explain_last_row(axes)
    axes.set(xlabel="row", ylabel="‖v‖ (activation units)")
    axes.set_ylim(bottom=0)
    _whole_rows(axes)
    _legend(figure)
    return figure


def draw_separation(vectors: Sequence[Row], inks: Inks) -> Figure | None:
    """Held-out AUROC row by row, a dot at the layer that is read."""
    shown = [(vector, gaps(vector.get("auroc_by_layer") or ())) for vector in vectors]
    shown = [(vector, row) for vector, row in shown if len(row) > 1]
    if not shown:
        return None
    figure, axes = _open(2.6, len(shown) + 3)
    axes.axhline(0.5, color=_QUIET, linewidth=0.8, linestyle=(0, (4, 3)), label="chance")
    for vector, row in shown:
        _plot_rows(axes, row, vector["trait"], inks)
        layer = vector.get("layer")
        if isinstance(layer, int) and 0 <= layer < len(row):
            colour = inks.of(vector["trait"])["color"]
            axes.plot(
                layer,
                row[layer],
                "o",
                color=colour,
                markersize=5.5,
                markeredgecolor="white",
                zorder=4,
            )
    axes.plot([], [], "o", markersize=5, color=_QUIET, label="chosen layer")
    _explain_last_row(axes)
    axes.set(xlabel="row", ylabel="held-out AUROC", ylim=(min(0.4, *_known(shown)) - 0.03, 1.03))
    _whole_rows(axes)
    _legend(figure)
    return figure


def _plot_rows(axes: Axes, row: Sequence[float], trait: str, inks: Inks) -> None:
    """Values over the rows, the last one apart."""
    ink = inks.of(trait)
    axes.plot(range(len(row) - 1), row[:-1], linewidth=1.1, label=short(trait), **ink)
    axes.plot(len(row) - 1, row[-1], marker="D", markersize=3.2, markerfacecolor="white", **ink)


def _explain_last_row(axes: Axes) -> None:
    axes.plot(
        [],
        [],
        "D",
        markersize=3.2,
        markerfacecolor="white",
        color=_QUIET,
        label="after the final norm",
    )


def draw_contrast(vectors: Sequence[Row]) -> Figure | None:
    """Mean score of either polarity, trait by trait, and how far they lie apart."""
    shown = [
        v
        for v in vectors
        if v.get("positive_score") is not None and v.get("negative_score") is not None
    ]
    if not shown:
        return None
    figure, axes = _open(0.7 + 0.27 * len(shown), 0)
    for place, vector in enumerate(shown):
        low, high = vector["negative_score"], vector["positive_score"]
        axes.plot(
            [low, high],
            [place, place],
            color="#cfd6de",
            linewidth=2.6,
            solid_capstyle="round",
            zorder=2,
        )
        axes.plot(low, place, "o", color=BLUE, markersize=6, zorder=3)
        axes.plot(high, place, "o", color=ORANGE, markersize=6, zorder=3)
        axes.text(
            1.02,
            place,
            signed(high - low, 1),
            transform=axes.get_yaxis_transform(),
            va="center",
            size=7.5,
        )
    axes.text(
        1.02,
        -0.85,
        "difference",
        transform=axes.get_yaxis_transform(),
        va="center",
        size=7,
        color=_QUIET,
    )
    axes.set_yticks(range(len(shown)), [short(vector["trait"]) for vector in shown])
    axes.set(xlim=(-2, 102), ylim=(len(shown) - 0.4, -0.6), xlabel="mean score given by the judge")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    _polarity_legend(figure)
    return figure


def draw_cosines(
    vectors: Sequence[Row], cosines: Sequence[Sequence[float | None]]
) -> Figure | None:
    """cos(v_i, v_j) of each two vectors, at the layer of the one that the line belongs to."""
    count = len(vectors)
    if count < 2 or len(cosines) != count:
        return None
    size = min(1.3 + 0.45 * count, _MOST_INCHES)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow([gaps(line) for line in cosines], cmap=_DIVERGING, vmin=-1, vmax=1)
    points = min(7.5, 300 / count)
    for row, line in enumerate(cosines):
        for column, value in enumerate(line):
            axes.text(column, row, signed(value), ha="center", va="center", size=points)
    names = [short(vector["trait"]) for vector in vectors]
    layers = [
        f"{name} · {vector.get('layer', '–')}" for name, vector in zip(names, vectors, strict=True)
    ]
    axes.set_yticks(range(count), layers)
    axes.set_xticks(range(count), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_title("cosine, at the layer of the trait on the left")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def draw_scores(vectors: Sequence[Row]) -> Figure | None:
    """How the judge's scores are spread, trait by trait: told to show it upward, to show the opposite downward."""
    shown = [vector for vector in vectors if vector.get("histogram")]
    if not shown:
        return None
    columns = min(len(shown), 4)
    lines = math.ceil(len(shown) / columns)
    figure = Figure(
        figsize=(max(_WIDTH * columns / 4, 2.4), min(0.7 + 1.25 * lines, _MOST_INCHES)),
        layout="constrained",
    )
    grid = figure.subplots(lines, columns, sharex=True, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place < len(shown):
            _mirror(axes, shown[place])
        else:
            axes.set_visible(False)
        if place + columns >= len(shown):  # nothing stands below it
            axes.tick_params(labelbottom=True)
    _polarity_legend(figure)
    figure.supxlabel("score given by the judge", size=8)
    figure.supylabel("rollouts", size=8)
    return figure


def _mirror(axes: Axes, vector: Row) -> None:
    """One trait's histograms, with how many of each polarity the filter kept."""
    tallest = 1
    for polarity, side, colour in (("positive", 1, ORANGE), ("negative", -1, BLUE)):
        counts = vector["histogram"].get(polarity) or []
        width = 100 / max(len(counts), 1)
        lefts = [width * number for number in range(len(counts))]
        axes.bar(
            lefts,
            [side * count for count in counts],
            0.9 * width,
            align="edge",
            color=colour,
            linewidth=0,
        )
        tallest = max(tallest, *counts, 1)
        kept, total = (_told(vector.get(f"{polarity}_{what}")) for what in ("kept", "total"))
        y, va = (0.97, "top") if side > 0 else (0.03, "bottom")
        axes.text(
            0, y, f" {kept}/{total} kept", va=va, transform=axes.transAxes, size=6.5, color=_DIM
        )
    axes.axhline(0, color=_DIM, linewidth=0.6)
    axes.set(
        xlim=(0, 100),
        ylim=(-1.45 * tallest, 1.45 * tallest),
        xticks=(0, 50, 100),
        title=short(vector["trait"], 17),
    )
    axes.set_yticks([-tallest, 0, tallest], [str(tallest), "0", str(tallest)])
    axes.grid(visible=False, axis="x")


# Helpers


def short(name: str, cells: int = _NAME) -> str:
    """A name on one line, harmless, cut where it is long."""
    told = one_line(name)
    return fit(told, cells) if cell_len(told) > cells else told


def signed(value: float | None, digits: int = 2) -> str:
    """`+0.40`, `−0.40`, `0.00`; `–` where there is none."""
    if value is None:
        return "–"
    return f"{value:+.{digits}f}".replace("-", "−") if round(value, digits) else f"{0:.{digits}f}"


def gaps(row: Sequence[float | None]) -> list[float]:
    """The row with what matplotlib leaves a gap for: no value, or one so large that its axes overflow."""
    return [math.nan if value is None or abs(value) > _LARGEST else value for value in row]


def _known(shown: Sequence[tuple[Row, list[float]]]) -> list[float]:
    return [value for _, row in shown for value in row if not math.isnan(value)] or [0.5]


def _told(count: int | None) -> str:
    return "–" if count is None else f"{count:,}"


def _open(height: float, entries: int) -> tuple[Figure, Axes]:
    """A figure with one pair of axes, high enough for a legend of so many entries."""
    height = min(max(height, 0.5 + 0.17 * entries), _MOST_INCHES)
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _legend(figure: Figure) -> None:
    figure.legend(loc="outside right upper", labelspacing=0.35)


def _polarity_legend(figure: Figure) -> None:
    dots = [Line2D([], [], marker="o", linestyle="none", color=colour) for colour in (ORANGE, BLUE)]
    told = ["told to show the trait", "told to show the opposite"]
    figure.legend(
        dots, told, loc="outside upper left", ncols=2, handletextpad=0.2, columnspacing=1.2
    )


def _whole_rows(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


_LARGEST = 3.4e38
"""Of float32, in which scores are computed."""
_MOST_INCHES = 60.0
"""Of a side: 12,000 pixels."""
_DIVERGING = LinearSegmentedColormap.from_list(
    "blue-white-orange", ["#2f7fd6", "#ffffff", "#e07a1a"]
)
