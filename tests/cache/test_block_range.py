"""`BlockRange`: which blocks are cached, in which order, and where their streams are."""

from __future__ import annotations

import pytest
import torch
from diffusers.hooks import HookRegistry
from diffusers.hooks.layer_skip import TransformerBlockSkipHook
from torch import Tensor, nn

from dit_accel.cache.block_range import BlockRange
from dit_accel.errors import ConfigError, UnsupportedPipelineError
from dit_accel.specs import BlockSpec

from .conftest import Add, AddTwo


class VideoFirst(nn.Module):
    """Takes the streams the other way round."""

    def forward(self, video: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        return video, text


class TwoLists(nn.Module):
    """A denoiser with two lists, one of them inside another module."""

    def __init__(self, first: list[nn.Module], second: list[nn.Module]) -> None:
        super().__init__()
        self.first = nn.ModuleList(first)
        self.inner = nn.Module()
        self.inner.second = nn.ModuleList(second)


LISTS = ("first", "inner.second")


def range_of(denoiser: nn.Module, spec: BlockSpec | None = None, probe: int = 0, corrector: int = 0) -> BlockRange:
    spec = spec or BlockSpec(LISTS)
    return BlockRange.of("transformer", denoiser, spec, probe_blocks=probe, corrector_blocks=corrector)


def amounts(found: BlockRange) -> list[float]:
    return [block.amount for block in found.blocks]


@pytest.mark.parametrize(
    ("probe", "corrector", "cached"), [(0, 0, (0, 4)), (1, 0, (1, 4)), (2, 1, (2, 3)), (3, 1, (3, 3)), (0, 4, (0, 0))]
)
def test_lists_follow_one_another(probe, corrector, cached):
    found = range_of(TwoLists([Add(1), Add(2)], [Add(3), Add(4), Add(5)]), None, probe, corrector)
    assert amounts(found) == [1, 2, 3, 4, 5]
    assert (found.first, found.last) == cached


@pytest.mark.parametrize(("probe", "corrector", "cached"), [(0, 0, (0, 4)), (1, 0, (2, 4)), (1, 1, (2, 2))])
def test_interleaved_lists_take_turns_and_the_range_is_between_blocks_of_the_first(probe, corrector, cached):
    denoiser = TwoLists([Add(1), Add(2), Add(3)], [Add(10), Add(20), Add(30)])
    found = range_of(denoiser, BlockSpec(LISTS, is_interleaved=True), probe, corrector)
    assert amounts(found) == [1, 10, 2, 20, 3, 30]
    assert (found.first, found.last) == cached


@pytest.mark.parametrize(
    ("probe", "corrector", "is_interleaved", "total"),
    [(4, 0, False, 4), (1, 3, False, 4), (9, 9, False, 4), (1, 1, True, 2)],
)
def test_a_range_with_nothing_left_to_cache_is_refused(probe, corrector, is_interleaved, total):
    denoiser = TwoLists([Add(1), Add(2)], [Add(3), Add(4)])
    with pytest.raises(ConfigError) as caught:
        range_of(denoiser, BlockSpec(LISTS, is_interleaved=is_interleaved), probe, corrector)
    message = str(caught.value)
    assert f"probe_blocks={probe} and corrector_blocks={corrector} leave nothing to cache" in message
    assert f"transformer (TwoLists) has {total} blocks. Their sum must be at most {total - 1}" in message


def test_a_denoiser_without_such_blocks_is_refused():
    with pytest.raises(UnsupportedPipelineError, match=r"transformer \(TwoLists\) has no blocks under layers, a\.b"):
        range_of(TwoLists([Add(1)], []), BlockSpec(("layers", "a.b")))
    with pytest.raises(UnsupportedPipelineError, match=r"Add\.forward has no argument \['video'\]"):
        range_of(TwoLists([Add(1)], []), BlockSpec(LISTS, ("hidden_states", "video")))


def test_streams_are_found_in_every_kind_of_block_by_position_and_by_name():
    denoiser = TwoLists([AddTwo(1)], [VideoFirst()])
    found = range_of(denoiser, BlockSpec(LISTS, ("text", "video"), video="video"))
    text, video = torch.zeros(1), torch.ones(1)
    assert found.video == 1
    assert found.inputs(0, (True, text, video), {}) == (text, video)
    assert found.inputs(0, (True,), {"video": video, "text": text}) == (text, video)
    assert found.inputs(1, (video, text), {}) == (text, video)
    assert found.inputs(1, (video,), {}) == (None, video)


def skip(block: nn.Module, dropout: float = 1.0) -> None:
    registry = HookRegistry.check_if_exists_or_initialize(block)
    registry.hooks["skip"] = TransformerBlockSkipHook(dropout)


@pytest.mark.parametrize(
    ("skipped", "running"),
    [
        ([], (1, 4)),
        ([0, 5], (1, 4)),
        ([1], (2, 4)),
        ([4, 3], (1, 2)),
        ([1, 4], (2, 3)),
        ([2], (1, 4)),
        ([1, 2, 3, 4], (4, 4)),
    ],
)
def test_blocks_that_a_guider_skips_are_cut_off_the_edges_of_the_range(skipped, running):
    found = range_of(TwoLists([Add(k) for k in range(6)], []), None, 1, 1)
    for index in skipped:
        skip(found.blocks[index])
    assert found.running() == running
    assert (found.first, found.last) == (1, 4)


def test_a_compiled_block_that_a_guider_skips_is_cut_off():
    blocks = [Add(k) for k in range(3)]
    found = range_of(TwoLists([torch.compile(block, backend="eager") for block in blocks], []))
    skip(found.blocks[0])
    assert found.running() == (1, 2)


def test_of_interleaved_lists_a_whole_turn_is_cut_off():
    denoiser = TwoLists([Add(1), Add(2), Add(3)], [Add(10), Add(20), Add(30)])
    found = range_of(denoiser, BlockSpec(LISTS, is_interleaved=True))
    skip(found.blocks[0])
    assert found.running() == (2, 4)


def test_a_block_with_dropout_runs():
    found = range_of(TwoLists([Add(1), Add(2)], []))
    skip(found.blocks[0], dropout=0.5)
    assert found.running() == (0, 1)
