"""The vector card: front matter for the hub, text for people, and escaped headers."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import yaml
from markdown_it import MarkdownIt

from traitcli.vector_quality import VectorQuality
from traitcli.vectors.files import VectorHeader
from traitcli.vectors.hub.card import MARKER, OwnersPart, make_card, read_card

SETTINGS = {
    "model.id": "org/tiny",
    "model.revision": "abc123",
    "extract.seed": 0,
    "extract.questions": None,
}
QUALITY = {
    "layer_count": 5,
    "hidden_size": 8,
    "position": "response_avg",
    "positive_kept": 90,
    "negative_kept": 85,
    "filter": "paired, threshold 50",
    "judge": "openai:gpt-4.1-mini",
    "judge_auroc": 0.951,
    "contrast": 61.4,
    "auroc": 0.912,
    "d": 2.34,
    "evaluation_rollouts": 200,
    "verdict": "reads its own texts",
    "verdict_reason": "held-out AUROC 0.91",
}
HOSTILE = [
    "| a | b |\n|---|---|\n| c | d |",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "[click](javascript:alert(1)) ![x](http://evil.example/x.png)",
    "<http://evil.example> www.evil.example http://evil.example",
    "\n---\ntags: [evil]\n---\n# Heading\n\n- list",
    "``` `code` **bold** _it_ ~~gone~~ $$x$$ \\",
    "\u202egnp.exe\u202c \x1b[31mred\x00 \u200b \ud800",
    "{{ 7 * 7 }} {% raw %} &lt; &#60;",
]


def make_header(trait="evil", quality=(), **changes):
    header = VectorHeader(
        trait=trait,
        model="tiny",
        method="mean_difference",
        layer=3,
        quality=VectorQuality(**QUALITY | dict(quality)),
        provenance={"run_settings": SETTINGS, "versions": {"traitcli": "0.1.0"}},
    )
    return replace(header, **changes)


def front_of(card):
    """Parse the front matter as the hub does."""
    return yaml.safe_load(card.split("---\n")[1])


def body_of(card):
    return card.split("---\n", 2)[2]


def tables_of(card):
    """The cells of every table as rendered Markdown."""
    html = MarkdownIt("commonmark").enable("table").render(body_of(card))
    return [
        [
            [strip_tags(cell) for cell in re.findall(r"<t[hd]>(.*?)</t[hd]>", row)]
            for row in table.split("<tr>")[1:]
        ]
        for table in re.findall(r"<table>(.*?)</table>", html.replace("\n", ""))
    ]


def strip_tags(html):
    return re.sub(r"</?(strong|em)>", "", html)


def test_the_front_matter_names_the_library_and_the_model():
    card = make_card([make_header()], "org/vectors", OwnersPart())

    assert front_of(card) == {
        "library_name": "traitcli",
        "tags": ["traitcli", "trait-vector", "steering-vector"],
        "base_model": "org/tiny",
    }


def test_a_trait_has_a_line_of_figures_and_a_line_of_settings():
    _, figures, made, _ = tables_of(make_card([make_header()], "org/vectors", OwnersPart()))

    assert figures[1] == ["evil", "reads its own texts", "3", "0.91", "–", "2.3", "+61", "90 + 85"]
    assert made[1] == [
        "evil",
        "mean_difference",
        "response_avg",
        "openai:gpt-4.1-mini",
        "0.95",
        "paired, threshold 50",
        "200",
    ]


def test_model_revision_and_shape_are_shown():
    about, *_ = tables_of(make_card([make_header()], "org/vectors", OwnersPart()))

    assert about[1:] == [
        ["model", "org/tiny"],
        ["revision of the model", "abc123"],
        ["shape of a vector", "float32 [5, 8]: layers, hidden size"],
    ]


def test_intervals_are_shown_where_they_were_measured():
    measured = {"auroc_low": 0.7, "auroc_high": 0.96, "d_low": 1.0, "d_high": 3.1}
    headers = [make_header("evil", measured), make_header("refusal")]

    _, figures, _, _ = tables_of(make_card(headers, "org/vectors", OwnersPart()))

    assert [[row[3], row[5]] for row in figures[1:]] == [
        ["0.91 [0.70, 0.96]", "2.3 [1.0, 3.1]"],
        ["0.91", "2.3"],
    ]


def test_unmeasured_values_are_dashes():
    header = make_header(
        quality=dict.fromkeys(("auroc", "d", "contrast", "positive_kept", "judge_auroc"))
    )

    _, figures, made, _ = tables_of(make_card([header], "org/vectors", OwnersPart()))

    assert figures[1][3:] == ["–", "–", "–", "–", "– + 85"]
    assert made[1][4] == "–"


def test_a_vector_that_is_not_shown_is_named_with_its_reason_and_under_limits():
    weak = {"verdict": "not shown", "verdict_reason": "contrast 12 is below 40"}

    card = make_card(
        [make_header("evil", weak), make_header("refusal")], "org/vectors", OwnersPart()
    )

    assert "- **evil** not shown: contrast 12 is below 40\n" in card
    assert "- Do not rely on these without tests of your own: evil (not shown).\n" in card
    assert "| evil | not shown |" in card


def test_a_card_of_good_vectors_has_no_warnings_by_name():
    assert "Do not rely" not in make_card([make_header()], "org/vectors", OwnersPart())


def test_shared_settings_of_traits_are_listed_once():
    other = {"run_settings": SETTINGS | {"extract.seed": 1}, "versions": {}}
    headers = [
        make_header("evil"),
        make_header("refusal"),
        make_header("verbosity", provenance=other),
    ]

    card = make_card(headers, "org/vectors", OwnersPart())

    assert "Settings of evil, refusal:\n" in card
    assert "Settings of verbosity:\n" in card
    assert [["extract.seed", "0"] in table for table in tables_of(card)[3:]] == [True, False]
    assert ["version of traitcli", "0.1.0"] in tables_of(card)[3]


def test_code_names_the_repository_a_good_trait_and_its_layer():
    headers = [make_header("evil", {"verdict": "not shown"}), make_header("refusal", layer=2)]

    card = make_card(headers, "my_org/vectors", OwnersPart())

    assert "traitcli inspect vectors --pull my_org/vectors@REVISION -c CONFIG.yaml\n" in card
    assert 'hf_hub_download("my_org/vectors", "refusal.safetensors", revision="REVISION")\n' in card
    assert "direction = vector[2]\n" in card
    assert "to the output of block 1.\n" in card


def test_the_same_vectors_give_the_same_card_in_any_order():
    headers = [make_header("evil"), make_header("refusal")]

    assert make_card(headers, "o/v", OwnersPart()) == make_card(headers[::-1], "o/v", OwnersPart())


def make_saying(text):
    """The card of a header with this text in every field."""
    quality = dict.fromkeys(("verdict", "verdict_reason", "judge", "filter", "position"), text)
    origin = {
        "run_settings": SETTINGS | {"model.revision": text, text: text},
        "versions": {text: text},
    }
    return make_card(
        [make_header(quality=quality, model=text, method=text, provenance=origin)],
        "o/v",
        OwnersPart(),
    )


def tags_of(card):
    """Every tag of the rendered card, in order."""
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(body_of(card))
    return re.findall(r"<[^>]*>", html)


@pytest.mark.parametrize("text", HOSTILE)
def test_any_header_value_is_shown_as_plain_text_on_one_line(text):
    plain = make_saying("word")

    card = make_saying(text)

    assert front_of(card) == front_of(plain)
    assert tags_of(card) == tags_of(plain)
    assert len(card.splitlines()) == len(plain.splitlines())
    assert [sign for sign in card if not sign.isprintable() and sign != "\n"] == []


@pytest.mark.parametrize(
    "address", ["http://evil.example", "www.evil.example", "WWW.evil.example", "me@evil.example"]
)
def test_an_address_is_not_made_a_link(address):
    card = make_saying(address)

    assert address not in card


def test_a_hostile_text_is_still_readable():
    header = make_header(quality={"judge": "a |\n b <c>\t[d](e)"})

    _, _, made, _ = tables_of(make_card([header], "o/v", OwnersPart()))

    assert made[1][3] == "a | b &lt;c&gt; [d](e)"


def test_a_long_text_is_cut():
    card = make_card([make_header(quality={"judge": "x" * 10_000})], "o/v", OwnersPart())

    assert max(map(len, re.findall("x+", card))) == 300


def test_the_folder_of_a_local_model_is_not_shown(tmp_path):
    origin = {"run_settings": SETTINGS | {"model.id": f"{tmp_path}/my-model"}, "versions": {}}

    card = make_card([make_header(provenance=origin)], "o/v", OwnersPart())

    assert str(tmp_path) not in card
    assert ["model.id", "my-model"] in tables_of(card)[3]
    assert "base_model" not in front_of(card)


def test_a_local_folder_shaped_like_a_hub_name_is_not_treated_as_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "tiny").mkdir(parents=True)

    assert "base_model" not in front_of(make_card([make_header()], "o/v", OwnersPart()))


def test_the_embedded_model_is_called_by_its_name_on_the_hub():
    origin = {"run_settings": {"model.id": "embedded"}, "versions": {}}

    card = make_card([make_header(provenance=origin)], "o/v", OwnersPart())

    assert front_of(card)["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_files_added_by_the_owner_are_kept():
    card = make_card([make_header()], "o/v", OwnersPart())
    edited = card.replace("library_name", "license: mit\nlanguage: [en]\nlibrary_name").replace(
        "- traitcli", "- mine\n- traitcli"
    )

    again = make_card([make_header("refusal")], "o/v", read_card(edited + "\nMy *own* notes.\n"))

    assert front_of(again) == {
        "library_name": "traitcli",
        "tags": ["traitcli", "trait-vector", "steering-vector", "mine"],
        "base_model": "org/tiny",
        "license": "mit",
        "language": ["en"],
    }
    assert again.endswith(f"{MARKER}\n\nMy *own* notes.\n")


def test_a_card_read_and_rendered_again_is_the_same():
    card = make_card([make_header()], "o/v", OwnersPart({"license": "mit"}, "notes"))

    assert make_card([make_header()], "o/v", read_card(card)) == card


@pytest.mark.parametrize(
    ("readme", "kept"),
    [
        ("", OwnersPart()),
        ("---\nlicense: mit\n---\n", OwnersPart({"license": "mit"})),
        ("---\r\nlicense: mit\r\n---\r\n\r\n", OwnersPart({"license": "mit"})),
        ("---\n- a list\n---\n", OwnersPart()),
        ("---\n{\n---\n", OwnersPart()),
        ("# My model\n", None),
        ("---\nlicense: mit\n---\n# My model\n", None),
    ],
)
def test_a_readme_with_its_own_text_is_recognized(readme, kept):
    assert read_card(readme) == kept
