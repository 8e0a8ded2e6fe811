"""Sparse attention beside other things that hook into the same modules, in either order, and beside the caches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.hooks import LayerSkipConfig, apply_layer_skip
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from dit_accel import DBCacheConfig, SVG2Config, enable_acceleration
from dit_accel.errors import BackendUnavailableError, UnsupportedPipelineError

from .conftest import CLASSES, NUM_STEPS, Lab, attributes, make_lab
from .settings import CHOICE, REMOVABLE, SETTINGS, Setting, every_order, in_order
from .test_svg2 import FEW, SPARSE, relative_error

pytestmark = pytest.mark.usefixtures("folder", "fresh_compiler")
OTHERS = ["CogVideoXPipeline", "MochiPipeline", "HunyuanVideoPipeline", "HunyuanVideo15Pipeline"]


def lab_of(cls: str) -> Lab:
    return make_lab(*next(pair for pair in CLASSES if pair[1].endswith(f".{cls}")))


def sparse_run(cls: str, name: str) -> Tensor:
    """What the class makes in the setting, enabled last."""
    lab = lab_of(cls)
    SETTINGS[name].apply(lab)
    with enable_acceleration(lab.pipe, SPARSE):
        return lab.run()


def check_run_and_undo(cls: str, name: str, order: str) -> None:
    plain, setting = lab_of(cls), SETTINGS[name]
    setting.apply(plain)
    expected = plain.run()
    lab = lab_of(cls)
    acceleration = in_order(order, lab, setting, lambda lab: enable_acceleration(lab.pipe, SPARSE))
    found = lab.run()
    assert found.equal(sparse_run(cls, name)) and not found.equal(expected)
    assert acceleration.stats.sparse_calls > 0 and acceleration.stats.dense_calls == 0
    acceleration.disable()
    assert lab.run().equal(expected)


@every_order
@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_in_either_order(name: str, order: str) -> None:
    check_run_and_undo("WanPipeline", name, order)


@every_order
@pytest.mark.parametrize("name", CHOICE)
@pytest.mark.parametrize("cls", OTHERS)
def test_families_whose_processors_do_not_use_the_dispatcher_and_joint_attention(
    cls: str, name: str, order: str
) -> None:
    check_run_and_undo(cls, name, order)


@every_order
@pytest.mark.parametrize("name", REMOVABLE)
def test_a_setting_may_be_removed_while_enabled(wan: Lab, name: str, order: str) -> None:
    plain = wan.run()
    with enable_acceleration(wan.pipe, SPARSE):
        sparse = wan.run()
    acceleration = in_order(order, wan, SETTINGS[name], lambda lab: enable_acceleration(lab.pipe, SPARSE))
    assert SETTINGS[name].remove is not None
    SETTINGS[name].remove(wan)
    assert wan.run().equal(sparse)
    acceleration.disable()
    assert wan.run().equal(plain)


def compile_blocks(lab: Lab, counter: CompileCounter) -> None:
    for block in lab.blocks:
        block.compile(backend=counter, fullgraph=True)


@every_order
@pytest.mark.parametrize("cls", ["WanPipeline", "CogVideoXPipeline", "HunyuanVideo15Pipeline"])
def test_a_compiled_block_stays_one_graph_for_all_blocks(cls: str, order: str) -> None:
    plain, few = lab_of(cls), CompileCounter()
    compile_blocks(plain, few)
    plain.run()
    torch._dynamo.reset()
    lab, counter = lab_of(cls), CompileCounter()
    if order == "before":
        compile_blocks(lab, counter)
    with enable_acceleration(lab.pipe, SPARSE) as acceleration:
        if order == "after":
            compile_blocks(lab, counter)
        found = lab.run()
        assert acceleration.stats.sparse_calls > 0 and acceleration.stats.dense_calls == 0
    assert counter.frame_count == few.frame_count < len(lab.blocks)
    assert relative_error(found, eager_run(cls)) < 1e-4


def eager_run(cls: str) -> Tensor:
    lab = lab_of(cls)
    with enable_acceleration(lab.pipe, SPARSE):
        return lab.run()


def test_dense_steps_and_layers_are_counted(wan: Lab) -> None:
    config = SVG2Config(**{**FEW, "dense_steps": 0.25, "dense_layers": 0.5, "top_p": 0.3})
    with enable_acceleration(wan.pipe, config) as acceleration:
        wan.run()
        stats = acceleration.stats
    (blocks,) = [len(found.blocks) for found in wan.ranges().values()]
    branches = len(stats.computed_steps["transformer"])
    first_steps = NUM_STEPS // 4
    assert stats.dense_reasons == {
        "first steps": first_steps * branches * blocks,
        "first layers": (NUM_STEPS - first_steps) * branches * (blocks // 2),
    }
    assert stats.sparse_calls == (NUM_STEPS - first_steps) * branches * (blocks - blocks // 2)
    assert stats.attention_errors["transformer"][: blocks // 2] == [None] * (blocks // 2)


def test_short_sequences_are_dense_bit_for_bit_and_the_stats_tell(wan: Lab) -> None:
    with enable_acceleration(wan.pipe, SVG2Config(dense_steps=0, dense_layers=0)) as acceleration:
        assert wan.run().equal(wan.full)
        assert acceleration.stats.dense_reasons == {"fewer than 4096 tokens": acceleration.stats.dense_calls}
        assert (acceleration.stats.density, acceleration.stats.sparse_density) == (1.0, None)


def test_a_backend_that_cannot_run_here_is_refused_when_enabling(wan: Lab) -> None:
    before = attributes(wan)
    with pytest.raises(BackendUnavailableError, match="flashinfer"):
        enable_acceleration(wan.pipe, SVG2Config(backend="flashinfer"))
    assert attributes(wan) == before


def test_a_processor_that_cannot_be_reached_is_refused_when_enabling(wan: Lab) -> None:
    class Own:
        def __call__(self, attn: nn.Module, hidden_states: Tensor, **_: Any) -> Tensor:
            return hidden_states

    attention = wan.blocks[1].attn1
    original, attention.processor = attention.processor, Own()
    before = attributes(wan)
    with pytest.raises(
        UnsupportedPipelineError, match=r"cannot reach the attention of Own.*default attention processor"
    ):
        enable_acceleration(wan.pipe, SPARSE)
    assert attributes(wan) == before
    attention.processor = original


def test_a_processor_that_is_replaced_while_enabled_is_kept_and_counted(wan: Lab) -> None:
    with enable_acceleration(wan.pipe, SPARSE) as acceleration:
        mine = type(wan.blocks[0].attn2.processor)()
        wan.blocks[0].attn1.set_processor(mine)
        wan.run()
        calls = NUM_STEPS * len(acceleration.stats.computed_steps["transformer"])
        assert acceleration.stats.dense_reasons == {"its attention was not reached": calls}
    assert wan.blocks[0].attn1.processor is mine


def test_a_backend_set_while_enabled_is_there_afterwards(wan: Lab) -> None:
    processor = wan.blocks[0].attn1.processor
    with enable_acceleration(wan.pipe, SPARSE):
        wan.blocks[0].attn1.processor._attention_backend = "math"
    assert wan.blocks[0].attn1.processor is processor and processor._attention_backend == "math"


@every_order
@pytest.mark.parametrize("skipped", ["scores", "attention"])
def test_attention_that_is_perturbed_as_guiders_do_it_stays_perturbed(skipped: str, order: str) -> None:
    lab = lab_of("LattePipeline")
    plain = lab.run()
    layers = LayerSkipConfig(
        indices=[0],
        fqn="transformer_blocks",
        skip_attention=skipped == "attention",
        skip_attention_scores=skipped == "scores",
        skip_ff=False,
    )
    perturbed = Setting(lambda lab: apply_layer_skip(lab.pipe.transformer, layers))
    other = lab_of("LattePipeline")
    perturbed.apply(other)
    expected = other.run()
    assert not expected.equal(plain)
    every = SVG2Config(top_p=1.0, **FEW)
    with in_order(order, lab, perturbed, lambda lab: enable_acceleration(lab.pipe, every)) as acceleration:
        found = lab.run()
        reasons = acceleration.stats.dense_reasons
    assert relative_error(found, expected) < 1e-4
    assert set(reasons) == ({"a guider changes this attention"} if skipped == "scores" else set())


def test_the_probe_and_sparse_attention_share_a_run(wan: Lab) -> None:
    with wan.enable_dbcache() as acceleration:
        alone, steps = wan.run(), acceleration.stats.computed_steps
    config = SVG2Config(top_p=1.0, **FEW)
    loose: dict[str, Any] = {"residual_diff_threshold": 1e9, "max_warmup_steps": 1, "max_continuous_cached_steps": 2}
    dbcache = DBCacheConfig(**loose, always_compute_last=False)
    with enable_acceleration(wan.pipe, dbcache, config) as acceleration:
        both = wan.run()
        stats = acceleration.stats
    assert stats.computed_steps == steps and stats.sparse_calls > 0
    assert relative_error(both, alone) < 1e-4
    assert torch.equal(wan.run(), wan.full)
