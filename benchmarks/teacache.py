"""TeaCache's rule for a Wan transformer, written anew as a policy beside the pipeline."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

NUM_STEPS = 50


class TeaCache:
    """TeaCache's rule: the change of the first block's modulated input, rescaled, adds up until it is too much.

    The first and the last step are computed. A reuse adds the residual that the branch had when it was computed last.
    The branches come in turns: a call with even number is conditional.
    """

    def __init__(self, transformer: Any, threshold: float, rescale: Callable[[float], float]) -> None:
        self.transformer, self.threshold, self.rescale = transformer, threshold, rescale
        self.calls = 0
        self.branches: list[dict[str, Any]] = [{"total": 0.0}, {"total": 0.0}]
        self.branch = self.branches[0]

    def decide(self, hidden: Tensor, temb: Tensor) -> bool:
        """Whether this call reuses."""
        step, self.branch = self.calls // 2, self.branches[self.calls % 2]
        self.calls += 1
        signal, previous = tea_signal(self.transformer.blocks[0], hidden, temb), self.branch.get("signal")
        self.branch["signal"] = signal
        if step in (0, NUM_STEPS - 1):
            is_reuse = False
        else:
            self.branch["total"] += self.rescale(relative_change(signal, previous))
            is_reuse = self.branch["total"] < self.threshold
        if not is_reuse:
            self.branch["total"] = 0.0
        return is_reuse

    def forward(self, index: int, original: Any, hidden: Tensor, encoder: Tensor, temb: Tensor, rotary: Any) -> Tensor:
        """In place of a block's forward."""
        if index == 0:
            self.is_reuse = self.decide(hidden, temb)
            self.branch["entry"] = hidden
            if self.is_reuse:
                return hidden + self.branch["residual"]
        if self.is_reuse:
            return hidden
        output: Tensor = original(hidden, encoder, temb, rotary)
        if index == len(self.transformer.blocks) - 1:
            self.branch["residual"] = output - self.branch["entry"]
        return output


@contextlib.contextmanager
def teacache(pipe: Any, threshold: float, *, rescale: Callable[[float], float]) -> Iterator[None]:
    """TeaCache's rule on a Wan transformer."""
    rule = TeaCache(pipe.transformer, threshold, rescale)
    with contextlib.ExitStack() as undo:
        for index, block in enumerate(pipe.transformer.blocks):
            if "forward" in block.__dict__:  # diffusers' hooks leave one
                undo.callback(setattr, block, "forward", block.forward)
            else:
                undo.callback(delattr, block, "forward")
            block.forward = partial(rule.forward, index, block.forward)
        yield


def tea_signal(block: Any, hidden: Tensor, temb: Tensor) -> Tensor:
    """The first block's input after norm and modulation by the timestep."""
    shift, scale = (block.scale_shift_table + temb.float()).chunk(6, dim=1)[:2]
    return block.norm1(hidden.float()) * (1 + scale) + shift


def relative_change(now: Tensor, before: Tensor) -> float:
    return float((now - before).abs().mean() / before.abs().mean())


def tea_polynomial(pipe: Any, calibration_run: Callable[[], Any]) -> np.poly1d:
    """Degree 4: from the signal's change between two steps to the output's, on a full run."""
    signals: list[Tensor] = []
    outputs: list[Tensor] = []
    transformer = pipe.transformer
    handles = [
        transformer.blocks[0].register_forward_pre_hook(
            lambda block, args: signals.append(tea_signal(block, args[0], args[2]))
        ),
        transformer.register_forward_hook(lambda module, args, output: outputs.append(output[0])),
    ]
    try:
        calibration_run()
    finally:
        for handle in handles:
            handle.remove()
    x, y = ([relative_change(b, a) for a, b in zip(seen, seen[2:], strict=False)] for seen in (signals, outputs))
    return np.poly1d(np.polyfit(x, y, 4))
