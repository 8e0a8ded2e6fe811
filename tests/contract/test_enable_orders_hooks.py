"""Acceleration between other hooks on the same blocks."""

from __future__ import annotations

from itertools import permutations

import pytest
from diffusers.hooks import HookRegistry

from .conftest import assert_gone
from .settings import Replacing, Watching, block_hooks

pytestmark = pytest.mark.usefixtures("folder", "fresh_compiler")


@pytest.mark.parametrize("removals", list(permutations(["inner", "acceleration", "outer"])), ids=" ".join)
@pytest.mark.parametrize("kinds", [(Watching, Replacing), (Replacing, Watching)], ids=["W-R", "R-W"])
def test_hooks_on_both_sides_removed_in_any_order(wan, kinds, removals, monkeypatch):
    """One diffusers hook before and one after; diffusers' own removal is only right last-in-first-out."""
    plain = wan.run()
    inner, outer = (block_hooks(kind) for kind in kinds)
    inner.apply(wan)
    acceleration = wan.enable()
    outer.apply(wan)
    reused = wan.run()
    for removal in removals:
        {"inner": inner.remove, "outer": outer.remove, "acceleration": lambda _: acceleration.disable()}[removal](wan)
        is_enabled = "acceleration" in removals[removals.index(removal) + 1 :]
        assert wan.run().equal(reused if is_enabled else plain)
    assert_gone(wan, monkeypatch, plain)


def test_hooks_still_see_every_call(wan):
    """The wrapper is innermost, so what others count does not change."""
    assert wan.calls  # a run of its own, which enabling would do else
    hooks = [Watching() for _ in wan.blocks]
    for block, hook in zip(wan.blocks, hooks, strict=True):
        HookRegistry.check_if_exists_or_initialize(block).register_hook(hook, "watching")
    wan.run()
    counts = [hook.calls for hook in hooks]
    with wan.enable():
        wan.run()
    assert [hook.calls for hook in hooks] == [2 * count for count in counts]
    assert min(counts) > 0
