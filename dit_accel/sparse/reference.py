"""The oracle of every backend: attention over the kept clusters as masked dense attention in float32."""

from __future__ import annotations

import torch
from torch import Tensor

from .clusters import Selection

_CHUNK = 1024  # queries at a time


def token_logits(query: Tensor, key: Tensor, selection: Selection, rows: Tensor, scale: float) -> Tensor:
    """[B, H, R, S (+ CK)] float32 logits of the queries ``rows``; −inf where the selection leaves a key out.

    Args:
        query, key: [B, S, H, D].
        selection: its pseudo-tokens, if it has any, are the columns after the keys.
        rows: [R] indices of queries.
        scale: factor of the dot product.
    """
    queries = query[:, rows].transpose(1, 2).float()
    row_labels = selection.query.labels[:, :, rows].long()
    kept = selection.kept.gather(2, row_labels[..., None].expand(-1, -1, -1, selection.kept.shape[-1]))
    kept_tokens = kept.gather(3, selection.key.labels.long()[:, :, None].expand(-1, -1, len(rows), -1))
    logits = queries @ key.transpose(1, 2).float().transpose(-1, -2) * scale
    logits = logits.masked_fill(~kept_tokens, -torch.inf)
    if selection.pseudo is None:
        return logits
    stand_ins = selection.pseudo.logits(queries, scale).masked_fill(kept, -torch.inf)
    return torch.cat([logits, stand_ins], dim=-1)


def attend(query: Tensor, key: Tensor, value: Tensor, selection: Selection, scale: float) -> Tensor:
    """Attention of [B, S, H, D] under ``selection``, in the dtype of ``query``. A query that keeps nothing gives 0."""
    values = value.transpose(1, 2).float()
    if selection.pseudo is not None:
        values = torch.cat([values, selection.pseudo.value], dim=2)
    outputs = []
    for rows in torch.arange(query.shape[1], device=query.device).split(_CHUNK):
        logits = token_logits(query, key, selection, rows, scale)
        weights = logits.softmax(-1).masked_fill(logits.isneginf().all(-1, keepdim=True), 0.0)
        outputs.append((weights @ values).to(query.dtype))
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()
