"""traitcli inspect: our own vectors, vectors of other tools, and methods of building them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from tests.conftest import make_model
from traitcli.vectors.files import read_vector


def test_inspect_takes_files_by_path_and_traits_by_name(copied):
    own = copied.folder / "vectors" / "model" / "evil.safetensors"
    foreign = copied.folder / "evil_response_avg_diff.pt"
    torch.save(torch.from_numpy(read_vector(own).directions["response_avg"] * 2), foreign)

    ended = copied.run("inspect", "vectors", "refusal", str(foreign), "--json")

    refusal, evil = ended.json
    assert (refusal["trait"], refusal["path"]) == ("refusal", "vectors/model/refusal.safetensors")
    assert (evil["trait"], evil["path"], evil["layer_count"], evil["hidden_size"]) == (
        "evil",
        str(foreign),
        5,
        32,
    )
    assert (evil["verdict"], evil["verdict_reason"]) == (
        "not shown",
        "not measured: there are no held-out rollouts",
    )
    [own_row] = copied.run("inspect", "vectors", "evil", "--json").json
    assert evil["magnitude"] == pytest.approx(2 * own_row["magnitude"], abs=2e-3)


def test_strict_ends_with_1_when_any_is_below_the_second_rung_and_still_shows_them(finished):
    workspace, _ = finished

    lax, strict = (workspace.run("inspect", "vectors", *more) for more in ((), ("--strict",)))

    assert (lax.code, strict.code, strict.err) == (0, 1, "")
    assert strict.out == lax.out


def test_verbose_shows_every_layer(finished):
    workspace, _ = finished

    ended = workspace.run("inspect", "vectors", "evil", "--verbose")

    table = ended.out[ended.out.index("\nevil\n") :].splitlines()
    numbers = [line.replace("→", " ").split()[0] for line in table[4:9]]
    assert numbers == ["0", "1", "2", "3", "4"]
    assert sum("→" in line for line in table) == 1


def test_cosines_are_those_of_the_directions_at_the_layer(finished):
    workspace, _ = finished

    rows = workspace.run("inspect", "vectors", "--json").json

    directions = {row["trait"]: workspace.tensors(row["trait"])["response_avg"] for row in rows}
    for row in rows:
        [(other, found)] = row["cosines"].items()
        one, two = directions[row["trait"]][row["layer"]], directions[other][row["layer"]]
        assert abs(found - one @ two / np.linalg.norm(one) / np.linalg.norm(two)) < 1e-4
        assert row["nearest"] == other


def test_methods_are_compared_on_the_same_rollouts(finished):
    workspace, _ = finished

    table, rows = workspace.run_both("inspect", "methods")

    assert (table.code, rows.code) == (0, 0)
    names = ["mean_difference", "logistic", "whitened_difference", "pca_of_differences"]
    assert [(row["trait"], row["method"]) for row in rows.json] == [
        (t, n) for t in ("evil", "refusal") for n in names
    ]
    for trait in ("evil", "refusal"):
        of_trait = [row for row in rows.json if row["trait"] == trait]
        assert len({(row["kept"], row["evaluation_rollouts"]) for row in of_trait}) == 1
        assert [row["ahead"] is None for row in of_trait] == [True, False, False, False]
    shown = [line.split()[:3] for line in table.out.splitlines()]
    assert shown.count(["pca", "of", "differences"]) == 2


def test_the_mean_difference_has_the_figures_of_build_vector(finished):
    workspace, _ = finished

    methods = workspace.run("inspect", "methods", "evil", "--json").json
    [vector] = workspace.run("inspect", "vectors", "evil", "--json").json

    [mean] = [row for row in methods if row["method"] == "mean_difference"]
    assert mean["layer"] == vector["layer"]
    neutral = [f"neutral_{key}" for key in ("auroc", "auroc_low", "auroc_high")]
    for number in ("auroc", "auroc_low", "auroc_high", "d", "split_half_cosine", *neutral):
        assert abs(mean[number] - vector[number]) < 1e-3


def test_without_neutral_readings_methods_say_why(copied):
    shutil.rmtree(copied.folder / "runs" / "tiny" / "evil" / "neutral")

    table, rows = copied.run_both("inspect", "methods", "evil")

    assert {row["neutral_auroc"] for row in rows.json} == {None}
    assert all("traitcli extract evil reads them" in row["note"] for row in rows.json)
    assert "evil: no neutral readings: " in table.out
    assert "with persona (95 %)" in table.out


def test_a_vector_is_built_by_the_method_that_the_config_names(copied):
    before = copied.tensors("evil")["response_avg"]

    ended = copied.run(
        "build-vector", "evil", "--set", "vector.method=whitened_difference", "--json"
    )

    after = copied.tensors("evil")["response_avg"]
    assert ended.code == 0
    assert ended.json["vectors"][0]["method"] == "whitened_difference"
    np.testing.assert_allclose(
        np.linalg.norm(after, axis=1), np.linalg.norm(before, axis=1), rtol=1e-3
    )
    assert np.abs(after - before).max() > 0.01


def test_an_exported_file_is_monitored_with_the_same_raw_scores(copied):
    exported = "vectors/model/evil_response_avg.gguf"
    watched = [
        "monitor",
        "Why?",
        "--traits",
        "evil",
        "--layer",
        "2",
        "--json",
        "--config",
        "tiny.yaml",
    ]

    made, own, foreign = copied.run_all(
        [
            ["build-vector", "evil", "--export", "gguf", "--config", "tiny.yaml"],
            watched,
            [*watched, "--vectors", exported],
        ]
    )

    assert made.out.splitlines() == [exported]
    records = [ended.json_lines[-1] for ended in (own, foreign)]
    assert records[1]["trait_scores"]["evil"] == pytest.approx(
        records[0]["trait_scores"]["evil"], abs=1e-4
    )
    assert [list(record["calibrated_scores"]) for record in records] == [["evil"], []]


def test_inspect_model_shows_whether_it_is_read_correctly(workspace):
    ended = workspace.run("inspect", "model", "--json")

    [row] = ended.json
    assert (ended.code, row["model"], row["reads"], row["problem"]) == (0, "model", "packed", "")


def test_inspect_model_ends_with_1_when_scores_would_be_wrong(workspace):
    make_model(workspace.folder / "mamba", "mamba", None, True)

    ended = workspace.run("inspect", "model", "--set", "model.id=mamba")

    assert ended.code == 1
    assert "scores would be wrong: hooks: the states of layer 0" in ended.out
