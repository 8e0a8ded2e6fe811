"""Queries, keys and values for ``svg2_error.py``: synthetic ones, and those of the embedded model."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

ORACLE_TOKENS, ORACLE_SHARE = 0.13, 0.95
GROUPS, SHEET_DIMS, SEARCH_ROUNDS = 48, 6, 24
SYNTHETIC = {"groups": (0.3, 0.15), "sheet": (0.3, 0.3), "curved": (0.7, 0.3)}  # how much it bends; width of groups
STEPS, CAPTURED_STEPS, CAPTURED_LAYERS = 4, (1, 3), (3, 8)
PROMPT = "a cyan two spinning on navy"  # held out


@dataclass(frozen=True)
class Case:
    """One attention, float32.

    Args:
        query, key, value: [1, S, H, D].
        neighbours: [1, H, S], the tokens of each head in an order in which neighbours are alike; None: as they are.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    neighbours: Tensor | None = None

    @property
    def scale(self) -> float:
        return 1 / math.sqrt(self.query.shape[-1])

    @cached_property
    def weights(self) -> Tensor:
        """[1, H, S, S], dense attention."""
        return (self.query.transpose(1, 2) @ self.key.permute(0, 2, 3, 1)).mul_(self.scale).softmax(-1)

    @cached_property
    def dense(self) -> Tensor:
        """[1, S, H, D], its output."""
        return (self.weights @ self.value.transpose(1, 2)).transpose(1, 2)


def synthetic(kind: str, num_tokens: int, heads: int, dim: int, seed: int) -> Case:
    """See ``svg2_error.py``; every head has its own sheet, groups and sharpness."""
    generator = torch.Generator().manual_seed(seed)
    parts = [_head(*SYNTHETIC[kind], num_tokens, dim, generator) for _ in range(heads)]
    query, key, value, order = (torch.stack(part)[None] for part in zip(*parts, strict=True))
    return Case(*(x.transpose(1, 2).contiguous() for x in (query, key, value)), order)


def _head(
    bend: float, width: float, num_tokens: int, dim: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Query, key and value [S, D], and an order in which neighbours are of one group, near each other on the sheet."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    share = 1 / torch.arange(1, GROUPS + 1).float() ** 1.2
    group = torch.multinomial(share, num_tokens, replacement=True, generator=generator)
    widths = width * (1 + 1.6 * torch.rand(GROUPS, 1, generator=generator))
    place = normal(GROUPS, SHEET_DIMS)[group] + widths[group] * normal(num_tokens, SHEET_DIMS)
    bends, sheet = normal(SHEET_DIMS, dim) * bend, normal(2 * dim, dim) / math.sqrt(dim)
    phase = 2 * math.pi * torch.rand(dim, generator=generator)

    def on_sheet(where: Tensor) -> Tensor:
        curves = torch.cat([torch.sin(where @ bends + phase), torch.cos(where @ bends - phase)], -1)
        return curves @ sheet + 0.2 * normal(num_tokens, dim)

    query, key = on_sheet(place + 0.3 * normal(num_tokens, SHEET_DIMS)), on_sheet(place)
    waves = torch.sin(place @ normal(SHEET_DIMS, dim))
    value = place @ normal(SHEET_DIMS, dim) * 0.4 + waves + 0.5 * normal(num_tokens, dim)
    order = (group * 1000 + place[:, 0]).argsort()
    return _sharpened(query, key), key, value, order


def _sharpened(query: Tensor, key: Tensor) -> Tensor:
    """``query`` times the factor with which the best tokens hold the share of attention that they should."""
    rows = query[:: max(1, len(query) // 256)] @ key.T / math.sqrt(query.shape[1])
    low, high, count = 0.0, 64.0, round(ORACLE_TOKENS * len(key))
    for _ in range(SEARCH_ROUNDS):
        middle = (low + high) / 2
        held = (rows * middle).softmax(-1).topk(count).values.sum(-1).mean()
        low, high = (middle, high) if held < ORACLE_SHARE else (low, middle)
    return query * low


class CapturedAttention(TorchFunctionMode):
    """While it is active, keeps query, key and value of every self-attention of ``layers`` in ``kept``."""

    def __init__(self, layers: Sequence[int]) -> None:
        super().__init__()
        self.layers, self.layer = layers, 0
        self.kept: list[tuple[Tensor, Tensor, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            tokens = tuple(args[:3]) or tuple(kwargs[name] for name in ("query", "key", "value"))
            if tokens[0].shape == tokens[1].shape:  # else it is attention to the text
                if self.layer in self.layers:
                    self.kept.append(tuple(x.detach().clone().float() for x in tokens))
                self.layer += 1
        return func(*args, **kwargs)


class _EnoughError(Exception):
    """Ends a run whose remaining steps nobody asks for."""


def captured(pipe: Any, prompt: str, seed: int, **sizes: int) -> list[Case]:
    """What the self-attention of ``pipe`` (batch item "cond") gets at some steps and layers, in one run."""
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    forward, calls = pipe.transformer.forward, [0]

    def recorded(*args: Any, **kwargs: Any) -> Any:
        step, is_uncond = divmod(calls[0], 2)  # guidance calls it twice a step
        calls[0] += 1
        if is_uncond or step not in CAPTURED_STEPS:
            return forward(*args, **kwargs)
        with CapturedAttention(CAPTURED_LAYERS) as capture:
            output = forward(*args, **kwargs)
        kept.extend(capture.kept)
        if step == CAPTURED_STEPS[-1]:
            raise _EnoughError
        return output

    pipe.transformer.forward = recorded
    try:
        generator = torch.Generator().manual_seed(seed)
        with contextlib.suppress(_EnoughError):
            pipe(prompt=prompt, num_inference_steps=STEPS, generator=generator, output_type="latent", **sizes)
    finally:
        del pipe.transformer.forward
    if len(kept) != len(CAPTURED_STEPS) * len(CAPTURED_LAYERS):
        raise RuntimeError(f"{len(kept)} self-attentions were seen: this model's attention does not pass torch's.")
    return [Case(*(x.transpose(1, 2).contiguous() for x in tokens)) for tokens in kept]
