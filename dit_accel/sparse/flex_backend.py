"""The backend ``"flex"``: PyTorch's FlexAttention, one compiled kernel for all heads. The default ones are faster.

Tokens are laid out in cluster order, and every cluster is padded to whole blocks. A block then belongs to one cluster,
and a pair of blocks is computed or skipped as a whole. (Blocks over tokens that are merely sorted would straddle
clusters: at 64 keys a cluster they double what is computed, and each of them needs a mask.) Pseudo-tokens are keys in
front of all others, and their term in q² is further channels of queries and keys: one softmax covers everything.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import pad

from ..errors import BackendUnavailableError
from .backends import MinTokens, TorchOps
from .clusters import Clusters, Selection, summarize

_QUERIES, _KEYS = 64, 32  # tokens a block: a cluster is padded by half of one, and those of keys are the smaller ones
# Sizes are compiled in: torch's CPU kernel mixes up symbolic ones. So that a few tokens more do not need a new kernel,
# slots come in steps; what is left over is skipped.
_STEP = 1024
_MAX_KERNELS = 64  # one for each dtype, shape and use of pseudo-tokens; torch itself stops at 8


class FlexBackend(TorchOps):
    """See `Backend`."""

    # On a CPU, at 30 % density and in float32, it breaks even here with stand-ins, and at 2048 without them. There the
    # backend "torch" is the fast one, and on a GPU "triton".
    min_tokens = MinTokens(8192, 8192)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, selection: Selection, scale: float) -> Tensor:
        """See `Backend.attend`. The first call of a kind compiles, which takes seconds.

        Raises:
            BackendUnavailableError: this kind of call does not compile, or torch.compile is switched off.
        """
        batch, num_tokens, heads, dim = query.shape
        num_clusters, pseudo = selection.kept.shape[-1], selection.pseudo
        front = _rounded_up(num_clusters, _KEYS)  # also without pseudo-tokens: then no block lists these columns
        rows, columns = _Layout.of(selection.query, _QUERIES), _Layout.of(selection.key, _KEYS, front)
        bias = torch.full((batch * heads, columns.size), -torch.inf, dtype=torch.float32, device=query.device)
        bias.view(-1).index_fill_(0, columns.slots, 0.0)
        if pseudo is not None:
            # scale² · Σ q²·half_variance: the kernel multiplies by the other factor.
            squares = (query.float().square() * scale).to(query.dtype)
            query, key = torch.cat([query, squares], -1), pad(key, (0, dim))
        queries, keys, values = rows.place(query), columns.place(key), columns.place(value)
        if pseudo is not None:
            keys[:, :num_clusters] = torch.cat([pseudo.key, pseudo.half_variance], -1).flatten(0, 1)
            values[:, :num_clusters] = pseudo.value.flatten(0, 1)
            bias[:, :num_clusters] = pseudo.log_size.flatten(0, 1)
        out = _run((queries, keys, values, bias, *_blocks(selection, rows, columns, front)), scale)
        by_head = out.reshape(-1, dim).index_select(0, rows.slots).view(batch, heads, num_tokens, dim)
        return by_head.transpose(1, 2).contiguous()


@dataclass(frozen=True, slots=True)
class _Layout:
    """The tokens of G = B · H heads in slots: cluster after cluster, each in whole blocks.

    Args:
        slots: [G · S] int64, the slot of each token, counted through all heads.
        clusters: [G, N] int64, the cluster of each block; C where a block is left over.
        size: slots a head. It depends on S and C alone: nothing is read from the device.
    """

    slots: Tensor
    clusters: Tensor
    size: int

    @staticmethod
    def of(clusters: Clusters, block: int, front: int = 0) -> _Layout:
        """Blocks of ``block`` slots, behind ``front`` slots that are left free."""
        labels, order, sizes = (x.flatten(0, 1).long() for x in (clusters.labels, clusters.order, clusters.sizes))
        (heads, num_tokens), device = labels.shape, labels.device
        size = _rounded_up(front + num_tokens + sizes.shape[1] * (block - 1), _STEP)
        num_blocks = (size - front) // block
        ends = ((sizes + block - 1) // block).cumsum(1)
        place = torch.arange(num_tokens, device=device).expand_as(order)
        rank = torch.empty_like(order).scatter_(1, order, place) - (sizes.cumsum(1) - sizes).gather(1, labels)
        first = torch.arange(heads, device=device)[:, None] * size + front
        slots = first + pad(ends[:, :-1], (1, 0)).gather(1, labels) * block + rank
        blocks = torch.arange(num_blocks, device=device).expand(heads, num_blocks).contiguous()
        return _Layout(slots.flatten(), torch.searchsorted(ends, blocks, right=True), size)

    def place(self, tokens: Tensor) -> Tensor:
        """[G, slots, D] of [B, S, H, D]; zero where there is no token."""
        by_head = tokens.transpose(1, 2).reshape(-1, tokens.shape[-1])
        placed = by_head.new_zeros(len(self.clusters) * self.size, tokens.shape[-1])
        return placed.index_copy_(0, self.slots, by_head).view(len(self.clusters), self.size, -1)


def _rounded_up(number: int, step: int) -> int:
    return -(-number // step) * step


def _blocks(selection: Selection, rows: _Layout, columns: _Layout, front: int) -> tuple[Tensor, ...]:
    """What each block of queries attends to.

    Returns [G, N, front] bool, the pseudo-tokens that it needs; [G, N] int32, how many blocks of keys it keeps, and
    [G, N, M] int32, which, in front; and the same two for the blocks of pseudo-tokens, of which it has all or none.
    """
    kept = selection.kept.flatten(0, 1)
    num_queries, num_keys = kept.shape[1:]
    of_keys = columns.clusters[:, None].expand(-1, num_queries + 1, -1)
    is_kept = pad(pad(kept, (0, 1, 0, 1)).gather(2, of_keys), (front // _KEYS, 0))
    counts = is_kept.sum(-1, dtype=torch.int32).gather(1, rows.clusters)
    # Sorted once a cluster, not once a block.
    by_cluster = is_kept.byte().argsort(dim=-1, descending=True, stable=True).int()
    which = by_cluster.gather(1, rows.clusters[..., None].expand(-1, -1, is_kept.shape[-1]))
    needed = pad(~kept, (0, front - num_keys, 0, 1)).gather(1, rows.clusters[..., None].expand(-1, -1, front))
    in_use = (rows.clusters < num_queries) if selection.pseudo is not None else torch.zeros_like(counts)
    # Laid out like `which`: on a GPU, before torch 2.13, FlexAttention finds both by the strides of one.
    all_in_turn = torch.arange(is_kept.shape[-1], dtype=torch.int32, device=kept.device).expand_as(which).contiguous()
    return needed, counts, which, in_use.int() * (front // _KEYS), all_in_turn


def _attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    bias: Tensor,
    needed: Tensor,
    counts: Tensor,
    which: Tensor,
    pseudo_counts: Tensor,
    pseudo_which: Tensor,
    scale: float,
) -> Tensor:
    """The part that is compiled. All tensors as above, behind one dimension of length 1."""
    if not torch.compiler.is_compiling():  # FlexAttention would fall back to dense attention, which ignores the blocks
        raise BackendUnavailableError(
            'The backend "flex" needs torch.compile, which is switched off here (TORCHDYNAMO_DISABLE, '
            'torch.compiler.set_stance or torch.compiler.disable). Use backend="auto".'
        )

    def add_bias(score: Tensor, _: Tensor, head: Tensor, __: Tensor, column: Tensor) -> Tensor:
        return score + bias[0, head, column]

    def is_needed(_: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return needed[0, head, row // _QUERIES, column]  # asked for blocks of pseudo-tokens only

    mask = BlockMask.from_kv_blocks(
        pseudo_counts,
        pseudo_which,
        counts,
        which,
        BLOCK_SIZE=(_QUERIES, _KEYS),
        mask_mod=is_needed,
        seq_lengths=(queries.shape[2], keys.shape[2]),
        compute_q_blocks=False,
    )
    out: Tensor = flex_attention(
        queries,
        keys,
        values,
        score_mod=add_bias,
        block_mask=mask,
        scale=scale,
        kernel_options={"BLOCK_M": _QUERIES, "BLOCK_N": _KEYS},  # on a GPU a tile must divide a block
    )
    return out


def _run(tensors: tuple[Tensor, ...], scale: float) -> Tensor:
    """[G, slots, D] of `_attend`, or a `BackendUnavailableError`; never its dense fallback."""
    given = [x[None] for x in tensors]
    try:
        # With fullgraph, one kernel too many is an error; otherwise torch would go on without compiling.
        with torch._dynamo.config.patch(recompile_limit=_MAX_KERNELS):
            out: Tensor = _compiled()(*given, scale)
    except torch._dynamo.exc.FailOnRecompileLimitHit as error:
        raise BackendUnavailableError(
            f'The backend "flex" has compiled {_MAX_KERNELS} kernels in this process, and {_kind(given[0])} needs '
            'another. Use fewer resolutions in a process, or backend="auto".'
        ) from error
    except torch._dynamo.exc.TorchDynamoException as error:
        reason = str(error).strip().partition("\n")[0]
        raise BackendUnavailableError(
            f'The backend "flex" cannot compile its kernel for {_kind(given[0])}: {type(error).__name__}: {reason} '
            'On a CPU it needs a C++ compiler, on a GPU Triton. Or use backend="auto".'
        ) from error
    return out[0]


def _kind(queries: Tensor) -> str:
    return f"{queries.dtype} of shape {tuple(queries.shape[1:])} on {queries.device}"


@functools.cache
def _compiled() -> Callable[..., Tensor]:
    compiled: Callable[..., Tensor] = torch.compile(_attend, dynamic=False, fullgraph=True)
    return compiled


@functools.cache
def load(device: torch.device) -> FlexBackend:
    """The backend, once a small kernel has been compiled and run on ``device``.

    Raises:
        BackendUnavailableError: it does not compile; the message says why.
    """
    tokens = torch.zeros(1, 2 * _QUERIES, 1, 16, device=device)
    one = Clusters.of(tokens[..., 0].transpose(1, 2).long(), 1)
    kept = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)
    backend = FlexBackend()
    backend.attend(tokens, tokens, tokens, Selection(one, one, kept, summarize(tokens, tokens, one)), 1.0)
    return backend
