"""The checks of the GPU suite: every kernel against its reference on the device, before anything is timed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from gpu_parts import QUESTION, Suite, failed, not_measured
from torch import Tensor

from dit_accel.configs import SVG2Config
from dit_accel.errors import BackendUnavailableError
from dit_accel.rows import Row
from dit_accel.sparse import SVG2State, reference, svg2_attention
from dit_accel.sparse.backends import Backend, load_backend
from dit_accel.sparse.clusters import Clusters, Selection, cluster_means, summarize

# Relative error of an output against float32; of a score that decides about a label, against the largest one.
OUTPUT_BARS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 6e-3}
SCORE_BAR = 1e-5
MOMENTS_BAR = 1e-5  # of numbers about 1


@dataclass(frozen=True)
class Sizes:
    """Of the tokens that are checked."""

    tokens: int
    heads: int
    dims: tuple[int, ...]
    clusters: tuple[int, int]


FULL, SMOKE = Sizes(4096, 4, (64, 128), (16, 64)), Sizes(96, 2, (32,), (3, 7))


def checks(suite: Suite) -> Iterator[Row]:
    """A row for each operation, dtype and head size, with the largest error; ``failed`` if it is above the bar."""
    try:
        backend = load_backend("triton", suite.device)
    except BackendUnavailableError as problem:
        yield not_measured("check: kernels", problem)
        return
    for dtype in dtypes(suite):
        for dim in (SMOKE if suite.is_smoke else FULL).dims:
            problem = Problem(suite, dtype, dim)
            for name, check in CHECKS.items():
                try:
                    yield problem.row(f"check: {name}", *check(problem, backend))
                except Exception as wrong:  # one that does not compile must not hide the others
                    yield failed(f"check: {name}, {dtype}, {dim} channels", wrong)


def check_backend(suite: Suite, name: str, backend: Backend) -> Row:
    """Of attention by any backend, in the dtype of the suite."""
    problem = Problem(suite, suite.dtype, (SMOKE if suite.is_smoke else FULL).dims[-1])
    return problem.row(f"check: backend {name}", *_attention(problem, backend))


def dtypes(suite: Suite) -> tuple[torch.dtype, ...]:
    """Those that kernels take. The interpreter multiplies the bit patterns of bfloat16."""
    if suite.is_smoke:
        return (torch.float32,)
    some = (torch.float32, torch.float16)
    return (*some, torch.bfloat16) if suite.device.type == "cuda" else some


class Problem:
    """Tokens, clusters and a selection, with stand-ins; made on the CPU, so that they are the same everywhere."""

    def __init__(self, suite: Suite, dtype: torch.dtype, dim: int) -> None:
        sizes = SMOKE if suite.is_smoke else FULL
        self.dtype, self.shapes = dtype, {"tokens": sizes.tokens, "heads": sizes.heads, "head_dim": dim}
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(suite.device)

        shape = (1, sizes.tokens, sizes.heads, dim)
        self.query, self.key, self.value = (normal(*shape).to(dtype) for _ in range(3))
        self.scale = 1 / math.sqrt(dim)
        num_queries, num_keys = sizes.clusters
        self.centroids = normal(1, sizes.heads, num_keys, dim)
        labels = [
            torch.randint(0, count, (1, sizes.heads, sizes.tokens), generator=generator) for count in sizes.clusters
        ]
        # Every third cluster but the first is empty.
        labels = [torch.where(each % 3 == 2, each // 3, each).to(suite.device, torch.int32) for each in labels]
        self.queries, self.keys = (Clusters.of(*pair) for pair in zip(labels, sizes.clusters, strict=True))
        kept = torch.rand(1, sizes.heads, num_queries, num_keys, generator=generator) < 0.3
        kept[0, 0, 0] = False  # stand-ins alone
        pseudo = summarize(self.key, self.value, self.keys)
        pseudo.log_size[0, -1] = -torch.inf  # a head without any
        self.selection = Selection(self.queries, self.keys, kept.to(suite.device), pseudo)

    def row(self, subject: str, error: float, bar: float) -> Row:
        """``error`` must be at most ``bar``; a NaN is above every bar."""
        setting = {} if error <= bar else {"failed": f"an error of {error:.3g}, at most {bar:.3g} is allowed"}
        dtype = str(self.dtype).removeprefix("torch.")
        quality = {"max_error": error, "bar": bar}
        return Row(QUESTION, subject, shapes=self.shapes, dtype=dtype, quality=quality, setting=setting)


def _assign(problem: Problem, backend: Backend) -> tuple[float, float]:
    """How much less the score of the chosen centroid is than that of the nearest, over the largest score."""
    labels = backend.assign(problem.key, problem.centroids).long()
    centroids = problem.centroids.to(problem.dtype).double()
    scores = problem.key.transpose(1, 2).double() @ centroids.transpose(-1, -2)
    scores -= centroids.square().sum(-1)[:, :, None] / 2
    gap = scores.amax(-1) - scores.gather(-1, labels[..., None])[..., 0]
    return float(gap.max() / scores.abs().max()), SCORE_BAR


def _counting_sort(problem: Problem, backend: Backend) -> tuple[float, float]:
    """How many entries differ."""
    found = backend.group(problem.keys.labels, problem.keys.sizes.shape[-1])
    wrong = (found.order != problem.keys.order).sum() + (found.sizes != problem.keys.sizes).sum()
    return float(wrong), 0.0


def _worst(errors: list[float]) -> float:
    """The largest, or NaN if one is."""
    return max(errors, key=lambda error: math.inf if math.isnan(error) else error)


def _moments(problem: Problem, backend: Backend) -> tuple[float, float]:
    """The largest difference of a mean or a variance, and the same bits without the variance."""
    found, wanted = backend.moments(problem.key, problem.keys), cluster_means(problem.key, problem.keys)
    if not backend.mean(problem.key, problem.keys).equal(found[0]):
        return math.inf, MOMENTS_BAR
    errors = [float((one - other).abs().max()) for one, other in zip(found, wanted, strict=True)]
    return _worst(errors), MOMENTS_BAR


def _block_lists(problem: Problem, _: Backend) -> tuple[float, float]:
    """How many lists have not exactly the blocks of the clusters that are kept, in order, whole ones first."""
    from dit_accel.kernels.block_lists import block_lists, cut_keys

    kept, sizes = problem.selection.kept, problem.keys.sizes
    num_keys = sizes.shape[-1]
    cut = cut_keys(sizes, problem.shapes["tokens"])
    lists, lengths = block_lists(cut, kept.contiguous())
    is_there, is_whole = cut.owner < 2 * num_keys, cut.owner < num_keys
    owner = (cut.owner % num_keys).long()[:, :, None].expand(-1, -1, kept.shape[2], -1)
    wanted = kept.gather(-1, owner) & is_there[:, :, None]
    place = torch.arange(lists.shape[-1], device=kept.device)
    is_listed = place < lengths[..., 1:]
    # Numbers in ascending order, what is not wanted last.
    sorted_wanted = torch.where(wanted, place, lists.shape[-1]).sort(-1).values
    wrong = (is_listed & (lists != sorted_wanted)).any(-1)
    wrong |= lengths[..., 1] != wanted.sum(-1)
    wrong |= lengths[..., 0] != (wanted & is_whole[:, :, None]).sum(-1)
    return float(wrong.sum()), 0.0


def _gather(problem: Problem, _: Backend) -> tuple[float, float]:
    """How many numbers of keys and values differ from those in the order of clusters."""
    from dit_accel.kernels.block_lists import MICRO, Partition, cut_keys, filled
    from dit_accel.kernels.gather import gather

    clusters, dim = problem.keys, problem.shapes["head_dim"]
    num_keys = clusters.sizes.shape[-1]
    cut = cut_keys(clusters.sizes, problem.shapes["tokens"])
    partition = Partition(clusters.labels, clusters.order, clusters.sizes, clusters.starts)
    found = gather(problem.key, problem.value, partition, cut, dim)
    counts, wrong = filled(clusters.sizes, cut), 0
    for head in range(problem.shapes["heads"]):
        is_token = torch.arange(MICRO, device=counts.device) < counts[0, head, :, None]
        # Whole blocks of a cluster come before its rest: by cluster, rows are its tokens in order.
        rows = is_token.flatten().nonzero()[:, 0]
        cluster = (cut.owner[0, head] % num_keys).repeat_interleave(MICRO)[rows]
        rows = rows[cluster.argsort(stable=True)]
        order = clusters.order[0, head].long()
        for tokens, by_block in zip((problem.key, problem.value), found.unbind(3), strict=True):
            wrong += int((by_block[0, head, rows, :dim] != tokens[0, order, head]).sum())
    return float(wrong), 0.0


def _attention(problem: Problem, backend: Backend) -> tuple[float, float]:
    """Relative error, with stand-ins and without: the larger one."""
    tokens = (problem.query, problem.key, problem.value)
    errors = []
    for pseudo in (problem.selection.pseudo, None):
        selection = Selection(problem.queries, problem.keys, problem.selection.kept, pseudo)
        out = backend.attend(*tokens, selection, problem.scale).float()
        wanted = reference.attend(*(x.float() for x in tokens), selection, problem.scale)
        errors.append(float((out - wanted).norm() / wanted.norm()))
    return _worst(errors), OUTPUT_BARS[problem.dtype]


def _whole_call(problem: Problem, _: Backend) -> tuple[float, float]:
    """`svg2_attention` that keeps everything, against dense attention."""
    tokens = (problem.query, problem.key, problem.value)
    config = SVG2Config(
        top_p=1.0, min_tokens=0, num_q_centroids=5, num_k_centroids=11, kmeans_iters_init=2, backend="triton"
    )
    out, _info = svg2_attention(*tokens, config, state=SVG2State())
    query, key, value = (x.transpose(1, 2).float() for x in tokens)
    wanted = ((query @ key.transpose(-1, -2) * problem.scale).softmax(-1) @ value).transpose(1, 2)
    return float((out.float() - wanted).norm() / wanted.norm()), OUTPUT_BARS[problem.dtype]


def _same_bits(problem: Problem, backend: Backend) -> tuple[float, float]:
    """How many numbers differ between two calls with the same input."""
    tokens = (problem.query, problem.key, problem.value)
    one, other = (backend.attend(*tokens, problem.selection, problem.scale) for _ in range(2))
    return float((one != other).sum()), 0.0


CHECKS: dict[str, Callable[[Problem, Backend], tuple[float, float]]] = {
    "assign": _assign,
    "counting_sort": _counting_sort,
    "moments": _moments,
    "block_lists": _block_lists,
    "gather": _gather,
    "attention": _attention,
    "svg2_attention": _whole_call,
    "same bits twice": _same_bits,
}
