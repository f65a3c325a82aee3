"""Draws the charts of a report with matplotlib; a chart without data is None."""

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
from traitcli.views.formatting import with_minus
from traitcli.views.palette import BLUE, CLASS_MEAN, ORANGE
from traitcli.views.printable import one_line

Row = Mapping[str, Any]

COLORS = ("#1f6fb8", "#c8384f", "#22854a", "#8455c0", "#a67600", "#0b8793", "#80532d", "#59626f")
"""Colors of traits, in the order of the report. Beyond eight traits they repeat, dashed."""
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
"""Changes to matplotlib's default style. `text.parse_math` is off: a trait name may contain `$`."""

_WIDTH = 5.5
"""Inches. This is the text width of a paper, so 8 points in the picture are 8 points on paper."""
_FEW_TOKENS = 150
"""With more tokens, all lines but the leader's are drawn thinner and paler."""
_NAME = 22
"""Width of a trait's name, in cells."""
_LARGEST = 3.4e38
"""The largest float32: scores are computed in float32."""
_MOST_INCHES = 60.0
"""The longest side of a picture: 12,000 pixels."""
_DIVERGING = LinearSegmentedColormap.from_list(
    "blue-white-orange", ["#2f7fd6", "#ffffff", "#e07a1a"]
)
_DIAMOND: dict[str, Any] = {"marker": "D", "markersize": 3.2, "markerfacecolor": "white"}
_CALIBRATED, _RAW = "calibrated score", "projection (activation units)"


class TraitStyles:
    """A color and a line style for each trait, the same in all pictures of a report."""

    def __init__(self, traits: Sequence[str]) -> None:
        self._numbers = {trait: number for number, trait in enumerate(dict.fromkeys(traits))}

    def of(self, trait: str) -> dict[str, Any]:
        """Keyword arguments of `Axes.plot`."""
        rounds, number = divmod(self._numbers[trait], len(COLORS))
        return {"color": COLORS[number], "linestyle": "--" if rounds else "-"}


def draw_lines(
    scores: Mapping[str, Mapping[str, Sequence[float | None]]], leader: str, styles: TraitStyles
) -> Figure | None:
    """Scores of all traits over the tokens; the leader's line is thicker.

    The scores are calibrated if any trait is, else raw projections.
    """
    unit = "calibrated" if scores["calibrated"] else "raw"
    lines = {trait: with_gaps(row) for trait, row in scores[unit].items()}
    shown = {trait: line for trait, line in lines.items() if not all(map(math.isnan, line))}
    if not shown:
        return None

    others = [trait for trait in scores["raw"] if trait not in shown]
    figure, axes = _open(2.6, len(shown) + len(others))
    axes.axhline(0, color=_QUIET, linewidth=0.6, zorder=1)
    if unit == "calibrated":
        for mean in (-CLASS_MEAN, CLASS_MEAN):
            axes.axhline(mean, color=_QUIET, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)

    count = max(map(len, shown.values()))
    thin, pale = (0.9, 1.0) if count <= _FEW_TOKENS else (0.6, 0.6)
    # A line of one point is invisible without a marker.
    marker = "o" if count == 1 else None
    for trait, line in shown.items():
        width, alpha, zorder = (1.7, 1.0, 3) if trait == leader else (thin, pale, 2)
        line_style: dict[str, Any] = {
            "linewidth": width,
            "alpha": alpha,
            "zorder": zorder,
            "marker": marker,
        }
        positions = range(1, len(line) + 1)
        axes.plot(positions, line, label=short(trait), **line_style, **styles.of(trait))

    # Raw projections have another unit, so these traits appear in the legend only.
    for trait in others:
        axes.plot([], [], linestyle="none", label=f"{short(trait)} (not calibrated)")
    # With a small margin the first and the last token do not touch the frame.
    axes.set_xlim(1 - 0.01 * count, count + 0.01 * count)
    axes.set(xlabel="token", ylabel=_CALIBRATED if unit == "calibrated" else _RAW)
    _legend(figure)
    return figure


def draw_magnitude(vectors: Sequence[Row], styles: TraitStyles) -> Figure | None:
    """‖v‖ by layer; the last layer, which is after the final norm, is drawn apart."""
    shown = _by_layer(vectors, "magnitude_by_layer")
    if not shown:
        return None

    figure, axes = _open(2.6, len(shown) + 1)
    for vector, values in shown:
        _plot_layers(axes, values, vector["trait"], styles)
    _explain_last_layer(axes)
    axes.set(xlabel="layer", ylabel="‖v‖ (activation units)")
    # From zero, because a norm is a ratio scale: half the height must mean half the norm.
    axes.set_ylim(bottom=0)
    _use_integer_ticks(axes)
    _legend(figure)
    return figure


def draw_separation(vectors: Sequence[Row], styles: TraitStyles) -> Figure | None:
    """Held-out AUROC by layer, with a dot at the chosen layer."""
    shown = _by_layer(vectors, "auroc_by_layer")
    if not shown:
        return None

    figure, axes = _open(2.6, len(shown) + 3)
    axes.axhline(0.5, color=_QUIET, linewidth=0.8, linestyle=(0, (4, 3)), label="chance")
    # The axis of all reports begins here, unless a vector separates even worse.
    lowest = 0.4
    for vector, values in shown:
        _plot_layers(axes, values, vector["trait"], styles)
        lowest = min([lowest, *(value for value in values if not math.isnan(value))])

        layer = vector.get("layer")
        if isinstance(layer, int) and 0 <= layer < len(values):
            color = styles.of(vector["trait"])["color"]
            dot: dict[str, Any] = {"markersize": 5.5, "markeredgecolor": "white", "zorder": 4}
            axes.plot(layer, values[layer], "o", color=color, **dot)

    # An empty plot adds a legend entry that no trait adds.
    axes.plot([], [], "o", markersize=5, color=_QUIET, label="chosen layer")
    _explain_last_layer(axes)
    axes.set(xlabel="layer", ylabel="held-out AUROC", ylim=(lowest - 0.03, 1.03))
    _use_integer_ticks(axes)
    _legend(figure)
    return figure


def _by_layer(vectors: Sequence[Row], key: str) -> list[tuple[Row, list[float]]]:
    """(vector, value of each layer), for the vectors that have values."""
    found = [(vector, with_gaps(vector.get(key) or ())) for vector in vectors]
    return [(vector, values) for vector, values in found if len(values) > 1]


def _plot_layers(axes: Axes, values: Sequence[float], trait: str, styles: TraitStyles) -> None:
    """Draw a line over the layers, and layer L as a separate diamond.

    Layer L is after the final norm and on another scale, so a line to it would mislead.
    """
    line_style, last = styles.of(trait), len(values) - 1
    axes.plot(range(last), values[:-1], linewidth=1.1, label=short(trait), **line_style)
    axes.plot(last, values[-1], **_DIAMOND, **line_style)


def _explain_last_layer(axes: Axes) -> None:
    axes.plot([], [], linestyle="none", color=_QUIET, label="after the final norm", **_DIAMOND)


def draw_contrast(vectors: Sequence[Row]) -> Figure | None:
    """Mean judge score of each polarity by trait, and the difference."""
    judged = [v for v in vectors if v.get("positive_score") is not None]
    shown = [v for v in judged if v.get("negative_score") is not None]
    if not shown:
        return None

    figure, axes = _open(0.7 + 0.27 * len(shown), 0)
    right_of_axes: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center"}
    for y, vector in enumerate(shown):
        low, high = vector["negative_score"], vector["positive_score"]
        span: dict[str, Any] = {
            "color": "#cfd6de",
            "linewidth": 2.6,
            "solid_capstyle": "round",
            "zorder": 2,
        }
        axes.plot([low, high], [y, y], **span)
        axes.plot(low, y, "o", color=BLUE, markersize=6, zorder=3)
        axes.plot(high, y, "o", color=ORANGE, markersize=6, zorder=3)
        axes.text(1.02, y, format_signed(high - low, 1), size=7.5, **right_of_axes)

    axes.text(1.02, -0.85, "difference", size=7, color=_QUIET, **right_of_axes)

    axes.set_yticks(range(len(shown)), [short(vector["trait"]) for vector in shown])
    # The y axis points down, so that the first trait is at the top.
    axes.set(xlim=(-2, 102), ylim=(len(shown) - 0.4, -0.6), xlabel="mean judge score")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    _polarity_legend(figure)
    return figure


def draw_cosines(
    vectors: Sequence[Row], cosines: Sequence[Sequence[float | None]]
) -> Figure | None:
    """cos(v_i, v_j) of each pair of vectors, at the layer of vector i, the row."""
    count = len(vectors)
    if count < 2 or len(cosines) != count:
        return None

    size = min(1.3 + 0.45 * count, _MOST_INCHES)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow([with_gaps(line) for line in cosines], cmap=_DIVERGING, vmin=-1, vmax=1)
    # In a large table the digits shrink with the cells.
    points = min(7.5, 300 / count)
    for row, line in enumerate(cosines):
        for column, value in enumerate(line):
            axes.text(column, row, format_signed(value), ha="center", va="center", size=points)

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
    """Histograms of judge scores by trait: positive instructions upwards, negative downwards."""
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
    for number, axes in enumerate(grid.flat):
        if number < len(shown):
            _draw_histograms(axes, shown[number])
        else:
            axes.set_visible(False)
        # sharex hides the labels of all rows but the last, which may not be full.
        if number + columns >= len(shown):
            axes.tick_params(labelbottom=True)
    _polarity_legend(figure)
    figure.supxlabel("judge score", size=8)
    figure.supylabel("rollouts", size=8)
    return figure


def _draw_histograms(axes: Axes, vector: Row) -> None:
    """Draw the two histograms of a trait, and how many rollouts of each the filter kept."""
    tallest = 1
    for polarity, side, color in (("positive", 1, ORANGE), ("negative", -1, BLUE)):
        counts = vector["histogram"].get(polarity) or []
        width = 100 / max(len(counts), 1)
        lefts = [width * number for number in range(len(counts))]
        heights = [side * count for count in counts]
        axes.bar(lefts, heights, 0.9 * width, align="edge", color=color, linewidth=0)
        tallest = max(tallest, *counts, 1)

        kept = _format_count(vector.get(f"{polarity}_kept"))
        total = _format_count(vector.get(f"{polarity}_total"))
        y, va = (0.97, "top") if side > 0 else (0.03, "bottom")
        note: dict[str, Any] = {"va": va, "transform": axes.transAxes, "size": 6.5, "color": _DIM}
        axes.text(0, y, f" {kept}/{total} kept", **note)

    axes.axhline(0, color=_DIM, linewidth=0.6)
    axes.set(
        xlim=(0, 100),
        # The notes about kept rollouts need room above and below the bars.
        ylim=(-1.45 * tallest, 1.45 * tallest),
        xticks=(0, 50, 100),
        title=short(vector["trait"], 17),
    )
    axes.set_yticks([-tallest, 0, tallest], [str(tallest), "0", str(tallest)])
    axes.grid(visible=False, axis="x")


def short(name: str, cells: int = _NAME) -> str:
    """A name on one printable line, cut if it is longer than `cells`."""
    line = one_line(name)
    return fit(line, cells) if cell_len(line) > cells else line


def format_signed(value: float | None, digits: int = 2) -> str:
    """`+0.40`, `−0.40` or `0.00`; a dash for None."""
    if value is None:
        return "–"
    # Zero has no sign, also when it is a rounded −0.001.
    if round(value, digits) == 0:
        return f"{0:.{digits}f}"
    return with_minus(f"{value:+.{digits}f}")


def with_gaps(values: Sequence[float | None]) -> list[float]:
    """The values, with NaN for None and for values too large for matplotlib's axes."""
    return [math.nan if value is None or abs(value) > _LARGEST else value for value in values]


def _format_count(count: int | None) -> str:
    return "–" if count is None else f"{count:,}"


def _open(height: float, entries: int) -> tuple[Figure, Axes]:
    """A figure with one pair of axes, high enough for a legend with this many entries."""
    height = min(max(height, 0.5 + 0.17 * entries), _MOST_INCHES)
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _legend(figure: Figure) -> None:
    figure.legend(loc="outside right upper", labelspacing=0.35)


def _polarity_legend(figure: Figure) -> None:
    dots = [Line2D([], [], marker="o", linestyle="none", color=color) for color in (ORANGE, BLUE)]
    labels = ["positive instruction", "negative instruction"]
    spacing: dict[str, Any] = {"handletextpad": 0.2, "columnspacing": 1.2}
    figure.legend(dots, labels, loc="outside upper left", ncols=2, **spacing)


def _use_integer_ticks(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
