"""`StepTracker` against a model: whatever pipelines do one after the other, each call is told for what it is."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from dit_accel.step_tracker import StepTracker

from .conftest import examples

CALLS = (("cond",), ("cond", "uncond"), ("cond", "cond", "skip"), (None,), (None, None), (None, None, None))


@dataclass(frozen=True)
class Run:
    """One call of a pipeline.

    Args:
        told_by: what gives the step away: the context, the scheduler, a view of the grid, or a copy of the time.
        num_steps: of its grid.
        begin: first step, as of image-to-image.
        aborts_after: denoiser calls until it is interrupted.
        calls: names of the calls of a step; None is one without ``cache_context``.
        boundary: step from which on the second denoiser runs.
        is_same_grid: another pass over the grid of the run before, as of a long video in sections.
        visits_twice: the times of a second-order scheduler.
    """

    told_by: str
    num_steps: int
    begin: int
    aborts_after: int
    calls: tuple[str | None, ...]
    boundary: int
    is_same_grid: bool
    visits_twice: bool


RUNS = st.lists(
    st.builds(
        Run,
        told_by=st.sampled_from(["context", "scheduler", "view", "expanded", "copy"]),
        num_steps=st.integers(1, 5),
        begin=st.integers(0, 2),
        aborts_after=st.integers(1, 20),
        calls=st.sampled_from(CALLS),
        boundary=st.integers(0, 6),
        is_same_grid=st.booleans(),
        visits_twice=st.booleans(),
    ),
    min_size=1,
    max_size=5,
)


class Model:
    """Makes the calls of a pipeline, and knows what they are, because it makes them."""

    def __init__(self) -> None:
        self.pipe: Any = SimpleNamespace(scheduler=SimpleNamespace(timesteps=None))
        self.tracker = StepTracker(self.pipe)
        self.trajectory = self.last = -1

    def run(self, run: Run) -> None:
        begin = min(run.begin, run.num_steps - 1)
        scheduler = self.pipe.scheduler
        # A pass over the same grid can only be told if it begins before the step that the last one ended at.
        if not run.is_same_grid or scheduler.timesteps is None or begin >= self.last:
            times = torch.arange(run.num_steps, 0, -1).float() * 100
            is_double = run.visits_twice and run.told_by != "copy"
            scheduler.timesteps = times.repeat_interleave(2)[: run.num_steps] if is_double else times
        elif run.told_by == "copy" and len(scheduler.timesteps.unique()) < len(scheduler.timesteps):
            return
        self.trajectory += 1
        grid, left = scheduler.timesteps, run.aborts_after
        for step in range(begin, len(grid)):
            seen: dict[tuple[str, str | None], int] = {}
            for name in run.calls:
                if left == 0:
                    return
                left -= 1
                key = ("transformer" if step < run.boundary else "transformer_2", name)
                self.call(run.told_by, key, step, seen.get(key, 0))
                seen[key] = seen.get(key, 0) + 1
            self.last = step

    def call(self, told_by: str, key: tuple[str, str | None], step: int, repeat: int) -> None:
        denoiser, name = key
        context: dict[str, Any] = {} if name is None else {"name": name}
        scheduler, timestep = self.pipe.scheduler, None
        vars(scheduler).pop("step_index", None)
        if told_by == "context":
            context["step_index"] = step
        elif told_by == "scheduler":
            scheduler.step_index = step
        else:
            timestep = scheduler.timesteps[step]
            timestep = {"view": timestep, "expanded": timestep.expand(2), "copy": timestep.clone()[None]}[told_by]
        found = self.tracker.observe(denoiser, context, timestep)
        branch = f"call{repeat}" if name is None else f"{name}#{repeat}" if repeat else name
        assert (found.denoiser, found.step, found.branch) == (denoiser, step, branch)
        assert (found.trajectory, found.num_steps) == (self.trajectory, len(scheduler.timesteps))
        self.last = step


@given(RUNS)
@examples(400)
def test_every_call_is_told_for_what_it_is(runs: list[Run]) -> None:
    model = Model()
    for run in runs:
        model.run(run)


@given(RUNS, st.randoms(use_true_random=False))
@examples(150)
def test_pipelines_that_take_turns_do_not_confuse_each_other(runs: list[Run], rng: Any) -> None:
    """A tracker belongs to one pipeline: runs of three, in any order."""
    models = [Model() for _ in range(3)]
    for run in runs:
        rng.choice(models).run(run)
