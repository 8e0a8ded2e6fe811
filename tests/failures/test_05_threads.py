"""5. Threads.

cache-dit 1.5.3 replaces ``transformer.blocks`` during every forward. Two threads with a pipeline each on one
transformer get assertion errors or wrong videos, and the transformer may keep the replacement, so that disabling
recurses for ever. Without a cache the same two threads are right.
"""

from __future__ import annotations

import pytest

from dit_accel.errors import ConcurrentUseError
from tests.serving.conftest import SIZES, Meeting, Worker, at_step, run, sharing

from .conftest import alone, enable, every_method


@every_method
def test_two_pipelines_on_one_denoiser_meet_in_the_middle_and_both_are_right(pipe, method):
    other, meeting = sharing(pipe), Meeting()
    with enable(pipe, method):
        worker = Worker(lambda: run(other, **SIZES[2], callback_on_step_end=at_step(1, meeting.stop)))
        meeting.wait()
        assert run(pipe).equal(alone(method))
        meeting.release()
        assert worker.result().equal(alone(method, *SIZES[2].items()))
    assert run(pipe).equal(alone(None)) and run(other).equal(alone(None))


@every_method
def test_two_calls_of_one_pipeline_are_refused_and_no_video_is_wrong(pipe, method):
    """Its scheduler holds the state of one call, so that they are wrong without acceleration, too."""
    meeting = Meeting()
    with enable(pipe, method):
        worker = Worker(lambda: run(pipe, 1, callback_on_step_end=at_step(1, meeting.stop)))
        meeting.wait()
        with pytest.raises(ConcurrentUseError):
            run(pipe)
        meeting.release()
        with pytest.raises(ConcurrentUseError):
            worker.result()
        assert run(pipe).equal(alone(method))
