"""The scanner for Inspect Scout: the numbers of `Model.score`, and Scout itself if installed."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean

import pytest

import traitcli as tc
from tests.unit.test_foreign_vectors import make_vector
from traitcli.inspect_scanner.scoring import Scorer, score_transcript
from traitcli.vectors.files import write_vector

LOG = Path(__file__).parent / "logs" / "2026-11-28_facts.eval"
USER = {"role": "user", "content": "Why?", "source": "input", "id": "u"}
SHORT = {"role": "assistant", "content": "Because.", "source": "generate", "id": "a"}
LONG = {"role": "assistant", "content": "It is so. " * 9, "source": "generate", "id": "b"}
SAMPLE = {"id": "one", "epoch": 1, "messages": [USER, SHORT, USER, LONG]}
EVALUATION = {"task": "facts", "model": "org/model"}
INSTALL = "Inspect Scout is not installed (make test-tools)"


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    traits = ("evil", "kind")
    return tuple(str(write_vector(folder, make_vector(trait=trait))) for trait in traits)


@pytest.fixture(scope="module")
def scorer(model_folders, vectors):
    return Scorer(str(model_folders["llama"]), None, vectors)


def test_the_value_of_a_trait_is_the_mean_of_the_answers_means(scorer, model_folders, vectors):
    found = score_transcript(scorer, SAMPLE, EVALUATION)

    model = tc.load(str(model_folders["llama"]))
    answers = model.score([SAMPLE["messages"]], vectors)
    assert [one.trait for one in found] == ["evil", "kind"]
    for one in found:
        means = [answer.mean(one.trait) for answer in answers]
        assert one.value == fmean(means)
        assert [row["mean"] for row in one.metadata["answers"]] == means
        assert [row["message"] for row in one.metadata["answers"]] == ["a", "b"]
        assert (one.metadata["layer"], one.metadata["unit"]) == (3, "calibrated")


def test_the_explanation_quotes_the_eight_tokens_with_the_highest_mean(
    scorer, model_folders, vectors
):
    found = score_transcript(scorer, {**SAMPLE, "messages": [USER, LONG]}, EVALUATION)

    [answer] = tc.load(str(model_folders["llama"])).score([[USER, LONG]], vectors)
    for one in found:
        scores = answer.shown(one.trait)
        windows = {end: fmean(scores[end - 8 : end]) for end in range(8, len(scores) + 1)}
        end = max(windows, key=windows.__getitem__)
        assert one.metadata["highest"] == pytest.approx(windows[end])
        quote = "".join(answer.tokens[end - 8 : end])
        assert one.explanation == f"highest in [M2]: {windows[end]:+.2f} over {quote!r}"
        assert (one.message_id, one.cite) == ("b", "[M2]")


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([USER], "no assistant message with text"),
        ([USER, {**SHORT, "source": "input"}], "the model generated no text"),
        ([USER, {**SHORT, "content": "x " * 99}], "the prompt is too long"),
    ],
)
def test_a_transcript_without_scores_has_the_reason(scorer, messages, reason, monkeypatch):
    model = scorer.ready()[0]
    monkeypatch.setattr(model, "loaded", replace(model.loaded, context=80))

    found = score_transcript(scorer, {**SAMPLE, "messages": messages}, EVALUATION)

    assert [(one.trait, one.value) for one in found] == [("evil", None), ("kind", None)]
    assert all(reason in one.explanation for one in found)


def test_a_scorer_is_copied_to_other_processes_without_its_model(scorer, vectors):
    scorer.ready()

    copy = pickle.loads(pickle.dumps(scorer))

    assert len(pickle.dumps(scorer)) < 2000
    assert score_transcript(copy, SAMPLE, EVALUATION) == score_transcript(
        scorer, SAMPLE, EVALUATION
    )


def test_the_extension_imports_neither_torch_nor_numpy():
    # Inspect imports it in each of its commands.
    code = "import sys, traitcli.inspect_scanner; print({'torch', 'numpy'} & set(sys.modules))"
    if find_spec("inspect_scout"):
        pytest.skip("Inspect Scout is installed, and imports numpy itself")

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "set()\n"


@pytest.mark.skipif(bool(find_spec("inspect_scout")), reason="Inspect Scout is installed")
def test_without_scout_the_error_says_what_to_install():
    with pytest.raises(ImportError, match=r"pip install 'traitcli\[scout\]'"):
        from traitcli.inspect_scanner import trait_scores  # noqa: F401


# Scout itself


@pytest.mark.filterwarnings("ignore")
def test_a_scan_of_a_log_has_a_row_for_each_trait_with_the_numbers_of_score(
    model_folders, vectors, tmp_path, monkeypatch
):
    scout = pytest.importorskip("inspect_scout", reason=INSTALL)
    from traitcli.inspect_scanner import trait_scores

    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / LOG.name).write_bytes(LOG.read_bytes())
    scanner = trait_scores(traits=list(vectors), model=str(model_folders["llama"]))

    status = scout.scan(
        [scanner],
        scout.transcripts_from(str(tmp_path / "logs")),
        scans=str(tmp_path / "scans"),
        max_processes=1,
        display="none",
    )

    assert (status.complete, status.errors) == (True, [])
    rows = scout.scan_results_df(status.location).scanners["trait_scores"]
    # our own reader of the log, and not Scout's
    answers = tc.load(str(model_folders["llama"])).score(LOG, vectors)
    expected = {}
    for answer in answers:
        for trait in ("evil", "kind"):
            place = (answer.about["id"], answer.about["epoch"], trait)
            expected.setdefault(place, []).append(answer.mean(trait))
    keys = ["transcript_task_id", "transcript_task_repeat", "label", "value"]
    found = {(a, b, c): value for a, b, c, value in rows[keys].itertuples(index=False)}
    assert found == pytest.approx({key: fmean(means) for key, means in expected.items()}, abs=1e-5)
    assert len(found) == 8
    ids = {answer.about["message"] for answer in answers}
    for text in rows["message_references"]:
        [reference] = json.loads(text)
        assert reference["id"] in ids


@pytest.mark.filterwarnings("ignore")
def test_scout_finds_the_scanner_by_the_name_of_the_package(tmp_path):
    pytest.importorskip("inspect_scout", reason=INSTALL)
    code = (
        "from inspect_scout._scanner.scanner import scanner_create\n"
        "from inspect_ai._util.registry import registry_info\n"
        "made = scanner_create('traitcli/trait_scores', {'traits': 'evil'})\n"
        "print(registry_info(made).name)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=tmp_path
    )

    assert (done.stdout.strip(), done.returncode) == ("traitcli/trait_scores", 0), done.stderr
