"""Positional blocks in FlexAttention, the rival that needs no clusters: blocks of tokens in order, chosen by means."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from dit_accel.errors import BackendUnavailableError
from dit_accel.sparse.backends import load_backend

BLOCK = 128


class PositionalFlex:
    """Attention of [1, S, H, D] under a choice of blocks that is made in every call.

    Args:
        num_tokens: S, a multiple of 128.
        heads, dim: H and D.
        density: share of the blocks of keys that each block of queries keeps.
        dtype, device: of the tokens.

    Raises:
        BackendUnavailableError: FlexAttention does not compile here.
    """

    def __init__(
        self,
        num_tokens: int,
        heads: int,
        dim: int,
        density: float,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
    ) -> None:
        load_backend("flex", torch.device(device))  # raises where it does not compile; torch would compute dense
        self.num_kept = max(1, round(density * (num_tokens // BLOCK)))
        self._compiled: Callable[..., Tensor] = torch.compile(flex_attention, dynamic=False, fullgraph=True)
        tokens = torch.zeros(1, num_tokens, heads, dim, dtype=dtype, device=device)
        try:
            self(tokens, tokens, tokens)
        except torch._dynamo.exc.TorchDynamoException as problem:
            raise BackendUnavailableError(
                f"FlexAttention does not compile for {num_tokens} tokens of {dtype} on {device}: "
                f"{str(problem).strip().partition(chr(10))[0]}. Measure other numbers of tokens."
            ) from problem

    def density(self, num_tokens: int) -> float:
        """Share of the pairs that is computed."""
        return self.num_kept / (num_tokens // BLOCK)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        rows, columns = (x.float().unflatten(2, (-1, BLOCK)).mean(3) for x in (query, key))
        which = (rows @ columns.transpose(-1, -2)).topk(self.num_kept, -1).indices.sort(-1).values
        num_blocks = rows.shape[2]
        # A row of indices must be as long as there are blocks. What is beyond the count is not read.
        listed = torch.zeros(*which.shape[:-1], num_blocks, dtype=torch.int32, device=which.device)
        listed[..., : self.num_kept] = which
        counts = torch.full(which.shape[:-1], self.num_kept, dtype=torch.int32, device=which.device)
        nothing = torch.zeros_like(counts)
        mask = BlockMask.from_kv_blocks(
            nothing,
            torch.zeros_like(listed),
            counts,
            listed,
            BLOCK_SIZE=BLOCK,
            seq_lengths=(query.shape[2], key.shape[2]),
            compute_q_blocks=False,
        )
        return self._compiled(query, key, value, block_mask=mask).transpose(1, 2).contiguous()
