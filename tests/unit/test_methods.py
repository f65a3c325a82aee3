"""Directions and projections, against naive loops and the formulas they come from."""

from __future__ import annotations

import math

import numpy as np
import pytest

from traitcli.records import ClassStats
from traitcli.vectors.methods import calibrate, class_stats, mean_difference, project

ROWS, HIDDEN = 4, 6


def draw(count, seed, shift=0.0):
    """float32 [n, L+1, H], normally distributed around `shift`."""
    return np.random.default_rng(seed).normal(shift, 1, (count, ROWS, HIDDEN)).astype(np.float32)


def stats(positive, negative):
    spread = np.ones(ROWS, np.float32)
    return ClassStats(np.full(ROWS, positive, np.float32), np.full(ROWS, negative, np.float32), spread, spread)


def test_mean_difference_is_what_a_naive_loop_finds():
    positive, negative = draw(7, 1, shift=2), draw(5, 2)

    direction = mean_difference(positive, negative)

    for row in range(ROWS):
        for unit in range(HIDDEN):
            up = math.fsum(float(x[row, unit]) for x in positive) / 7
            down = math.fsum(float(x[row, unit]) for x in negative) / 5
            assert direction[row, unit] == pytest.approx(up - down, rel=1e-6)


def test_mean_difference_is_float32_of_the_shape_of_one_rollout():
    direction = mean_difference(draw(3, 1), draw(2, 2))

    assert (direction.dtype, direction.shape) == (np.float32, (ROWS, HIDDEN))


def test_mean_difference_of_many_large_activations_does_not_drift():
    positive = np.full((50_000, 1, 1), 1000.1, np.float32)
    negative = np.full((50_000, 1, 1), 1000.0, np.float32)

    direction = mean_difference(positive, negative)

    assert direction[0, 0] == np.float32(np.float64(np.float32(1000.1)) - 1000.0)


def test_project_is_the_dot_product_over_the_norm_at_every_row():
    activations, direction = draw(5, 3), draw(1, 4)[0]

    projections = project(activations, direction)

    for rollout in range(5):
        for row in range(ROWS):
            h, v = activations[rollout, row].tolist(), direction[row].tolist()
            dot = sum(x * y for x, y in zip(h, v, strict=True))
            assert projections[rollout, row] == pytest.approx(dot / math.sqrt(sum(x * x for x in v)), rel=1e-5)


def test_project_does_not_depend_on_the_length_of_the_direction():
    activations, direction = draw(5, 3), draw(1, 4)[0]

    np.testing.assert_allclose(project(activations, direction * 8), project(activations, direction), rtol=1e-6)


def test_project_of_the_direction_on_itself_is_its_norm():
    direction = draw(1, 4)[0]

    projections = project(direction[None], direction)

    np.testing.assert_allclose(projections[0], np.linalg.norm(direction, axis=1), rtol=1e-6)


def test_a_row_without_a_direction_projects_to_zero():
    direction = draw(1, 4)[0]
    direction[2] = 0

    projections = project(draw(3, 5), direction)

    assert projections.dtype == np.float32
    assert projections[:, 2].tolist() == [0, 0, 0]
    assert np.all(projections[:, [0, 1, 3]] != 0)


def test_class_stats_are_means_and_deviations_of_the_projections():
    positive, negative, direction = draw(7, 1, shift=2), draw(5, 2), draw(1, 4)[0]

    found = class_stats(positive, negative, direction)

    for side, mean, spread in (
        (positive, found.positive_mean, found.positive_spread),
        (negative, found.negative_mean, found.negative_spread),
    ):
        projections = project(side, direction)
        for row in range(ROWS):
            values = [float(p[row]) for p in projections]
            middle = sum(values) / len(values)
            assert mean[row] == pytest.approx(middle, rel=1e-5)
            variance = sum((value - middle) ** 2 for value in values) / len(values)
            assert spread[row] == pytest.approx(math.sqrt(variance), rel=1e-4)


def test_calibrate_maps_the_class_means_to_minus_one_and_one():
    positive, negative = draw(7, 1, shift=2), draw(5, 2)
    direction = mean_difference(positive, negative)
    found = class_stats(positive, negative, direction)

    for row in range(ROWS):
        up, down = (calibrate(project(side, direction)[:, row], found, row).mean() for side in (positive, negative))
        assert up == pytest.approx(1, abs=1e-5)
        assert down == pytest.approx(-1, abs=1e-5)


@pytest.mark.parametrize(("projection", "score"), [(10.0, 1.0), (4.0, -1.0), (7.0, 0.0), (13.0, 2.0), (-2.0, -3.0)])
def test_calibrate_is_linear_between_and_beyond_the_means(projection, score):
    assert calibrate(projection, stats(positive=10, negative=4), row=1) == score


def test_calibrate_reads_the_row_asked_for():
    found = stats(positive=10, negative=4)
    found.positive_mean[2] = 6

    assert (calibrate(6.0, found, row=2), calibrate(6.0, found, row=3)) == (1.0, pytest.approx(-1 / 3))


def test_calibrate_gives_zero_where_the_classes_do_not_differ():
    same = stats(positive=4, negative=4)

    assert calibrate(4.5, same, row=0) == 0.0
    assert calibrate(np.array([1.0, 5.0], np.float32), same, row=0).tolist() == [0.0, 0.0]
