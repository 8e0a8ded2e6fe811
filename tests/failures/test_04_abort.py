"""4. A run that is aborted, and the next one, also of another size.

diffusers 0.42.1 resets its caches at the end of a call that succeeds. After an exception in a callback the next call
of FirstBlockCache reuses residuals of the aborted one; at another size it fails in an addition. cache-dit 1.5.3 on a
transformer alone counts the calls of the aborted run as steps of the next one.
"""

from __future__ import annotations

import pytest

from tests.serving.conftest import SIZES, at_step, run

from .conftest import alone, each_kind, enable

AT = 2


class Stop(Exception):
    """Raised by a callback or in a block."""


def stop(*_):
    raise Stop


def abort(pipe, how):
    if how == "interrupt":
        run(pipe, 1, callback_on_step_end=at_step(AT, lambda: setattr(pipe, "_interrupt", True)))
        return
    error = KeyboardInterrupt if how == "Ctrl-C" else Stop

    def fail(*_):
        raise error

    if how == "denoiser":  # within the first forward, where what enters has been kept and nothing come out yet
        hook = pipe.transformer.blocks[2].ffn.register_forward_hook(fail)
        with pytest.raises(Stop):
            run(pipe, 1)
        hook.remove()
        return
    with pytest.raises(error):
        run(pipe, 1, callback_on_step_end=at_step(AT, fail))


@each_kind
@pytest.mark.parametrize("how", ["callback", "Ctrl-C", "denoiser", "interrupt"])
def test_the_next_run_is_as_of_a_fresh_pipeline(pipe, method, how):
    with enable(pipe, method):
        abort(pipe, how)
        assert run(pipe).equal(alone(method))
        abort(pipe, how)
        assert run(pipe, **SIZES[2]).equal(alone(method, *SIZES[2].items()))
        abort(pipe, how)
    assert run(pipe).equal(alone(None))
