"""`forecast_weights`: the polynomial through the last values, on any grid."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_accel.cache.forecast import ORDERS, forecast_weights

TIMES = [1000.0, 900.0, 650.0]  # uneven, and falling as a scheduler's


def forecast(values: list[float], times: list[float], time: float) -> float:
    return sum(w * v for w, v in zip(forecast_weights(times, time), values, strict=True))


def test_one_value_is_held():
    assert forecast_weights([900.0], 100.0) == [1.0]


def test_two_values_go_on_in_a_line():
    assert forecast_weights([2.0, 1.0], 0.0) == [-1.0, 2.0]  # one step on: the newest, and its change once more
    assert forecast_weights([4.0, 1.0], 0.0) == pytest.approx([-1 / 3, 4 / 3])


def test_three_values_on_an_even_grid_are_the_second_order_taylor_step():
    assert forecast_weights([3.0, 2.0, 1.0], 0.0) == [1.0, -3.0, 3.0]


@pytest.mark.parametrize("degree", [0, 1, 2])
@pytest.mark.parametrize("time", [640.0, 300.0, 0.0])
def test_polynomials_are_reproduced_up_to_their_order(degree, time):
    def polynomial(t: float) -> float:
        return 5 + (-0.3 * t if degree > 0 else 0) + (0.002 * t * t if degree > 1 else 0)

    for order in (1, 2):
        times = TIMES[-(order + 1) :]
        found = forecast([polynomial(t) for t in times], times, time)
        assert (found == pytest.approx(polynomial(time), abs=1e-9)) == (degree <= order)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=3), st.integers(0, 1000))
@settings(deadline=None, max_examples=200)
def test_a_constant_stays_constant_whatever_the_times(times, time):
    assert sum(forecast_weights([float(t) for t in times], float(time))) == pytest.approx(1)


def test_at_a_time_that_is_kept_the_value_is_the_kept_one():
    for k, time in enumerate(TIMES):
        assert forecast_weights(TIMES, time) == [float(j == k) for j in range(3)]


def test_of_a_repeated_time_the_newest_value_counts():
    assert forecast_weights([900.0, 900.0], 100.0) == [0.0, 1.0]
    assert forecast_weights([2.0, 1.0, 1.0], 0.0) == [-1.0, 0.0, 2.0]
    assert forecast_weights([2.0, 2.0, 1.0], 0.0) == [0.0, -1.0, 2.0]
    assert forecast_weights([1.0, 1.0, 1.0], 0.0) == [0.0, 0.0, 1.0]


def test_every_forecast_has_an_order():
    assert ORDERS == {"hold": 0, "taylor1": 1, "taylor2": 2}
