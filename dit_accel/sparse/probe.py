"""A few exact rows of every head tell how far sparse attention is from dense, and whether compensation helps there."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .clusters import PseudoTokens, Selection

_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, slots=True)
class Probed:
    """``pseudo`` as it suits each head best, and the ``error`` [B, H] that is left with it."""

    pseudo: PseudoTokens | None
    error: Tensor


def probe_rows(num_rows: int, start: int, stop: int, device: torch.device) -> Tensor:
    """[R] int64, up to ``num_rows`` queries spread over ``start`` … ``stop``."""
    count = min(num_rows, stop - start)
    return start + ((torch.arange(count, device=device) + 0.5) * ((stop - start) / count)).long()


def probe(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    selection: Selection,
    rows: Tensor,
    scale: float,
    key_mask: Tensor | None = None,
) -> Probed:
    """Compare the selection with dense attention on ``rows``.

    Of leaving dropped clusters out, letting mean keys stand for them, and mean keys with the variance term, every head
    gets what is nearest to its exact rows.

    Args:
        query, key, value: [B, S, H, D].
        selection: with pseudo-tokens, or without: then there is no choice.
        rows: [R] indices of queries.
        scale: factor of the dot product.
        key_mask: [B, S] bool, keys that count; None: all.
    """
    # In the dtype of the model: float32 copies of all keys would be the largest tensors of the layer.
    queries = query[:, rows].transpose(1, 2)
    # Keys come first in the product: with the few rows first, a CPU would copy all keys.
    scores = (key.transpose(1, 2) @ queries.transpose(-1, -2)).transpose(-1, -2).float().mul_(scale)
    if key_mask is not None:
        scores.masked_fill_(~key_mask[:, None, None], -torch.inf)
    values = value.transpose(1, 2)
    largest = scores.amax(-1, keepdim=True)
    weights = scores.sub_(largest).exp_()
    target = _weighed(weights, values) / weights.sum(-1, keepdim=True)

    labels = selection.query.labels[:, :, rows].long()
    kept = selection.kept.gather(2, labels[..., None].expand(-1, -1, -1, selection.kept.shape[-1]))
    weights *= kept.gather(3, selection.key.labels.long()[:, :, None].expand(-1, -1, len(rows), -1))
    out, mass = _weighed(weights, values), weights.sum(-1, keepdim=True)
    norm = target.square().sum((-2, -1)).sqrt().clamp(min=1e-12)

    def error_of(found: Tensor) -> Tensor:
        return (found - target).square().sum((-2, -1)).sqrt() / norm

    dropped = error_of(out / mass.clamp(min=_TINY))
    pseudo = selection.pseudo
    if pseudo is None:
        return Probed(None, dropped)
    plain = replace(pseudo, half_variance=torch.zeros_like(pseudo.half_variance))
    errors = [dropped]
    for candidate in (plain, pseudo):
        logits = candidate.logits(queries, scale).masked_fill_(kept, -torch.inf)
        both = torch.maximum(largest, logits.amax(-1, keepdim=True))
        stand_ins, share = logits.sub_(both).exp_(), (largest - both).exp_()
        total = mass * share + stand_ins.sum(-1, keepdim=True)
        errors.append(error_of((out * share + stand_ins @ pseudo.value) / total.clamp(min=_TINY)))
    best = torch.stack(errors).min(0)
    chosen = replace(
        pseudo,
        half_variance=pseudo.half_variance * (best.indices == 2)[..., None, None],
        log_size=pseudo.log_size.masked_fill((best.indices == 0)[..., None], -torch.inf),
    )
    return Probed(chosen, best.values)


def _weighed(weights: Tensor, values: Tensor) -> Tensor:
    """[B, H, R, D] float32, the sum of values [B, H, S, D], the products in their dtype."""
    return (weights.to(values.dtype) @ values).float()
