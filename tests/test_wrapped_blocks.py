"""Two methods wrap the same block: both take part, with every version of torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from dit_accel._diffusers import wrap_forward


def disable_of_older_torch(function: Any, recursive: bool = True) -> Callable[..., Any]:
    """As torch 2.10 does it: what is wrapped in the end is whatever an attribute of the function says."""
    while hasattr(function, "_torchdynamo_orig_callable"):
        function = function._torchdynamo_orig_callable

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    wrapper._torchdynamo_orig_callable = function
    return wrapper


def adding(number: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return lambda original: lambda x: original(x) * 10 + number


@pytest.mark.parametrize("disable", [torch.compiler.disable, disable_of_older_torch], ids=["this torch", "torch 2.10"])
def test_a_second_wrapper_leaves_the_first_in(monkeypatch: pytest.MonkeyPatch, disable: Callable[..., Any]) -> None:
    monkeypatch.setattr(torch.compiler, "disable", disable)
    block = nn.Identity()
    removals = [wrap_forward(block, adding(1)), wrap_forward(block, adding(2))]
    assert block(0) == 12
    for remove in reversed(removals):
        remove()
    assert block(0) == 0 and "forward" not in vars(block)
