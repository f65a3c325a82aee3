"""Measures the report page in Chromium: time to open, time of a step, and file size.

    make bench-report

Long and short records are measured, so that their ratio shows the cost of length. Targets: a step
takes less than 16 ms; 100 records need less than 20 MB and open in less than 2 s.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from traitcli.record_json import from_json
from traitcli.records import TokenScores
from traitcli.report_records import NamedRecord, Report
from traitcli.views.report.page import write_page

CHROMIUM = "/usr/bin/chromium"
STEP = """async () => {
    const slider = document.getElementById("slider");
    const times = [];
    for (let i = 0; i < 60; i += 1) {
        const start = performance.now();
        slider.value = Math.round(i * slider.max / 60);
        slider.dispatchEvent(new Event("input"));
        document.body.offsetHeight;
        await null;  // the library of the charts draws in a microtask
        const stepped = performance.now() - start;
        // What the page does in the next frame: its callbacks, and the layout after them.
        const framed = await new Promise((done) => requestAnimationFrame(() => {
            const began = performance.now();
            document.body.offsetHeight;
            done(performance.now() - began);
        }));
        times.push(stepped + framed);
    }
    return times;
}"""
OPENED = """() => new Promise((done) => requestAnimationFrame(() => setTimeout(() =>
    done(document.querySelector(".token.current") ? performance.now() : Infinity))))"""


def long_record(seed: int, count: int, traits: int = 8) -> NamedRecord:
    """A record of noise; its calibrated scores are a linear function of the raw ones."""
    noise = random.Random(seed)
    raw, calibrated = {}, {}
    for k in range(traits):
        scores = [noise.gauss(20 * k, 9) for _ in range(count)]
        raw[f"trait-{k}"] = scores
        calibrated[f"trait-{k}"] = [(score - 20 * k) / 7 for score in scores]
    tokens = [f" word{noise.randrange(9000)}" for _ in range(count)]

    record = from_json(
        {
            "prompt": f"Question {seed}",
            "tokens": tokens,
            "layers": dict.fromkeys(raw, 12),
            "trait_scores": raw,
            "calibrated_scores": calibrated,
        }
    )
    assert isinstance(record, TokenScores)
    return NamedRecord(f"record {seed}", record)


def steps(page: Page, folder: Path, count: int) -> list[float]:
    """Milliseconds of each of sixty steps through a record, sorted."""
    write_page(folder / "steps.html", Report((long_record(0, count),)))
    page.goto((folder / "steps.html").as_uri())
    return sorted(page.evaluate(STEP))


def main() -> None:
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        page = chromium.new_context(
            offline=True, viewport={"width": 1280, "height": 900}
        ).new_page()
        print(
            "tokens x traits    step, median    95 %    (script, layout and the frame's own work)"
        )
        for count in (40, 400, 4000):
            times = steps(page, folder, count)
            print(f"{count:>6} x 8    {statistics.median(times):>12.1f} ms {times[56]:>6.1f} ms")
        print("records x tokens x traits    file      written    opens, median of 5")
        for count in (400, 1000, 4000):
            report = Report(tuple(long_record(seed, count) for seed in range(100)))
            path = folder / "many.html"
            start = time.perf_counter()
            write_page(path, report)
            wrote = time.perf_counter() - start
            opened = []
            for _ in range(5):
                page.goto(path.as_uri())
                opened.append(page.evaluate(OPENED))
            size = path.stat().st_size / 1e6
            opens = statistics.median(opened)
            print(f"100 x {count:>4} x 8    {size:>13.2f} MB {wrote:>8.1f} s {opens:>12.0f} ms")
        chromium.close()


if __name__ == "__main__":
    main()
