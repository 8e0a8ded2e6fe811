"""The executor on a denoiser whose arithmetic fits in the head: blocks add 10 and 20, so the residual is 30."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from .conftest import Add, AddTwo, Bench, equals


def test_a_reused_step_is_its_input_plus_the_kept_residual():
    bench = Bench([Add(10), Add(20)], compute=(0, 3))
    assert equals(bench.step(0, 1), 1 + 30)
    assert bench.calls == [1, 1]
    assert equals(bench.step(1, 11), 11 + 30)
    assert equals(bench.step(2, 100), 100 + 30)
    assert bench.calls == [1, 1]
    assert equals(bench.step(3, 7), 7 + 30)
    assert bench.calls == [2, 2]
    assert bench.stats == ({"cond": [0, 3]}, {"cond": [1, 2]})


def test_the_residual_of_the_last_computed_step_is_used():
    blocks = [Add(10), Add(20)]
    bench = Bench(blocks, compute=(0, 2))
    bench.step(0, 1)
    assert equals(bench.step(1, 5), 35)
    blocks[0].amount = 1000
    bench.step(2, 1)
    assert equals(bench.step(3, 5), 5 + 1020)


def test_branches_keep_a_residual_each():
    blocks = [Add(10), Add(20)]
    bench = Bench(blocks, compute=(0,))
    bench.step(0, 1, "cond")
    blocks[1].amount = 200
    bench.step(0, 1, "uncond")
    assert equals(bench.step(1, 5, "cond"), 35)
    assert equals(bench.step(1, 5, "uncond"), 215)
    assert bench.stats == ({"cond": [0], "uncond": [0]}, {"cond": [1], "uncond": [1]})


def test_probe_and_corrector_blocks_always_run():
    bench = Bench([Add(1), Add(10), Add(20), Add(300)], compute=(0,), probe=1, corrector=1)
    assert equals(bench.step(0, 0), 331)
    bench.blocks[0].amount, bench.blocks[3].amount = 2, 400
    assert equals(bench.step(1, 0), 2 + 30 + 400)
    assert bench.calls == [2, 1, 1, 2]


def test_a_range_of_one_block():
    bench = Bench([Add(10)], compute=(0,))
    bench.step(0, 1)
    assert equals(bench.step(1, 5), 15)
    assert bench.calls == [1]


def test_two_streams_have_a_residual_each_by_position_and_by_keyword():
    blocks = [AddTwo(10), AddTwo(20)]
    bench = Bench(blocks, compute=(0,), streams=("text", "video"))
    text, video = torch.zeros(1, 2), torch.ones(1, 5)
    with torch.no_grad():
        for step, (text_in, video_in) in enumerate([(text, video), (text + 7, video + 8)]):
            bench.begin(step)
            t, v = blocks[0](True, text_in, video=video_in)
            assert isinstance(t, Tensor)
            t, v = blocks[1](flag=True, video=v, text=t)
            bench.executor.end(v)
            assert equals(t, float(text_in[0, 0]) + 30)
            assert equals(v, float(video_in[0, 0]) + 60)
            assert (t.shape, v.shape) == ((1, 2), (1, 5))
    assert bench.calls == [1, 1]
    assert bench.record.stats().cache_bytes_peak == (2 + 5) * 4


@pytest.mark.parametrize("in_place", [False, True])
def test_what_is_added_between_blocks_counts_once(in_place):
    """As VACE hints are. The kept residual holds the hint already; at reuse the model adds it again."""
    blocks = [Add(10), Add(20)]
    bench = Bench(blocks, compute=(0,))
    with torch.no_grad():
        for step, value in enumerate([1.0, 11.0]):
            given = torch.full((1, 2), value)
            bench.begin(step)
            x = blocks[0](given)
            if in_place:
                x += 500
            else:
                x = x + 500
            x = blocks[1](x)
            bench.executor.end(x)
            assert equals(x, value + 530)
            assert equals(given, value)


def test_other_arguments_reach_the_blocks():
    blocks = [Add(10), Add(20)]
    bench = Bench(blocks, compute=(0,))
    with torch.no_grad():
        bench.begin(0)
        x = blocks[1](blocks[0](torch.zeros(1, 2), 3.0), scale=2.0)
        bench.executor.end(x)
    assert equals(x, 70)
    assert equals(bench.step(1, 5), 75)


def test_another_shape_in_the_middle_of_a_trajectory_is_computed():
    bench = Bench([Add(10), Add(20)], compute=(0,))
    bench.step(0, torch.zeros(1, 2))
    assert equals(bench.step(1, torch.zeros(1, 6)), 30)
    assert bench.calls == [2, 2]
    assert equals(bench.step(2, torch.full((1, 6), 5.0)), 35)
    assert bench.calls == [2, 2]
    assert bench.stats == ({"cond": [0, 1]}, {"cond": [2]})
    assert bench.record.cache_bytes_peak == 6 * 4


def test_another_dtype_in_the_middle_of_a_trajectory_is_computed():
    bench = Bench([Add(10), Add(20)], compute=(0,))
    bench.step(0, torch.zeros(1, 2))
    assert bench.step(1, torch.zeros(1, 2, dtype=torch.float64)).dtype == torch.float64
    assert bench.stats == ({"cond": [0, 1]}, {})


def test_with_gradients_nothing_is_reused_or_kept():
    blocks = [Add(10), Add(20)]
    bench = Bench(blocks, compute=(0,))
    for step in (0, 1):
        x = torch.ones(1, 2, requires_grad=True)
        bench.begin(step)
        out = bench.forward(x)
        out.sum().backward()
        assert equals(x.grad, 1)
        assert bench.held() == []
    assert bench.stats == ({"cond": [0, 1]}, {})


def test_a_residual_kept_without_gradients_is_not_reused_with_them():
    blocks = [Add(10), Add(20)]
    bench = Bench(blocks, compute=(0,))
    bench.step(0, 1)
    bench.begin(1)
    bench.forward(torch.ones(1, 2))
    assert bench.stats == ({"cond": [0, 1]}, {})


def test_blocks_called_outside_a_forward_are_themselves():
    bench = Bench([Add(10), Add(20)], compute=(0,))
    bench.step(0, 1)
    assert equals(bench.blocks[0](torch.ones(1, 2)), 11)
    assert bench.stats == ({"cond": [0]}, {})
