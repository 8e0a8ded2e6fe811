"""What a profile takes on 1, 8 and 64 GPUs, what moves over the network, and where more GPUs stop helping.

    python benchmarks/profile_scale.py [--out benchmarks/results/profile_scale.json]   # simulated: seconds, no GPU
    python benchmarks/profile_scale.py --local [--out benchmarks/results/profile_scale_local.json]   # 1 and 2 workers

Simulated is a profile of 50 steps with edges up to 8 steps. The searches are the real ones, driven with the measured
errors of ``offline_profiles/digits-wan-hold``, so they ask for the rollouts that the embedded model needs; which GPU
does what is decided by `Dispatch`, as in `dit_accel.profiling.ray_pool`. Times and sizes are assumptions, those of
Wan 2.1 14B at 720p:

* a step of a video on one GPU: LeMiCa's README gives 31.48 minutes for a video of 50 steps;
* the bytes of a recorded trajectory: 50 steps x 2 branches x 16 x 21 x 90 x 160 values in bfloat16, and the final
  latents (81 frames of 1280 x 720; shape and dtype are those of the model);
* a GPU starts with its pipeline's loading; a node of 8 GPUs fetches a trajectory once, from one machine, whose link
  serves one node at a time; that machine needs some milliseconds for each task, which ``--local`` measures.

``--local`` runs an exact profile of the embedded model on a Ray cluster of this machine with one and with two
single-threaded workers, in turns, when they have started.
"""

from __future__ import annotations

import argparse
import functools
import heapq
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rows import Row, demo_row, write_rows

from dit_accel import DEMO_INPUTS, ErrorGraph, load_demo_pipeline, profile
from dit_accel.profiling.dispatch import Dispatch
from dit_accel.profiling.measurement import follow
from dit_accel.profiling.request import ProfileJob
from dit_accel.profiling.rollout import Batch, Rollout
from dit_accel.profiling.search import SEARCHES

PROFILES = Path(__file__).parents[1] / "offline_profiles"
GPUS = (1, 8, 64)
MANY_GPUS = tuple(2**power for power in range(13))
VIDEOS = 4
MODES = ("exact", "lazy", "estimate")
LATENTS = 16 * 21 * 90 * 160


@dataclass(frozen=True)
class Machines:
    """What is assumed of the cluster and the model."""

    step_seconds: float = 31.48 * 60 / 50
    tape_bytes: float = 50 * 2 * LATENTS * 2 + LATENTS * 4
    load_seconds: float = 120.0
    link_bytes_per_second: float = 1.25e9  # 10 Gbit/s
    gpus_per_node: int = 8
    dispatch_seconds: float = 0.005


class Cluster:
    """A clock, workers, and a link; tasks are given out by `Dispatch`."""

    def __init__(self, machines: Machines, num_gpus: int) -> None:
        self._machines, self._idle = machines, set(range(num_gpus))
        self._dispatch: Dispatch[tuple[int, object], int] = Dispatch(1)
        self.clock, self.moved_bytes, self.busy_seconds = machines.load_seconds, 0.0, 0.0
        self._driver_free = self._link_free = self.clock
        self._on_node: set[tuple[int, int]] = set()

    def record(self, num_batches: int, steps: int) -> None:
        """Full runs, each of which goes to the driver."""
        self._run({(batch, None): steps for batch in range(num_batches)}, None)
        self._move(num_batches * self._machines.tape_bytes)
        self.clock = max(self.clock, self._link_free)

    def roll_out(self, cost_steps: Mapping[tuple[int, object], int]) -> None:
        """Rollouts, each from the recorded trajectory of its batch."""
        self._run(cost_steps, 0)

    def _run(self, cost_steps: Mapping[tuple[int, object], int], position: int | None) -> None:
        for task in cost_steps:
            self._dispatch.submit(task, None if position is None else task[position])
        ends: list[tuple[float, int]] = []
        while self._dispatch.num_open:
            for worker in sorted(self._idle):
                task = self._dispatch.next_for(worker)
                if task is None:
                    break
                self._idle.remove(worker)
                seconds = cost_steps[task] * self._machines.step_seconds
                self.busy_seconds += seconds
                heapq.heappush(
                    ends, (self._begin(worker, None if position is None else task[position]) + seconds, worker)
                )
            self.clock, worker = heapq.heappop(ends)
            self._dispatch.finished(worker)
            self._idle.add(worker)

    def _begin(self, worker: int, state: int | None) -> float:
        """When a task that is given out now can start."""
        self._driver_free = max(self._driver_free, self.clock) + self._machines.dispatch_seconds
        place = worker // self._machines.gpus_per_node, state
        if state is None or place in self._on_node:
            return self._driver_free
        self._on_node.add(place)
        return self._move(self._machines.tape_bytes)

    def _move(self, num_bytes: float) -> float:
        """When these bytes have gone through the driver's link."""
        self.moved_bytes += num_bytes
        self._link_free = max(self._link_free, self.clock) + num_bytes / self._machines.link_bytes_per_second
        return self._link_free


def simulate(job: ProfileJob, exact: ErrorGraph, lazy: ErrorGraph, machines: Machines, gpus: int) -> dict[str, float]:
    """One profile on a cluster."""
    cluster, counts = Cluster(machines, gpus), {"rollouts": 0, "rounds": 0}
    cluster.record(len(job.batches), job.num_steps)

    def measured(rollouts: Sequence[Rollout]) -> dict[Rollout, float]:
        tasks = job.tasks(rollouts)
        counts["rollouts"] += len(tasks)
        counts["rounds"] += 1
        cluster.roll_out({task: job.cost_steps(task) for task in tasks})
        return {rollout: exact.edges[rollout.edge] for rollout in rollouts}

    assert lazy.model is not None
    follow(SEARCHES[job.mode](job, replace(lazy.model, gains=())), measured)
    return {
        "hours": cluster.clock / 3600,
        "gpu_hours": gpus * cluster.clock / 3600,
        "busy_share": cluster.busy_seconds / (gpus * cluster.clock),
        "generations": cluster.busy_seconds / machines.step_seconds / job.num_steps,
        **counts,
        "moved_gigabytes": cluster.moved_bytes / 1e9,
    }


def simulated_rows(machines: Machines) -> list[Row]:
    """Every mode on 1, 8 and 64 GPUs, and the number from which less than half of them is busy."""
    exact = ErrorGraph.load(PROFILES / "digits-wan-hold" / "50-steps.graph.json")
    lazy = ErrorGraph.load(PROFILES / "digits-wan" / "50-steps.graph.json")
    batches = tuple(Batch((f"prompt {number}",), 0) for number in range(VIDEOS))
    budgets = tuple(lazy.provenance["search"]["budgets"])
    setting = {
        "videos": VIDEOS,
        "budgets": " ".join(map(str, budgets)),
        "step_seconds": round(machines.step_seconds, 2),
        "trajectory_gigabytes": round(machines.tape_bytes / 1e9, 3),
        "load_seconds": machines.load_seconds,
        "link_gigabits": machines.link_bytes_per_second * 8 / 1e9,
        "dispatch_milliseconds": machines.dispatch_seconds * 1e3,
    }
    row = functools.partial(Row, "profile_scale", pipeline="Wan 2.1 14B, simulated", dtype="bfloat16")
    rows = []
    for mode in MODES:
        job = ProfileJob(batches, exact.num_steps, 8, {}, mode, budgets=budgets)
        found = {gpus: simulate(job, exact, lazy, machines, gpus) for gpus in MANY_GPUS}
        rows += [row(mode, setting={"gpus": gpus, **setting}, figures=found[gpus]) for gpus in GPUS]
        most = max(gpus for gpus in MANY_GPUS if found[gpus]["busy_share"] >= 0.5)
        figures = {"gpus_at_least_half_busy": most, "least_hours": min(each["hours"] for each in found.values())}
        rows.append(row(f"{mode}, saturation", setting=setting, figures=figures))
    return rows


def local_rows(rounds: int) -> list[Row]:
    """A real profile with one and with two workers, in turns; and what giving out a task costs."""
    import ray

    from dit_accel.profiling.ray_pool import ray_pool

    os.environ.update(RAY_worker_niceness="0")  # else whatever else runs on the machine goes first
    ray.init("local", num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
    pipe = load_demo_pipeline()
    prompts = [f"a red {digit} spinning on navy" for digit in ("one", "two", "three", "four")]
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for workers in seconds:
            with ray_pool(load_demo_pipeline, num_workers=workers) as pool, tempfile.TemporaryDirectory() as folder:
                for started in [pool.submit(time.sleep, 3.0) for _ in range(2 * workers)]:
                    started.result()
                begin = time.perf_counter()
                graph = profile(
                    pipe,
                    prompts,
                    num_inference_steps=8,
                    max_segment=3,
                    batch_size=1,
                    workdir=folder,
                    executor=pool,
                    progress=False,
                    **DEMO_INPUTS,
                )
                seconds[workers].append(time.perf_counter() - begin)
    with ray_pool(load_demo_pipeline, num_workers=1) as pool:
        pool.submit(abs, 1).result()
        begin = time.perf_counter()
        for done in [pool.submit(abs, 1) for _ in range(1000)]:
            done.result()
        dispatch_seconds = (time.perf_counter() - begin) / 1000
    ray.shutdown()
    ratios = [one / two for one, two in zip(seconds[1], seconds[2], strict=True)]
    setting = {"rounds": rounds, "rollout_steps": graph.rollout_steps, "load_average": round(os.getloadavg()[1], 1)}
    figures = {
        "seconds_one_worker": statistics.median(seconds[1]),
        "seconds_two_workers": statistics.median(seconds[2]),
        "dispatch_milliseconds": dispatch_seconds * 1e3,
    }
    ratio = statistics.median(ratios)
    return [demo_row("profile_scale", "demo model, local Ray cluster", ratio=ratio, setting=setting, figures=figures)]


def main() -> None:
    """Print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--local", action="store_true", help="measure real workers instead")
    parser.add_argument("--rounds", type=int, default=2, help="of --local")
    default = Machines()
    parser.add_argument("--step-seconds", type=float, default=default.step_seconds)
    parser.add_argument("--link-gigabits", type=float, default=default.link_bytes_per_second * 8 / 1e9)
    parser.add_argument("--load-seconds", type=float, default=default.load_seconds)
    args = parser.parse_args()
    machines = Machines(
        step_seconds=args.step_seconds,
        link_bytes_per_second=args.link_gigabits / 8 * 1e9,
        load_seconds=args.load_seconds,
    )
    rows = local_rows(args.rounds) if args.local else simulated_rows(machines)
    write_rows(rows, args.out)


if __name__ == "__main__":
    main()
