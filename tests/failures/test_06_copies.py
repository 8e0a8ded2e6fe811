"""6. deepcopy, pickle and save_pretrained of an accelerated pipeline.

cache-dit 1.5.3 and diffusers' hooks leave closures on modules. A deep copy of the transformer runs the weights of the
original, silently; ``torch.save`` of the module fails with an error that names neither.
"""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from diffusers import WanPipeline

from dit_accel.errors import AlreadyAcceleratedError
from tests.serving.conftest import run, tiny

from .conftest import alone, enable, every_method

PARTS = {
    "pipeline": lambda pipe: pipe,
    "denoiser": lambda pipe: pipe.transformer,
    "list of blocks": lambda pipe: pipe.transformer.blocks,
    "block": lambda pipe: pipe.transformer.blocks[2],
}
COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": pickle.dumps,
    "torch.save": lambda part: torch.save(part, io.BytesIO()),
}


@every_method
def test_a_copy_that_would_run_the_originals_weights_is_refused(pipe, method):
    with enable(pipe, method):
        for part in PARTS.values():
            for make in COPIES.values():
                with pytest.raises(AlreadyAcceleratedError, match=r"cannot be copied or pickled.*disable"):
                    make(part(pipe))
        assert run(pipe).equal(alone(method))
    other = tiny()
    other.transformer.blocks[2] = copy.deepcopy(pipe.transformer.blocks[2])
    assert run(other).equal(alone(None))


@pytest.mark.parametrize("part", ["denoiser", "block"])
def test_a_shallow_copy_is_refused_too(pipe, part):
    with enable(pipe, "lemica"), pytest.raises(AlreadyAcceleratedError):
        copy.copy(PARTS[part](pipe))


@every_method
def test_what_is_saved_is_plain_and_can_be_accelerated(pipe, method, tmp_path):
    with enable(pipe, method):
        pipe.save_pretrained(tmp_path)
        assert run(pipe).equal(alone(method))
    loaded = WanPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert run(loaded).equal(alone(None))
    with enable(loaded, method):
        assert run(loaded).equal(alone(method))
