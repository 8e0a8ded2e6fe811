"""Acceleration and compilation in either order: how many graphs there are."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from .conftest import Lab
from .settings import Setting, every_order, in_order

pytestmark = pytest.mark.usefixtures("folder", "fresh_compiler")


@every_order
def test_regional_compilation_needs_no_graph_more_for_another_block(wan, order):
    counter = CompileCounter()

    def compile_blocks(lab: Lab) -> None:
        for denoiser in lab.denoisers.values():
            denoiser.compile_repeated_blocks(backend=counter, fullgraph=True)

    steps = [compile_blocks, Lab.enable]
    for step in steps if order == "before" else reversed(steps):
        step(wan)
    wan.run()
    # The block, and three of one operation each: copied at the entry, passed on, and the residual added at the exit.
    assert counter.frame_count == 4 * len(wan.denoisers)


@every_order
def test_a_compiled_denoiser_is_not_compiled_anew_for_every_step(wan, order):
    counter = CompileCounter()
    whole = Setting(
        lambda lab: [setattr(lab.pipe, name, torch.compile(d, backend=counter)) for name, d in lab.denoisers.items()]
    )
    acceleration = in_order(order, wan, whole, Lab.enable)
    wan.run()
    wan.assert_follows(acceleration)
    frames = counter.frame_count
    assert frames <= 4 * len(wan.blocks)
    for seed in (1, 2):
        wan.run(seed=seed)
    assert counter.frame_count == frames
