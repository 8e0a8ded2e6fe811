"""2. Enabling a second time.

cache-dit 1.5.3 ignores a second ``enable_cache`` with another configuration, and says so in no way but a log line: the
run goes on with the first.
"""

from __future__ import annotations

import pytest

from dit_accel import enable_acceleration
from dit_accel.errors import AlreadyAcceleratedError
from tests.serving.conftest import run, sharing

from .conftest import METHODS, alone, enable, every_method


@every_method
@pytest.mark.parametrize("through", ["the pipeline", "one that shares its denoiser"])
def test_it_is_refused_and_the_first_goes_on(pipe, method, through):
    other = pipe if through == "the pipeline" else sharing(pipe)
    handle = enable(pipe, method)
    for second in METHODS:
        with pytest.raises(AlreadyAcceleratedError, match=r"already accelerated, with \(.*disable"):
            enable(other, second)
    assert handle.configs == METHODS[method]
    assert run(pipe).equal(alone(method))
    handle.disable()
    assert run(pipe).equal(alone(None))


def test_after_disable_the_second_is_as_if_it_were_the_first(pipe):
    for method in (*METHODS, *reversed(METHODS)):
        with enable_acceleration(pipe, *METHODS[method]):
            assert run(pipe).equal(alone(method))
    assert run(pipe).equal(alone(None))
