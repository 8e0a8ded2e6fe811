"""Sparse attention on every pipeline class: where it goes, that it changes nothing it should not, and its undo."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from dit_accel import SVG2Config, available_presets, enable_acceleration
from dit_accel.errors import UnsupportedPipelineError
from dit_accel.run_record import AccelerationStats
from dit_accel.specs import AttentionSpec, PipelineSpec

from .conftest import CLASSES, Lab, attributes

# Tiny sequences, so clusters of a few tokens; no dense steps or layers, so that every block is reached.
FEW: dict[str, Any] = {
    "min_tokens": 0,
    "num_q_centroids": 3,
    "num_k_centroids": 6,
    "dense_steps": 0,
    "dense_layers": 0,
}
ALL_KEPT = SVG2Config(top_p=1.0, **FEW)
SPARSE = SVG2Config(top_p=0.3, min_kept_ratio=0.0, **FEW)
# In-context tokens are masked from some of the others, which clusters cannot express.
DENSE = {"LTX2InContextPipeline"}


class Stop(Exception):
    """Raised inside a block."""


@pytest.fixture
def lab(lab: Lab) -> Lab:
    return lab.short


def applies(pair: tuple[PipelineSpec, str]) -> bool:
    return all(isinstance(blocks.attention, AttentionSpec) for blocks in pair[0].denoisers.values())


def name_of(pair: tuple[PipelineSpec, str]) -> str:
    return pair[1].rsplit(".", 1)[1]


every_sparse = pytest.mark.parametrize("lab", list(filter(applies, CLASSES)), indirect=True, ids=name_of)
every_other = pytest.mark.parametrize("lab", list(itertools.filterfalse(applies, CLASSES)), indirect=True, ids=name_of)


def is_masked(lab: Lab) -> bool:
    """Whether some text of the call is padding."""
    return any(spec.attention.masks_only_text for spec in lab.spec.denoisers.values())


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@every_other
def test_what_has_no_quadratic_attention_is_refused_with_the_reason(lab: Lab) -> None:
    before = attributes(lab)
    with pytest.raises(UnsupportedPipelineError, match=r"SVG2 does not apply to \w+\.transformer: .*Use a preset"):
        enable_acceleration(lab.pipe, ALL_KEPT)
    assert attributes(lab) == before
    assert not any(name.startswith("svg2") for name in available_presets(lab.pipe))


@every_sparse
def test_all_clusters_kept_is_dense_attention_and_nothing_is_left_behind(lab: Lab) -> None:
    expected, before = lab.full, attributes(lab)
    with enable_acceleration(lab.pipe, ALL_KEPT) as acceleration:
        found = lab.run()
        stats = acceleration.stats
    assert relative_error(found, expected) < 1e-4
    assert attributes(lab) == before
    assert lab.run().equal(expected)
    if type(lab.pipe).__name__ in DENSE:
        assert stats.sparse_calls == 0 and stats.dense_reasons["attention mask"] > 0 and stats.density == 1
        return
    # Spatio-temporal guidance of LTX-2 has blocks without attention.
    assert stats.sparse_calls > 0 and set(stats.dense_reasons) <= {"its attention was not reached"}
    assert stats.sparse_density is not None
    assert 0 < stats.sparse_density <= 1 if is_masked(lab) else stats.sparse_density == pytest.approx(1)
    assert stats.attention_error == pytest.approx(0, abs=1e-5)
    ran = {name: {b: sorted(steps) for b, steps in d.items()} for name, d in stats.computed_steps.items()}
    assert all(steps == sorted(set(steps)) for d in ran.values() for steps in d.values())
    assert stats.reused_steps == {}


@every_sparse
def test_sparse_runs_repeat_and_leave_no_state_behind(lab: Lab, sparse_layers: list[Any]) -> None:
    if type(lab.pipe).__name__ in DENSE:
        return
    with enable_acceleration(lab.pipe, SPARSE) as acceleration:
        found = lab.run()
        stats = acceleration.stats
        assert not any(layer.nbytes for layer in sparse_layers)
        assert stats.cache_bytes_peak > 0
        lab.run(seed=1)
        assert lab.run().equal(found)
        assert acceleration.stats.to_dict() | {"denoise_seconds": 0} == stats.to_dict() | {"denoise_seconds": 0}
    assert found.isfinite().all() and not found.equal(lab.full)
    assert stats.sparse_density is not None and stats.sparse_density < 1
    assert stats.attention_error is not None and stats.attention_error > 0
    assert lab.run().equal(lab.full)


@every_sparse
def test_other_kinds_of_call(lab: Lab) -> None:
    """A batch, no guidance, another size: right one after the other, on one enabled pipeline."""
    plain = {label: lab.other(label)[0] for label in lab.tiny.variations}
    with enable_acceleration(lab.pipe, ALL_KEPT):
        for label, changes in lab.tiny.variations.items():
            assert relative_error(lab.run(**changes), plain[label]) < 1e-4, label
        assert relative_error(lab.run(), lab.full) < 1e-4


@every_sparse
def test_a_run_after_one_that_failed_in_a_block_is_as_fresh(lab: Lab) -> None:
    block = next(iter(lab.ranges().values())).blocks[0]
    calls = iter(range(3))

    def fail(*_: Any) -> None:
        if next(calls) == 2:
            raise Stop

    with enable_acceleration(lab.pipe, SPARSE):
        expected = lab.run()
        handle = next(m for m in block.modules() if isinstance(m, torch.nn.Linear)).register_forward_hook(fail)
        with pytest.raises(Stop):
            lab.run(seed=1)
        handle.remove()
        assert lab.run().equal(expected)


@every_sparse
def test_with_a_schedule_attention_is_clustered_at_computed_steps_alone(lab: Lab) -> None:
    reused = lab.reused
    with enable_acceleration(lab.pipe, lab.schedule(), ALL_KEPT) as acceleration:
        found = lab.run()
        lab.assert_follows(acceleration)
        stats = acceleration.stats
    assert relative_error(found, reused) < 1e-4
    assert stats.sparse_calls + stats.dense_calls == attention_calls(lab, stats)
    assert lab.run().equal(lab.full)


def attention_calls(lab: Lab, stats: AccelerationStats) -> int:
    """How often the blocks run in all. Mochi's attend once for each video of a batch."""
    total = 0
    each = 2 if type(lab.pipe).__name__ == "MochiPipeline" else 1
    for name, found in lab.ranges().items():
        num_cached = found.last - found.first + 1
        for steps, num_blocks in (
            (stats.computed_steps, len(found.blocks)),
            (stats.reused_steps, len(found.blocks) - num_cached),
        ):
            total += each * num_blocks * sum(map(len, steps.get(name, {}).values()))
    return total
