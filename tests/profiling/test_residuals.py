"""`ResidualSampler` against residuals that plain hooks see, and which trajectories cannot be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dit_accel.profiling import residuals
from dit_accel.profiling.residuals import ResidualSampler
from dit_accel.profiling.rollout import Batch, BatchRunner, read_model
from dit_accel.specs import BlockSpec
from dit_accel.step_tracker import DenoiserCall

from ..cache.conftest import Add, AddTwo, Denoiser
from ..conftest import tiny_inputs
from .conftest import NUM_STEPS, PROMPTS

BRANCHES = ("cond", "uncond")


def hooked_residuals(pipe: Any, runner: BatchRunner, path: Path) -> list[Tensor]:
    """What the blocks add in each forward of the run that ``runner`` records."""
    entries, found = [], []

    def enter(_: Any, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        entries.append((args[0] if args else kwargs["hidden_states"]).clone())

    def leave(_: Any, args: Any, output: Tensor) -> None:
        found.append(output - entries[-1])

    hooks = [
        pipe.transformer.blocks[0].register_forward_pre_hook(enter, with_kwargs=True),
        pipe.transformer.blocks[-1].register_forward_hook(leave),
    ]
    try:
        runner.record(path)
    finally:
        for hook in hooks:
            hook.remove()
    return found


@pytest.mark.parametrize("most", [None, 25])
def test_the_sampled_products_are_those_of_the_residuals(pipe, tmp_path, monkeypatch, most):
    if most is not None:
        monkeypatch.setattr(residuals, "MAX_ELEMENTS", most)
    batches = [Batch(PROMPTS[:2], 0), Batch(PROMPTS[2:], 3)]
    gram, elements, paths = np.zeros((NUM_STEPS, NUM_STEPS)), 0, []
    for index, batch in enumerate(batches):
        paths.append(tmp_path / f"{index}.safetensors")
        runner = BatchRunner(pipe, batch, NUM_STEPS, tiny_inputs())
        found = hooked_residuals(pipe, runner, paths[-1])
        assert len(found) == len(BRANCHES) * NUM_STEPS
        for branch in range(len(BRANCHES)):
            rows = np.array([r.flatten().double().numpy() for r in found[branch :: len(BRANCHES)]])
            if most is not None:
                assert rows.shape[1] > most
                rows = rows[:, :: -(-rows.shape[1] // most)]
                assert most // 2 <= rows.shape[1] <= most
            gram, elements = gram + rows @ rows.T, elements + rows.shape[1]
    model = read_model(paths)
    np.testing.assert_allclose(model.gram, gram / elements, rtol=1e-10)
    assert np.linalg.eigvalsh(model.gram).min() > 0  # residuals of different steps differ
    levels = pipe.scheduler.sigmas[:NUM_STEPS].double().numpy()
    np.testing.assert_allclose(1 / (1 + np.exp(model.times)), levels, atol=1e-3)


def test_a_trajectory_without_products_has_no_model(pipe, tmp_path, monkeypatch):
    runner = BatchRunner(pipe, Batch(PROMPTS[:1], 0), NUM_STEPS, tiny_inputs())
    runner.record(tmp_path / "with.safetensors")
    monkeypatch.setattr(ResidualSampler, "gram", lambda *_: None)
    runner.record(tmp_path / "without.safetensors")
    assert read_model([tmp_path / "with.safetensors"]) is not None
    assert read_model([tmp_path / "with.safetensors", tmp_path / "without.safetensors"]) is None


# On blocks whose arithmetic fits in the head


def sampled(runs: list[tuple[str, str, int, int]], num_steps: int) -> tuple[Tensor, int] | None:
    """The products after (denoiser, branch, step, width): its block adds step + 1."""
    sampler = ResidualSampler()
    denoisers = {name: Denoiser([Add(0)]) for name in ("transformer", "transformer_2")}
    undo = [sampler.install(name, d, BlockSpec(("blocks",), ("hidden_states",))) for name, d in denoisers.items()]
    for name, branch, step, width in runs:
        block = denoisers[name].blocks[0]
        block.amount = step + 1
        sampler.begin(DenoiserCall(name, branch, step, num_steps, 0))
        assert block(torch.ones(1, width)).shape == (1, width)
        sampler.end(None)
    for remove in undo:
        remove()
    assert all("forward" not in vars(denoiser.blocks[0]) for denoiser in denoisers.values())
    return sampler.gram(num_steps)


ONE = [("transformer", "cond", step, 4) for step in range(3)]
ADDED = torch.outer(torch.arange(1.0, 4), torch.arange(1.0, 4)).double()


@pytest.mark.parametrize(
    ("runs", "elements"),
    [
        (ONE, 4),
        ([*ONE, *(("transformer", "uncond", step, 6) for step in range(3))], 10),
        ([*ONE[:2], ("transformer_2", "cond", 2, 4)], 4),  # one denoiser hands over to another
        ([*ONE, ("transformer", "uncond", 0, 4)], 4),  # a branch that does not run at every step is left out
        ([*ONE, *(("transformer", "uncond", step, 4 + step) for step in range(3))], 4),
    ],
)
def test_products_of_what_can_be_compared(runs, elements):
    gram, count = sampled(runs, 3)
    assert count == elements
    assert gram.equal(ADDED * elements)


@pytest.mark.parametrize(
    "runs", [[], ONE[:2], [*ONE[:2], ("transformer", "cond", 2, 5)], [*ONE[:2], ("transformer", "uncond", 2, 4)]]
)
def test_what_cannot_be_compared_gives_none(runs):
    assert sampled(runs, 3) is None


def test_both_streams_count_and_a_block_may_work_in_place():
    class InPlace(AddTwo):
        def forward(self, flag: bool, text: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
            return text.add_(self.amount), video.add_(2 * self.amount)

    sampler, denoiser = ResidualSampler(), Denoiser([InPlace(3), InPlace(4)])
    sampler.install("transformer", denoiser, BlockSpec(("blocks",), ("text", "video"), video="video"))
    for step in range(2):
        sampler.begin(DenoiserCall("transformer", "cond", step, 2, 0))
        streams = torch.ones(1, 5), torch.ones(1, 2)
        for block in denoiser.blocks:
            streams = block(True, *streams)
        sampler.end(None)
    gram, count = sampler.gram(2)
    assert count == 7 and gram.equal(torch.full((2, 2), 5 * 7.0**2 + 2 * 14.0**2).double())


def test_a_forward_to_leave_alone_is_left_out():
    sampler, denoiser = ResidualSampler(), Denoiser([Add(1)])
    sampler.install("transformer", denoiser, BlockSpec(("blocks",), ("hidden_states",)))
    for call in (DenoiserCall("transformer", "cond", 0, 1, 0), None):
        sampler.begin(call)
        denoiser.blocks[0](torch.ones(1, 2 if call else 3))
        sampler.end(None)
    gram, count = sampler.gram(1)
    assert (float(gram), count) == (2.0, 2)
