"""What the processes of a test do, see `processes.run_ranks`. A job yields what it found, name by name.

The same job in a single process does without parallelism and so is what the others are compared with.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.multiprocessing
from diffusers import ContextParallelConfig, WanTransformer3DModel
from diffusers.hooks import context_parallel
from diffusers.models import attention_dispatch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.nn.functional import pad

import dit_accel
from dit_accel import CacheSchedule, DBCacheConfig, LeMiCaConfig, SVG2Config
from dit_accel.actions import PartialSteps, SparseSteps
from dit_accel.cache import install
from dit_accel.pipelines import wan
from dit_accel.pipelines.tiny.wan import wan_transformer

Found = Iterator[tuple[str, dict[str, Any]]]
RANK, RANKS = 0, int(os.environ["RANKS"])
PROMPTS = ("a red seven spinning on navy", "a blue two moving left on gray")
STEPS = 10
SCHEDULE = LeMiCaConfig(CacheSchedule(STEPS, (0, 1, 4, 8, 9)))
KNOBS = {"top_p": 0.5, "num_q_centroids": 4, "num_k_centroids": 12, "min_tokens": 0, "dense_layers": 0}
SVG2 = SVG2Config(**KNOBS)
ACTIONS = LeMiCaConfig(
    CacheSchedule(STEPS, (0, 2, 4, 8, 9), sparse=SparseSteps((4, 8), KNOBS), partial=PartialSteps((3, 6), 1, 1))
)
DBCACHE = DBCacheConfig(residual_diff_threshold=0.15, max_warmup_steps=1)
CASES: dict[str, tuple[Any, ...]] = {
    "schedule": (SCHEDULE,),
    "schedule, output": (replace(SCHEDULE, reuse="output"),),
    "sparse and partial steps": (ACTIONS,),
    "dbcache": (DBCACHE,),
    "dbcache, taylor": (replace(DBCACHE, probe_blocks=2, corrector_blocks=1, forecast="taylor1"),),
    "svg2": (SVG2,),
    "svg2, reference": (replace(SVG2, backend="reference"),),
    "svg2, when it drifts": (replace(SVG2, refresh_every=4, max_drift=0.05),),
    "svg2, bare": (replace(SVG2, compensate=False, probe_rows=0),),
    "schedule and svg2": (SCHEDULE, SVG2),
    "dbcache and svg2": (DBCACHE, SVG2),
}
REPLICAS = (DBCACHE, replace(DBCACHE, residual_diff_threshold=0.08))
STATS = ("computed_steps", "reused_steps", "partial_steps", "sparse_steps", "residual_diffs", "dense_reasons")


def tiny_pipeline(heads: int = 4) -> Any:
    """A tiny Wan with so many heads."""
    pipe = wan.tiny()
    pipe.transformer = wan_transformer(WanTransformer3DModel, num_attention_heads=heads)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def demo_pipeline() -> Any:
    """The embedded model."""
    pipe = dit_accel.load_demo_pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def divide(pipe: Any, **config: Any) -> None:
    """Context parallelism, over all ranks by Ulysses if nothing else is asked for; nothing in a single process."""
    if RANKS > 1:
        config = config or {"ulysses_degree": RANKS}
        pipe.transformer.enable_parallelism(config=ContextParallelConfig(**config))


def run(pipe: Any, acceleration: Any = None, *, prompt: str = PROMPTS[0], **inputs: Any) -> dict[str, Any]:
    """One call: its latents, and what was done in it."""
    small = {"height": 48, "width": 64, "num_frames": 9, "guidance_scale": 4.0, "max_sequence_length": 16}
    inputs = {"num_inference_steps": STEPS, **small, **inputs}
    generator = torch.Generator().manual_seed(0)
    latents = pipe(prompt=prompt, output_type="latent", generator=generator, **inputs).frames
    if acceleration is None:
        return {"latents": latents}
    stats = acceleration.stats.to_dict()
    return {"latents": latents, **{name: stats[name] for name in (*STATS, "sparse_calls", "density")}}


def accelerated(
    pipe: Any, order: str, *configs: Any, parallel: dict[str, Any] | None = None, **inputs: Any
) -> dict[str, Any]:
    """`run` with acceleration enabled ``"before"`` or ``"after"`` parallelism, or without touching that."""
    if order == "after":
        divide(pipe, **parallel or {})
    with dit_accel.enable_acceleration(pipe, *configs) as acceleration:
        if order == "before":
            divide(pipe, **parallel or {})
        return run(pipe, acceleration, **inputs)


def plain() -> Found:
    """Not accelerated."""
    pipe = tiny_pipeline()
    divide(pipe)
    yield "plain", run(pipe)


def cases(order: str, *names: str) -> Found:
    """Every kind of configuration on a tiny model, or those of these names."""
    for name in names or CASES:
        yield name, accelerated(tiny_pipeline(), order, *CASES[name])


def presets() -> Found:
    """Every preset of the embedded model, and joint ones, with its first blocks, small pictures and one branch."""
    pipe = demo_pipeline()
    pipe.transformer.blocks = pipe.transformer.blocks[:5]
    divide(pipe)
    for name in (*dit_accel.available_presets(pipe), "lemica-fast+svg2", "dbcache-fast+svg2-turbo"):
        small = {"height": 32, "width": 32, "num_frames": 2, "guidance_scale": 1.0}
        inputs = {**dit_accel.DEMO_INPUTS, **small, "num_inference_steps": 50}
        yield name, accelerated(pipe, "as it is", name, **inputs)


def runs(thresholds: str = "[]") -> Found:
    """Fifty runs of one pipeline, each with another threshold: even ones, and then distances that these runs met."""
    pipe = tiny_pipeline()
    divide(pipe)
    wanted: list[float] = json.loads(thresholds) or [0.02 + k / 100 for k in range(25)]
    met: list[float] = []
    for number in range(50):
        if number == len(wanted):
            unused = sorted(set(met) - set(wanted))
            wanted.append(unused[len(unused) // 2] if unused else 0.02 + number / 100)
        config = replace(DBCACHE, residual_diff_threshold=wanted[number])
        found = accelerated(pipe, "as it is", config, height=32, width=32, num_inference_steps=6)
        met += [distance for _, distance in found["residual_diffs"]["transformer"]]
        yield repr(wanted[number]), found


def uneven(order: str) -> Found:
    """Three heads and 27 tokens, which two ranks do not divide."""
    anything = {"ulysses_degree": RANKS, "ulysses_anything": True}
    with patch.object(context_parallel, "_all_gather_anything", _gather_uneven):
        for name in ("schedule", "dbcache", "svg2", "svg2, when it drifts"):
            yield name, accelerated(tiny_pipeline(heads=3), order, *CASES[name], parallel=anything, width=48)


def _gather_uneven(tensor: Tensor, dim: int, group: Any) -> Tensor:
    """What diffusers does with one collective that NCCL has and gloo has not."""
    sizes = context_parallel.gather_size_by_comm(tensor.shape[dim], group)
    padded = pad(tensor.movedim(dim, -1), (0, max(sizes) - tensor.shape[dim])).contiguous()
    gathered = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(gathered, padded, group=group)
    return torch.cat([part[..., :size] for part, size in zip(gathered, sizes, strict=True)], -1).movedim(-1, dim)


def ring(order: str, ulysses_degree: str = "1") -> Found:
    """Caches under ring attention, and what SVG2 says to it."""
    degrees = {"ring_degree": RANKS // int(ulysses_degree), "ulysses_degree": int(ulysses_degree)}
    with patch.object(attention_dispatch, "_native_attention_forward_op", _attention_with_lse):
        for name in ("schedule", "dbcache"):
            yield name, accelerated(tiny_pipeline(), order, *CASES[name], parallel=degrees)
    if RANKS > 1:
        yield "svg2", {"error": _error_of(order, degrees)}


def _error_of(order: str, degrees: dict[str, Any]) -> str:
    try:
        accelerated(tiny_pipeline(), order, SVG2, parallel=degrees)
    except dit_accel.DitAccelError as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def _attention_with_lse(_: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> Any:
    """Ring attention needs the log of the sum of exponentials, which diffusers' operation for CPUs does not give."""
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5
    out = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), value)
    return out, scores.logsumexp(-1).transpose(1, 2)


def replicas(ranks_each: str) -> Found:
    """Each replica has a pipeline, a prompt and a threshold of its own, and the second one stops early once more."""
    size = int(ranks_each)
    mesh = init_device_mesh("cpu", (max(1, RANKS // size), 1, size), mesh_dim_names=("replica", "ring", "ulysses"))
    for replica in range(2) if RANKS == 1 else (mesh.get_local_rank("replica"),):
        pipe = tiny_pipeline()
        if size > 1:
            divide(pipe, ulysses_degree=size, mesh=mesh)
        with dit_accel.enable_acceleration(pipe, REPLICAS[replica]) as acceleration:
            if replica == 1:
                run(pipe, acceleration, prompt=PROMPTS[replica], callback_on_step_end=_interrupt)
                assert acceleration.stats.computed_steps["transformer"]["cond"][-1] <= 3
            yield str(replica), run(pipe, acceleration, prompt=PROMPTS[replica])


def _interrupt(pipe: Any, step: int, *_: Any) -> dict[str, Any]:
    pipe._interrupt = step >= 3
    return {}


def sharded(order: str) -> Found:
    """Weights sharded over the ranks by FSDP2, where each rank has a prompt of its own."""
    for name in ("schedule", "dbcache", "svg2"):
        for replica in range(2) if RANKS == 1 else (RANK,):
            pipe = tiny_pipeline()
            if order == "after":
                _shard(pipe)
            with dit_accel.enable_acceleration(pipe, *CASES[name]) as acceleration:
                if order == "before":
                    _shard(pipe)
                yield f"{name}, prompt {replica}", run(pipe, acceleration, prompt=PROMPTS[replica])
            yield f"{name}, disabled, prompt {replica}", run(pipe, prompt=PROMPTS[replica])


def _shard(pipe: Any) -> None:
    if RANKS > 1:
        mesh = init_device_mesh("cpu", (RANKS,))
        for module in (*pipe.transformer.blocks, pipe.transformer):
            fully_shard(module, mesh=mesh)


def together_and_alone() -> Found:
    """Runs that the ranks share, and the same by each rank alone; one with a threshold between what they measure."""
    pipe = tiny_pipeline()
    divide(pipe)
    never = replace(DBCACHE, residual_diff_threshold=0)
    with patch.object(install, "rank_sum", lambda _, sums: sums):  # each of its own part; nothing is reused
        local = accelerated(pipe, "as it is", never)["residual_diffs"]["transformer"]
    every = [torch.zeros(len(local), dtype=torch.float64) for _ in range(RANKS)]
    dist.all_gather(every, torch.tensor([distance for _, distance in local], dtype=torch.float64))
    apart = (every[0] - every[1]).abs().argmax()
    threshold = float(every[0][apart] + every[1][apart]) / 2
    yield "straddling", {"local": tuple(local[apart]), "threshold": threshold}
    cases = {
        "straddling": (replace(DBCACHE, residual_diff_threshold=threshold),),
        "dbcache": CASES["dbcache"],
        "lemica": CASES["schedule"],
        "dbcache and svg2": CASES["dbcache and svg2"],
    }
    for name, configs in cases.items():
        yield f"{name}, whole", accelerated(tiny_pipeline(), "as it is", *configs)
        for order in ("before", "after"):
            yield f"{name}, {order}", accelerated(tiny_pipeline(), order, *configs)


def wrapped() -> Found:
    """FSDP1, which puts modules of its own around the blocks."""
    pipe = tiny_pipeline()
    policy = ModuleWrapPolicy({type(pipe.transformer.blocks[0])})
    device = torch.device("cpu")
    pipe.transformer = FullyShardedDataParallel(pipe.transformer, auto_wrap_policy=policy, device_id=device)
    for name, configs in CASES.items():
        try:
            dit_accel.enable_acceleration(pipe, *configs)
        except dit_accel.DitAccelError as error:
            yield name, {"error": f"{type(error).__name__}: {error}"}


def work(rank: int, folder: Path, jobs: dict[str, list[str]]) -> None:
    """One rank: run the jobs and leave what they found in the folder."""
    global RANK
    RANK = rank
    torch.set_num_threads(1)
    torch.accelerator.device_count = lambda: 1  # a CPU has none, and diffusers divides by it
    dist.init_process_group("gloo", f"file://{folder / 'store'}", datetime.timedelta(seconds=300), RANKS, RANK)
    found = {label: dict(globals()[job](*settings)) for label, (job, *settings) in jobs.items()}
    torch.save(found, folder / f"{RANK}.pt")
    dist.barrier()
    os._exit(0)  # gloo's threads now and then abort the interpreter's exit; what was found is on disk


if __name__ == "__main__":
    # Forked, because what is imported above takes longer than most jobs. Ends all ranks if one raises.
    arguments = (Path(sys.argv[1]), json.loads(sys.argv[2]))
    torch.multiprocessing.start_processes(work, arguments, RANKS, start_method="fork")
