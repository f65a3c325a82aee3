"""The scripts, styles and colors of the report, which the page of a server has too."""

from __future__ import annotations

from importlib.resources import files

from traitcli.views.palette import ABOVE, BELOW, FAINT, LIMIT

STYLES = ("uplot/uplot.min.css", "report.css")
PALETTE = {"below": BELOW, "above": ABOVE, "faint": FAINT, "limit": LIMIT}
"""What `backgroundOf` in charts.js needs to color a score as the terminal does."""


def read_asset(name: str) -> str:
    """The text of a file of the report."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def chart_library() -> str:
    """uPlot, with its license, which must be part of every copy."""
    return f"/*!\n{read_asset('uplot/LICENSE').strip()}\n*/\n{read_asset('uplot/uplot.min.js')}"
