"""Attention in the GPU suite: every dense kernel that loads, and `svg2_attention` with every backend that loads."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from gpu_checks import check_backend
from gpu_clock import Call, OutOfTimeError, ratios, spread
from gpu_parts import QUESTION, Suite, attempt, not_measured
from svg2_flex import BLOCK, PositionalFlex
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from dit_accel.configs import SVG2Config
from dit_accel.errors import BackendUnavailableError
from dit_accel.rows import Row
from dit_accel.sparse import SVG2State, svg2_attention
from dit_accel.sparse.backends import load_backend

HEADS = {"Wan 2.1 1.3B": 12, "Wan 2.1 14B": 40}
HEAD_DIM = 128
# 32,760 tokens are 81 frames at 480p, 75,600 are 81 frames at 720p. What matters most comes first.
SIZES = (
    ("Wan 2.1 1.3B", 32760),
    ("Wan 2.1 14B", 75600),
    ("Wan 2.1 14B", 32760),
    ("Wan 2.1 1.3B", 24576),
    ("Wan 2.1 1.3B", 16384),
    ("Wan 2.1 1.3B", 8192),
    ("Wan 2.1 1.3B", 4096),
    ("Wan 2.1 1.3B", 75600),
    ("Wan 2.1 14B", 8192),
)
DENSITIES = (0.3, 0.1, 0.2, 0.5)
BACKEND_SIZE, BACKEND_DENSITY = ("Wan 2.1 1.3B", 32768), 0.3  # whole blocks of 128
# Each with the seconds that it may need before its first call returns: it compiles.
COMPILE_SECONDS, POSITIONAL = {"flex": 60, "flashinfer": 100}, "FlexAttention, positional blocks"
GROUPS, DRIFT = 48, 0.1
SMOKE_SIZES, SMOKE_HEADS, SMOKE_DIM = (("Wan 2.1 1.3B", 256),), 2, 32
Tokens = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Setup:
    """One size: which model's heads, and the tokens of two steps in a row."""

    model: str
    steps: tuple[Tokens, Tokens]

    @property
    def shapes(self) -> dict[str, int]:
        _, tokens, heads, dim = self.steps[0][0].shape
        return {"tokens": tokens, "heads": heads, "head_dim": dim}

    def floor(self, density: float) -> tuple[float, float]:
        """Operations, and bytes that have to be read and written once."""
        query = self.steps[0][0]
        return 4 * density * query.shape[1] * query.numel(), 4 * query.nbytes


def setup(suite: Suite, model: str, num_tokens: int) -> Setup:
    """Tokens about common centres; the second step is a little different."""
    heads, dim = (SMOKE_HEADS, SMOKE_DIM) if suite.is_smoke else (HEADS[model], HEAD_DIM)
    generator = torch.Generator(suite.device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=suite.device, dtype=suite.dtype)

    centres, shape = normal(GROUPS, dim), (1, num_tokens, heads, dim)
    which = torch.randint(0, GROUPS, shape[:3], generator=generator, device=suite.device)
    query, key, value = 0.7 * normal(*shape) + centres[which], 0.7 * normal(*shape) + centres[which], normal(*shape)
    return Setup(model, ((query, key, value), (query + DRIFT * normal(*shape), key + DRIFT * normal(*shape), value)))


def sizes(suite: Suite) -> tuple[tuple[str, int], ...]:
    """The sizes that are measured."""
    return SMOKE_SIZES if suite.is_smoke else SIZES


class Warm:
    """`svg2_attention` at a density with clusters from the step before, on the tokens of one step after the other."""

    def __init__(self, given: Setup, density: float, backend: str, **changes: Any) -> None:
        # By the least share of keys that is kept: it gives the density at every size, without a search.
        self.config = SVG2Config(top_p=0.0, min_kept_ratio=density, min_tokens=0, backend=backend, **changes)
        self.given, self.state, self.calls = given, SVG2State(), 0
        self()
        self.density = self()[1].density

    def __call__(self) -> Any:
        self.calls += 1
        return svg2_attention(*self.given.steps[self.calls % 2], self.config, state=self.state)


def dense_calls(given: Setup) -> Iterator[tuple[str, Call | Exception]]:
    """Every dense attention that there is; an exception where one does not load."""
    tokens = given.steps[0]
    by_head = [x.transpose(1, 2) for x in tokens]

    def sdpa(kernel: SDPBackend | None) -> Tensor:
        if kernel is None:
            return scaled_dot_product_attention(*by_head)
        with sdpa_kernel(kernel):
            return scaled_dot_product_attention(*by_head)

    yield "dense: scaled_dot_product_attention", partial(sdpa, None)
    for kernel in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
        yield f"dense: scaled_dot_product_attention, {kernel.name}", partial(sdpa, kernel)
    for package in ("flash_attn_interface", "flash_attn"):
        name = f"dense: {package}.flash_attn_func"
        try:
            function: Callable[..., Any] = __import__(package).flash_attn_func
        except (ImportError, OSError, AttributeError, RuntimeError) as problem:
            yield name, problem
            continue
        yield name, partial(function, *tokens)


def measure_dense(suite: Suite, given: Setup) -> tuple[list[Row], str, dict[str, Call]]:
    """A row for each dense kernel; the fastest one's name, and the calls of those that run."""
    rows, calls = [], {}
    flops, nbytes = given.floor(1.0)
    medians: dict[str, float] = {}
    for name, call in dense_calls(given):
        try:
            if isinstance(call, Exception):
                raise call
            times = suite.clock.time({name: call})[name]
        except (ImportError, OSError, AttributeError, RuntimeError, OutOfTimeError) as problem:
            rows.append(not_measured(name, problem, model=given.model, **given.shapes))
            continue
        medians[name], calls[name] = statistics.median(times), call
        rows.append(row(suite, given, name, times, flops, nbytes))
    return rows, min(medians, key=lambda name: medians[name]), calls


def row(suite: Suite, given: Setup, subject: str, times: list[float], flops: float, nbytes: float, **more: Any) -> Row:
    """A row with times and the floor."""
    figures = spread(times)
    floor = suite.peaks.floor_ms(flops, nbytes)
    figures |= {"floor_ms": floor, "share_of_floor": floor / figures["median_ms"], **more.pop("figures", {})}
    setting = {"model": given.model, **more.pop("setting", {})}
    return Row(
        QUESTION, subject, shapes=given.shapes, dtype=suite.dtype_name, figures=figures, setting=setting, **more
    )


def attention(suite: Suite) -> Iterator[Row]:
    """Dense attention, and SVG2 with the backend ``"auto"`` at each density, by size."""
    backend = "torch" if suite.device.type == "cpu" else "triton"
    try:
        load_backend(backend, suite.device)
    except BackendUnavailableError as problem:
        yield not_measured(f"svg2_attention, backend {backend}", problem)
        return
    for model, num_tokens in sizes(suite):
        yield from attempt(of_size(suite, model, num_tokens, backend), "attention", model=model, tokens=num_tokens)


def of_size(suite: Suite, model: str, num_tokens: int, backend: str) -> Iterator[Row]:
    """Every dense kernel, and SVG2 at each density."""
    given = setup(suite, model, num_tokens)
    rows, fastest, calls = measure_dense(suite, given)
    yield from rows
    for density in DENSITIES[:1] if suite.is_smoke else DENSITIES:
        yield against_dense(suite, given, density, backend, fastest, calls)


def against_dense(
    suite: Suite, given: Setup, density: float, backend: str, fastest: str, calls: dict[str, Call], **changes: Any
) -> Row:
    """`svg2_attention` in turn with the fastest dense kernel and torch's own choice."""
    warm = Warm(given, density, backend, **changes)
    subject = "svg2_attention, no compensation" if changes else "svg2_attention"
    setting = {"backend": backend, **changes}
    return compared(suite, given, f"{subject}, {backend}", warm, warm.density, fastest, calls, setting)


def compared(
    suite: Suite,
    given: Setup,
    subject: str,
    call: Call,
    density: float,
    fastest: str,
    calls: dict[str, Call],
    setting: dict[str, Any],
) -> Row:
    """``call`` in turn with the fastest dense kernel and torch's own choice."""
    default = next(iter(calls))
    times = suite.clock.time({subject: call, **{name: calls[name] for name in dict.fromkeys((fastest, default))}})
    ratio, figures = ratios(times[fastest], times[subject])
    figures["speedup_to_sdpa"] = ratios(times[default], times[subject])[0]
    more = {"ratio": ratio, "budget": {"density": density}, "figures": figures}
    setting = {**setting, "baseline": fastest}
    return row(suite, given, subject, times[subject], *given.floor(density), setting=setting, **more)


def other_backends(suite: Suite) -> Iterator[Row]:
    """SVG2 as published with our kernels, ours with the other backends (checked first), and positional blocks."""
    model, num_tokens = SMOKE_SIZES[0] if suite.is_smoke else BACKEND_SIZE
    given = setup(suite, model, num_tokens)
    _, fastest, calls = measure_dense(suite, given)
    own = "torch" if suite.device.type == "cpu" else "triton"
    try:
        yield against_dense(suite, given, BACKEND_DENSITY, own, fastest, calls, compensate=False, probe_rows=0)
    except BackendUnavailableError as problem:
        yield not_measured(f"svg2_attention, no compensation, {own}", problem)
    try:
        _require_compiler(suite, "flex")
        _, _, heads, dim = given.steps[0][0].shape
        flex = PositionalFlex(num_tokens, heads, dim, BACKEND_DENSITY, suite.dtype, suite.device)
        call, density = partial(flex, *given.steps[0]), flex.density(num_tokens)
        yield compared(suite, given, POSITIONAL, call, density, fastest, calls, {"block": BLOCK})
    except (BackendUnavailableError, OutOfTimeError) as problem:
        yield not_measured(POSITIONAL, problem)
    for name in COMPILE_SECONDS:
        subject = f"svg2_attention, {name}"
        try:
            _require_compiler(suite, name)
            checked = check_backend(suite, name, load_backend(name, suite.device))
            yield checked
            if not checked.setting:
                yield against_dense(suite, given, BACKEND_DENSITY, name, fastest, calls)
        except (BackendUnavailableError, OutOfTimeError) as problem:
            yield not_measured(subject, problem)


def _require_compiler(suite: Suite, name: str) -> None:
    """Raises:
    BackendUnavailableError, OutOfTimeError: no time for a backend that compiles.
    """
    if suite.is_smoke and name == "flex":
        raise BackendUnavailableError("Compiling takes longer than a smoke test may.")
    suite.clock.deadline.require(COMPILE_SECONDS[name], f"compiling for the backend {name}")
