"""Directions and projections, against naive loops and their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest

from traitcli.errors import VectorError
from traitcli.records import ClassStats
from traitcli.vectors.methods import (
    METHODS,
    calibrate,
    class_stats,
    logistic,
    mean_difference,
    pca_of_differences,
    project,
    whitened_difference,
)

LAYERS, HIDDEN = 4, 6


def draw(count, seed, shift=0.0):
    """float32 [n, L+1, H], normally distributed around `shift`."""
    return np.random.default_rng(seed).normal(shift, 1, (count, LAYERS, HIDDEN)).astype(np.float32)


def stats(positive, negative):
    spread = np.ones(LAYERS, np.float32)
    return ClassStats(
        np.full(LAYERS, positive, np.float32), np.full(LAYERS, negative, np.float32), spread, spread
    )


def test_mean_difference_equals_a_naive_loop():
    positive, negative = draw(7, 1, shift=2), draw(5, 2)

    direction = mean_difference(positive, negative)

    for layer in range(LAYERS):
        for unit in range(HIDDEN):
            up = math.fsum(float(x[layer, unit]) for x in positive) / 7
            down = math.fsum(float(x[layer, unit]) for x in negative) / 5
            assert direction[layer, unit] == pytest.approx(up - down, rel=1e-6)


def test_mean_difference_is_float32_of_the_shape_of_one_rollout():
    direction = mean_difference(draw(3, 1), draw(2, 2))

    assert (direction.dtype, direction.shape) == (np.float32, (LAYERS, HIDDEN))


def test_mean_difference_of_many_large_activations_does_not_drift():
    positive = np.full((50_000, 1, 1), 1000.1, np.float32)
    negative = np.full((50_000, 1, 1), 1000.0, np.float32)

    direction = mean_difference(positive, negative)

    assert direction[0, 0] == np.float32(np.float64(np.float32(1000.1)) - 1000.0)


def test_project_is_the_dot_product_over_the_norm_at_every_layer():
    activations, direction = draw(5, 3), draw(1, 4)[0]

    projections = project(activations, direction)

    for rollout in range(5):
        for layer in range(LAYERS):
            h, v = activations[rollout, layer].tolist(), direction[layer].tolist()
            dot = sum(x * y for x, y in zip(h, v, strict=True))
            assert projections[rollout, layer] == pytest.approx(
                dot / math.sqrt(sum(x * x for x in v)), rel=1e-5
            )


def test_project_does_not_depend_on_the_length_of_the_direction():
    activations, direction = draw(5, 3), draw(1, 4)[0]

    np.testing.assert_allclose(
        project(activations, direction * 8), project(activations, direction), rtol=1e-6
    )


def test_project_of_the_direction_on_itself_is_its_norm():
    direction = draw(1, 4)[0]

    projections = project(direction[None], direction)

    np.testing.assert_allclose(projections[0], np.linalg.norm(direction, axis=1), rtol=1e-6)


def test_a_layer_without_a_direction_projects_to_zero():
    direction = draw(1, 4)[0]
    direction[2] = 0

    projections = project(draw(3, 5), direction)

    assert projections.dtype == np.float32
    assert projections[:, 2].tolist() == [0, 0, 0]
    assert np.all(projections[:, [0, 1, 3]] != 0)


def with_labels(positive, negative):
    """Activations of both classes, and which are positive."""
    labels = np.repeat([True, False], [len(positive), len(negative)])
    return np.concatenate([positive, negative]), labels


def test_class_stats_are_means_and_deviations_of_the_projections():
    positive, negative, direction = draw(7, 1, shift=2), draw(5, 2), draw(1, 4)[0]

    found = class_stats(*with_labels(positive, negative), direction)

    for side, mean, spread in (
        (positive, found.positive_mean, found.positive_spread),
        (negative, found.negative_mean, found.negative_spread),
    ):
        projections = project(side, direction)
        for layer in range(LAYERS):
            values = [float(p[layer]) for p in projections]
            middle = sum(values) / len(values)
            assert mean[layer] == pytest.approx(middle, rel=1e-5)
            variance = sum((value - middle) ** 2 for value in values) / len(values)
            assert spread[layer] == pytest.approx(math.sqrt(variance), rel=1e-4)


def test_calibrate_maps_the_class_means_to_minus_one_and_one():
    positive, negative = draw(7, 1, shift=2), draw(5, 2)
    direction = mean_difference(positive, negative)
    found = class_stats(*with_labels(positive, negative), direction)

    for layer in range(LAYERS):
        up, down = (
            calibrate(project(side, direction)[:, layer], found, layer).mean()
            for side in (positive, negative)
        )
        assert up == pytest.approx(1, abs=1e-5)
        assert down == pytest.approx(-1, abs=1e-5)


@pytest.mark.parametrize(
    ("projection", "score"), [(10.0, 1.0), (4.0, -1.0), (7.0, 0.0), (13.0, 2.0), (-2.0, -3.0)]
)
def test_calibrate_is_linear_between_and_beyond_the_means(projection, score):
    assert calibrate(projection, stats(positive=10, negative=4), layer=1) == score


def test_calibrate_uses_the_requested_layer():
    found = stats(positive=10, negative=4)
    found.positive_mean[2] = 6

    assert (calibrate(6.0, found, layer=2), calibrate(6.0, found, layer=3)) == (
        1.0,
        pytest.approx(-1 / 3),
    )


def test_calibrate_returns_zero_where_the_class_means_are_equal():
    same = stats(positive=4, negative=4)

    assert calibrate(4.5, same, layer=0) == 0.0
    assert calibrate(np.array([1.0, 5.0], np.float32), same, layer=0).tolist() == [0.0, 0.0]


OTHERS = [method for method in METHODS.values() if method is not mean_difference]


def correlated(count, seed, shift=0.0):
    """Like `draw`, with correlated dimensions of different sizes, so that whitening matters."""
    mixing = np.random.default_rng(5).normal(0, 1, (HIDDEN, HIDDEN)) * np.geomspace(0.1, 10, HIDDEN)
    made = draw(count, seed) @ mixing.astype(np.float32)
    made[..., 0] += shift
    return made.astype(np.float32)


def unit(vector):
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("method", OTHERS)
def test_every_method_has_the_length_and_sign_of_the_mean_difference(method):
    positive, negative = correlated(40, 1, shift=1.0), correlated(40, 2)

    direction = method(positive, negative)

    difference = mean_difference(positive, negative)
    assert (direction.dtype, direction.shape) == (np.float32, (LAYERS, HIDDEN))
    np.testing.assert_allclose(
        np.linalg.norm(direction, axis=1), np.linalg.norm(difference, axis=1), rtol=1e-5
    )
    assert ((direction * difference).sum(1) >= 0).all()


@pytest.mark.parametrize("method", METHODS.values())
def test_swapped_classes_reverse_the_direction(method):
    positive, negative = correlated(40, 1, shift=1.0), correlated(40, 2)

    np.testing.assert_allclose(
        method(negative, positive), -method(positive, negative), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("method", METHODS.values())
def test_a_layer_with_equal_class_means_has_no_direction(method):
    positive, negative = draw(6, 1), draw(6, 2)
    positive[:, 0] = negative[:, 0] = 1.5

    assert not method(positive, negative)[0].any()


@pytest.mark.parametrize("method", METHODS.values())
def test_one_layer_does_not_change_another(method):
    positive, negative = correlated(20, 1, shift=1.0), correlated(20, 2)

    alone = method(positive[:, 2:3], negative[:, 2:3])

    np.testing.assert_allclose(method(positive, negative)[2], alone[0], rtol=1e-5)


def test_logistic_is_the_gradient_of_scikit_learn_s_decision_function():
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    positive, negative = correlated(30, 1, shift=2.0), correlated(20, 2)

    direction = logistic(positive, negative)

    for layer in range(LAYERS):
        states = np.concatenate([positive[:, layer], negative[:, layer]]).astype(np.float64)
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(
            states, [1] * 30 + [0] * 20
        )
        origin = probe.decision_function(np.zeros((1, HIDDEN)))
        gradient = probe.decision_function(np.eye(HIDDEN)) - origin
        np.testing.assert_allclose(unit(direction[layer]), unit(gradient), atol=1e-4)


def test_whitened_difference_equals_solving_with_the_full_covariance():
    from sklearn.covariance import ledoit_wolf

    positive, negative = correlated(12, 1, shift=2.0), correlated(9, 2)

    direction = whitened_difference(positive, negative)

    for layer in range(LAYERS):
        sides = [side[:, layer].astype(np.float64) for side in (positive, negative)]
        within = np.concatenate([side - side.mean(0) for side in sides])
        covariance, _ = ledoit_wolf(within, assume_centered=True)
        solved = np.linalg.solve(covariance, sides[0].mean(0) - sides[1].mean(0))
        np.testing.assert_allclose(unit(direction[layer]), unit(solved), atol=1e-5)


def test_whitened_difference_finds_an_axis_that_noise_hides():
    """One dimension has a small but certain difference; the others have larger random ones."""
    positive, negative = draw(200, 1) * 30, draw(200, 2) * 30
    for side, level in ((positive, 1.0), (negative, -1.0)):
        side[..., 0] = level + side[..., 0] / 100

    assert unit(mean_difference(positive, negative)[0])[0] < 0.9
    assert unit(whitened_difference(positive, negative)[0])[0] > 0.95


def test_whitened_difference_of_rollouts_without_spread_is_the_mean_difference():
    positive, negative = np.repeat(draw(1, 1), 3, axis=0), np.repeat(draw(1, 2), 3, axis=0)

    np.testing.assert_allclose(
        whitened_difference(positive, negative), mean_difference(positive, negative), rtol=1e-5
    )


def test_pca_is_the_first_eigenvector_of_the_uncentered_differences():
    positive, negative = correlated(15, 1, shift=5.0), correlated(15, 2)

    direction = pca_of_differences(positive, negative)

    for layer in range(LAYERS):
        differences = (positive[:, layer] - negative[:, layer]).astype(np.float64)
        values, axes = np.linalg.eigh(differences.T @ differences)
        axis = axes[:, np.argmax(values)]
        assert abs(unit(direction[layer]) @ axis) == pytest.approx(1, abs=1e-6)


def test_pca_of_one_difference_is_that_difference():
    positive, negative = draw(1, 1), draw(1, 2)

    np.testing.assert_allclose(
        pca_of_differences(positive, negative), (positive - negative)[0], rtol=1e-4
    )


def test_pca_of_unpaired_rollouts_is_refused():
    with pytest.raises(VectorError) as raised:
        pca_of_differences(draw(3, 1), draw(2, 2))

    assert raised.value.cause == "there are 3 positive and 2 negative rollouts"
