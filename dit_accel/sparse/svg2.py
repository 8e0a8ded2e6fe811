"""`svg2_attention`: cluster queries and keys, attend to the clusters that matter and to stand-ins for the rest."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from ..configs import SVG2Config
from ..errors import ConfigError
from .backends import Backend, load_backend
from .clusters import Clusters, PseudoTokens, Selection, summarize
from .kmeans import assign, cluster, recentre, sample_stride, stratified_tokens
from .probe import probe, probe_rows
from .select import estimated_logits, select_top_p, stand_in_errors
from .state import SparseInfo, SVG2State

_TOKENS_PER_Q_CENTROID, _TOKENS_PER_K_CENTROID = 256, 64


def svg2_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    config: SVG2Config,
    *,
    state: SVG2State | None = None,
    text_tokens: int | tuple[int, int] = 0,
    key_mask: Tensor | None = None,
    scale: float | None = None,
    rank_sum: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, SparseInfo]:
    """Semantic-permuted sparse self-attention, without a mask.

    Args:
        query, key, value: [B, S, H, D] after rotary embedding, floating point, of any strides.
        config: the knobs; ``dense_steps`` and ``dense_layers`` are those of the caller.
        state: carries clusters from one step to the next, for this layer and branch; None starts from nothing.
        text_tokens: number of text tokens at the end, or (at the start, at the end). They attend to all tokens and all
            attend to them.
        key_mask: [B, S] bool, False at padded text tokens: nothing attends to them, and their rows mean nothing.
        scale: factor of the dot product; 1 / √D if None.
        rank_sum: adds a tensor up over the processes that have other heads of the same layer, so that all of them
            refresh at the same steps, and select as one; None: there are no others.

    Returns:
        The output, [B, S, H, D] contiguous in the dtype of ``query``, and what was done.

    Raises:
        ConfigError: shapes or text tokens that do not fit.
        BackendUnavailableError: the backend asked for cannot run here.
    """
    text = (0, text_tokens) if isinstance(text_tokens, int) else tuple(text_tokens)
    _check(query, key, value, text, key_mask)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    backend = load_backend(config.backend, query.device)
    batch, num_tokens, heads = query.shape[:3]
    num_pairs = batch * heads * num_tokens * num_tokens
    reason = why_dense(config, query, num_tokens - sum(text))
    if reason is not None:
        return _dense(query, key, value, key_mask, scale), SparseInfo(num_pairs, reason)

    state = SVG2State() if state is None else state
    layout = _Layout(text[0], num_tokens - text[1], key_mask)
    pseudo = None
    if _needs_refresh(state, query, config):
        pseudo = _refresh(state, query, key, value, config, layout, backend, scale, rank_sum)
    selection = _selection(state, key, value, config, layout, backend, pseudo)
    selection, error = _probed(state, query, key, value, selection, config, layout, scale, rank_sum)
    out = backend.attend(query, key, value, selection, scale)
    return out, SparseInfo(num_pairs, None, selection.pairs().sum(), error, state.nbytes)


def why_dense(config: SVG2Config, query: Tensor, num_video_tokens: int) -> str | None:
    """Why attention over so many video tokens is computed dense for such queries; None if it is not."""
    limit = config.min_tokens
    if limit == "auto":
        limits = load_backend(config.backend, query.device).min_tokens
        limit = limits.float32 if query.dtype.itemsize > 2 else limits.half
    return f"fewer than {max(limit, 1)} tokens" if num_video_tokens < max(limit, 1) else None


@dataclass(frozen=True, slots=True)
class _Layout:
    """Video tokens are ``start … stop``. Text gets two clusters more: what always counts, and padding."""

    start: int
    stop: int
    key_mask: Tensor | None

    def video(self, tokens: Tensor) -> Tensor:
        return tokens[:, self.start : self.stop]

    def with_text(self, clusters: Clusters, num_tokens: int, backend: Backend) -> Clusters:
        """The partition of all tokens."""
        if num_tokens == clusters.labels.shape[-1]:
            return clusters
        num_clusters = clusters.sizes.shape[-1]
        labels = pad(clusters.labels, (self.start, num_tokens - self.stop), value=num_clusters)
        if self.key_mask is not None:
            labels = labels.masked_fill(~self.key_mask[:, None], num_clusters + 1)
        return backend.group(labels, num_clusters + 2)

    def counts(self, key: Clusters) -> Tensor:
        """[B, H, CK] bool: all clusters of keys, but not that of padding."""
        found = key.sizes > 0
        if key.labels.shape[-1] > self.stop - self.start:
            found[..., -1] = False
        return found


def _needs_refresh(state: SVG2State, query: Tensor, config: SVG2Config) -> bool:
    """Whether clusters and selection are missing, of another shape, or too old."""
    is_missing = state.query is None or state.query.labels.shape != (query.shape[0], query.shape[2], query.shape[1])
    if is_missing:
        state.reset()
    return is_missing or state.is_stale or state.calls >= config.refresh_every or state.has_drifted.read()


def _refresh(
    state: SVG2State,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    config: SVG2Config,
    layout: _Layout,
    backend: Backend,
    scale: float,
    rank_sum: Callable[[Tensor], Tensor] | None,
) -> PseudoTokens:
    """Cluster anew from the last centroids, and select; the pseudo-tokens of the keys are a by-product."""
    queries, keys, num_tokens = layout.video(query), layout.video(key), query.shape[1]
    state_q, before_q = _cluster(
        queries, state.query_centroids, config.num_q_centroids, _TOKENS_PER_Q_CENTROID, config, backend
    )
    state_k, before_k = _cluster(
        keys, state.key_centroids, config.num_k_centroids, _TOKENS_PER_K_CENTROID, config, backend
    )
    (query_mean, query_variance), (key_mean, key_variance) = (
        backend.moments(queries, state_q),
        backend.moments(keys, state_k),
    )
    is_moving = config.kmeans_iters_step > 0 or state.query_centroids is None
    state.query_centroids = recentre(query_mean, state_q, before_q) if is_moving else before_q
    state.key_centroids = recentre(key_mean, state_k, before_k) if is_moving else before_k
    value_mean, value_variance = backend.moments(layout.video(value), state_k)
    pseudo = PseudoTokens(key_mean, key_variance / 2, value_mean, state_k.sizes.float().log())
    logits = estimated_logits(query_mean, query_variance / 2, pseudo, scale)
    at_least = math.ceil(config.min_kept_ratio * keys.shape[1])
    errors = None
    if config.compensate:
        errors = stand_in_errors(query_mean, query_variance / 2, pseudo, value_variance.sum(-1), scale)
    kept = select_top_p(logits, state_q.sizes, state_k.sizes, config.top_p, at_least, errors, rank_sum)
    if num_tokens > keys.shape[1]:
        kept = pad(kept, (0, 1, 0, 1), value=True)
        kept = pad(kept, (0, 1, 0, 1), value=False)
        pseudo = pseudo.with_empty(2)
    state.query = layout.with_text(state_q, num_tokens, backend)
    state.key = layout.with_text(state_k, num_tokens, backend)
    state.kept, state.first_error, state.calls, state.is_stale = kept, None, 0, False
    return pseudo


def _cluster(
    tokens: Tensor,
    centroids: Tensor | None,
    wanted: int | Literal["auto"],
    tokens_per_centroid: int,
    config: SVG2Config,
    backend: Backend,
) -> tuple[Clusters, Tensor]:
    """Clusters of ``tokens``, from ``centroids`` or from nothing, and the centroids that they were assigned to."""
    if centroids is not None:
        return assign(tokens, centroids, config.kmeans_iters_step, backend)
    num_tokens = tokens.shape[1]
    count = max(1, num_tokens // tokens_per_centroid) if wanted == "auto" else min(wanted, num_tokens)
    sample = tokens[:, :: sample_stride(num_tokens, count)]
    _, centroids = cluster(sample, stratified_tokens(tokens, count), config.kmeans_iters_init, backend)
    return assign(tokens, centroids, 1, backend)


def _selection(
    state: SVG2State,
    key: Tensor,
    value: Tensor,
    config: SVG2Config,
    layout: _Layout,
    backend: Backend,
    pseudo: PseudoTokens | None,
) -> Selection:
    """The selection that ``state`` holds, with pseudo-tokens of the keys and values of this step."""
    assert state.query is not None and state.key is not None and state.kept is not None
    state.calls += 1
    if not config.compensate:
        pseudo = None
    elif pseudo is None:
        pseudo = summarize(key, value, state.key, backend)
        if key.shape[1] > layout.stop - layout.start:  # text is kept, and padding stands for nothing
            pseudo.log_size[..., -2:] = -torch.inf
    return Selection(state.query, state.key, state.kept, pseudo)


def _probed(
    state: SVG2State,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    selection: Selection,
    config: SVG2Config,
    layout: _Layout,
    scale: float,
    rank_sum: Callable[[Tensor], Tensor] | None,
) -> tuple[Selection, Tensor | None]:
    """Fit the pseudo-tokens to the heads, have bad heads keep everything; the error [B, H] that is left."""
    if not config.probe_rows:
        return selection, None
    rows = probe_rows(config.probe_rows, layout.start, layout.stop, query.device)
    probed = probe(query, key, value, selection, rows, scale, layout.key_mask)
    selection, error = replace(selection, pseudo=probed.pseudo), probed.error
    if config.refresh_every > 1:
        mean = _mean(error, rank_sum)
        if state.first_error is None:
            state.first_error = mean
        else:
            state.has_drifted.set(mean > state.first_error * (1 + config.max_drift))
    if config.max_error is not None:
        is_bad = error > config.max_error
        is_key = layout.counts(selection.key)
        selection = replace(selection, kept=selection.kept | (is_bad[..., None, None] & is_key[:, :, None]))
        error = error.masked_fill(is_bad, 0.0)
    return selection, error


def _mean(error: Tensor, rank_sum: Callable[[Tensor], Tensor] | None) -> Tensor:
    """[] float64, of all heads wherever they are; in float64 no sum of theirs depends on its order."""
    total = error.sum(dtype=torch.float64)
    if rank_sum is None:
        return total / error.numel()
    total, count = rank_sum(torch.stack([total, torch.full_like(total, error.numel())]))
    return total / count


def _dense(query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None, scale: float) -> Tensor:
    mask = None if key_mask is None else key_mask[:, None, None]
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    out = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    return out.transpose(1, 2).contiguous()


def _check(query: Tensor, key: Tensor, value: Tensor, text: tuple[int, ...], key_mask: Tensor | None) -> None:
    shapes = [tuple(x.shape) for x in (query, key, value)]
    if query.dim() != 4 or len(set(shapes)) > 1 or not query.is_floating_point():
        raise ConfigError(
            "svg2_attention is self-attention: query, key and value must have one shape [B, S, H, D] and be floating "
            f"point, got {shapes} of {query.dtype}. Repeat the heads of grouped keys first."
        )
    if len(text) != 2 or min(text) < 0 or sum(text) > query.shape[1]:
        raise ConfigError(
            f"text_tokens must be a count, or counts at the start and at the end, of at most {query.shape[1]} tokens "
            f"in all, got {text}."
        )
    if key_mask is not None and (key_mask.shape != query.shape[:2] or key_mask.dtype != torch.bool):
        raise ConfigError(
            f"key_mask must be bool of shape {tuple(query.shape[:2])}, got {key_mask.dtype} of shape "
            f"{tuple(key_mask.shape)}."
        )
