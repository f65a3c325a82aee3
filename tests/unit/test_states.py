"""Files of states: a prompt is stored once, and files of earlier versions are read."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from traitcli.errors import RunError
from traitcli.records import POSITIONS
from traitcli.runs.run import TraitFiles
from traitcli.runs.states import digest_prompt, stack_neutral, stack_states

SHAPE = (3, 4)


def states_of(value):
    """Position -> float32 [L+1, H], with a different value for each position."""
    return {
        position: np.full(SHAPE, value + index / 4, np.float32)
        for index, position in enumerate(POSITIONS)
    }


def batch(prompts, stored=(), half=False):
    """A batch of rollouts, id -> prompt; the n-th rollout has the states n."""
    states = {name: states_of(int(name[1:])) for name in prompts}
    return stack_states("evil", states, prompts, stored, half)


@pytest.fixture
def files(tmp_path):
    return TraitFiles(tmp_path / "evil")


def values(files, ids, position, context="persona"):
    return files.activations(ids, position, context)[:, 0, 0].tolist()


def paths(files, folder="activations"):
    return sorted((files.folder / folder).iterdir())


def make_older(files):
    for path in paths(files):
        os.utime(path, (0, 0))


def test_a_prompt_is_stored_once_for_all_its_answers(files):
    files.add_states(batch({"r0": "p", "r1": "p", "r2": "q", "r3": "p"}))

    [path] = paths(files)
    stored = load_file(path)
    assert {name: len(tensor) for name, tensor in stored.items()} == {
        "response_avg": 4,
        "prompt_avg": 2,
        "prompt_last": 2,
    }
    assert values(files, ["r3", "r2", "r1", "r0"], "response_avg") == [3, 2, 1, 0]
    assert values(files, ["r3", "r2", "r1", "r0"], "prompt_avg") == [0.25, 2.25, 0.25, 0.25]
    assert values(files, ["r3", "r2", "r1", "r0"], "prompt_last") == [0.5, 2.5, 0.5, 0.5]


def test_a_later_file_finds_its_prompts_in_earlier_ones(files):
    files.add_states(batch({"r1": "p"}))
    files.add_states(batch({"r2": "p", "r3": "q"}, stored={"p"}))
    files.add_states(batch({"r4": "p"}, stored={"p", "q"}))

    assert values(files, ["r4", "r3", "r2", "r1"], "prompt_avg") == [1.25, 3.25, 1.25, 1.25]
    assert values(files, ["r4", "r3", "r2", "r1"], "response_avg") == [4, 3, 2, 1]


def test_files_of_earlier_versions_are_read_beside_new_ones(files):
    ids = ["r1", "r2"]
    old = {p: np.stack([states_of(1)[p], states_of(2)[p]]) for p in POSITIONS}
    (files.folder / "activations").mkdir(parents=True)
    save_file(old, files.folder / "activations" / "a.safetensors", {"ids": json.dumps(ids)})
    make_older(files)
    files.add_states(batch({"r3": "p", "r4": "p"}))

    assert values(files, ["r4", "r2", "r3", "r1"], "prompt_avg") == [3.25, 2.25, 3.25, 1.25]
    assert values(files, ["r4", "r2", "r3", "r1"], "response_avg") == [4, 2, 3, 1]


def test_a_file_with_the_means_of_a_prompt_is_not_replaced_by_one_without(files):
    files.add_states(batch({"r1": "p"}))
    # A worker that sent the prompt with a rollout whose line was lost makes the same batch.
    files.add_states(batch({"r1": "p"}, stored={"p"}))

    assert len(paths(files)) == 2
    assert values(files, ["r1"], "prompt_avg") == [1.25]


def test_a_rollout_whose_prompt_is_lost_counts_as_without_activations(files):
    files.add_states(batch({"r1": "p"}, stored={"p"}))

    with pytest.raises(RunError, match="1 rollout has no activations"):
        files.activations(["r1"], "prompt_avg")

    assert values(files, ["r1"], "response_avg") == [1]


def test_a_part_of_a_batch_keeps_its_prompts(files):
    whole = batch({"r1": "p", "r2": "q"})

    files.add_states(whole.only({"r2"}))

    assert values(files, ["r2"], "prompt_avg") == [2.25]
    assert values(files, ["r2"], "response_avg") == [2]
    assert whole.only({"r1", "r2"}) is whole
    assert whole.only({"r3"}) is None


def test_neutral_readings_are_apart_from_states_behind_a_persona(files):
    files.add_states(stack_neutral("evil", {"r1": np.full(SHAPE, 7, np.float32)}))

    assert files.neutral_ids() == {"r1"}
    assert values(files, ["r1"], "response_avg", "neutral") == [7]
    assert [path.parent.name for path in paths(files, "neutral")] == ["neutral"]


def test_halves_take_half_the_room_and_keep_eleven_bits(files):
    rng = np.random.default_rng(0)
    # Layers of different size, massive dimensions, and a layer of zeros.
    states = rng.normal(size=(8, 6, 512)).astype(np.float32)
    states *= np.array([1e-6, 0.03, 1, 20, 3e5, 0], np.float32)[:, None]
    states[:, :, 3] *= 1e4
    made = {f"r{n}": dict.fromkeys(POSITIONS, one) for n, one in enumerate(states)}
    exact = stack_states("evil", made, dict.fromkeys(made, "p"))
    files.add_states(exact)
    whole = paths(files)[0].stat().st_size

    files.add_states(replace(exact, half=True))

    assert paths(files)[0].stat().st_size < 0.52 * whole
    found = files.activations(list(made), "response_avg")
    np.testing.assert_allclose(found, states, rtol=2**-11)
    assert files.activations(["r7"], "prompt_last").dtype == np.float32


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_so_in_halves(files, value):
    broken = states_of(1)
    broken["response_avg"][2, 1] = value
    files.add_states(replace(stack_states("evil", {"r1": broken}, {"r1": "p"}), half=True))

    with pytest.raises(RunError, match="cannot be used"):
        files.activations(["r1"], "response_avg")


def test_the_file_is_one_that_safetensors_reads(files):
    files.add_states(batch({"r1": "p"}, half=True))

    with safe_open(paths(files)[0], framework="numpy") as file:
        assert json.loads(file.metadata()["ids"]) == ["r1"]
        assert file.get_tensor("response_avg").dtype == np.float16
        assert file.get_tensor("response_avg.scale").shape == (1, 3)


def test_only_equal_tokens_are_one_prompt():
    assert digest_prompt((1, 23)) == digest_prompt([1, 23])
    assert len({digest_prompt(ids) for ids in ((1, 23), (12, 3), (1, 2, 3), (), (123,))}) == 5
