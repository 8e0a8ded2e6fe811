"""Does an accelerated pipeline stay right and small under mixed requests?

    OMP_NUM_THREADS=1 python benchmarks/soak.py [--requests 200] [--threads 2] [--pipeline tiny|demo]
        [--out benchmarks/results/soak.json]

Random requests (seeded) go to pipelines that stay accelerated, one denoiser a method: sizes, steps, batch, guidance
and prompts change from request to request. ``--threads`` requests run at a time, on pipelines that share the denoiser
if they are of one method. A tenth is aborted at a random step, in one of four ways, and the next request follows at
once. Every finished video is compared, to the bit, with that of a pipeline built and accelerated for it alone.

Memory is what the process holds after each round: its resident set, and the storage of all tensors alive, without the
last outputs that diffusers' schedulers keep. Growth is the median over the last fifth of the requests against the
median over the second fifth.
"""

from __future__ import annotations

import argparse
import copy
import functools
import gc
import hashlib
import random
import statistics
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from rows import Row, write_rows

import dit_accel
from dit_accel import CacheSchedule, DBCacheConfig, LeMiCaConfig, SVG2Config, enable_acceleration
from dit_accel.pipelines import wan

ABORTS = ("interrupt", "error in the callback", "exit in the callback", "error in the denoiser")
SHARE_ABORTED = 0.1
PROMPT = "a red seven moving left on navy"


class Aborted(Exception):
    """What a callback or a block raises."""


class Exit(BaseException):
    """Nothing that ``except Exception`` catches, as KeyboardInterrupt."""


@dataclass(frozen=True)
class Subject:
    """How to build a pipeline, always with the same weights, and what may be asked of it.

    ``methods``: name -> what to enable, and the numbers of steps that it can run.
    """

    build: Callable[[], Any]
    methods: dict[str, tuple[tuple[Any, ...], tuple[int, ...]]]
    sizes: tuple[dict[str, int], ...]
    prompts: tuple[str, ...]
    others: dict[str, Any]


@dataclass(frozen=True)
class Request:
    """One call: ``abort`` is None, or how and at which step it is aborted."""

    method: str
    size: int
    steps: int
    batch: int
    prompt: int
    guidance: float
    seed: int
    abort: tuple[str, int] | None = field(default=None, compare=False)


def tiny_subject() -> Subject:
    """Four blocks with random weights; in the larger sizes there is enough to attend to for sparse attention."""
    schedule = LeMiCaConfig(CacheSchedule(8, (0, 1, 4)))
    sparse = SVG2Config(min_tokens=0, dense_steps=0.1, dense_layers=0.0, num_q_centroids=2, num_k_centroids=2)
    any_steps = (5, 6, 8)
    methods = {
        "dbcache": ((DBCacheConfig(residual_diff_threshold=0.3, max_warmup_steps=1, forecast="taylor1"),), any_steps),
        "lemica": ((schedule,), (8,)),
        "dbcache+svg2": ((DBCacheConfig(residual_diff_threshold=0.3, max_warmup_steps=1), sparse), any_steps),
        "lemica+svg2": ((schedule, sparse), (8,)),
    }
    sizes = tuple(
        {"height": height, "width": width, "num_frames": frames}
        for height, width, frames in ((16, 16, 1), (16, 32, 5), (32, 32, 5), (48, 32, 9))
    )
    others = {key: value for key, value in wan.tiny_inputs().items() if key == "max_sequence_length"}
    return Subject(wan.tiny, methods, sizes, (PROMPT, "a blue one"), others)


def demo_subject() -> Subject:
    """The demo model with its presets; slow, as its schedules are for 50 steps."""
    names = {"dbcache-medium": (20, 50), "lemica-fast": (50,), "lemica-fast+svg2": (50,)}
    methods = {name: ((name,), steps) for name, steps in names.items()}
    inputs = dict(dit_accel.DEMO_INPUTS)
    size = {key: inputs.pop(key) for key in ("height", "width", "num_frames")}
    inputs.pop("guidance_scale")
    sizes = (*({**size, "num_frames": frames} for frames in (1, 4, 8)), {**size, "width": size["width"] // 2})
    prompts = (PROMPT, "a blue one growing on black")
    return Subject(dit_accel.load_demo_pipeline, methods, sizes, prompts, inputs)


SUBJECTS = {"tiny": tiny_subject, "demo": demo_subject}


def make_requests(subject: Subject, count: int, rng: random.Random) -> list[Request]:
    """Random requests, a tenth of them to be aborted."""
    aborted = set(rng.sample(range(count), round(count * SHARE_ABORTED)))
    requests = []
    for index in range(count):
        method = rng.choice(list(subject.methods))
        steps = rng.choice(subject.methods[method][1])
        size, batch = rng.randrange(len(subject.sizes)), rng.choice((1, 2))
        prompt, guidance, seed = rng.randrange(len(subject.prompts)), rng.choice((1.0, 4.0)), rng.randrange(2)
        abort = (rng.choice(ABORTS), rng.randrange(steps - 1)) if index in aborted else None
        requests.append(Request(method, size, steps, batch, prompt, guidance, seed, abort))
    return requests


def run(pipe: Any, subject: Subject, request: Request) -> str:
    """Digest of the video, "interrupted", or the name of what the call raised."""
    callback, undo = _abort(pipe, request)
    try:
        output = pipe(
            prompt=[subject.prompts[request.prompt]] * request.batch,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            generator=torch.Generator().manual_seed(request.seed),
            output_type="np",
            callback_on_step_end=callback,
            **subject.sizes[request.size],
            **subject.others,
        )
    except (Aborted, Exit) as error:
        return type(error).__name__
    finally:
        undo()
    if request.abort is not None:
        return "interrupted"
    return hashlib.sha256(np.ascontiguousarray(output.frames).tobytes()).hexdigest()


def _abort(pipe: Any, request: Request) -> tuple[Callable[..., Any] | None, Callable[[], None]]:
    """A callback that aborts the request as it says; and what is to be called afterwards."""
    if request.abort is None:
        return None, lambda: None
    (how, at), step, thread = request.abort, [-1], threading.get_ident()

    def callback(pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        step[0] = index
        if index == at and how == "interrupt":
            pipe._interrupt = True
        if index == at and how in ("error in the callback", "exit in the callback"):
            raise Aborted if how == "error in the callback" else Exit
        return tensors

    def fail(*_: Any) -> None:
        if threading.get_ident() == thread and step[0] == at - 1:
            raise Aborted

    hook = None
    if how == "error in the denoiser":  # in the first half of a forward, with an entry saved and nothing computed yet
        hook = pipe.transformer.blocks[0].register_forward_hook(fail)
    return callback, hook.remove if hook is not None else lambda: None


def build(subject: Subject) -> Any:
    """A pipeline that shows no progress."""
    pipe = subject.build()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def fresh(subject: Subject, request: Request) -> str:
    """What a pipeline makes that has never made anything before."""
    pipe = build(subject)
    enable_acceleration(pipe, *subject.methods[request.method][0])
    return run(pipe, subject, request)


def sharing(pipe: Any) -> Any:
    """Another pipeline on the same denoiser: what keeps state of a call is its own."""
    other = copy.copy(pipe)
    other.scheduler, other.vae = copy.deepcopy(pipe.scheduler), copy.deepcopy(pipe.vae)
    return other


def tensor_bytes(pipes: list[Any]) -> int:
    """Storage of all tensors that are alive, but for what schedulers keep: that is as large as the last request."""

    def items(value: Any) -> list[Any]:
        return list(value) if isinstance(value, (list, tuple)) else [value]

    gc.collect()
    of_schedulers = {id(each) for pipe in pipes for value in vars(pipe.scheduler).values() for each in items(value)}
    storages = {}
    for found in gc.get_objects():
        if type(found) in (torch.Tensor, torch.nn.Parameter) and id(found) not in of_schedulers:  # no fake ones
            storage = found.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


@dataclass
class Found:
    """What came of the requests; ``memory`` has resident and tensor bytes after each round."""

    outcomes: list[tuple[Request, bool]] = field(default_factory=list)
    memory: list[tuple[int, int]] = field(default_factory=list)

    def growth(self, kind: int) -> float:
        """Percent from the second to the last fifth."""
        values, fifth = [pair[kind] for pair in self.memory], max(len(self.memory) // 5, 1)
        before, after = (statistics.median(part) for part in (values[fifth : 2 * fifth], values[-fifth:]))
        return 100 * (after / before - 1)


def soak(subject: Subject, requests: list[Request], threads: int) -> Found:
    """Serve the requests, ``threads`` at a time."""
    expected = {request: fresh(subject, request) for request in {each for each in requests if each.abort is None}}
    gc.collect()
    workers: dict[str, list[Any]] = {}
    for name, (configs, _) in subject.methods.items():
        pipe = build(subject)
        enable_acceleration(pipe, *configs)
        workers[name] = [pipe, *(sharing(pipe) for _ in range(threads - 1))]
    served = [pipe for pipes in workers.values() for pipe in pipes]
    found = Found()
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(requests), threads):
            batch = requests[start : start + threads]
            pipes = [workers[request.method][index] for index, request in enumerate(batch)]
            results = list(pool.map(functools.partial(_serve, subject, expected), pipes, batch))
            found.outcomes += zip(batch, results, strict=True)
            found.memory.append((psutil.Process().memory_info().rss, tensor_bytes(served)))
    return found


def _serve(subject: Subject, expected: dict[Request, str], pipe: Any, request: Request) -> bool:
    """Whether the outcome is the right one."""
    outcome = run(pipe, subject, request)
    if request.abort is None:
        return outcome == expected[request]
    wanted = {"interrupt": "interrupted", "exit in the callback": "Exit"}.get(request.abort[0], "Aborted")
    return outcome == wanted


def rows_of(found: Found, name: str, threads: int) -> list[Row]:
    """One row a method, one of the aborted requests, one of memory."""
    setting = {"threads": threads, "requests": len(found.outcomes)}
    row = functools.partial(Row, "soak", pipeline=name, setting=setting)
    finished = [(request.method, is_right) for request, is_right in found.outcomes if request.abort is None]
    rows = []
    for method in sorted({method for method, _ in finished}):
        right = [is_right for found_method, is_right in finished if found_method == method]
        figures = {"finished": len(right), "bit_identical": sum(right)}
        rows.append(row(method, figures=figures))
    aborts = Counter(request.abort[0] for request, _ in found.outcomes if request.abort is not None)
    rows.append(row("aborted", figures=dict(aborts)))
    memory = {
        "resident_growth_percent": found.growth(0),
        "tensor_growth_percent": found.growth(1),
        "tensor_mb_least": min(pair[1] for pair in found.memory) / 1e6,
        "tensor_mb_most": max(pair[1] for pair in found.memory) / 1e6,
        "resident_mb_last": found.memory[-1][0] / 1e6,
    }
    return [*rows, row("memory", figures=memory)]


def main() -> None:
    """Serve, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pipeline", choices=SUBJECTS, default="tiny")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    subject = SUBJECTS[options.pipeline]()
    requests = make_requests(subject, options.requests, random.Random(0))
    found = soak(subject, requests, options.threads)
    rows = rows_of(found, options.pipeline, options.threads)
    write_rows(rows, options.out)
    wrong = [request for request, is_right in found.outcomes if not is_right]
    if wrong:
        raise SystemExit(f"{len(wrong)} requests came out wrong, the first of them: {wrong[0]}")


if __name__ == "__main__":
    main()
