"""The views of trait vectors and of runs."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Reports
from tests.browser.data import COMMAND, KILLED, OTHER_SET, RUN, SET, STOPPED, example, vector
from tests.browser.reading import (
    CLEAR,
    backgrounds,
    box,
    cells,
    color_of,
    column,
    content,
    count_of,
    of_run,
    of_set,
    pixels,
    settle,
    terminal,
    text,
)

pytestmark = pytest.mark.browser


def set_of(*vectors: object, **more: object) -> dict[str, object]:
    return {"name": "run one", "model": "tiny", "vectors": list(vectors), **more}


def point_at_layer(page: Page, name: str, row: float, rows: int = 4) -> None:
    of_set(page, name).scroll_into_view_if_needed()
    over = box(of_set(page, name).locator(".u-over"))
    page.mouse.move(over["x"] + row / (rows - 1) * (over["width"] - 1), over["y"] + 20)


# Trait vectors


def test_a_vector_is_shown_with_its_quality(reports: Reports) -> None:
    page = reports.open(sets=[SET])

    rows = [[cell.split("\n") for cell in row] for row in cells(of_set(page, "table"))]
    assert rows == [
        [
            ["refusal"],
            ["● carries over", "separates the unseen"],
            ["96/100 + 88/100", "3 missing"],
            ["71", "84 − 13"],
            ["0.94", "80 held out"],
            ["–"],
            ["2.10"],
            ["2", "of 3 · best layer"],
            ["24.5", "× 0.31"],
        ],
        [
            ["evil"],
            ["◐ reads its instruction", "separates the unseen poorly; it may measure length"],
            ["96/100 + 88/100", "3 missing"],
            ["40", "60 − 20"],
            ["0.71", "0.55–0.83 · 80 held out"],
            ["0.62", "0.48–0.75"],
            ["2.10", "0.0 … 3.0"],
            ["3", "of 3 · largest layer"],
            ["24.5", "× 0.31"],
        ],
    ]


def test_shared_settings_of_all_vectors_are_shown_once(reports: Reports) -> None:
    page = reports.open(sets=[SET])

    assert text(of_set(page, "intro")) == (
        "tiny · 4 layers × 8 · mean diff · of response_avg · judged by openai:small (AUROC 0.99) · "
        "coherence by the judge · filter: score and coherence"
    )


def test_a_vector_without_metadata_is_shown_with_dashes(reports: Reports) -> None:
    page = reports.open(sets=[OTHER_SET])

    assert cells(of_set(page, "table")) == [
        ["joy", "–", "–", "–", "not measured", "–", "–", "–", "–"]
    ]
    for name in ("auroc", "magnitude", "similarity", "scores", "rollouts"):
        assert not of_set(page, name).is_visible()


@pytest.mark.parametrize("name", ["auroc", "magnitude"])
def test_a_chart_over_the_layers_draws_each_trait_in_its_color(reports: Reports, name: str) -> None:
    page = reports.open(sets=[SET])

    canvas, swatches = (
        of_set(page, name).locator("canvas"),
        of_set(page, "table").locator(".swatch"),
    )

    colors = [color_of(swatches.nth(k)) for k in (0, 1)]
    assert len(set(colors)) == 2
    assert all(count_of(canvas, color) > 60 for color in colors)


@pytest.mark.parametrize(
    ("row", "magnitude", "auroc"),
    [
        (0, "layer 0 · refusal 1.00 · evil 2.00", "layer 0 · refusal – · evil –"),
        (1.2, "layer 1 · refusal 12.50 · evil 8.00", "layer 1 · refusal 0.70 · evil 0.50"),
        (2, "layer 2 · refusal 24.50 · evil 9.00", "layer 2 · refusal 0.94 · evil 0.60"),
        (
            3,
            "layer 3 (after the final norm) · refusal 40.00 · evil 10.00",
            "layer 3 (after the final norm) · refusal 0.90 · evil 0.71",
        ),
        (
            2.6,
            "layer 3 (after the final norm) · refusal 40.00 · evil 10.00",
            "layer 3 (after the final norm) · refusal 0.90 · evil 0.71",
        ),
    ],
)
def test_pointing_at_a_layer_shows_its_values(
    reports: Reports, row: float, magnitude: str, auroc: str
) -> None:
    page = reports.open(sets=[SET])

    point_at_layer(page, "magnitude", row)
    magnitudes = text(of_set(page, "magnitude-caption"))
    point_at_layer(page, "auroc", row)

    assert magnitudes == magnitude
    assert text(of_set(page, "auroc-caption")) == auroc
    assert text(of_set(page, "magnitude-caption")).startswith(
        "Norm of the vector, in activation units."
    )


def test_a_layer_chart_has_a_text_alternative_with_its_best_layers(reports: Reports) -> None:
    page = reports.open(sets=[SET])

    assert [of_set(page, name).get_attribute("aria-label") for name in ("auroc", "magnitude")] == [
        "Held-out AUROC by layer: refusal highest 0.94 at layer 2, evil highest 0.71 at layer 3",
        "Magnitude by layer: refusal highest 40.00 at layer 3, evil highest 10.00 at layer 3",
    ]


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_a_dot_marks_the_chosen_layer_and_the_last_one(reports: Reports, layer: int) -> None:
    page = reports.open(sets=[set_of(vector("refusal", layer=layer))])
    canvas, color = (
        of_set(page, "magnitude").locator("canvas"),
        color_of(of_set(page, "table").locator(".swatch")),
    )
    left, width = page.evaluate(
        "(e => [e.offsetLeft, e.clientWidth])(document.querySelector('#set .u-over'))"
    )

    heights = [
        sum(pixel == [*color, 255] for pixel in column(canvas, round(left + row / 3 * width)))
        for row in range(4)
    ]

    assert [height >= 5 for height in heights] == [False, layer == 1, layer == 2, True]


def test_dragging_zooms_a_layer_chart_and_a_double_click_restores_it(
    reports: Reports,
) -> None:
    page = reports.open(sets=[SET])
    canvas = of_set(page, "magnitude").locator("canvas")
    whole = pixels(canvas)

    point_at_layer(page, "magnitude", 0.9)
    page.mouse.down()
    point_at_layer(page, "magnitude", 1.5)
    point_at_layer(page, "magnitude", 2.1)
    page.mouse.up()
    expect(of_set(page, "magnitude").locator(".u-select")).to_have_css("width", "0px")
    zoomed = pixels(canvas)
    point = box(canvas)
    page.mouse.dblclick(point["x"] + point["width"] / 2, point["y"] + 50)
    settle(page)

    assert zoomed != whole
    assert pixels(canvas) == whole


def test_the_dots_of_a_contrast_are_at_the_mean_scores(reports: Reports) -> None:
    page = reports.open(sets=[SET])

    positions = []
    for item in of_set(page, "contrasts").locator("li").all():
        track = box(item.locator(".scale"))
        dots = [box(item.locator(f".{side}")) for side in ("negative", "positive")]
        positions.append(
            [(dot["x"] + dot["width"] / 2 - track["x"]) / track["width"] for dot in dots]
        )

    assert positions == [
        pytest.approx([0.13, 0.84], abs=0.005),
        pytest.approx([0.2, 0.6], abs=0.005),
    ]
    assert of_set(page, "contrasts").locator(".value").all_inner_texts() == ["+71", "+40"]


def test_the_table_of_cosines_is_colored_by_their_size(reports: Reports) -> None:
    page = reports.open(sets=[SET])

    rows = cells(of_set(page, "cosines"))
    assert [[cell.split("\n") for cell in row] for row in rows] == [
        [["refusal", "layer 2"], ["1.00"], ["−0.42"]],
        [["evil", "layer 3"], ["0.10"], ["1.00"]],
    ]
    assert of_set(page, "cosines").locator("thead th").all_inner_texts() == ["refusal", "evil"]
    assert backgrounds(of_set(page, "cosines").locator("td[class]")) == [
        CLEAR,
        *terminal([-0.84]),
        CLEAR,
        CLEAR,
    ]


def test_a_single_vector_is_not_compared_with_any(reports: Reports) -> None:
    page = reports.open(sets=[set_of(vector("refusal"), cosines=[[1.0]])])

    assert not of_set(page, "similarity").is_visible()


def test_a_histogram_has_bars_in_proportion_to_the_responses(reports: Reports) -> None:
    page = reports.open(sets=[SET])
    figure = of_set(page, "histograms").locator("figure").first

    bars = {
        side: figure.locator(f"rect.{side}").evaluate_all(
            "all => all.map(e => e.getBoundingClientRect().height)"
        )
        for side in ("positive", "negative")
    }

    histogram = vector("refusal")["histogram"]
    tallest = max(bars["positive"])
    assert tallest > 20
    for side, heights in bars.items():
        assert heights == pytest.approx(
            [count / 24 * tallest for count in histogram[side]], abs=0.01
        )
    assert text(figure.locator("small")) == "96/100 + 88/100 kept"
    label = "Scores of refusal in bins of ten. positive: 0 from 0, 0 from 10, 1 from 20, "
    assert (figure.locator("svg").get_attribute("aria-label") or "").startswith(label)


def test_rollouts_are_shown_with_whether_they_were_kept(reports: Reports) -> None:
    page = reports.open(sets=[SET])
    examples = of_set(page, "examples").locator("details").first

    summary = text(examples.locator("summary"))
    examples.locator("summary").click()

    assert [content(each) for each in examples.locator("summary span").all()] == [
        "refusal",
        "4 positive: score below 50 · 9 negative: score above 50 · 3 negative: incoherent",
    ]
    assert summary.startswith("refusal")
    assert [
        [text(p) for p in item.locator("p").all()] for item in examples.locator("li").all()
    ] == [
        [
            "positive instruction · kept",
            "What of positive pets?",
            "A positive answer.\nIt goes on …",
            "score 91 · coherence 88 · evil-pos-p0-q1-r0",
        ],
        [
            "negative instruction · dropped: score above 50",
            "What of negative pets?",
            "A negative answer.\nIt goes on …",
            "score 91 · coherence 88 · evil-neg-p0-q1-r0",
        ],
    ]


def test_a_rollout_without_a_score_shows_the_reason(reports: Reports) -> None:
    unscored = example(
        "positive", False, score=None, reason="empty answer", coherence=None, why="no score"
    )
    page = reports.open(sets=[set_of(vector("evil", examples=[unscored]))])

    page.locator(".examples summary").click()

    assert text(page.locator(".example p").last) == "no score: empty answer · evil-pos-p0-q1-r0"


def test_a_vector_with_a_changed_run_has_a_note(reports: Reports) -> None:
    note = "The run has changed since this vector was built, so its rollouts are not shown."
    changed = {
        key: value
        for key, value in vector("evil", note=note).items()
        if key not in ("examples", "histogram")
    }
    page = reports.open(sets=[set_of(changed)])

    page.locator(".examples summary").click()

    assert text(page.locator(".examples p")) == note
    assert not of_set(page, "scores").is_visible()


def test_sets_are_chosen_by_drop_down(reports: Reports) -> None:
    page = reports.open(sets=[OTHER_SET, SET])
    first = [row[0] for row in cells(of_set(page, "table"))]

    page.locator("#sets").select_option("1")
    second = [row[0] for row in cells(of_set(page, "table"))]
    charts = (
        of_set(page, "auroc").locator("canvas").count(),
        of_set(page, "similarity").is_visible(),
    )
    page.locator("#sets").select_option("0")

    assert page.locator("#sets option").all_inner_texts() == ["run two · tiny", "run one · tiny"]
    assert (first, second) == (["joy"], ["refusal", "evil"])
    assert charts == (1, True)
    assert of_set(page, "auroc").locator("canvas").count() == 0
    assert not of_set(page, "similarity").is_visible()


def test_a_single_set_leaves_nothing_to_choose(reports: Reports) -> None:
    page = reports.open(sets=[SET])

    assert not page.locator("#which-set").is_visible()


# Runs


def facts(page: Page) -> dict[str, str]:
    names, texts = (of_run(page, "facts").locator(kind).all_inner_texts() for kind in ("dt", "dd"))
    return dict(zip(names, texts, strict=True))


def test_a_run_shows_its_devices_and_its_cost(reports: Reports) -> None:
    page = reports.open(runs=[RUN])

    found = facts(page)
    devices = found.pop("Devices")
    assert text(of_run(page, "name")) == "Run demo"
    assert {"cuda:0", "NVIDIA H100"} <= set(devices.replace(" · ", ", ").split(", "))
    assert found == {
        "Model": "tiny · example/tiny",
        "Revision": "abc123",
        "Machine": "Linux x86_64, 16 cores",
        "Versions": "python 3.12.3 · torch 2.10.0",
        "Time": "1 h 2 min in 3 commands",
        "Rollouts": "200 responses, 41,000 response tokens, 9,000 prompt tokens",
        "Judge": "openai:small · 400 requests · 7 from the cache · 80,000 + 400 tokens · $0.0123",
    }


def test_a_run_shows_counts_and_time_for_each_trait(reports: Reports) -> None:
    page = reports.open(runs=[RUN])

    (row,) = cells(of_run(page, "traits"))
    assert [cell.split("\n") for cell in row] == [
        ["evil"],
        ["200/240", "2 empty"],
        ["41,000", "410/s"],
        ["9,000"],
        ["195", "5 missing"],
        ["1 min 40 s"],
        ["13 s"],
        ["50 s"],
        ["5.5 s"],
        [""],
        ["400", "$0.0123"],
        ["yes"],
    ]


def test_the_time_of_each_stage_is_drawn_in_proportion(reports: Reports) -> None:
    (evil,) = RUN["traits"]
    page = reports.open(
        runs=[{**RUN, "traits": [evil, {**evil, "trait": "joy", "seconds": {"rollouts": 33.6}}]}]
    )

    parts = page.locator(".times i").all()
    shares = [box(part)["width"] / box(page.locator(".times").first)["width"] for part in parts]

    of_evil, of_joy = [100 / 168, 12.5 / 168, 50 / 168, 5.5 / 168], [33.6 / 168, 0, 0, 0]
    assert shares == pytest.approx(of_evil + of_joy, abs=0.005)
    assert [part.get_attribute("title") for part in parts[:2]] == [
        "generating 1 min 40 s",
        "reading 13 s",
    ]


def test_each_stage_has_a_color_of_its_own_that_the_caption_explains(reports: Reports) -> None:
    page = reports.open(runs=[RUN])

    def colors(selector: str, pseudo: str) -> list[str]:
        script = "(all, pseudo) => all.map(one => getComputedStyle(one, pseudo).backgroundColor)"
        return page.locator(selector).evaluate_all(script, pseudo)

    drawn = colors(".times i", "")
    assert len(set(drawn)) == len(drawn) == 4
    assert colors(".run .caption .key", "::before") == drawn


def test_a_run_that_was_not_read_again_has_no_time_for_it(reports: Reports) -> None:
    (evil,) = RUN["traits"]
    earlier = {"rollouts": 100.0, "judgements": 50.0, "vectors": 5.5}
    page = reports.open(runs=[{**RUN, "traits": [{**evil, "seconds": earlier}]}])

    (row,) = cells(of_run(page, "traits"))

    assert row[5:9] == ["1 min 40 s", "–", "50 s", "5.5 s"]


def test_the_commands_of_a_run_are_listed_with_how_they_ended(reports: Reports) -> None:
    page = reports.open(runs=[RUN])

    rows = [[cell.split("\n") for cell in row] for row in cells(of_run(page, "commands"))]
    every = ["generating, reading, judging, building", "1 trait"]
    assert rows == [
        [["2026-11-24 23:15:10"], every, ["cuda:0"], ["–"], ["–"], ["killed or still running"]],
        [
            ["2026-11-25 05:00:00"],
            ["judging", "1 trait"],
            ["cuda:0"],
            ["12 s"],
            ["0"],
            ["stopped", "no key for the judge"],
        ],
        [["2026-11-25 06:00:00"], every, ["cuda:0"], ["1 h 2 min"], ["41,000"], ["finished"]],
    ]


def test_failures_and_warnings_are_shown_with_their_counts(reports: Reports) -> None:
    page = reports.open(runs=[RUN])

    assert of_run(page, "failures").locator("li").all_inner_texts() == [
        "evil failed at judgements: no key · OPENAI_API_KEY is not set",
        "evil: 5 scores missing: refused to answer",
        "the disk is slow (2 times)",
    ]
    assert not of_run(page, "none-failed").is_visible()


def test_a_run_without_failures_has_a_message(reports: Reports) -> None:
    page = reports.open(
        runs=[
            {**RUN, "traits": [{**RUN["traits"][0], "missing_reasons": {}}], "commands": [COMMAND]}
        ]
    )

    assert text(of_run(page, "none-failed")) == "None."
    assert of_run(page, "failures").locator("li").count() == 0


def test_the_configuration_of_a_run_can_be_read(reports: Reports) -> None:
    page = reports.open(runs=[RUN])

    page.locator(".run summary").click()

    names, texts = (
        of_run(page, "settings").locator(kind).all_inner_texts() for kind in ("dt", "dd")
    )
    assert list(zip(names, texts, strict=True)) == [
        ("model.id", "example/tiny"),
        ("model.dtype", "bfloat16"),
        ("extract.seed", "none"),
        ("extract.layers", "1, 2"),
    ]


def test_a_run_without_a_command_log_has_a_message(reports: Reports) -> None:
    page = reports.open(runs=[{**RUN, "commands": []}])

    assert of_run(page, "no-log").is_visible()
    assert not of_run(page, "history").is_visible()
    assert facts(page)["Revision"] == "unknown"
    assert "Time" not in facts(page)


def test_a_judge_with_an_unknown_price_has_no_cost(reports: Reports) -> None:
    usage = {"requests": 3, "cached": 0, "prompt_tokens": 10, "completion_tokens": 3, "usd": None}
    page = reports.open(runs=[{**RUN, "usage": usage}])

    assert facts(page)["Judge"] == "openai:small · 3 requests · 10 + 3 tokens · cost unknown"


def test_each_run_has_its_own_section(reports: Reports) -> None:
    page = reports.open(runs=[RUN, {**RUN, "name": "second", "commands": [KILLED, STOPPED]}])

    assert of_run(page, "name").all_inner_texts() == ["Run demo", "Run second"]
    assert [row[0] for row in cells(page.locator("#commands-title-1 + .panel table"))] == [
        "2026-11-24 23:15:10",
        "2026-11-25 05:00:00",
    ]


def test_an_empty_report_says_what_to_do(reports: Reports) -> None:
    page = reports.open()

    assert text(page.locator("#no-records")).startswith("This report has no records.")
    assert text(page.locator("#no-vectors")).startswith("This report has no trait vectors.")
    assert text(page.locator("#no-runs")).startswith("This report has no runs.")
    assert not any(
        page.locator(f"#{name}").is_visible() for name in ("record", "set", "which-set", "run-list")
    )
    assert text(page.locator("#contents")) == "0 records · 0 trait vectors · 0 runs"
