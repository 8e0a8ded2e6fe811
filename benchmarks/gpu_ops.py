"""Each kernel alone in the GPU suite, on the clusters and the selection of a warm call."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from gpu_attention import SMOKE_SIZES, Setup, Warm, row, setup
from gpu_clock import Call
from gpu_parts import Suite, attempt, not_measured

from dit_accel.errors import BackendUnavailableError
from dit_accel.rows import Row
from dit_accel.sparse.backends import Backend, load_backend
from dit_accel.sparse.clusters import Selection, summarize

SIZES = (("Wan 2.1 1.3B", 32760), ("Wan 2.1 14B", 75600))
DENSITY = 0.3
Op = tuple[Call, float, float]  # what runs, its operations, and the bytes that it must move


def ops(suite: Suite) -> Iterator[Row]:
    """A row for each kernel and size, with the least that the device would need for its operations and bytes."""
    try:
        backend = load_backend("triton", suite.device)
    except BackendUnavailableError as problem:
        yield not_measured("op: kernels", problem)
        return
    for model, num_tokens in SMOKE_SIZES if suite.is_smoke else SIZES:
        rows = measure(suite, model, num_tokens, backend)
        yield from attempt(rows, "op: kernels", model=model, tokens=num_tokens)


def measure(suite: Suite, model: str, num_tokens: int, backend: Backend) -> Iterator[Row]:
    """A row for each kernel."""
    given = setup(suite, model, num_tokens)
    warm = Warm(given, DENSITY, "triton")
    for name, (call, flops, nbytes) in ops_of(given, warm, backend).items():
        times = suite.clock.time({name: call})[name]
        yield row(suite, given, f"op: {name}", times, flops, nbytes, budget={"density": warm.density})


def ops_of(given: Setup, warm: Warm, backend: Backend) -> dict[str, Op]:
    """Name -> what it does for one layer, all heads."""
    from dit_accel.kernels.block_lists import MICRO, Partition, block_lists, cut_keys
    from dit_accel.kernels.gather import gather

    query, key, value = given.steps[0]
    _, num_tokens, heads, dim = query.shape
    state = warm.state
    assert state.query is not None and state.key is not None and state.kept is not None
    assert state.query_centroids is not None and state.key_centroids is not None
    queries, keys, kept = state.query, state.key, state.kept
    query_centroids, key_centroids = state.query_centroids, state.key_centroids
    num_keys, labels = keys.sizes.shape[-1], keys.labels
    partition = Partition(keys.labels, keys.order, keys.sizes, keys.starts)
    cut = cut_keys(keys.sizes, num_tokens)
    plain = Selection(queries, keys, kept)
    full = Selection(queries, keys, kept, summarize(key, value, keys))
    scale = dim**-0.5

    def of_assign(centroids: torch.Tensor) -> tuple[float, float]:
        return 2 * query.numel() * centroids.shape[2], query.nbytes + centroids.nbytes + labels.nbytes

    # As many heads at a time as the launcher takes: lists of all would not fit into its limit.
    some = slice(0, heads_at_a_time(num_tokens, heads, kept))
    some_kept = kept[:, some].contiguous()
    some_cut = cut_keys(keys.sizes[:, some].contiguous(), num_tokens)
    listed = 2 * float((some_kept.float().sum(2) * (keys.sizes[:, some] / MICRO).ceil()).sum())
    pairs = float(plain.pairs().sum())
    stand_ins = float(((~kept).sum(-1) * queries.sizes).sum())
    tokens, nbytes = (query, key, value), 4 * query.nbytes
    return {
        "assign, queries": (lambda: backend.assign(query, query_centroids), *of_assign(query_centroids)),
        "assign, keys": (lambda: backend.assign(key, key_centroids), *of_assign(key_centroids)),
        "counting_sort, keys": (lambda: backend.group(labels, num_keys), 0.0, 2 * labels.nbytes),
        "moments, keys": (
            lambda: backend.moments(key, keys),
            0.0,
            key.nbytes + labels.nbytes + 2 * key_centroids.nbytes,
        ),
        f"block_lists, {some.stop} heads": (lambda: block_lists(some_cut, some_kept), 0.0, some_kept.nbytes + listed),
        "gather": (lambda: gather(key, value, partition, cut, dim), 0.0, 4 * key.nbytes),
        "attention": (lambda: backend.attend(*tokens, plain, scale), 4 * pairs * dim, nbytes),
        "attention with stand-ins": (
            lambda: backend.attend(*tokens, full, scale),
            (4 * pairs + 6 * stand_ins) * dim,
            nbytes,
        ),
    }


def heads_at_a_time(num_tokens: int, heads: int, kept: torch.Tensor) -> int:
    """How many heads share a launch of the attention."""
    from dit_accel.kernels import attention
    from dit_accel.kernels.block_lists import list_bytes

    return max(1, min(heads, attention._LIST_BYTES // list_bytes(num_tokens, *kept.shape[2:])))
