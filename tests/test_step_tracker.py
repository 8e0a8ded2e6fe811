"""`StepTracker`: which step, trajectory and branch a denoiser call is, by whatever a pipeline gives away of it."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dit_accel.errors import UnsupportedPipelineError
from dit_accel.step_tracker import DenoiserCall, StepTracker, model_times

NUM_STEPS = 6
GRID = (1000.0, 950.0, 800.0, 500.0, 250.0, 100.0)


def fake_pipe(grid: Any = GRID, **scheduler: Any) -> Any:
    """A pipeline of which only the scheduler matters; without ``step_index`` it is one as DDIM."""
    return SimpleNamespace(scheduler=SimpleNamespace(**{"timesteps": torch.tensor(grid), **scheduler}))


def observed(pipe: Any, *timesteps: Tensor | None) -> list[tuple[int, str, int]]:
    """Step, branch and trajectory of calls that give away nothing but their timestep."""
    tracker = StepTracker(pipe)
    calls = [tracker.observe("transformer", {}, timestep) for timestep in timesteps]
    return [(call.step, call.branch, call.trajectory) for call in calls]


def steps(pipe: Any, *timesteps: Tensor | None) -> list[int]:
    return [step for step, _, _ in observed(pipe, *timesteps)]


# The step, as it is told


def test_the_step_of_the_context_comes_first():
    tracker = StepTracker(fake_pipe(step_index=5))
    context = {"name": "cond", "step_index": 2, "num_inference_steps": 40}
    assert tracker.observe("transformer", context) == DenoiserCall("transformer", "cond", 2, 40, 0)


def test_else_the_schedulers_step_counts():
    pipe = fake_pipe(step_index=3)
    tracker = StepTracker(pipe)
    far = pipe.scheduler.timesteps[5]
    assert tracker.observe("transformer", {"name": "a"}, far) == DenoiserCall("transformer", "a", 3, NUM_STEPS, 0)
    pipe.scheduler.step_index = 4
    assert tracker.observe("transformer", {}, far) == DenoiserCall("transformer", "call0", 4, NUM_STEPS, 0)


def test_a_call_knows_the_model_times_of_the_grid():
    pipe = fake_pipe(step_index=0)
    times = StepTracker(pipe).observe("transformer", {}).times
    assert times() == pipe.scheduler.timesteps.tolist()


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        ({"sigmas": [0.75, 0.5, 0.25, 0.0]}, [-math.log(3), 0, math.log(3)]),  # flow matching
        ({"sigmas": [math.e, 1.0, 1 / math.e, 0.0]}, [-1, 0, 1]),  # variance exploding
        ({"alphas_cumprod": torch.tensor([0.8, 0.5, 0.2])}, [-math.log(2), 0, math.log(2)]),  # DDIM
        ({}, [2, 1, 0]),
    ],
)
def test_model_time_is_the_log_signal_to_noise_ratio(scheduler, expected):
    found = model_times(SimpleNamespace(**scheduler), torch.tensor([2, 1, 0]))
    assert found == pytest.approx(expected)


def test_model_time_is_finite_at_pure_noise_and_at_none():
    for sigmas in ([1.0, 0.5, 0.0, 0.0], [80.0, 1.0, 0.0, 0.0]):
        found = model_times(SimpleNamespace(sigmas=sigmas), torch.tensor([999, 500, 0]))
        assert all(map(math.isfinite, found)) and found == sorted(found)


def test_without_a_grid_steps_cannot_be_told_apart():
    pipe = SimpleNamespace(scheduler=SimpleNamespace(step_index=0))
    with pytest.raises(
        UnsupportedPipelineError, match=r"scheduler of SimpleNamespace, SimpleNamespace, has no timesteps"
    ):
        StepTracker(pipe).observe("transformer", {})


@pytest.mark.parametrize("begin", [None, 0, 2])
def test_before_the_first_step_of_a_scheduler_it_is_the_one_to_begin_with(begin):
    """``step_index`` is None until then; a time off the grid (that of a whole video, say) tells nothing."""
    pipe = fake_pipe(step_index=None, begin_index=begin)
    assert steps(pipe, torch.tensor([7.0])) == [begin or 0]


# The step, located on the grid


@pytest.mark.parametrize(
    "view",
    [
        lambda grid, k: grid[k],
        lambda grid, k: grid[k : k + 1],
        lambda grid, k: grid[k].expand(4),
        lambda grid, k: grid[k][None, None].expand(2, 3),
        lambda grid, k: grid[2:][k - 2] if k >= 2 else grid[k],
        lambda grid, k: list(grid)[k],
    ],
    ids=["element", "slice", "expanded", "expanded twice", "element of a slice", "row of the loop"],
)
def test_a_view_of_the_grid_is_located_without_reading_it(view, monkeypatch):
    pipe = fake_pipe()
    timesteps = [view(pipe.scheduler.timesteps, k) for k in (0, 2, 5)]
    monkeypatch.setattr(Tensor, "tolist", lambda *_: pytest.fail("a read from the device"))
    assert steps(pipe, *timesteps) == [0, 2, 5]


def test_a_grid_that_is_itself_a_part_is_located_within_itself():
    whole = torch.tensor([2000.0, 1500.0, *GRID])
    pipe = fake_pipe(timesteps=whole[2:])
    assert steps(pipe, whole[2:][0], whole[2:][3]) == [0, 3]


def test_two_visits_of_one_time_are_two_steps():
    """As of second-order schedulers: only the address tells them apart."""
    pipe = fake_pipe([1000.0, 500.0, 500.0, 100.0])
    assert steps(pipe, *pipe.scheduler.timesteps) == [0, 1, 2, 3]


def test_a_run_of_different_times_is_no_view_of_one():
    pipe = fake_pipe([100.0, 500.0, 900.0])
    assert steps(pipe, pipe.scheduler.timesteps[:2]) == [1]  # by its value: the largest


def test_the_pipelines_current_timestep_comes_before_the_argument():
    pipe = fake_pipe()
    pipe._current_timestep = pipe.scheduler.timesteps[3]
    assert steps(pipe, torch.tensor([0.42])) == [3]
    assert steps(pipe, pipe.scheduler.timesteps[0]) == [3]


@pytest.mark.parametrize("shift", [0.0, 1e-3])
def test_a_copy_is_looked_up_by_its_value(shift):
    """Also after a division and a multiplication by 1000."""
    assert steps(fake_pipe(), *(torch.tensor([time + shift]) for time in GRID[1::2])) == [1, 3, 5]


def test_a_copy_of_another_type_is_looked_up_by_its_value():
    assert steps(fake_pipe([999, 500, 1]), torch.tensor([500]).half(), torch.tensor(1.0)) == [1, 2]


def test_timesteps_a_token_are_those_of_the_tokens_that_are_not_given():
    """Image-to-video has the given frames at 0."""
    assert steps(fake_pipe(), *(torch.tensor([[0.0, 0.0, time, time]]) for time in GRID[1::2])) == [1, 3, 5]


def test_a_time_off_the_grid_is_a_step_more_whenever_it_changes():
    found = observed(fake_pipe(), *(torch.tensor([time]) for time in (0.9, 0.9, 0.7, 0.7, 0.1)))
    assert found == [(0, "call0", 0), (0, "call1", 0), (1, "call0", 0), (1, "call1", 0), (2, "call0", 0)]


def test_a_scheduler_as_ddim_is_followed_through_a_run_with_guidance():
    pipe = fake_pipe([999, 666, 333])
    timesteps = [time.expand(2) for time in pipe.scheduler.timesteps for _ in ("uncond", "cond")]
    expected = [(step, branch, 0) for step in range(3) for branch in ("call0", "call1")]
    assert observed(pipe, *timesteps) == expected


@pytest.mark.parametrize(
    ("sigmas", "expected"), [(None, 6), (torch.ones(7), 6), (torch.tensor([3.0, 2, 1, 0.5, 0.1, 0]), 5)]
)
def test_a_grid_as_long_as_its_sigmas_ends_in_a_step_that_does_not_run(sigmas, expected):
    call = StepTracker(fake_pipe(step_index=0, sigmas=sigmas)).observe("transformer", {})
    assert call.num_steps == expected


# Branches


def test_calls_without_a_name_are_told_by_their_order_in_the_step():
    pipe = fake_pipe(step_index=0)
    tracker = StepTracker(pipe)
    found = []
    for pipe.scheduler.step_index in (0, 1):
        found += [tracker.observe("transformer", {}).branch for _ in range(3)]
        found += [tracker.observe("transformer_2", {}).branch]
    assert found == 2 * ["call0", "call1", "call2", "call0"]


def test_a_name_that_comes_again_in_a_step_gets_a_number():
    pipe = fake_pipe(step_index=0)
    tracker = StepTracker(pipe)
    found = []
    for pipe.scheduler.step_index in (0, 1):
        found += [tracker.observe("transformer", {"name": name}).branch for name in ("cond", "uncond", "cond", "cond")]
    assert found == 2 * ["cond", "uncond", "cond#1", "cond#2"]


def test_a_name_that_comes_again_at_a_time_of_the_grid_gets_a_number_too():
    """Two passes of one name in a step of a scheduler as DDIM: each has a residual of its own."""
    pipe = fake_pipe()
    tracker = StepTracker(pipe)
    found = []
    for time in pipe.scheduler.timesteps[:2]:
        calls = [tracker.observe("transformer", {"name": "cond"}, time) for _ in range(2)]
        found += [(call.step, call.branch, call.trajectory) for call in calls]
    assert found == [(0, "cond", 0), (0, "cond#1", 0), (1, "cond", 0), (1, "cond#1", 0)]


def test_a_name_that_comes_again_is_the_next_step_where_the_times_do_not_tell():
    """With a name there is no need to count; a scheduler may visit a time twice."""
    tracker = StepTracker(fake_pipe())
    names = ("cond", "uncond", "cond", "uncond")
    calls = [tracker.observe("transformer", {"name": name}, torch.tensor([0.5])) for name in names]
    assert [(call.step, call.branch) for call in calls] == [(0, "cond"), (0, "uncond"), (1, "cond"), (1, "uncond")]


# Trajectories


def trajectories(tracker: StepTracker, told: list[int]) -> list[int]:
    return [tracker.observe("transformer", {"name": "cond", "step_index": step}).trajectory for step in told]


def test_a_step_backwards_is_a_new_trajectory_and_the_same_step_is_not():
    assert trajectories(StepTracker(fake_pipe()), [0, 0, 1, 1, 4, 0, 1, 0]) == [0, 0, 0, 0, 0, 1, 1, 2]


def test_new_timesteps_are_a_new_trajectory_even_at_a_later_step():
    pipe = fake_pipe()
    tracker = StepTracker(pipe)
    assert trajectories(tracker, [0, 1]) == [0, 0]
    pipe.scheduler.timesteps = torch.tensor(GRID)
    assert trajectories(tracker, [1, 2]) == [1, 1]


def test_new_timesteps_are_looked_up_in_the_new_grid():
    pipe = fake_pipe()
    tracker = StepTracker(pipe)
    tracker.observe("transformer", {}, torch.tensor([250.0]))
    pipe.scheduler.timesteps = torch.tensor([250.0, 100.0])
    call = tracker.observe("transformer", {}, torch.tensor([250.0]))
    assert (call.step, call.branch, call.num_steps, call.trajectory) == (0, "call0", 2, 1)


def test_a_second_pass_over_the_same_grid_is_a_new_trajectory():
    """A long video in sections."""
    pipe = fake_pipe([999, 500])
    grid = pipe.scheduler.timesteps
    assert observed(pipe, *grid, *grid) == [(0, "call0", 0), (1, "call0", 0), (0, "call0", 1), (1, "call0", 1)]


def test_one_tracker_serves_all_denoisers():
    tracker = StepTracker(fake_pipe())
    calls = [tracker.observe(name, {"step_index": step}) for name, step in (("a", 0), ("b", 0), ("b", 3), ("a", 3))]
    assert [call.trajectory for call in calls] == [0, 0, 0, 0]
    assert [call.denoiser for call in calls] == ["a", "b", "b", "a"]
    assert {call.branch for call in calls} == {"call0"}
