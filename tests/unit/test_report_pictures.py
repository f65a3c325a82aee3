"""The report's pictures: their contents, colors and file names."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import matplotlib.image
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from rich.color import Color

from tests.reports import report_of
from traitcli.views.palette import BLUE, FAINT, ORANGE, background
from traitcli.views.report import charts
from traitcli.views.report.contents import scores_of
from traitcli.views.report.pictures import write_pictures
from traitcli.views.report.token_picture import MOST_LINES, ColoredText, draw_tokens

pytestmark = pytest.mark.slow

TOKENS = ["I", " cannot", " help", "\n", "you"]
RECORD = {
    "name": "bank",
    "prompt": "How?",
    "tokens": TOKENS,
    "trait_scores": {"refusal": [1.0, 30.0, -4.0, 0.0, 2.0], "evil": [9.0, 9.0, 9.0, 9.0, 9.0]},
    "calibrated_scores": {
        "refusal": [0.1, 1.7, -0.6, 0.0, 0.9],
        "evil": [0.1, -0.4, 0.5, 0.0, 0.1],
    },
    "layers": {"refusal": 17, "evil": 9},
}
EVIL = {
    "trait": "evil",
    "layer": 1,
    "positive_score": 80.0,
    "negative_score": 25.5,
    "magnitude_by_layer": [1.0, 2.0, 4.0, 0.5],
    "auroc_by_layer": [0.5, 0.9, 0.8, 0.7],
    "histogram": {"positive": [0] * 9 + [5], "negative": [3, 1] + [0] * 8},
    "positive_kept": 4,
    "positive_total": 5,
    "negative_kept": 3,
    "negative_total": 1004,
}
REFUSAL = EVIL | {"trait": "refusal", "layer": 2, "positive_score": 20.0}
SET = {
    "name": "run demo",
    "model": "tiny",
    "vectors": [EVIL, REFUSAL],
    "cosines": [[1.0, -0.25], [None, 1.0]],
}
SHOWN = ("tokens", "lines", "magnitude", "separation", "contrast", "cosines", "scores")
SCALE = 130
"""Pixels that belong to the color scale and never to the text."""
STYLES = charts.TraitStyles(["refusal", "evil"])
HOSTILE = "../../$x^{ \x1b[31m\u202e 日本 \ud83d =1"


def text_of(path: Path) -> np.ndarray:
    """The pixels of a token picture, uint8 [height, width, 3], without the color scale."""
    return np.rint(matplotlib.image.imread(path)[:-SCALE, :, :3] * 255).astype(np.uint8)


def colors_of(path: Path) -> set[tuple[int, ...]]:
    return set(map(tuple, np.unique(text_of(path).reshape(-1, 3), axis=0).tolist()))


def background_of(score: float) -> tuple[int, ...]:
    return tuple(background(score).get_truecolor())


def written(folder: Path, *records: dict, sets: tuple = (), trait: str | None = None) -> list[str]:
    return [path.name for path in write_pictures(folder, report_of(records, sets), trait)]


def texts_of(figure: matplotlib.figure.Figure) -> list[str]:
    FigureCanvasAgg(figure).draw()
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


# Tokens


def test_tokens_have_the_backgrounds_of_the_terminal(tmp_path):
    written(tmp_path, RECORD)

    # Above the letters, a color begins at the word and also fills the spaces within a run.
    above = text_of(tmp_path / "tokens-bank.png")[71::37, 15 + 7 :: 15]
    first, second = (above[line, :14].tolist() for line in (0, 1))
    white = [255, 255, 255]
    assert first == [white] * 2 + [list(background_of(1.7))] * 6 + [
        list(background_of(-0.6))
    ] * 5 + [white]
    assert second == [list(background_of(0.9))] * 3 + [white] * 11


def test_letters_on_a_color_are_dark(tmp_path):
    written(tmp_path, RECORD)

    assert tuple(Color.parse("#101418").get_truecolor()) in colors_of(tmp_path / "tokens-bank.png")


def test_the_trait_with_the_largest_mean_size_colors_the_tokens(tmp_path):
    strongest = max(
        RECORD["calibrated_scores"], key=lambda t: np.abs(RECORD["calibrated_scores"][t]).mean()
    )

    written(tmp_path / "by default", RECORD)
    written(tmp_path / "named", RECORD, trait=strongest)

    name = "tokens-bank.png"
    assert (tmp_path / "by default" / name).read_bytes() == (tmp_path / "named" / name).read_bytes()


def test_a_trait_can_be_named(tmp_path):
    written(tmp_path, RECORD, trait="evil")

    found = colors_of(tmp_path / "tokens-bank.png")
    assert {background_of(-0.4), background_of(0.5)} <= found
    assert background_of(1.7) not in found


def test_a_record_without_the_named_trait_has_no_picture_of_tokens(tmp_path):
    assert written(tmp_path, RECORD, trait="verbosity") == ["lines-bank.png"]


def test_without_calibration_the_color_scale_fits_the_projections(tmp_path):
    old = {"name": "old", "tokens": ["a", "b"], "trait_scores": {"evil": [-40.0, 20.0]}}

    written(tmp_path, old)

    assert {background_of(-2.0), background_of(1.0)} <= colors_of(tmp_path / "tokens-old.png")


def test_a_token_without_a_score_has_no_color(tmp_path):
    calibrated = {"refusal": [None, float("nan"), None, 0.0, 1.7]}

    written(tmp_path, {**RECORD, "calibrated_scores": calibrated})

    first, second = text_of(tmp_path / "tokens-bank.png")[71:120:37]
    assert (first == 255).all()
    assert (second == background_of(1.7)).all(axis=1).sum() == 15 * len("you")


def test_a_wide_character_has_a_background_of_two_cells(tmp_path):
    scores = {"evil": [0.0, 1.7, 0.0]}

    written(
        tmp_path,
        {
            "name": "wide",
            "tokens": ["日", "本", "!"],
            "trait_scores": scores,
            "calibrated_scores": scores,
        },
    )

    (line,) = text_of(tmp_path / "tokens-wide.png")[19:20]
    (inked,) = np.nonzero((line == background_of(1.7)).all(axis=1))
    assert (inked.min(), inked.max()) == (15 * (1 + 2), 15 * (1 + 2 + 2) - 1)


def test_letters_are_aligned_with_their_backgrounds(tmp_path):
    figure = draw_tokens(colored_text(["x" * 90]))
    FigureCanvasAgg(figure).draw()

    (line,) = [text for text in figure.axes[0].texts if text.get_text() == "x" * 90]
    assert line.get_window_extent().width == pytest.approx(90 * 15, abs=5)


def test_the_color_scale_goes_from_blue_to_orange(tmp_path):
    written(tmp_path, RECORD)

    pixels = np.rint(
        matplotlib.image.imread(tmp_path / "tokens-bank.png")[-110, :, :3] * 255
    ).astype(int)
    scale = pixels[15 : 15 * (1 + 48)].reshape(48, 15, 3)[:, 7].tolist()
    steps = np.linspace(-2, 2, 97)[1::2]
    assert scale == [
        list(background_of(step)) if abs(step) >= FAINT else [255, 255, 255] for step in steps
    ]


def colored_text(tokens: list[str]) -> ColoredText:
    return ColoredText(
        "How?", tokens, [1.0] * len(tokens), 2.0, "calibrated score", "evil at layer 9"
    )


def test_the_picture_names_prompt_trait_and_unit():
    texts = texts_of(draw_tokens(colored_text(["Hello", " you"])))

    assert texts == [
        "How?",
        "Hello you",
        "≤ −2",
        "−1",
        "0",
        "+1",
        "≥ +2",
        "evil at layer 9",
        "calibrated score",
    ]


def test_a_long_response_is_cut_with_a_note():
    texts = texts_of(draw_tokens(colored_text(["a\n"] * (MOST_LINES + 30))))

    assert texts.count("a") == MOST_LINES
    assert "[cut here: 30 more lines]" in texts


def test_a_response_that_just_fits_is_not_cut():
    texts = texts_of(draw_tokens(colored_text(["a\n"] * MOST_LINES)))

    assert texts.count("a") == MOST_LINES
    assert not any("cut" in text for text in texts)


def test_control_characters_are_drawn_as_escapes():
    texts = "".join(texts_of(draw_tokens(colored_text(["\x1b[31m", "\u202e", "\ud83d"]))))

    assert r"\x1b[31m\u202e\ud83d" in texts


# Lines


def test_lines_are_the_calibrated_scores_between_dashes_at_the_class_means():
    (axes,) = charts.draw_lines(scores_of(RECORD), "evil", STYLES).axes

    lines = {line.get_label(): line for line in axes.lines}
    assert axes.get_ylabel() == "calibrated score"
    assert {trait: lines[trait].get_ydata().tolist() for trait in ("refusal", "evil")} == RECORD[
        "calibrated_scores"
    ]
    assert [
        line.get_ydata()[0]
        for line in axes.lines
        if line.get_label().startswith("_") and line.is_dashed()
    ] == [*(-1, 1)]


def test_the_chart_shows_projections_without_calibration():
    (axes,) = charts.draw_lines(
        scores_of({"trait_scores": {"evil": [1.0, 2.0]}}), "evil", STYLES
    ).axes

    assert axes.get_ylabel() == "projection (activation units)"
    assert [list(line.get_ydata()) for line in axes.lines if line.get_label() == "evil"] == [
        [1.0, 2.0]
    ]
    assert not [line for line in axes.lines if line.is_dashed()]


def test_a_trait_without_calibration_is_named_but_not_drawn():
    calibrated = {"refusal": RECORD["calibrated_scores"]["refusal"]}

    (axes,) = charts.draw_lines(
        scores_of({**RECORD, "calibrated_scores": calibrated}), "refusal", STYLES
    ).axes

    (line,) = [line for line in axes.lines if line.get_label() == "evil (not calibrated)"]
    assert len(line.get_xdata()) == 0


def test_a_missing_score_is_a_gap():
    (axes,) = charts.draw_lines(
        scores_of({"trait_scores": {"evil": [1.0, None, 2.0]}}), "evil", STYLES
    ).axes

    (line,) = [line for line in axes.lines if line.get_label() == "evil"]
    assert np.isnan(line.get_ydata()).tolist() == [False, True, False]


# Vectors


def test_a_trait_has_one_color_in_all_charts_of_a_report():
    figures = [charts.draw_magnitude([EVIL], STYLES), charts.draw_separation([EVIL], STYLES)]
    figures.append(charts.draw_lines(scores_of(RECORD), "refusal", STYLES))

    styles = {
        line.get_color()
        for figure in figures
        for line in figure.axes[0].lines
        if line.get_label() == "evil"
    }
    assert styles == {charts.COLORS[1]}


def test_the_ninth_trait_has_the_first_color_dashed():
    styles = charts.TraitStyles([str(number) for number in range(9)])

    assert styles.of("8") == styles.of("0") | {"linestyle": "--"}


def test_the_layer_after_the_final_norm_is_drawn_apart():
    (axes,) = charts.draw_magnitude([EVIL], STYLES).axes

    curve, last = axes.lines[:2]
    assert curve.get_xydata().tolist() == [[0, 1.0], [1, 2.0], [2, 4.0]]
    assert last.get_xydata().tolist() == [[3, 0.5]]
    assert last.get_marker() == "D"


def test_a_dot_marks_the_separation_at_the_chosen_layer():
    (axes,) = charts.draw_separation([EVIL], STYLES).axes

    dots = [
        line.get_xydata().tolist()
        for line in axes.lines
        if line.get_marker() == "o" and len(line.get_xdata())
    ]
    assert dots == [[[1, 0.9]]]


def test_the_contrast_is_both_means_and_their_difference():
    figure = charts.draw_contrast([EVIL, REFUSAL])

    texts = texts_of(figure)
    means = {
        line.get_color(): line.get_xdata()[0]
        for line in figure.axes[0].lines[:3]
        if line.get_marker() == "o"
    }
    assert means == {BLUE: EVIL["negative_score"], ORANGE: EVIL["positive_score"]}
    assert {"+54.5", "−5.5"} <= set(texts)


def test_cosines_are_in_their_cells_and_an_unknown_one_is_a_dash():
    figure = charts.draw_cosines([EVIL, REFUSAL], SET["cosines"])

    cells = {tuple(map(int, text.get_position())): text.get_text() for text in figure.axes[0].texts}
    assert cells == {(0, 0): "+1.00", (1, 0): "−0.25", (0, 1): "–", (1, 1): "+1.00"}


def test_positive_histograms_go_up_and_negative_ones_down():
    figure = charts.draw_scores([EVIL])

    heights = {}
    for bar in figure.axes[0].patches:
        heights.setdefault(to_hex(bar.get_facecolor()), []).append(bar.get_height())
    assert heights == {
        ORANGE: EVIL["histogram"]["positive"],
        BLUE: [-count for count in EVIL["histogram"]["negative"]],
    }
    assert {" 4/5 kept", " 3/1,004 kept"} <= set(texts_of(figure))


# Files


def test_each_picture_is_announced_and_returned_in_order(tmp_path):
    steps: list[str] = []

    paths = write_pictures(tmp_path, report_of((RECORD,), (SET,)), on_step=steps.append)

    kinds = ("magnitude", "separation", "contrast", "cosines", "scores")
    of_set = [f"{kind}-run-demo" for kind in kinds]
    assert [path.stem for path in paths] == ["tokens-bank", "lines-bank", *of_set]
    assert steps == [
        "drawing the tokens of bank",
        "drawing the scores of bank",
        "drawing the magnitudes of run demo",
        "drawing the separation of run demo",
        "drawing the contrasts of run demo",
        "drawing the cosines of run demo",
        "drawing the judge's scores of run demo",
    ]
    assert sorted(paths) == sorted(tmp_path.iterdir())


def test_a_picture_without_data_is_not_written(tmp_path):
    bare = {
        "name": "bare",
        "vectors": [{"trait": "evil", "auroc_by_layer": None, "note": "gone"}],
        "cosines": [[1.0]],
    }
    unscored = {"name": "empty", "tokens": ["a"], "trait_scores": {"evil": [None]}}

    assert written(tmp_path / "none") == []
    assert written(tmp_path / "bare", unscored, sets=(bare,)) == []
    assert list(tmp_path.iterdir()) == []


def test_hostile_names_and_tokens_cannot_write_outside_the_folder(tmp_path):
    scores = {HOSTILE: [0.9], "$\\frac{$": [0.5]}
    record = {
        "name": HOSTILE,
        "prompt": HOSTILE,
        "tokens": [HOSTILE],
        "trait_scores": scores,
        "calibrated_scores": scores,
    }
    traits = [{**EVIL, "trait": HOSTILE}, {**EVIL, "trait": "$\\frac{$"}]
    sets = ({**SET, "name": HOSTILE, "vectors": traits},)

    names = written(tmp_path / "pictures", record, sets=sets)

    assert names == [f"{what}-x-31m-1.png" for what in SHOWN]
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


@pytest.mark.parametrize(
    ("names", "slugs"),
    [
        (["a b", "A/B", "a-b-2"], ["a-b", "a-b-2", "a-b-2-2"]),
        (["日本", "", "…"], ["unnamed", "unnamed-2", "unnamed-3"]),
        (["x" * 300, "x" * 300], ["x" * 60, "x" * 60 + "-2"]),
    ],
)
def test_each_record_has_its_own_file_name(tmp_path, names, slugs):
    records = [{"name": name, "tokens": ["a"], "trait_scores": {"evil": [1.0]}} for name in names]

    found = written(tmp_path, *records, trait="none")

    assert found == [f"lines-{slug}.png" for slug in slugs]


def test_numbers_too_large_for_a_chart_do_not_break_it(tmp_path):
    record = {"name": "large", "tokens": ["a", "b"], "trait_scores": {"evil": [1e308, 1.0]}}

    assert written(tmp_path, record) == ["tokens-large.png", "lines-large.png"]


def test_matplotlib_settings_of_the_user_have_no_effect_and_stay(tmp_path):
    written(tmp_path / "plain", RECORD, sets=(SET,))
    with matplotlib.rc_context(
        {"figure.facecolor": "black", "text.color": "white", "font.size": 20}
    ):
        before = dict(matplotlib.rcParams)

        written(tmp_path / "dark", RECORD, sets=(SET,))

        assert dict(matplotlib.rcParams) == before
    plain, dark = (
        {p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("plain", "dark")
    )
    assert plain == dark
