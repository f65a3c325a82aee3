"""What works right after the installation: the embedded model with its shipped vectors."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from traitcli.config import load_config
from traitcli.shipped import list_shipped
from traitcli.vectors.files import find_vectors, read_vector
from traitcli.vectors.methods import calibrate

EIGHT = sorted(
    [
        "corrigibility",
        "evil",
        "hallucinating",
        "overconfidence",
        "refusal",
        "sycophantic",
        "uncertainty",
        "verbosity",
    ]
)


def traitcli(folder, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "traitcli", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_the_shipped_vectors_are_of_the_embedded_model_and_carry_their_provenance(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)

    vectors = {name: read_vector(path) for name, path in find_vectors(load_config()).items()}

    assert sorted(vectors) == EIGHT
    for vector in vectors.values():
        assert (vector.layer_count, vector.hidden_size) == (31, 576)
        assert set(vector.directions) == {"response_avg", "prompt_avg", "prompt_last"}
        assert vector.provenance["run_settings"]["extract.sampling.max_new_tokens"] == 64
        assert vector.quality.evaluation_rollouts > 150


def test_the_shipped_vectors_are_small():
    assert (
        sum(
            path.stat().st_size
            for path in list_shipped("vectors/smollm2-135m-instruct", "*.safetensors")
        )
        < 2e6
    )


@pytest.mark.parametrize("trait", EIGHT)
def test_the_example_record_has_the_layers_and_the_calibration_of_the_shipped_vectors(
    tmp_path, monkeypatch, trait
):
    monkeypatch.chdir(tmp_path)
    example = json.loads(list_shipped("docs/examples", "*.json")[0].read_text(encoding="utf-8"))
    vector = read_vector(find_vectors(load_config(), [trait])[trait])

    raw = np.array(example["trait_scores"][trait])
    calibrated = calibrate(raw, vector.stats["response_avg"], vector.layer)

    assert example["layers"][trait] == vector.layer
    # A record holds five decimals.
    np.testing.assert_allclose(example["calibrated_scores"][trait], calibrated, atol=2e-5)


@pytest.mark.slow
def test_monitoring_works_in_an_empty_folder(tmp_path):
    done = traitcli(tmp_path, "monitor", "Say hello.", "--max-new-tokens", "6", "--json")

    record = json.loads(done.stdout.splitlines()[-1])
    assert sorted(record["trait_scores"]) == sorted(record["calibrated_scores"]) == EIGHT
    assert "".join(record["tokens"]) == record["response"] != ""
    assert len(list((tmp_path / "runs" / "monitor").glob("*.json"))) == 1


def test_the_report_shows_the_shipped_record_and_vectors(tmp_path):
    done = traitcli(tmp_path, "report")

    page = (tmp_path / done.stdout.strip()).read_text(encoding="utf-8")
    example = json.loads(list_shipped("docs/examples", "*.json")[0].read_text(encoding="utf-8"))
    assert json.dumps(example["prompt"])[1:-1] in page
    assert page.count('"verdict_reason"') == 8


def test_inspecting_works_in_an_empty_folder(tmp_path):
    rows = json.loads(traitcli(tmp_path, "inspect", "vectors", "--json").stdout)

    assert sorted(row["trait"] for row in rows) == EIGHT
    assert all(0 <= row["auroc"] <= 1 for row in rows)
