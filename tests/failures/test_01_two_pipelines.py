"""1. Two pipelines of one class, disabled in either order.

cache-dit 1.5.3 replaces ``__call__`` on the class. When two pipelines of it have been enabled and disabled, every call
of any pipeline of that class in the process raises AttributeError.
"""

from __future__ import annotations

import pytest

from tests.serving.conftest import run, tiny

from .conftest import METHODS, alone, each_kind, enable


@each_kind
@pytest.mark.parametrize("first_out", [0, 1])
def test_neither_notices_the_other_nor_does_a_third_one(pipe, method, first_out):
    methods = (method, "lemica" if method != "lemica" else "dbcache")
    pipes = [pipe, tiny()]
    own = {name: vars(type(pipe)).get(name) for name in ("__call__", "__init__")}
    handles = [enable(each, name) for each, name in zip(pipes, methods, strict=True)]
    assert own == {name: vars(type(pipe)).get(name) for name in own}
    for each, name in zip(pipes, methods, strict=True):
        assert run(each).equal(alone(name))
    handles[first_out].disable()
    assert run(pipes[first_out]).equal(alone(None))
    assert run(pipes[1 - first_out]).equal(alone(methods[1 - first_out]))
    handles[1 - first_out].disable()
    for each in (*pipes, tiny()):
        assert run(each).equal(alone(None))


def test_the_methods_differ():
    """Else the tests of this folder could not tell them apart."""
    outputs = [alone(None), *map(alone, METHODS)]
    assert not any(one.equal(other) for k, one in enumerate(outputs) for other in outputs[:k])
