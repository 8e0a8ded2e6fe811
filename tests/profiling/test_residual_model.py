"""`ResidualModel`: local errors, weights, gains and other grids, against residuals that are known in full."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_accel.cache.forecast import forecast_weights
from dit_accel.errors import GraphError
from dit_accel.profiling.residual_model import FORECASTS, ResidualModel, history

NUM_STEPS, ELEMENTS = 9, 40
TIMES = tuple(-4 + 7 * (k / (NUM_STEPS - 1)) ** 1.3 for k in range(NUM_STEPS))  # uneven, as real grids are


def residuals_of(seed: int, num_steps: int = NUM_STEPS) -> np.ndarray:
    """[num_steps, elements] that drift, as real ones do."""
    noise = np.random.default_rng(seed).normal(size=(num_steps, ELEMENTS))
    return np.cumsum(noise, axis=0)


def model_of(residuals: np.ndarray, times: Any = TIMES, gains: Any = ()) -> ResidualModel:
    return ResidualModel(tuple(times), residuals @ residuals.T / residuals.shape[1], tuple(gains))


def rms(values: np.ndarray) -> float:
    return math.sqrt(float(np.mean(values**2)))


@st.composite
def forecasts(draw: st.DrawFn) -> tuple[np.ndarray, list[int], int]:
    """Residuals, compute steps, and a later step."""
    step = draw(st.integers(1, NUM_STEPS - 1))
    steps = sorted(draw(st.sets(st.integers(0, step - 1), min_size=1, max_size=4)))
    return residuals_of(draw(st.integers(0, 999))), steps, step


# Local errors and weights


@given(forecasts(), st.lists(st.floats(-3, 3), min_size=4, max_size=4))
@settings(deadline=None, max_examples=100)
def test_the_local_error_is_the_norm_of_the_difference(case, weights):
    residuals, steps, step = case
    for count in range(1, len(steps) + 1):
        used = weights[:count]
        direct = residuals[step] - np.array(used) @ residuals[steps[-count:]]
        assert model_of(residuals).local_error(steps, used, step) == pytest.approx(rms(direct), rel=1e-6, abs=1e-6)


@given(forecasts(), st.integers(0, 999))
@settings(deadline=None, max_examples=100)
def test_no_other_weights_are_better_than_fitted_ones(case, seed):
    residuals, steps, step = case
    model = model_of(residuals)
    noise = np.random.default_rng(seed)
    for name in ("fitted", "scaled"):
        weights = np.array(model.weights(name, steps, step))
        assert len(weights) == min(FORECASTS[name], len(steps))
        best = model.local_error(steps, weights, step)
        # The ridge of 1e-6 of the mean square gives away next to nothing; everything further off is worse.
        for scale in (0.01, 0.1, 1.0):
            other = weights + scale * noise.normal(size=len(weights))
            assert model.local_error(steps, other, step) >= best - 1e-5 * rms(residuals)
    held = model.local_error(steps, model.weights("hold", steps, step), step)
    one, three = (model.local_error(steps, model.weights(name, steps, step), step) for name in ("scaled", "fitted"))
    assert three <= one + 1e-4 * rms(residuals) and one <= held + 1e-4 * rms(residuals)


def test_fitted_weights_find_what_the_residuals_were_made_from():
    residuals = residuals_of(0)
    residuals[6] = 0.5 * residuals[1] - 0.25 * residuals[3] + 1.25 * residuals[4]
    residuals[7] = -1.5 * residuals[4]
    model = model_of(residuals)
    assert model.weights("fitted", (0, 1, 3, 4), 6) == pytest.approx((0.5, -0.25, 1.25), abs=1e-4)
    assert model.weights("scaled", (0, 1, 3, 4), 7) == pytest.approx((-1.5,), abs=1e-4)


@given(forecasts(), st.floats(-5, 5))
@settings(deadline=None, max_examples=100)
def test_a_slope_is_halfway_between_the_best_point_of_the_line_and_the_polynomial(case, other):
    """Through the last two residuals; with one alone it holds."""
    residuals, steps, step = case
    model = model_of(residuals)
    weights = model.weights("slope", steps, step)
    if len(steps) == 1:
        assert weights == (1.0,)
        return
    assert sum(weights) == pytest.approx(1, abs=1e-9)
    best = 2 * np.array(weights) - np.array(model.weights("taylor1", steps, step))
    least = model.local_error(steps, best, step)
    for worse in ((-other, 1 + other), (0.0, 1.0), model.weights("taylor1", steps, step)):
        assert model.local_error(steps, worse, step) >= least - 1e-4 * rms(residuals)


def test_equal_residuals_give_no_wild_weights():
    model = model_of(np.ones((NUM_STEPS, ELEMENTS)))
    halfway = np.array([0, 1]) + model.weights("taylor1", (0, 1, 2), 5)
    assert model.weights("slope", (0, 1, 2), 5) == pytest.approx(tuple(halfway / 2), abs=1e-4)
    weights = model.weights("fitted", (0, 1, 2), 5)
    assert sum(weights) == pytest.approx(1, abs=1e-4) and max(map(abs, weights)) < 1


@given(forecasts())
@settings(deadline=None, max_examples=50)
def test_hold_and_taylor_are_those_of_the_executor(case):
    residuals, steps, step = case
    model = model_of(residuals)
    assert model.weights("hold", steps, step) == (1.0,)
    for name, count in (("taylor1", 2), ("taylor2", 3)):
        used = steps[-count:]
        expected = forecast_weights([TIMES[k] for k in used], TIMES[step])
        assert model.weights(name, steps, step) == pytest.approx(tuple(expected))


@pytest.mark.parametrize(
    ("edge", "count", "steps"),
    [
        ((5, 7), 1, (5,)),
        ((5, 7), 3, (1, 3, 5)),
        ((5, 8), 3, (0, 2, 5)),
        ((1, 4), 3, (0, 1)),
        ((0, 4), 3, (0,)),
        ((6, 8), 2, (4, 6)),
    ],
)
def test_the_history_of_an_edge_is_as_far_apart_as_the_edge_is_long(edge, count, steps):
    assert history(*edge, count) == steps


# Gains and estimates


def test_gains_are_recovered_from_errors_that_they_made():
    bare = model_of(residuals_of(1))
    density = [math.exp(0.4 * time - 1) for time in TIMES]
    gains = [d * size for d, size in zip(density, bare.step_sizes, strict=True)]
    errors = {(k - 1, k + 1): gains[k] * bare.local_error((k - 1,), (1.0,), k) for k in range(1, NUM_STEPS - 1)}
    found = bare.with_gains(errors)
    assert bare.gains == () and found.times == TIMES
    assert found.gains[1:-1] == pytest.approx(gains[1:-1])
    # The logarithm of the density is linear in time here: a few knots tell all between them. Beyond, the last holds.
    few = bare.with_gains({edge: error for edge, error in errors.items() if edge[0] in (0, 3, 6)})
    assert few.gains[1:-1] == pytest.approx(gains[1:-1])
    assert few.gains[0] == pytest.approx(density[1] * bare.step_sizes[0])
    for name in FORECASTS:
        steps = (1, 3, 5)
        local = {k: bare.local_error(steps, bare.weights(name, steps, k), k) for k in range(6, NUM_STEPS - 1)}
        whole = sum(gains[k] * error for k, error in local.items())
        assert found.estimate(5, NUM_STEPS - 1, name, steps) == pytest.approx(whole)
        assert found.estimate(5, 7, name) == pytest.approx(found.estimate(5, 7, name, history(5, 7, FORECASTS[name])))


def test_gains_need_edges_of_two_steps_with_an_error():
    model = model_of(residuals_of(2))
    useful = {(2, 4): 0.5}
    only = model.with_gains(useful)
    assert model.with_gains({**useful, (3, 6): 9.0, (4, 6): 0.0}).gains == only.gains
    for useless in ({}, {(0, 2): 0.0}, {(0, 3): 1.0}):
        with pytest.raises(GraphError, match="No rollout of two steps has an error above 0"):
            model.with_gains(useless)
    still = residuals_of(2)
    still[3] = still[2]
    with pytest.raises(GraphError, match="No rollout of two steps"):
        model_of(still).with_gains(useful)  # an error with no difference of residuals tells nothing
    with pytest.raises(GraphError, match=r"holds no gains, so errors cannot be estimated\. Profile with mode='lazy'"):
        model.estimate(0, 2, "hold")


def test_step_sizes_are_falls_of_the_noise_level():
    model = model_of(residuals_of(3))
    levels = [1 / (1 + math.exp(time)) for time in TIMES]
    falls = [a - b for a, b in zip(levels, [*levels[1:], 0.0], strict=True)]
    assert model.step_sizes.tolist() == pytest.approx(falls)
    twice = (*TIMES[:3], *TIMES[2:-1])  # a second-order scheduler visits a level twice
    assert min(model_of(residuals_of(3), twice).step_sizes) > 0


# Other grids


@given(st.integers(0, 999))
@settings(deadline=None, max_examples=20)
def test_its_own_grid_changes_nothing(seed):
    gains = np.exp(np.random.default_rng(seed).normal(size=NUM_STEPS))
    model = model_of(residuals_of(seed), gains=gains)
    found = model.resample(TIMES)
    assert found.times == TIMES
    np.testing.assert_allclose(found.gram, model.gram, atol=1e-9)
    np.testing.assert_allclose(found.gains, model.gains)
    assert model_of(residuals_of(seed)).resample(TIMES).gains == ()


# Four steps lie around every time between the second and the last but one, and three are left at either end.
@pytest.mark.parametrize(("degree", "low", "high"), [(3, TIMES[1], TIMES[-2]), (2, TIMES[0], TIMES[-1])])
@given(data=st.data(), seed=st.integers(0, 999))
@settings(deadline=None, max_examples=40)
def test_residuals_that_are_polynomials_in_time_are_carried_over_exactly(degree, low, high, data, seed):
    coefficients = np.random.default_rng(seed).normal(size=(degree + 1, ELEMENTS))

    def polynomial(times: Any) -> np.ndarray:
        return np.vander(np.array(times), degree + 1) @ coefficients

    apart = st.lists(st.floats(low, high), min_size=2, max_size=12, unique_by=lambda time: round(time, 2))
    grid = sorted(data.draw(apart))
    found = model_of(polynomial(TIMES)).resample(grid)
    expected = model_of(polynomial(grid), grid)
    np.testing.assert_allclose(found.gram, expected.gram, atol=1e-9 * np.abs(polynomial(TIMES)).max() ** 2)


def test_gains_follow_the_step_sizes_of_another_grid():
    density = np.exp(0.3 * np.array(TIMES) - 1)
    bare = model_of(residuals_of(4))
    model = model_of(residuals_of(4), gains=density * bare.step_sizes)
    grid = np.linspace(TIMES[0], TIMES[-1], 2 * NUM_STEPS)
    found = model.resample(grid.tolist())
    assert found.num_steps == 2 * NUM_STEPS
    known = np.exp(0.3 * grid - 1)
    inside = grid <= TIMES[-3]  # the last two steps keep their own, so nothing is known between them and the others
    np.testing.assert_allclose((np.array(found.gains) / found.step_sizes)[inside], known[inside])
    np.testing.assert_allclose((np.array(found.gains) / found.step_sizes)[-2:], density[-2:])


@pytest.mark.parametrize("grid", [(1.0,), (), (0.0, 0.0), (0.0, 1.0, 0.5)])
def test_grids_that_do_not_increase_are_refused(grid):
    model = model_of(residuals_of(5))
    with pytest.raises(GraphError, match="Only grids whose model times increase can be resampled, got"):
        model.resample(grid)
    if len(grid) > 1:
        falling = model_of(residuals_of(5, len(grid)), grid)
        with pytest.raises(GraphError, match="Only grids whose model times increase"):
            falling.resample(TIMES)


# Construction and the file


@pytest.mark.parametrize(
    ("times", "gram", "gains", "words"),
    [
        ((0.0,), np.ones((1, 1)), (), r"of 1 times needs a matrix of 1 x 1 and as many gains or none"),
        ((0.0, 1.0), np.ones((2, 3)), (), r"of 2 times needs a matrix of 2 x 2 .* got \(2, 3\) and 0"),
        ((0.0, 1.0), np.ones((2, 2)), (1.0,), r"got \(2, 2\) and 1"),
        ((0.0, math.inf), np.ones((2, 2)), (), "holds a value that is not finite"),
        ((0.0, 1.0), np.full((2, 2), math.nan), (), "holds a value that is not finite"),
        ((0.0, 1.0), np.ones((2, 2)), (1.0, math.nan), "holds a value that is not finite"),
    ],
)
def test_what_does_not_fit_is_refused(times, gram, gains, words):
    with pytest.raises(GraphError, match=words):
        ResidualModel(times, gram, gains)


@given(st.integers(0, 999), st.booleans())
@settings(deadline=None, max_examples=30)
def test_round_trip_is_exact(seed, has_gains):
    residuals = residuals_of(seed)
    model = model_of(residuals, gains=rms(residuals) * np.arange(1, NUM_STEPS + 1) if has_gains else ())
    found = ResidualModel.from_json(json.loads(json.dumps(model.to_json(), allow_nan=False)))
    assert (found.times, found.gains) == (model.times, model.gains)
    assert np.array_equal(found.gram, np.tril(model.gram) + np.tril(model.gram, -1).T)


VALID = ResidualModel((0.0, 1.0), np.array([[2.0, 1.0], [1.0, 3.0]]), (0.5, 0.25)).to_json()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "model must be null or have the keys times, gains and gram, got None"),
        ([], r"got \[\]"),
        ({**VALID, "more": 1}, "model must be null or have the keys"),
        ({"times": [0.0, 1.0], "gains": []}, "model must be null or have the keys"),
        ({**VALID, "gram": 3}, "model must hold lists of finite numbers, got None"),
        ({**VALID, "gram": [[2.0], 1.0]}, "model must hold lists of finite numbers, got 1.0"),
        ({**VALID, "gram": [[2.0], [1.0, "3"]]}, r"got \[1.0, '3'\]"),
        ({**VALID, "times": [0.0, True]}, r"got \[0.0, True\]"),
        ({**VALID, "gains": None}, "got None"),
        ({**VALID, "gains": [10**400, 1]}, "model must hold lists of finite numbers"),
        ({**VALID, "gram": [[2.0, 1.0], [1.0, 3.0]]}, "model.gram must be the lower half of a matrix of 2 x 2"),
        ({**VALID, "gram": [[2.0]]}, "model.gram must be the lower half"),
        ({**VALID, "gains": [1.0]}, "as many gains or none"),
        ({"times": [], "gains": [], "gram": []}, "of 0 times"),
    ],
)
def test_bad_models_are_refused(value, words):
    with pytest.raises(GraphError, match=words) as caught:
        ResidualModel.from_json(value)
    assert len(str(caught.value)) < 400
