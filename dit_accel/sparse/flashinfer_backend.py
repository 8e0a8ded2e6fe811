"""The backend ``"flashinfer"``: FlashInfer's kernel for blocks of any size. The backend ``"triton"`` is faster.

The kernel knows no pseudo-tokens: they are attended to in torch, and merged by the log-sum-exp that it returns. Its
planning reads the selection back to the host at every call.
"""

from __future__ import annotations

import functools
import math
from typing import Protocol

import torch
from torch import Tensor

from ..errors import BackendUnavailableError
from .backends import MinTokens, TorchOps
from .clusters import Clusters, Selection

_DTYPES, _HEAD_SIZES = (torch.float16, torch.bfloat16), (64, 128, 256)
_WORKSPACE_BYTES = 128 << 20  # what FlashInfer recommends
_ROWS = 4096  # queries at a time against all pseudo-tokens


class Wrapper(Protocol):
    """The part of ``flashinfer.sparse.VariableBlockSparseAttentionWrapper`` that is used; G = B · H heads."""

    def plan(
        self,
        block_mask_map: Tensor,
        block_row_sz: Tensor,
        block_col_sz: Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        sm_scale: float,
        q_data_type: torch.dtype,
    ) -> None:
        """For a mask [G, CQ, CK] bool of blocks of [G, CQ] and [G, CK] int32 tokens; at least one is kept."""

    def run(self, q: Tensor, k: Tensor, v: Tensor, *, return_lse: bool) -> tuple[Tensor, Tensor]:
        """Output [G, S, D] and log2 of the mass [G, S] float32."""


class FlashInferBackend(TorchOps):
    """See `Backend`."""

    # On an H200 the backend "triton" is three times as fast: half precision pays at low densities alone. The other is
    # for a dtype that is refused.
    min_tokens = MinTokens(32_768, 32_768)

    def __init__(self, wrapper: Wrapper) -> None:
        self._wrapper = wrapper

    def attend(self, query: Tensor, key: Tensor, value: Tensor, selection: Selection, scale: float) -> Tensor:
        """See `Backend.attend`.

        Raises:
            BackendUnavailableError: a dtype or head size that FlashInfer has no kernel for.
        """
        dim = query.shape[-1]
        if query.dtype not in _DTYPES or dim not in _HEAD_SIZES:
            raise BackendUnavailableError(
                f'The backend "flashinfer" runs in float16 and bfloat16 with heads of 64, 128 or 256 channels, got '
                f'{query.dtype} and {dim}. Use backend="auto".'
            )
        queries = _in_order(query, selection.query)
        keys, values = _in_order(key, selection.key), _in_order(value, selection.key)
        out, mass = self._attend_tokens(queries, keys, values, selection, scale)
        out = merge_stand_ins(out, mass, queries, selection, scale)
        order = selection.query.order.long()[..., None].expand_as(out)
        return torch.empty_like(out).scatter_(2, order, out).transpose(1, 2).contiguous()

    def _attend_tokens(
        self, queries: Tensor, keys: Tensor, values: Tensor, selection: Selection, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Output [B, H, S, D] and mass [B, H, S] of the kept tokens, in cluster order."""
        kept = selection.kept & (selection.key.sizes > 0)[:, :, None]
        is_fed = kept.any(-1).gather(2, _ordered_labels(selection.query))
        if not is_fed.any():
            return torch.zeros_like(queries), torch.full_like(queries[..., 0], -torch.inf, dtype=torch.float32)
        heads = queries.shape[0] * queries.shape[1]
        self._wrapper.plan(
            kept.flatten(0, 1),
            selection.query.sizes.flatten(0, 1),
            selection.key.sizes.flatten(0, 1),
            heads,
            heads,
            queries.shape[-1],
            sm_scale=scale,
            q_data_type=queries.dtype,
        )
        flat_out, log2_mass = self._wrapper.run(*(x.flatten(0, 1) for x in (queries, keys, values)), return_lse=True)
        mass = log2_mass.view_as(is_fed) * math.log(2)
        # What the kernel leaves in rows without keys is its own affair.
        return flat_out.view_as(queries).masked_fill(~is_fed[..., None], 0), mass.masked_fill(~is_fed, -torch.inf)


def merge_stand_ins(out: Tensor, mass: Tensor, queries: Tensor, selection: Selection, scale: float) -> Tensor:
    """Attention to tokens and pseudo-tokens in one softmax, from that to tokens alone.

    Args:
        out: [B, H, S, D], attention to the kept tokens; zero where none is.
        mass: [B, H, S] float32, log of the sum of their exponentials; −inf where none is.
        queries: [B, H, S, D]. All three are in cluster order.
        selection: with or without pseudo-tokens.
        scale: factor of the dot product.
    """
    pseudo = selection.pseudo
    if pseudo is None:
        return out
    labels, parts = _ordered_labels(selection.query), []
    for rows in torch.arange(out.shape[2], device=out.device).split(_ROWS):
        kept = selection.kept.gather(2, labels[:, :, rows, None].expand(-1, -1, -1, selection.kept.shape[-1]))
        logits = pseudo.logits(queries[:, :, rows], scale).masked_fill_(kept, -torch.inf)
        pseudo_mass = logits.logsumexp(-1, keepdim=True)
        pseudo_out = (logits - pseudo_mass).exp_().nan_to_num_(0.0) @ pseudo.value  # nan: none is left
        share = torch.sigmoid(mass[:, :, rows, None] - pseudo_mass).nan_to_num_(0.0)
        parts.append((out[:, :, rows].float() * share + pseudo_out * (1 - share)).to(out.dtype))
    return torch.cat(parts, 2)


def _in_order(tokens: Tensor, clusters: Clusters) -> Tensor:
    """[B, H, S, D] in cluster order."""
    by_head = tokens.transpose(1, 2)
    return by_head.gather(2, clusters.order.long()[..., None].expand_as(by_head))


def _ordered_labels(clusters: Clusters) -> Tensor:
    """[B, H, S] int64, the cluster of each token in cluster order."""
    return clusters.labels.gather(2, clusters.order.long()).long()


@functools.cache
def load(device: torch.device) -> FlashInferBackend:
    """The backend.

    Raises:
        BackendUnavailableError: there is no GPU or no FlashInfer; the message says which.
    """
    if not torch.cuda.is_available():
        raise BackendUnavailableError(
            'The backend "flashinfer" needs a CUDA GPU, torch finds none. Use backend="auto".'
        )
    try:
        from flashinfer.sparse import VariableBlockSparseAttentionWrapper
    except (ImportError, OSError, RuntimeError) as error:  # it looks for CUDA while it is imported
        raise BackendUnavailableError(
            f'The backend "flashinfer" cannot import FlashInfer: {error}. Install it with: pip install '
            'flashinfer-python. Or use backend="auto".'
        ) from error
    workspace = torch.empty(_WORKSPACE_BYTES, dtype=torch.uint8, device=device)
    return FlashInferBackend(VariableBlockSparseAttentionWrapper(workspace))
