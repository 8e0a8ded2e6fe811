"""Schedules with partial and sparse steps, on tiny pipelines: against the methods that they are made of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dit_accel import DBCacheConfig, LeMiCaConfig, SVG2Config, enable_acceleration
from dit_accel.actions import PartialSteps, SparseSteps
from dit_accel.errors import ConfigError, ScheduleMismatchError
from dit_accel.pipelines import wan
from dit_accel.schedule import CacheSchedule

from .conftest import attributes, run_tiny, tiny_pipeline

NUM_STEPS = 6
BRANCHES = ("cond", "uncond")
# Tiny sequences, so clusters of a few tokens; no dense layers, so that every block is reached.
FEW: dict[str, Any] = {
    "top_p": 0.3,
    "min_kept_ratio": 0.0,
    "num_q_centroids": 3,
    "num_k_centroids": 6,
    "min_tokens": 0,
    "dense_layers": 0.0,
}
LARGER = {"height": 32, "width": 32}
MIXED = CacheSchedule(
    NUM_STEPS,
    (0, 1, 5),
    forecasts={3: (0.75, 0.25), 4: (-0.25, 1.25)},
    partial=PartialSteps((2, 3), 1, 1),
    sparse=SparseSteps((1, 5), FEW),
)


class Stop(Exception):
    """Raised inside a block."""


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def full(pipe: Any) -> Tensor:
    return run_tiny(pipe, **LARGER)


@pytest.fixture(scope="module")
def two() -> Any:
    """Two denoisers: the second takes over at step 3."""
    found = wan.tiny_vace()
    found.set_progress_bar_config(disable=True)
    return found


def run_two(pipe: Any, seed: int = 0) -> Tensor:
    inputs = {**wan.tiny_vace_inputs(), "num_inference_steps": NUM_STEPS, "output_type": "latent"}
    latents: Tensor = pipe(generator=torch.Generator().manual_seed(seed), return_dict=False, **inputs)[0]
    return latents


def accelerated(pipe: Any, *configs: Any) -> tuple[Tensor, Any]:
    with enable_acceleration(pipe, *configs) as acceleration:
        found = run_tiny(pipe, **LARGER)
        assert acceleration._record.cache_bytes == 0, "something is held after the last step"
        return found, acceleration.stats


def lemica(compute: tuple[int, ...], forecast: str = "schedule", **actions: Any) -> LeMiCaConfig:
    return LeMiCaConfig(CacheSchedule(NUM_STEPS, compute, **actions), forecast=forecast)


def dbcache(compute: tuple[int, ...], blocks: tuple[int, int], forecast: str = "hold") -> DBCacheConfig:
    """The probe is never asked in vain: all but ``compute`` is reused."""
    return DBCacheConfig(
        *blocks,
        residual_diff_threshold=1e9,
        max_warmup_steps=0,
        max_continuous_cached_steps=None,
        always_compute_last=False,
        forecast=forecast,
        compute_steps=CacheSchedule(NUM_STEPS, compute),
    )


def in_both(*steps: int) -> dict[str, dict[str, list[int]]]:
    return {"transformer": {branch: list(steps) for branch in BRANCHES}}


# Partial steps


@pytest.mark.parametrize("forecast", ["hold", "taylor1", "taylor2"])
@pytest.mark.parametrize("blocks", [(1, 0), (1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("compute", [(0,), (0, 3), (0, 1, 2, 4)])
def test_partial_steps_are_those_of_dbcache(
    pipe: Any, full: Tensor, compute: tuple[int, ...], blocks: tuple[int, int], forecast: str
) -> None:
    others = tuple(step for step in range(NUM_STEPS) if step not in compute)
    found, stats = accelerated(pipe, lemica(compute, forecast, partial=PartialSteps(others, *blocks)))
    expected, probed = accelerated(pipe, dbcache(compute, blocks, forecast))
    assert found.equal(expected) and not found.equal(full)
    assert stats.partial_steps == probed.reused_steps == in_both(*others)
    assert stats.computed_steps == probed.computed_steps == in_both(*compute)
    assert stats.reused_steps == {} and probed.partial_steps == {}


def test_only_correctors_can_be_partial_too(pipe: Any, full: Tensor) -> None:
    """What no probe can decide: at a partial step the last block alone runs."""
    found, stats = accelerated(pipe, lemica((0, 3, 5), partial=PartialSteps((1, 2, 4), 0, 1)))
    reused, _ = accelerated(pipe, lemica((0, 3, 5)))
    assert stats.partial_steps == in_both(1, 2, 4) and stats.computed_steps == in_both(0, 3, 5)
    assert (found - full).abs().mean() < (reused - full).abs().mean()


@pytest.mark.parametrize("blocks", [(4, 0), (0, 4), (2, 2), (9, 1)])
def test_partial_steps_that_leave_nothing_to_cache(pipe: Any, full: Tensor, blocks: tuple[int, int]) -> None:
    before = attributes(pipe)
    with pytest.raises(ConfigError, match=r"leave nothing to cache: transformer .* has 4 blocks"):
        enable_acceleration(pipe, lemica((0, 5), partial=PartialSteps((2,), *blocks)))
    assert attributes(pipe) == before and run_tiny(pipe, **LARGER).equal(full)


# Sparse steps


def test_sparse_at_all_steps_is_svg2(pipe: Any, full: Tensor) -> None:
    steps = tuple(range(NUM_STEPS))
    found, stats = accelerated(pipe, lemica(steps, sparse=SparseSteps(steps, FEW)))
    expected, svg2 = accelerated(pipe, SVG2Config(**{**FEW, "dense_steps": ()}))
    assert found.equal(expected) and not found.equal(full)
    assert stats.computed_steps == svg2.computed_steps == in_both(*steps)
    assert stats.sparse_calls == svg2.sparse_calls == NUM_STEPS * 2 * 4 and stats.dense_calls == 0
    assert (stats.density, stats.attention_error) == (svg2.density, svg2.attention_error)
    assert stats.reused_steps == stats.partial_steps == {}


def test_only_the_sparse_steps_are_sparse(pipe: Any) -> None:
    """The first, which share of a run can name no such set; beside reuse, SVG2 with the others named dense."""
    found, stats = accelerated(pipe, lemica((0, 2, 3), sparse=SparseSteps((0, 3), FEW)))
    expected, svg2 = accelerated(pipe, lemica((0, 2, 3)), SVG2Config(**{**FEW, "dense_steps": (2,)}))
    assert found.equal(expected)
    assert stats.sparse_calls == svg2.sparse_calls == 2 * 2 * 4
    assert stats.sparse_steps == svg2.sparse_steps == in_both(0, 3)
    assert stats.dense_calls == 2 * 4 and stats.dense_reasons == {"dense steps": 2 * 4}


def test_a_second_svg2_is_refused(pipe: Any, full: Tensor) -> None:
    before = attributes(pipe)
    with pytest.raises(ConfigError, match="has sparse steps of its own, and SVG2Config was given besides"):
        enable_acceleration(pipe, SVG2Config(**FEW), lemica((0, 5), sparse=SparseSteps((5,), FEW)))
    assert attributes(pipe) == before and run_tiny(pipe, **LARGER).equal(full)


@pytest.mark.parametrize(
    ("config", "words"),
    [({"top_q": 0.5}, "sparse.config .*top_q"), ({"top_p": 1.5}, "top_p must be"), ({"backend": "x"}, "backend='x'")],
)
def test_sparse_settings_that_svg2_does_not_have(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        lemica((0, 5), sparse=SparseSteps((5,), config))


# All of it


def test_everything_at_once(pipe: Any, full: Tensor) -> None:
    before = attributes(pipe)
    found, stats = accelerated(pipe, LeMiCaConfig(MIXED))
    assert found.isfinite().all() and not found.equal(full)
    assert stats.num_steps == NUM_STEPS
    assert stats.computed_steps == in_both(0, 1, 5)
    assert stats.partial_steps == in_both(2, 3)
    assert stats.reused_steps == in_both(4)
    # At partial steps two of four blocks run, dense.
    assert stats.sparse_calls == 2 * 2 * 4 and stats.dense_calls == 2 * 4 + 2 * 2 * 2
    assert stats.cache_bytes_peak > 0
    assert attributes(pipe) == before and run_tiny(pipe, **LARGER).equal(full)
    again, repeated = accelerated(pipe, LeMiCaConfig(MIXED))
    assert again.equal(found)
    assert repeated.to_dict() | {"denoise_seconds": 0} == stats.to_dict() | {"denoise_seconds": 0}


@pytest.mark.parametrize("left_out", ["forecasts", "partial", "sparse"])
def test_every_part_counts(pipe: Any, left_out: str) -> None:
    parts = {"forecasts": MIXED.forecasts, "partial": MIXED.partial, "sparse": MIXED.sparse}
    found, _ = accelerated(pipe, LeMiCaConfig(MIXED))
    del parts[left_out]
    without, _ = accelerated(pipe, lemica(MIXED.compute_steps, **parts))
    assert not without.equal(found)


def test_a_saved_schedule_runs_the_same(pipe: Any, tmp_path: Any) -> None:
    MIXED.save(tmp_path / "mixed.json")
    assert CacheSchedule.load(tmp_path / "mixed.json") == MIXED
    found, _ = accelerated(pipe, LeMiCaConfig(tmp_path / "mixed.json"))
    assert found.equal(accelerated(pipe, LeMiCaConfig(MIXED))[0])


def test_buffers_are_freed_as_soon_as_nothing_needs_them(pipe: Any) -> None:
    held = {}
    with enable_acceleration(pipe, lemica((0, 3, 5), partial=PartialSteps((1,), 1, 1))) as acceleration:

        def look(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            held[step] = acceleration._record.cache_bytes
            return tensors

        run_tiny(pipe, callback_on_step_end=look)
    # After step 0 the residuals of the middle and of all blocks; after 1 that of all; after 2 none; then step 3's.
    assert held[0] == 2 * held[1] and held[1] == held[3] > 0 and held[2] == held[4] == held[5] == 0


@pytest.mark.parametrize("fails_at", range(2 * NUM_STEPS))
def test_a_run_after_one_that_failed_in_a_block_is_as_fresh(pipe: Any, fails_at: int) -> None:
    """In the first block, which runs at compute and partial steps of both branches."""
    block, calls = pipe.transformer.blocks[0], iter(range(2 * NUM_STEPS + 1))

    def fail(*_: Any) -> None:
        if next(calls) == fails_at:
            raise Stop

    expected, stats = accelerated(pipe, LeMiCaConfig(MIXED))
    with enable_acceleration(pipe, LeMiCaConfig(MIXED)) as acceleration:
        handle = block.ffn.register_forward_hook(fail)
        try:
            if fails_at < 2 * (NUM_STEPS - 1):  # at one step of the six the block does not run
                with pytest.raises(Stop):
                    run_tiny(pipe, **LARGER)
            else:
                run_tiny(pipe, **LARGER)
        finally:
            handle.remove()
        assert run_tiny(pipe, **LARGER).equal(expected)
        assert acceleration.stats.partial_steps == stats.partial_steps
        assert acceleration.stats.cache_bytes_peak == stats.cache_bytes_peak
        assert acceleration._record.cache_bytes == 0


def test_a_run_of_another_number_of_steps(pipe: Any, full: Tensor) -> None:
    mismatch = pytest.raises(ScheduleMismatchError, match="planned for 6 steps, this run has 5")
    with enable_acceleration(pipe, LeMiCaConfig(MIXED)), mismatch:
        run_tiny(pipe, num_inference_steps=5)
    assert run_tiny(pipe, **LARGER).equal(full)


@pytest.mark.parametrize(
    "actions", [{"forecasts": {2: (0.5, 0.5)}}, {"partial": PartialSteps((2,), 1, 0)}], ids=["forecasts", "partial"]
)
def test_what_outputs_cannot_be_made_from(actions: dict[str, Any]) -> None:
    schedule = CacheSchedule(NUM_STEPS, (0, 1, 5), **actions)
    with pytest.raises(ConfigError, match="reuse='output' does not go with"):
        LeMiCaConfig(schedule, reuse="output")


def test_outputs_go_with_sparse_steps(pipe: Any) -> None:
    schedule = CacheSchedule(NUM_STEPS, (0, 2, 5), sparse=SparseSteps((2,), FEW), forecasts={3: (0.5, 0.5)})
    found, stats = accelerated(pipe, LeMiCaConfig(schedule, reuse="output", forecast="hold"))
    svg2 = SVG2Config(**{**FEW, "dense_steps": (0, 5)})
    plain = CacheSchedule(NUM_STEPS, (0, 2, 5))
    assert found.equal(accelerated(pipe, LeMiCaConfig(plain, reuse="output"), svg2)[0])
    assert stats.sparse_calls == 2 * 4


# Two denoisers


def test_two_denoisers(two: Any) -> None:
    full = run_two(two)
    with enable_acceleration(two, LeMiCaConfig(MIXED)) as acceleration:
        found, stats = run_two(two), acceleration.stats
        assert acceleration._record.cache_bytes == 0
        run_two(two, seed=1)
        assert run_two(two).equal(found)
    assert not found.equal(full) and run_two(two).equal(full)
    by_step: dict[int, list[str]] = {}
    for kind in ("computed", "partial", "reused"):
        for name, branches in getattr(stats, f"{kind}_steps").items():
            assert set(branches) <= set(BRANCHES) and len(set(map(tuple, branches.values()))) == 1
            for step in branches.get("cond", []):
                by_step.setdefault(step, []).append(f"{name} {kind}")
    assert sorted(by_step) == list(range(NUM_STEPS)) and all(len(found) == 1 for found in by_step.values())
    first = min(step for step, found in by_step.items() if found[0].startswith("transformer_2"))
    # Nothing of the first denoiser may be reused by the second: whatever is planned there, all its blocks run.
    assert by_step[first] == ["transformer_2 computed"]
    assert by_step[0] == ["transformer computed"]
