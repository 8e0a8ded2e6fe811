"""10. What a model adds between its blocks.

Hints of VACE, face features of Animate and identity features of ConsisID are added to the tokens between two blocks,
not in one. FirstBlockCache of diffusers 0.42.1 keeps tail minus head, which holds them already, and lets the model add
them again: with the same input twice its second output is off by a third on WanVACE.
"""

from __future__ import annotations

import pytest

from tests.contract.conftest import CLASSES, make_lab
from tests.contract.test_every_pipeline import METHODS as SAME_INPUT_METHODS
from tests.contract.test_every_pipeline import SameInput

MODELS = ("WanVACEPipeline", "WanAnimatePipeline", "ConsisIDPipeline")


@pytest.fixture(scope="module", params=MODELS)
def lab(request):
    return make_lab(*next(pair for pair in CLASSES if pair[1].endswith(f".{request.param}")))


def streams_between_blocks(lab):
    """For every pair of blocks that follow each other, whether what leaves one is what enters the next."""
    (found, *_) = lab.ranges().values()
    entered, left, same = {}, {}, []

    def before(index):
        def hook(_, args, kwargs):
            entered[index] = found.inputs(index, args, kwargs)[found.video]
            if index and index - 1 in left:
                same.append(entered[index].equal(left[index - 1]))

        return hook

    def after(index):
        def hook(_, args, output):
            left[index] = (output if isinstance(output, tuple) else (output,))[found.video].clone()

        return hook

    handles = [
        handle
        for index, block in enumerate(found.blocks)
        for handle in (
            block.register_forward_pre_hook(before(index), with_kwargs=True),
            block.register_forward_hook(after(index)),
        )
    ]
    lab.run()
    for handle in handles:
        handle.remove()
    return same


def test_something_is_added_between_the_blocks(lab):
    """Else there would be nothing to test here."""
    assert not all(streams_between_blocks(lab))


def test_computing_every_step_changes_no_bit(lab):
    for enable in (lab.enable_all_compute, lambda: lab.enable_dbcache(residual_diff_threshold=0, corrector_blocks=1)):
        with enable():
            assert lab.run().equal(lab.full)
    assert lab.run().equal(lab.full)


@pytest.mark.parametrize("method", SAME_INPUT_METHODS)
def test_what_is_added_counts_once(lab, method):
    """The same input at each step: a step that is reused gives what the computed one gave, up to rounding."""
    with SAME_INPUT_METHODS[method](lab) as acceleration:
        same = SameInput(lab)
        same.run()
        assert acceleration.stats.reused_steps
    for outputs in same.outputs.values():
        for again in outputs[1:]:
            for one, other in zip(outputs[0], again, strict=True):
                assert (one - other).norm() <= 1e-6 * one.norm()
