"""Reads what the report page shows: texts, colors, pixels and positions."""

from __future__ import annotations

import re
from typing import Any

from playwright.sync_api import Locator, Page

from traitcli.views.palette import background, is_colored

Color = tuple[int, ...]
CLEAR: Color = (0, 0, 0, 0)

# Read from a copy: Chromium warns about a canvas that is read repeatedly.
_DATA = """(canvas, x = 0, width = canvas.width) => {
    const copy = document.createElement("canvas");
    [copy.width, copy.height] = [width, canvas.height];
    const context = copy.getContext("2d", { willReadFrequently: true });
    context.drawImage(canvas, -x, 0);
    return context.getImageData(0, 0, width, canvas.height).data;
}"""
_DIGEST = f"""canvas => {{
    let hash = 2166136261;
    for (const value of ({_DATA})(canvas)) hash = Math.imul(hash ^ value, 16777619);
    return `${{canvas.width}} × ${{canvas.height}}: ${{hash >>> 0}}`;
}}"""
_COUNT = f"""(canvas, [red, green, blue]) => {{
    const data = ({_DATA})(canvas);
    let count = 0;
    for (let i = 0; i < data.length; i += 4) {{
        const isColor = data[i] === red && data[i + 1] === green && data[i + 2] === blue;
        count += isColor && data[i + 3] === 255;
    }}
    return count;
}}"""
_PROFILE = f"""(canvas, [left, top, width, height]) => {{
    const data = ({_DATA})(canvas, left, width);
    const isDark = (i) => data[i] < 215 && data[i + 3] > 100;
    return Array.from({{ length: height }}, (_, y) => {{
        const dark = Array.from({{ length: width }}, (_, x) => isDark(4 * ((top + y) * width + x)));
        return dark.filter(Boolean).length / width;
    }});
}}"""
_COLUMN = f"""(canvas, x) => {{
    const data = ({_DATA})(canvas, x, 1);
    const pixel = (y) => Array.from(data.slice(4 * y, 4 * y + 4));
    return Array.from({{ length: canvas.height }}, (_, y) => pixel(y));
}}"""


def part(page: Page, name: str, pane: int = 1) -> Locator:
    """A part of a record's view."""
    return page.locator(f'.pane[data-pane="{pane}"] [data-part="{name}"]')


def of_set(page: Page, name: str) -> Locator:
    """A part of the view of the trait vectors."""
    return page.locator(f'#set [data-part="{name}"]')


def of_run(page: Page, name: str) -> Locator:
    return page.locator(f'.run [data-part="{name}"]')


def text(element: Locator) -> str:
    return element.inner_text().strip()


def content(element: Locator) -> str:
    """The text of the document with its white space."""
    found: str = element.evaluate("e => e.textContent")
    return found


def values(page: Page, pane: int = 1) -> list[str]:
    return part(page, "bars", pane).locator(".value").all_inner_texts()


def lengths(page: Page, pane: int = 1) -> list[str]:
    """The direction of each bar and its share of the scale."""
    script = "all => all.map(e => `${e.className} ${e.style.getPropertyValue('--length')}`)"
    found: list[str] = part(page, "bars", pane).locator(".track i").evaluate_all(script)
    return found


def cells(table: Locator) -> list[list[str]]:
    """The body of a table, row by row."""
    return [row.locator("th, td").all_inner_texts() for row in table.locator("tbody tr").all()]


def slide(page: Page, index: int) -> None:
    page.locator("#slider").fill(str(index))


# Colors


def backgrounds(element: Locator) -> list[Color]:
    """The computed background of each element."""
    computed = element.evaluate_all("all => all.map(e => getComputedStyle(e).backgroundColor)")
    return [parse_color(value) for value in computed]


def parse_color(computed: str) -> Color:
    """(r, g, b), followed by the alpha if it is not 1."""
    found = re.fullmatch(r"rgba?\((\d+), (\d+), (\d+)(?:, ([\d.]+))?\)", computed)
    assert found, computed
    *color, alpha = found.groups()
    return tuple(int(value) for value in (*color, alpha) if value is not None)


def terminal(scores: list[float]) -> list[Color]:
    """The terminal backgrounds of scores, the oracle for those of the page."""
    return [
        tuple(background(score).get_truecolor()) if is_colored(score) else CLEAR for score in scores
    ]


def color_of(element: Locator) -> Color:
    return parse_color(element.evaluate("e => getComputedStyle(e).color"))


# Pixels


def settle(page: Page) -> None:
    """Wait for the next frame, which draws a zoom or a new size."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")


def pixels(canvas: Locator) -> str:
    """A digest of all pixels, equal for equal pictures."""
    digest: str = canvas.evaluate(_DIGEST)
    return digest


def count_of(canvas: Locator, color: Color) -> int:
    """The number of pixels with exactly this color."""
    count: int = canvas.evaluate(_COUNT, list(color))
    return count


def until_drawn_in(page: Page, color: Color) -> None:
    """Wait until the chart is drawn in a color.

    A computed style has the colors of a new color scheme at once, and a busy machine may draw a
    frame before it tells the page of the new scheme.
    """
    page.wait_for_function(
        f"([canvas, color]) => ({_COUNT})(canvas, color) > 0",
        arg=[chart(page).element_handle(), list(color)],
        # Not at frames, as by default: a busy machine may draw none for seconds.
        polling=100,
    )


def column(canvas: Locator, x: int) -> list[list[int]]:
    """The pixels of a column from top to bottom, each as red, green, blue and alpha."""
    found: list[list[int]] = canvas.evaluate(_COLUMN, x)
    return found


def chart(page: Page, pane: int = 1) -> Locator:
    return part(page, "lines", pane).locator("canvas")


def profile(canvas: Locator) -> list[float]:
    """The share of dark pixels in each pixel row of the chart, from top to bottom."""
    plot_area = canvas.evaluate("""canvas => {
        const over = canvas.parentElement.querySelector(".u-over");
        return [over.offsetLeft, over.offsetTop, over.clientWidth, over.clientHeight];
    }""")
    shares: list[float] = canvas.evaluate(_PROFILE, plot_area)
    return shares


# Positions


def box(element: Locator) -> dict[str, float]:
    found: Any = element.bounding_box()
    assert found is not None
    return {**found}


def cursor(page: Page, pane: int = 1) -> float:
    """The position of the chart's cursor: 0 at the left end, 1 at the right end."""
    lines = part(page, "lines", pane)
    over = box(lines.locator(".u-over"))
    return (box(lines.locator(".u-cursor-x"))["x"] - over["x"]) / over["width"]


def dot(page: Page, pane: int = 1) -> float:
    """How far below the top of the chart the chosen line is at the token, in pixels."""
    lines = part(page, "lines", pane)
    point = box(lines.locator(".u-cursor-pt"))
    return point["y"] + point["height"] / 2 - box(lines.locator(".u-over"))["y"]


def point_at(page: Page, share: float, pane: int = 1) -> tuple[float, float]:
    """A point at half the chart's height and this share of its width."""
    area = part(page, "lines", pane).locator(".u-over")
    # A pointer outside the window would point at nothing.
    area.scroll_into_view_if_needed()
    over = box(area)
    return over["x"] + share * (over["width"] - 1), over["y"] + over["height"] / 2


def drag(page: Page, first: float, last: float) -> None:
    """Drag over a part of the chart's width."""
    page.mouse.move(*point_at(page, first))
    page.mouse.down()
    page.mouse.move(*point_at(page, (first + last) / 2))
    page.mouse.move(*point_at(page, last))
    page.mouse.up()


def contrast(first: Color, second: Color) -> float:
    """The ratio of WCAG 2.2 of two opaque colors."""

    def luminance(color: Color) -> float:
        parts = [value / 255 for value in color[:3]]
        linear = [
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, bright = sorted((luminance(first), luminance(second)))
    return (bright + 0.05) / (dark + 0.05)
