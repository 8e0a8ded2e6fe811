"""Clustering and selection of any tokens: many the same, one alone, fewer than clusters, and not finite."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dit_accel.configs import SVG2Config
from dit_accel.sparse import kmeans
from dit_accel.sparse.backends import TorchOps
from dit_accel.sparse.clusters import Clusters, Selection
from dit_accel.sparse.select import BEST_WORTH, BINS_PER_NAT, LEAST_WORTH, select_top_p
from dit_accel.sparse.state import SVG2State
from dit_accel.sparse.svg2 import svg2_attention
from tests.conftest import examples
from tests.sparse.conftest import relative_error

OPS = TorchOps()
SEEDS = st.integers(0, 2**16)


def whole_tokens(seed: int, length: int, levels: int, heads: int = 2, dim: int = 3) -> Tensor:
    """[1, S, H, D] of small whole numbers, so that sums are exact; with few ``levels`` many tokens are the same."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, levels, (1, length, heads, dim), generator=generator).float()


@given(SEEDS, st.integers(1, 40), st.integers(1, 6), st.integers(1, 50))
@examples(150)
def test_labels_are_of_the_nearest_centroids(seed: int, length: int, levels: int, count: int) -> None:
    points, centroids = whole_tokens(seed, length, levels), whole_tokens(seed + 1, count, levels).transpose(1, 2)
    labels = kmeans.nearest_centroids(points, centroids).long()
    distances = torch.cdist(points.transpose(1, 2), centroids).square().round()  # whole numbers again
    chosen = distances.gather(-1, labels[..., None])[..., 0]
    assert torch.equal(chosen, distances.min(-1).values)


@given(SEEDS, st.integers(1, 40), st.integers(1, 6), st.integers(1, 12), st.integers(0, 3))
@examples(150)
def test_the_order_of_tokens_does_not_matter(seed: int, length: int, levels: int, count: int, rounds: int) -> None:
    points, centroids = whole_tokens(seed, length, levels), whole_tokens(seed + 1, count, levels).transpose(1, 2)
    shuffle = torch.randperm(length, generator=torch.Generator().manual_seed(seed))
    clusters, means = kmeans.cluster(points, centroids, rounds, OPS)
    others, other_means = kmeans.cluster(points[:, shuffle], centroids, rounds, OPS)
    assert torch.equal(others.labels, clusters.labels[..., shuffle])
    assert torch.equal(others.sizes, clusters.sizes) and torch.equal(other_means, means)


@given(SEEDS, st.integers(1, 30), st.integers(1, 3), st.integers(1, 40), st.integers(1, 4))
@examples(150)
def test_means_are_of_their_tokens_and_empty_clusters_stay(
    seed: int, length: int, levels: int, count: int, rounds: int
) -> None:
    """Also of one token, of equal tokens, and with more clusters than tokens."""
    points, centroids = whole_tokens(seed, length, levels), whole_tokens(seed + 1, count, levels + 1).transpose(1, 2)
    before = centroids.clone()
    clusters, means = kmeans.cluster(points, centroids, rounds, OPS)
    assert torch.equal(centroids, before)
    assert (clusters.sizes.sum(-1) == length).all() and (clusters.sizes > 0).sum(-1).max() <= min(length, count)
    for head in range(2):
        for c in range(count):
            members = points[0, clusters.labels[0, head] == c, head]
            if len(members):
                torch.testing.assert_close(means[0, head, c], members.mean(0))
            elif rounds == 1:
                assert torch.equal(means[0, head, c], centroids[0, head, c])
    assert not means.isnan().any()


@given(SEEDS, st.integers(1, 60), st.integers(1, 70))
@examples(150)
def test_sorting_is_a_stable_permutation_that_can_be_undone(seed: int, length: int, count: int) -> None:
    labels = torch.randint(0, count, (2, 2, length), generator=torch.Generator().manual_seed(seed))
    clusters = Clusters.of(labels, count)
    order = clusters.order.long()
    assert torch.equal(order.sort(-1).values, torch.arange(length).expand(2, 2, -1))
    in_order = labels.gather(-1, order)
    assert (in_order.diff() >= 0).all() and ((in_order.diff() > 0) | (order.diff() > 0)).all()
    back = torch.zeros_like(in_order).scatter(-1, order, in_order)
    assert torch.equal(back, labels) and torch.equal(
        order.argsort(-1).gather(-1, order), torch.arange(length).expand(2, 2, -1)
    )
    starts = clusters.starts.long()
    for c in range(count):
        here = (in_order < c).sum(-1)
        assert torch.equal(starts[..., c], here) and torch.equal(clusters.sizes[..., c].long(), (labels == c).sum(-1))


@st.composite
def choices(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Logits and sizes of some heads, and errors of stand-ins or None; clusters of keys may be empty."""
    batch, heads, rows, columns = (draw(st.integers(1, most)) for most in (2, 3, 5, 7))
    generator = torch.Generator().manual_seed(draw(SEEDS))
    logits = torch.randn(batch, heads, rows, columns, generator=generator)
    logits *= torch.tensor(
        draw(st.lists(st.sampled_from([0.0, 1.0, 8.0, 60.0]), min_size=heads, max_size=heads))
    ).view(-1, 1, 1)
    query_sizes = torch.randint(0, 9, (batch, heads, rows), generator=generator)
    key_sizes = torch.randint(0, 9, (batch, heads, columns), generator=generator)
    key_sizes[..., 0].clamp_(min=1)
    errors = torch.randn(batch, heads, rows, columns, generator=generator) if draw(st.booleans()) else None
    return logits, query_sizes.int(), key_sizes.int(), errors


def attention(logits: Tensor, query_sizes: Tensor, key_sizes: Tensor) -> Tensor:
    """What each pair of clusters has of its head's attention, in rows of queries."""
    share = logits.masked_fill((key_sizes == 0)[:, :, None], -math.inf).double().softmax(-1)
    return share * query_sizes[..., None]


SHARES = st.floats(0, 1)


@given(choices(), SHARES, st.integers(0, 30))
@examples(250)
def test_what_is_kept_is_enough(choice: tuple[Tensor, ...], top_p: float, at_least: int) -> None:
    """Of all heads of a batch item together."""
    logits, query_sizes, key_sizes, errors = choice
    kept = select_top_p(logits, query_sizes, key_sizes, top_p, at_least, errors)
    mass, total = attention(logits, query_sizes, key_sizes), query_sizes.sum((1, 2))
    assert ((mass * kept).sum((1, 2, 3)) >= top_p * total - 1e-5 * total.clamp(min=1)).all()
    keys = (kept * key_sizes[:, :, None]).sum(-1)
    assert (keys >= key_sizes.sum(-1).clamp(max=max(at_least, 1))[..., None]).all()
    assert not (kept & (key_sizes == 0)[:, :, None]).any(), "an empty cluster is kept"


@given(choices(), st.floats(0, 0.999))
@examples(250)
def test_nothing_is_kept_that_is_not_needed(choice: tuple[Tensor, ...], top_p: float) -> None:
    """Beyond the best of every row: the best pairs of all heads; without the worst bin the share is not reached."""
    logits, query_sizes, key_sizes, errors = choice
    kept = select_top_p(logits, query_sizes, key_sizes, top_p, 1, errors)
    forced = select_top_p(logits, query_sizes, key_sizes, 0.0, 1, errors)
    assert (forced <= kept).all() and (forced.sum(-1) == 1).all()
    log_share = logits.masked_fill((key_sizes == 0)[:, :, None], -math.inf).log_softmax(-1)
    worth = (log_share if errors is None else 2 * log_share + errors) - key_sizes.clamp(min=1).log()[:, :, None]
    bins = (worth.clamp(LEAST_WORTH, BEST_WORTH) * BINS_PER_NAT).ceil()
    free, dropped = kept & ~forced, ~kept & (key_sizes > 0)[:, :, None]
    mass = attention(logits, query_sizes, key_sizes)
    for item, total in enumerate(query_sizes.sum((1, 2)).tolist()):
        if not free[item].any():
            continue
        least = bins[item][free[item]].min()
        assert not dropped[item].any() or bins[item][dropped[item]].max() < least
        assert float(mass[item][bins[item] > least].sum()) < top_p * total + 1e-5 * max(total, 1)


@given(choices(), SHARES, SHARES, st.integers(0, 9), st.integers(0, 9))
@examples(150)
def test_more_is_kept_of_a_higher_share_and_a_higher_minimum(
    choice: tuple[Tensor, ...], one: float, other: float, few: int, many: int
) -> None:
    low, high = sorted((one, other))
    least, most = sorted((few, many))
    kept = select_top_p(*choice[:3], low, least, choice[3])
    assert (kept <= select_top_p(*choice[:3], high, least, choice[3])).all()
    assert (kept <= select_top_p(*choice[:3], low, most, choice[3])).all()
    everything = select_top_p(*choice[:3], 1.0, least, choice[3])
    assert torch.equal(everything, (choice[2] > 0)[:, :, None].expand_as(everything))


@given(SEEDS, st.integers(1, 30), st.integers(1, 5), st.integers(1, 6))
@examples(100)
def test_pairs_are_those_that_one_can_count(seed: int, length: int, num_q: int, num_k: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels_q, labels_k = (torch.randint(0, n, (2, 2, length), generator=generator) for n in (num_q, num_k))
    kept = torch.rand(2, 2, num_q, num_k, generator=generator) < 0.5
    item, head = torch.arange(2)[:, None, None, None], torch.arange(2)[:, None, None]
    by_token = kept[item, head, labels_q[..., None], labels_k[:, :, None]]
    found = Selection(Clusters.of(labels_q, num_q), Clusters.of(labels_k, num_k), kept).pairs()
    assert torch.equal(found, by_token.sum((-1, -2)).double())


@st.composite
def attentions(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, SVG2Config, tuple[int, int]]:
    """Query, key and value of a short sequence, knobs of all kinds, and text at both ends."""
    length = draw(st.integers(1, 48))
    text = (draw(st.integers(0, 3)), draw(st.integers(0, 3)))
    generator = torch.Generator().manual_seed(draw(SEEDS))
    query, key, value = torch.randn(3, 2, length + sum(text), 2, 8, generator=generator)
    config = SVG2Config(
        top_p=draw(st.sampled_from([0.0, 0.5, 0.9, 1.0])),
        num_q_centroids=draw(st.sampled_from(["auto", 1, 4, 99])),
        num_k_centroids=draw(st.sampled_from(["auto", 1, 8, 99])),
        min_kept_ratio=draw(st.sampled_from([0.0, 0.3, 1.0])),
        compensate=draw(st.booleans()),
        probe_rows=draw(st.sampled_from([0, 8])),
        min_tokens=0,
        backend="torch",
    )
    return query, key, value, config, text


@given(attentions())
@examples(100)
def test_density_is_what_the_state_says_and_all_is_dense(
    case: tuple[Tensor, Tensor, Tensor, SVG2Config, tuple[int, int]],
) -> None:
    query, key, value, config, text = case
    state = SVG2State()
    out, info = svg2_attention(query, key, value, config, state=state, text_tokens=text)
    assert state.query is not None and state.key is not None and state.kept is not None
    assert info.num_pairs == int(Selection(state.query, state.key, state.kept).pairs().sum())
    assert 0 < info.density <= 1 and not out.isnan().any()
    video = query.shape[1] - sum(text)
    assert info.density >= (config.min_kept_ratio * video + sum(text)) / query.shape[1] - 1e-9
    if config.top_p == 1 or config.min_kept_ratio == 1:
        dense = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2).double() for x in case[:3]))
        assert info.density == 1 and relative_error(out, dense.transpose(1, 2)) < 1e-5


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", ["query", "key", "value"])
@pytest.mark.parametrize("compensate", [True, False])
def test_what_is_not_finite_stays_in_its_head(bad: float, which: str, compensate: bool) -> None:
    """It is no error, as it is none of dense attention: the other head is as near to dense as it is alone."""
    random = torch.randn(3, 1, 40, 2, 8, generator=torch.Generator().manual_seed(0))
    tensors = dict(zip(("query", "key", "value"), random, strict=True))
    knobs = {"num_q_centroids": 3, "num_k_centroids": 6, "min_tokens": 0, "backend": "torch"}
    config = SVG2Config(top_p=0.5, compensate=compensate, **knobs)
    alone, _ = svg2_attention(**{name: x[:, :, :1] for name, x in tensors.items()}, config=config)
    dense = torch.nn.functional.scaled_dot_product_attention(*(x[:, :, 0] for x in random))[:, :, None]
    tensors[which] = tensors[which].clone()
    tensors[which][0, 7, 1] = bad
    found, info = svg2_attention(**tensors, config=config)
    assert found.shape == random.shape[1:] and 0 < info.density <= 1
    assert relative_error(found[:, :, :1], dense) <= 1.25 * relative_error(alone, dense)
