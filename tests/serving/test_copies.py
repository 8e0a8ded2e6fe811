"""Copies of an accelerated pipeline: those that would be wrong are refused, the others are right."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from diffusers import WanPipeline

from dit_accel import enable_acceleration
from dit_accel.errors import AlreadyAcceleratedError

from .conftest import SCHEDULE, every_method, run


@pytest.mark.parametrize("part", ["pipeline", "denoiser"])
@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, pickle.dumps, lambda each: torch.save(each, io.BytesIO())],
    ids=["copy", "pickle", "save"],
)
def test_a_copy_that_would_run_the_originals_blocks_is_refused(pipe, part, copied):
    expected = run(pipe)
    with (
        enable_acceleration(pipe, SCHEDULE),
        pytest.raises(AlreadyAcceleratedError, match=r"cannot be copied or pickled.*disable"),
    ):
        copied(pipe if part == "pipeline" else pipe.transformer)
    assert run(pipe).equal(expected)
    copied(pipe.transformer)


@every_method
def test_a_saved_pipeline_is_the_plain_one(pipe, configs, tmp_path):
    plain = run(pipe)
    with enable_acceleration(pipe, *configs):
        expected = run(pipe)
        pipe.save_pretrained(tmp_path)
        assert run(pipe).equal(expected)
    loaded = WanPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert run(loaded).equal(plain)
    with enable_acceleration(loaded, *configs):
        assert run(loaded).equal(expected)
