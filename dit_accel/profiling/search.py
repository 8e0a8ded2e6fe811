"""Which rollouts a profile runs: all (``"exact"``), as few as decide the plans (``"lazy"``), or some (``"estimate"``).

A search is a generator: it yields rollouts to run, is sent their errors, and returns what is known of every edge.
It depends on nothing else, so an interrupted job that is run again asks for the same rollouts and finds them done.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..errors import JobError
from .error_graph import Edge, ErrorGraph
from .planner import plan_all
from .request import ProfileJob
from .residual_model import ResidualModel
from .rollout import Rollout
from .surrogate import Belief, Surrogate

Search = Generator[Sequence[Rollout], Mapping[Rollout, float], "Findings"]
# Where gains are measured, as parts of the trajectory: early steps differ from one another, the last ones cost little.
_KNOTS = (0.04, 0.1, 0.24, 0.44, 0.67, 0.86, 0.94, 0.96, 0.98)


@dataclass(frozen=True)
class Findings:
    """What a search found: measured errors, estimated ones of other rollouts, and the model with gains."""

    measured: Mapping[Rollout, float]
    estimated: Mapping[Rollout, float]
    model: ResidualModel | None

    def best(self) -> dict[Edge, tuple[Rollout, float]]:
        """Edge -> its best rollout and error. Of equal ones the first; measured ones come first."""
        found: dict[Edge, tuple[Rollout, float]] = {}
        for rollout, error in [*self.measured.items(), *self.estimated.items()]:
            if rollout.edge not in found or error < found[rollout.edge][1]:
                found[rollout.edge] = rollout, error
        return found


def exact_search(job: ProfileJob, model: ResidualModel | None) -> Search:
    """Every edge with every forecast. The model's gains come from the edges of two steps, so all are known."""
    measured = yield list(job.rollouts())
    held = {rollout.edge: error for rollout, error in measured.items() if rollout.action == "hold"}
    has_gains = model is not None and any(error > 0 for (i, j), error in held.items() if j == i + 2)
    return Findings(measured, {}, model.with_gains(held) if model is not None and has_gains else model)


def estimate_search(job: ProfileJob, model: ResidualModel | None) -> Search:
    """The gains of a few steps, and no edge besides."""
    model, _ = yield from _with_gains(job, model)
    return Findings({}, {r: model.estimate(r.start, r.stop, r.action) for r in job.rollouts()}, model)


def lazy_search(job: ProfileJob, model: ResidualModel | None) -> Search:
    """Roll out what can still change the best path of a budget, until nothing can.

    For every budget: plan on the middle of each belief; plan again with the edges of that path at the top of their
    intervals and all others at the bottom. If the path stands, no errors within the intervals make another one better:
    common edges cancel, so this is the worst case. If it does not, the largest edge in which the two paths differ and
    that is not measured is rolled out.
    """
    model, measured = yield from _with_gains(job, model)
    rollouts = list(dict.fromkeys([*measured, *job.rollouts()]))
    surrogate = Surrogate({r: model.estimate(r.start, r.stop, r.action) for r in rollouts})
    while True:
        beliefs = surrogate.beliefs(measured)
        wanted = _undecided(job, beliefs)
        if not wanted:
            break
        measured |= yield wanted
    estimated = {rollout: belief.middle for rollout, belief in beliefs.items() if rollout not in measured}
    return Findings(measured, estimated, model)


SEARCHES: dict[str, Callable[[ProfileJob, ResidualModel | None], Search]] = {
    "exact": exact_search,
    "lazy": lazy_search,
    "estimate": estimate_search,
}


def _with_gains(
    job: ProfileJob, model: ResidualModel | None
) -> Generator[Sequence[Rollout], Mapping[Rollout, float], tuple[ResidualModel, dict[Rollout, float]]]:
    """Measure the gains of some steps: hold one step for the length of one."""
    if model is None:
        raise JobError(
            f"mode={job.mode!r} compares residuals of different steps, and those of this pipeline change their shape "
            "on the way, or a branch does not run at every step. Use mode='exact'."
        )
    last = job.num_steps - 1
    steps = sorted({min(max(1, round(part * last)), last - 1) for part in _KNOTS})
    errors = yield [Rollout(step - 1, step + 1) for step in steps]
    return model.with_gains({rollout.edge: error for rollout, error in errors.items()}), dict(errors)


def _undecided(job: ProfileJob, beliefs: Mapping[Rollout, Belief]) -> list[Rollout]:
    """One rollout for each budget whose best path is not certain, without repetition."""
    by_edge: dict[Edge, list[Rollout]] = {}
    for rollout in job.rollouts():
        by_edge.setdefault(rollout.edge, []).append(rollout)
    middle = {edge: min(beliefs[r].middle for r in found) for edge, found in by_edge.items()}
    low = {edge: min(beliefs[r].low(job.safety) for r in found) for edge, found in by_edge.items()}
    high = {edge: min(beliefs[r].high(job.safety) for r in found) for edge, found in by_edge.items()}

    def best_paths(errors: Mapping[Edge, float]) -> dict[int, tuple[int, ...]]:
        plans = plan_all(ErrorGraph(job.num_steps, errors), objective=job.objective, power=job.power)
        return {budget: plans[budget].compute_steps for budget in job.budgets}

    wanted: dict[Rollout, None] = {}
    for budget, path in best_paths(middle).items():
        edges = _long_edges(path)
        rival = _long_edges(best_paths(low | {edge: high[edge] for edge in edges})[budget])
        unknown = [
            min(open_, key=lambda r: beliefs[r].low(job.safety))
            for edge in sorted(edges ^ rival)
            if (open_ := [r for r in by_edge[edge] if _may_be_best(r, by_edge[edge], beliefs, job.safety)])
        ]
        if unknown:
            wanted[max(unknown, key=lambda r: beliefs[r].middle)] = None
    return list(wanted)


def _may_be_best(
    rollout: Rollout, others: Iterable[Rollout], beliefs: Mapping[Rollout, Belief], safety: float
) -> bool:
    """Whether ``rollout`` is not measured and can be the best of its edge."""
    least = min(beliefs[other].high(safety) for other in others)
    return beliefs[rollout].deviation > 0 and beliefs[rollout].low(safety) <= least


def _long_edges(path: Sequence[int]) -> set[Edge]:
    """The edges of a path that reuse something."""
    return {(start, stop) for start, stop in pairwise(path) if stop > start + 1}
