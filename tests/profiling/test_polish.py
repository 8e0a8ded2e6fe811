"""`polish` on the tiny pipeline: never worse, never dearer than asked, and nothing is run twice."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dit_accel import LeMiCaConfig, enable_acceleration
from dit_accel.actions import PartialSteps, SparseSteps
from dit_accel.errors import AlreadyAcceleratedError, ConfigError, JobError
from dit_accel.profiling import polish as module
from dit_accel.profiling.error_graph import ErrorGraph
from dit_accel.profiling.job import profile
from dit_accel.profiling.planner import forecast_weights, plan
from dit_accel.profiling.polish import polish, predicted_error
from dit_accel.profiling.request import ProfileJob, checked_job
from dit_accel.schedule import CacheSchedule

from ..conftest import attributes, run_tiny, tiny_inputs, tiny_pipeline

PROMPTS = ["a red seven moving left on navy", "a blue one spinning on gray", "a green two growing on black"]
NUM_STEPS, BUDGET = 8, 4
ARGUMENTS: dict[str, Any] = {
    "num_inference_steps": NUM_STEPS,
    "max_segment": 5,
    "mode": "lazy",
    "budgets": [BUDGET],
    "batch_size": 2,
    **tiny_inputs(),
}
LATE = CacheSchedule(NUM_STEPS, (0, 5, 6, 7), {"name": "late", "seeds": [7]})  # a bad one, to be improved


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def job() -> ProfileJob:
    return checked_job(PROMPTS, **ARGUMENTS)


@pytest.fixture(scope="module")
def profiled(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ErrorGraph]:
    """The work directory of the profile, and its graph. Copy it before you change it."""
    workdir = tmp_path_factory.mktemp("profiled")
    return workdir, profile(pipe, PROMPTS, workdir=workdir, progress=False, **ARGUMENTS)


@pytest.fixture
def work(profiled: tuple[Path, ErrorGraph], tmp_path: Path) -> Path:
    shutil.copytree(profiled[0], tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def graph(profiled: tuple[Path, ErrorGraph]) -> ErrorGraph:
    return profiled[1]


def latents(pipe: Any, prompts: list[str]) -> Tensor:
    generators = [torch.Generator().manual_seed(0) for _ in prompts]
    inputs = {**tiny_inputs(), "num_inference_steps": NUM_STEPS, "output_type": "latent", "return_dict": False}
    found: Tensor = pipe(prompt=prompts, generator=generators, **inputs)[0]
    return found


def true_error(pipe: Any, schedule: CacheSchedule) -> float:
    """Mean L1 of the final latents over all videos, by plain runs as users make them."""
    errors: list[float] = []
    for prompts in (PROMPTS[:2], PROMPTS[2:]):
        full = latents(pipe, prompts)
        with enable_acceleration(pipe, LeMiCaConfig(schedule)):
            found = latents(pipe, prompts)
        errors += (found - full).abs().flatten(1).double().mean(1).tolist()
    return math.exp(sum(map(math.log, errors)) / len(errors))


@contextmanager
def counted(pipe: Any) -> Iterator[list[int]]:
    """Forwards of the denoiser within."""
    calls = [0]

    def count(*_: Any) -> None:
        calls[0] += 1

    handle = pipe.transformer.register_forward_pre_hook(count)
    try:
        yield calls
    finally:
        handle.remove()


def trials(work: Path) -> int:
    return len(list((work / "trials").glob("*.json")))


@pytest.mark.parametrize("rollouts", [1, 3, 12])
def test_never_worse_and_never_dearer(
    pipe: Any, job: ProfileJob, graph: ErrorGraph, work: Path, rollouts: int
) -> None:
    before = attributes(pipe)
    found = polish(pipe, job, graph, LATE, rollouts=rollouts, workdir=work, progress=False)
    note = found.provenance["polish"]
    assert attributes(pipe) == before
    assert found.budget == BUDGET and (found.num_steps, found.compute_steps[0]) == (NUM_STEPS, 0)
    assert all(graph.error(i, j) is not None for i, j in itertools.pairwise(found.compute_steps))
    assert found.compute_steps[-1] == NUM_STEPS - 1
    assert 1 <= note["rollouts"] <= rollouts and trials(work) == note["rollouts"] + 1
    assert note["error_after"] <= note["error_before"]
    assert note["error_before"] == pytest.approx(true_error(pipe, LATE), rel=1e-6)
    assert note["error_after"] == pytest.approx(true_error(pipe, found), rel=1e-6)
    assert (found.provenance["name"], found.provenance["seeds"]) == ("late", [7])
    assert LATE.provenance == {"name": "late", "seeds": [7]}


def test_a_bad_schedule_is_improved(pipe: Any, job: ProfileJob, graph: ErrorGraph, work: Path) -> None:
    found = polish(pipe, job, graph, LATE, rollouts=12, workdir=work, progress=False)
    assert true_error(pipe, found) < true_error(pipe, LATE) and found.compute_steps != LATE.compute_steps


def test_until_no_move_is_better(
    pipe: Any, job: ProfileJob, graph: ErrorGraph, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With many rollouts it stops by itself, at a schedule that no neighbour beats."""
    errors: dict[tuple[tuple[int, ...], str], float] = {}
    original = module._Trials.error

    def noted(self: Any, schedule: CacheSchedule) -> float:
        key = schedule.compute_steps, str(sorted(schedule.forecasts.items()))
        assert key not in errors, "tried twice"
        errors[key] = original(self, schedule)
        return errors[key]

    monkeypatch.setattr(module._Trials, "error", noted)
    found = polish(pipe, job, graph, plan(graph, BUDGET), rollouts=200, workdir=work, progress=False)
    assert found.provenance["polish"]["rollouts"] == len(errors) - 1 < 200
    least = errors[found.compute_steps, str(sorted(found.forecasts.items()))]
    assert found.provenance["polish"]["error_after"] == least == min(errors.values())
    steps, tried = set(found.compute_steps), {path for path, _ in errors}
    for moved, place in itertools.product(steps - {0, NUM_STEPS - 1}, set(range(NUM_STEPS)) - steps):
        path = tuple(sorted(steps - {moved} | {place}))
        assert path in tried or any(graph.error(i, j) is None for i, j in itertools.pairwise(path))


def test_the_best_prediction_is_tried_first(
    pipe: Any, job: ProfileJob, graph: ErrorGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[CacheSchedule] = []

    def noted(self: Any, schedule: CacheSchedule) -> float:
        tried.append(schedule)
        return 1.0

    monkeypatch.setattr(module._Trials, "error", noted)
    found = polish(pipe, job, graph, LATE, rollouts=50, progress=False)
    assert tried[0] == LATE and found.compute_steps == LATE.compute_steps and found.forecasts == LATE.forecasts
    predicted = [predicted_error(graph, schedule.compute_steps) for schedule in tried[1:]]
    assert len(predicted) > 2 and predicted == sorted(predicted)


@pytest.mark.parametrize("is_better", [True, False])
def test_a_slope_for_all_edges_is_kept_where_it_is_better(
    pipe: Any, job: ProfileJob, graph: ErrorGraph, monkeypatch: pytest.MonkeyPatch, is_better: bool
) -> None:
    """It is tried after all moves; then they are tried with it, too, and it is written down."""
    tried: list[CacheSchedule] = []
    start = plan(graph, BUDGET)
    slope = forecast_weights(graph, start.compute_steps, "slope")

    def noted(self: Any, schedule: CacheSchedule) -> float:
        tried.append(schedule)
        return 0.5 if schedule.forecasts == slope and is_better else 1.0

    monkeypatch.setattr(module._Trials, "error", noted)
    found = polish(pipe, job, graph, start, rollouts=200, progress=False)
    (turn,) = (k for k, each in enumerate(tried) if k and each.compute_steps == start.compute_steps)
    assert turn > 3 and tried[turn].forecasts == slope != start.forecasts
    for number, each in enumerate(tried):
        assert each.forecasts == forecast_weights(graph, each.compute_steps, "slope" if number >= turn else None)
    assert found.forecasts == (slope if is_better else start.forecasts)
    assert (len(tried) > turn + 3, set(found.provenance["edge_forecasts"].values()) == {"slope"}) == (is_better,) * 2


def test_nothing_is_run_twice(pipe: Any, job: ProfileJob, graph: ErrorGraph, work: Path) -> None:
    with counted(pipe) as calls:
        first = polish(pipe, job, graph, LATE, rollouts=3, workdir=work, progress=False)
        # Two batches, two branches, all blocks skipped or not; trajectories are there already.
        assert calls[0] == 4 * 2 * 2 * NUM_STEPS
    with counted(pipe) as calls:
        again = polish(pipe, job, graph, LATE, rollouts=3, workdir=work, progress=False)
        assert calls[0] == 0
    assert again == first
    with counted(pipe) as calls:
        more = polish(pipe, job, graph, LATE, rollouts=4, workdir=work, progress=False)
        assert calls[0] <= 2 * 2 * NUM_STEPS
    assert more.provenance["polish"]["error_after"] <= first.provenance["polish"]["error_after"]


def test_a_killed_polish_continues(pipe: Any, job: ProfileJob, graph: ErrorGraph, work: Path, tmp_path: Path) -> None:
    expected = polish(pipe, job, graph, LATE, rollouts=3, workdir=work, progress=False)
    shutil.rmtree(work / "trials")
    calls = iter(range(1000))

    def stop(*_: Any) -> None:
        if next(calls) == 2 * 2 * NUM_STEPS * 2 + 5:  # in the third run
            raise KeyboardInterrupt

    handle = pipe.transformer.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        polish(pipe, job, graph, LATE, rollouts=3, workdir=work, progress=False)
    handle.remove()
    assert trials(work) == 2
    assert polish(pipe, job, graph, LATE, rollouts=3, workdir=work, progress=False) == expected


def test_without_a_workdir(pipe: Any, job: ProfileJob, graph: ErrorGraph, work: Path) -> None:
    expected = polish(pipe, job, graph, LATE, rollouts=2, workdir=work, progress=False)
    assert polish(pipe, job, graph, LATE, rollouts=2, progress=False) == expected


def test_no_rollouts_change_nothing(pipe: Any, job: ProfileJob, graph: ErrorGraph, tmp_path: Path) -> None:
    with counted(pipe) as calls:
        assert polish(pipe, job, graph, LATE, rollouts=0, workdir=tmp_path / "work") is LATE
    assert calls[0] == 0 and not (tmp_path / "work").exists()


def test_no_rollouts_need_no_model(pipe: Any, job: ProfileJob, graph: ErrorGraph) -> None:
    """As `run_job` asks after a profile of a pipeline whose residuals cannot be compared."""
    bare = ErrorGraph(NUM_STEPS, graph.edges)
    assert polish(pipe, job, bare, LATE, rollouts=0) is LATE


def test_the_provenance_is_of_the_path_that_it_has(pipe: Any, job: ProfileJob, graph: ErrorGraph, work: Path) -> None:
    """What the planner wrote of edges, of those that are left."""
    every = ErrorGraph(
        NUM_STEPS, graph.edges, forecasts=graph.forecasts, model=graph.model, estimated=graph.edges, provenance={}
    )
    steps = LATE.compute_steps
    schedule = CacheSchedule(NUM_STEPS, steps, {"estimated_edges": ["0-5"], "edge_forecasts": {"0-5": "taylor1"}})
    found = polish(pipe, job, every, schedule, rollouts=12, workdir=work, progress=False)
    assert found.compute_steps != steps
    edges = {f"{i}-{j}" for i, j in itertools.pairwise(found.compute_steps) if j > i + 1}
    assert set(found.provenance.get("estimated_edges", ())) <= edges
    assert set(found.provenance.get("edge_forecasts", ())) <= edges


def test_a_polished_schedule_can_be_saved(
    pipe: Any, job: ProfileJob, graph: ErrorGraph, work: Path, tmp_path: Path
) -> None:
    found = polish(pipe, job, graph, plan(graph, BUDGET), rollouts=2, workdir=work, progress=False)
    found.save(tmp_path / "s.json")
    assert CacheSchedule.load(tmp_path / "s.json") == found


@pytest.mark.parametrize("rollouts", [-1, 1.0, True, None, "3"])
def test_bad_rollouts(pipe: Any, job: ProfileJob, graph: ErrorGraph, rollouts: Any) -> None:
    with pytest.raises(ConfigError, match="rollouts must be an integer of at least 0"):
        polish(pipe, job, graph, LATE, rollouts=rollouts)


@pytest.mark.parametrize(
    "actions", [{"partial": PartialSteps((2,), 1, 0)}, {"sparse": SparseSteps((5,))}], ids=["partial", "sparse"]
)
def test_schedules_that_cannot_be_polished(
    pipe: Any, job: ProfileJob, graph: ErrorGraph, actions: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="no partial or sparse steps"):
        polish(pipe, job, graph, CacheSchedule(NUM_STEPS, LATE.compute_steps, **actions), rollouts=1)
    with pytest.raises(ConfigError, match="needs the graph's model"):
        polish(pipe, job, ErrorGraph(NUM_STEPS, graph.edges), LATE, rollouts=1)


def test_a_workdir_of_another_job(pipe: Any, graph: ErrorGraph, work: Path) -> None:
    other = checked_job(PROMPTS[:1], **ARGUMENTS)
    with pytest.raises(JobError, match="holds another job; these differ: batches"):
        polish(pipe, other, graph, LATE, rollouts=1, workdir=work, progress=False)


def test_an_accelerated_pipeline(pipe: Any, job: ProfileJob, graph: ErrorGraph) -> None:
    """Its full run would not be one."""
    expected = run_tiny(pipe)
    with enable_acceleration(pipe, LeMiCaConfig(LATE)), pytest.raises(AlreadyAcceleratedError):
        polish(pipe, job, graph, LATE, rollouts=1, progress=False)
    assert run_tiny(pipe).equal(expected)


def test_a_schedule_of_another_number_of_steps(pipe: Any, job: ProfileJob, graph: ErrorGraph) -> None:
    with pytest.raises(ConfigError, match="6"):
        polish(pipe, job, graph, CacheSchedule(6, (0, 3, 5)), rollouts=1, progress=False)
