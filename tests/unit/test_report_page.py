"""The report page as a file: self-contained, safe for any text, and written atomically."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from array import array
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.reports import report_of
from traitcli.errors import TraitError
from traitcli.views.report import page as page_module
from traitcli.views.report.packing import pack_record, pack_scores
from traitcli.views.report.page import write_page

RECORD = {
    "prompt": "How do I hack a bank?",
    "response": "I cannot",
    "tokens": ["I", " cannot"],
    "trait_scores": {"refusal": [0.5, 2.25]},
    "calibrated_scores": {"refusal": [-0.5, 1.25]},
}
HOME = Path(page_module.__file__).parent
PUBLISHED = {
    "uplot.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uplot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}
HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]></SCRIPT ><img src=x onerror=alert(1)>",
    "&lt;b&gt; \u2028 \u2029 \ud800",
    '"};alert(1);//\\',
]


def write(
    path: Path, records: Sequence[Any] = (), vectors: Sequence[Any] = (), made_at: str = "today"
) -> None:
    """A page of records, and of vectors of one set."""
    sets = ({"name": "run tiny", "model": "tiny", "vectors": list(vectors)},) if vectors else ()
    write_page(path, report_of(records, sets, (), made_at))


def unpack(row: dict[str, Any]) -> list[float | None]:
    """Unpack scores as the page does."""
    whole = array("h", base64.b64decode(row["packed"]))
    return [None if value == -32768 else value / 10 ** row["decimals"] for value in whole]


class Page(HTMLParser):
    """The elements of a page, and the text inside script and style."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.inside = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = dict(attrs).get("type") or tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        self.texts[self.inside] = self.texts.get(self.inside, "") + data

    @property
    def data(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self.texts["application/json"])
        return loaded

    @property
    def policy(self) -> str:
        metas = [attributes for tag, attributes in self.elements if tag == "meta"]
        return next(
            str(meta["content"])
            for meta in metas
            if meta.get("http-equiv") == "Content-Security-Policy"
        )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "report.html"


def test_the_page_refers_to_nothing_outside_itself(path: Path) -> None:
    write(path, [RECORD], [{"trait": "refusal"}])

    page = Page(path)
    names = ("src", "href", "action", "data", "srcset", "poster", "style", "ping")
    addresses = {
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in names
    }
    library = "https://github.com/leeoniya/uPlot"  # A comment names its origin.
    assert addresses == {"data:,", "#records", "#vectors", "#runs"}
    assert page.source.count(library) == 1
    assert not any(
        text in page.source.replace(library, "") for text in ("http:", "https:", "@import", "url(")
    )


def test_only_the_script_and_style_of_the_page_may_run(path: Path) -> None:
    write(path, [RECORD])

    page = Page(path)
    script, library, style = (
        base64.b64encode(hashlib.sha256(page.texts[kind].encode()).digest()).decode()
        for kind in ("module", "script", "style")
    )
    assert page.policy == (
        f"default-src 'none'; script-src 'sha256-{script}' 'sha256-{library}'; "
        f"style-src 'sha256-{style}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_model_output_is_data_and_never_markup(path: Path, text: str) -> None:
    record = {
        "prompt": text,
        "response": text,
        "tokens": [text],
        "trait_scores": {text: [1.0]},
        "model": text,
    }
    write(path, [RECORD])
    harmless = Page(path).elements

    write(path, [record], [{"trait": text, "verdict_reason": text}])

    page = Page(path)
    assert page.elements == harmless
    assert page.data["sets"][0]["vectors"] == [{"trait": text, "verdict_reason": text}]
    shown = page.data["records"][0]
    assert [shown[key] for key in ("prompt", "response", "model")] == [text] * 3
    assert (shown["tokens"], list(shown["trait_scores"])) == ([text], [text])
    assert not set("<>&\u2028\u2029") & set(page.texts["application/json"])


@pytest.mark.parametrize("text", HOSTILE)
def test_what_was_learned_is_text_and_never_markup(path: Path, text: str) -> None:
    write(path)
    harmless = Page(path).elements
    record = RECORD | {"prompt": text, "calibrated_scores": {text: [1.0, 1.0]}}
    vector = {"trait": text, "layer": 1, "verdict": "carries over", "to_raise": text}

    write(path, [record | {"layers": {text: 1}, "model": "tiny"}], [vector])

    page = Page(path)
    assert page.elements == harmless
    for part in ("The vector of", "scores +1.00", "Next, "):
        assert part in page.texts["li"]


def test_the_date_is_escaped(path: Path) -> None:
    write(path, made_at="<b>today</b>")

    assert "b" not in [tag for tag, _ in Page(path).elements]


def test_the_chart_library_is_the_published_file(path: Path) -> None:
    """uPlot 1.6.32 is the unedited file from npm, and every page contains its license."""
    write(path)

    license_text = (HOME / "uplot" / "LICENSE").read_text(encoding="utf-8").strip()
    digests = {
        name: hashlib.sha256((HOME / "uplot" / name).read_bytes()).hexdigest() for name in PUBLISHED
    }
    assert digests == PUBLISHED
    assert license_text in Page(path).texts["script"]


def test_numbers_beyond_a_javascript_double_become_text(path: Path) -> None:
    scores = [float("nan"), float("inf"), 1 / 3]
    record = {"tokens": ["a", "b", "c"], "trait_scores": {"refusal": scores}, "seed": 2**53}

    write(path, [record])

    record = Page(path).data["records"][0]
    assert unpack(record["trait_scores"]["refusal"]) == [None, None, 0.3333]
    assert record["seed"] == "9007199254740992"


def test_keys_that_the_page_does_not_show_are_left_out(path: Path) -> None:
    write(path, [{**RECORD, "host": "secret"}], [{"trait": "refusal", "path": "/home/secret"}])

    assert "secret" not in path.read_text(encoding="utf-8")


def test_a_report_is_replaced_and_never_half_written(path: Path) -> None:
    path.write_text("the old report", encoding="utf-8")
    with path.open(encoding="utf-8") as reader:
        write(path, [RECORD])

        assert reader.read() == "the old report"
    assert path.read_text(encoding="utf-8").endswith("</html>")
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_no_file_and_explains_the_failure(path: Path) -> None:
    path.mkdir()

    with pytest.raises(TraitError, match="cannot write") as caught:
        write(path, [RECORD])

    assert caught.value.cause == "Is a directory"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_is_a_file_is_a_clear_error(path: Path) -> None:
    path.write_text("", encoding="utf-8")

    with pytest.raises(TraitError, match="cannot write"):
        write(path / "report.html", [RECORD])


def test_a_missing_folder_is_made(path: Path) -> None:
    write(path.parent / "new" / "report.html")

    assert (path.parent / "new" / "report.html").is_file()


def test_a_report_needs_no_heavy_package() -> None:
    heavy = {"torch", "transformers", "pandas", "numpy", "openai"}
    code = (
        "import sys, traitcli.views.report.data_files; "
        f"print(*sorted({heavy!r} & set(sys.modules)))"
    )

    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )

    assert loaded.stdout.split() == []


def packed(values: Sequence[float | None]) -> dict[str, Any]:
    """Pack scores as the page does."""
    row: dict[str, Any] = pack_scores(values)
    return row


@pytest.mark.parametrize("size", [1e-6, 0.02, 0.9, 3.2767, 32.768, 400.0, 5e4, 2e9])
def test_a_packed_score_keeps_four_digits_of_the_largest(size: float) -> None:
    values = [size * share for share in (-1.0, -0.51234, 0.0, 0.123456, 0.99999)]

    row = packed(values)

    read = [
        value / 10.0 ** row["decimals"] for value in array("h", base64.b64decode(row["packed"]))
    ]
    assert read == pytest.approx(values, abs=size / 6000)


def test_a_linear_function_of_raw_scores_is_packed_as_two_numbers() -> None:
    raw = [(i * 7 % 23) / 3 - 2.5 for i in range(40)]
    record = {
        **RECORD,
        "trait_scores": {"evil": raw},
        "calibrated_scores": {"evil": [(x - 1.5) / 2.25 for x in raw]},
    }

    packed = pack_record(record)

    center, half = packed["calibrated_scores"]["evil"]["from"]
    assert [(x - center) / half for x in raw] == pytest.approx(record["calibrated_scores"]["evil"])


@pytest.mark.parametrize(
    "calibrated", [[0.0, 0.0, 0.0], [1.0, None, 2.0], [3.0, 1.0, 2.0], [0.5, 0.25]]
)
def test_scores_on_another_scale_are_packed_separately(calibrated: list[float | None]) -> None:
    record = {
        **RECORD,
        "trait_scores": {"evil": [1.0, 2.0, 4.0]},
        "calibrated_scores": {"evil": calibrated},
    }

    packed = pack_record(record)

    assert unpack(packed["calibrated_scores"]["evil"]) == calibrated


def test_scores_are_packed_separately_if_raw_ones_are_too_coarse() -> None:
    raw = [1000.25, 1000.5, 1001.0]
    # (raw − 1000.5) / 0.5, but raw scores are packed with one decimal.
    calibrated = [
        -0.5,
        0.0,
        1.0,
    ]

    packed = pack_record(
        {**RECORD, "trait_scores": {"evil": raw}, "calibrated_scores": {"evil": calibrated}}
    )

    assert unpack(packed["calibrated_scores"]["evil"]) == calibrated


def test_values_that_are_not_scores_stay_unchanged() -> None:
    record = {
        "tokens": ["a"],
        "trait_scores": {"a": "no", "b": [True], "c": None, "d": ["1"]},
        "layer_scores": 3,
    }

    assert pack_record(record) == record


def test_scores_of_the_prompt_and_of_layers_are_packed_too() -> None:
    raw, scaled = [1.0, 3.0, 2.0], [-1.0, 1.0, 0.0]
    packed = pack_record(
        {
            **RECORD,
            "prompt_scores": {"tokens": ["a", "b", "c"], "trait_scores": {"evil": raw}},
            "layer_scores": {
                "trait": "evil",
                "trait_scores": [raw, raw],
                "calibrated_scores": [scaled, [0, 0, 0]],
            },
        }
    )

    assert unpack(packed["prompt_scores"]["trait_scores"]["evil"]) == raw
    assert [unpack(row) for row in packed["layer_scores"]["trait_scores"]] == [raw, raw]
    assert packed["layer_scores"]["calibrated_scores"][0] == {"from": [2.0, 1.0]}
    assert unpack(packed["layer_scores"]["calibrated_scores"][1]) == [0, 0, 0]
