"""`svg2_attention` as a whole: what is kept, what it knows of its error, and what it carries from step to step."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from dit_accel.configs import SVG2Config
from dit_accel.errors import ConfigError
from dit_accel.sparse import SVG2State, svg2_attention
from tests.sparse.conftest import Tokens, relative_error, tokens

CONFIG = SVG2Config(min_tokens=0, num_q_centroids=6, num_k_centroids=24)
SPARSE = replace(CONFIG, top_p=0.5, min_kept_ratio=0.0)


def dense(qkv: Tokens, mask: Tensor | None = None) -> Tensor:
    query, key, value = (x.transpose(1, 2) for x in qkv)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)


def semantic(length: int = 600, heads: int = 2, dim: int = 32, seed: int = 0, batch: int = 1) -> Tokens:
    """Tokens about 20 centres, which are nearer to some than to others."""
    centres = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
    query, key, value = tokens(batch, length, heads, dim, seed=seed)
    basis = torch.randn(3, 6, dim, generator=torch.Generator().manual_seed(2))
    which = torch.randint(0, 20, (batch, length, heads), generator=torch.Generator().manual_seed(seed))
    return (
        0.4 * query + centres[which] @ basis[0],
        0.4 * key + centres[which] @ basis[0],
        0.5 * value + centres[which] @ basis[1],
    )


@pytest.mark.parametrize("text", [0, 7, (5, 0), (4, 9)])
def test_all_kept_is_dense_attention(text: int | tuple[int, int]) -> None:
    qkv = semantic(batch=2)
    out, info = svg2_attention(*qkv, replace(CONFIG, top_p=1.0), text_tokens=text)
    assert relative_error(out, dense(qkv)) < 1e-5
    assert info.density == 1
    assert not info.is_dense


def test_it_computes_a_part_and_is_near() -> None:
    qkv = semantic()
    out, info = svg2_attention(*qkv, SPARSE)
    assert 0.05 < info.density < 0.6
    assert relative_error(out, dense(qkv)) < 0.2


def test_stand_ins_are_nearer_than_leaving_clusters_out() -> None:
    qkv = semantic()
    out, info = svg2_attention(*qkv, SPARSE)
    bare, bare_info = svg2_attention(*qkv, replace(SPARSE, compensate=False, top_p=0.95))
    assert info.num_pairs <= bare_info.num_pairs
    assert relative_error(out, dense(qkv)) < 0.5 * relative_error(bare, dense(qkv))


@pytest.mark.parametrize("compensate", [True, False])
def test_the_sampled_error_of_all_rows_is_the_error(compensate: bool) -> None:
    qkv = semantic(batch=2)
    out, info = svg2_attention(*qkv, replace(SPARSE, probe_rows=600, compensate=compensate))
    wanted = (out - dense(qkv)).square().sum((1, 3)).sqrt() / dense(qkv).square().sum((1, 3)).sqrt()
    assert info.error is not None
    torch.testing.assert_close(info.error, wanted, rtol=1e-3, atol=1e-5)


def test_a_head_above_the_largest_error_is_computed_in_full() -> None:
    query, key, value = semantic()
    key = key.clone()
    key[:, :, 0] = torch.randn(1, 600, 32, generator=torch.Generator().manual_seed(9)) * 3  # no clusters to find
    plain = svg2_attention(query, key, value, SPARSE)[1].error
    assert plain is not None
    assert plain[0, 0] > 2 * plain[0, 1]
    limit = float(plain.mean())
    out, info = svg2_attention(query, key, value, replace(SPARSE, max_error=limit))
    wanted = dense((query, key, value))
    assert info.error is not None
    assert (info.error <= limit).all()
    assert relative_error(out[:, :, 0], wanted[:, :, 0]) < 1e-5
    assert relative_error(out[:, :, 1], wanted[:, :, 1]) > 1e-3


def test_text_is_always_kept_and_padding_never() -> None:
    qkv = semantic(batch=2)
    mask = torch.ones(2, 600, dtype=torch.bool)
    mask[0, 590:] = False
    out, _ = svg2_attention(*qkv, replace(CONFIG, top_p=1.0), text_tokens=20, key_mask=mask)
    wanted = dense(qkv, mask[:, None, None])
    assert relative_error(out[0, :590], wanted[0, :590]) < 1e-5
    assert relative_error(out[1], wanted[1]) < 1e-5
    sparse, info = svg2_attention(*qkv, SPARSE, text_tokens=20, key_mask=mask)
    assert info.density < 0.7
    assert relative_error(sparse[0, 580:590], wanted[0, 580:590]) < 1e-5  # the rows of text see everything
    changed = tuple(x.clone() for x in qkv)
    for x in changed:
        x[0, 590:] = 50.0
    again, _ = svg2_attention(*changed, SPARSE, text_tokens=20, key_mask=mask)
    assert relative_error(again[0, :590], sparse[0, :590]) < 1e-5


def test_strided_tokens_and_a_scale_of_ones_own() -> None:
    qkv = tuple(x.transpose(1, 2).contiguous().transpose(1, 2) for x in semantic())
    out, _ = svg2_attention(*qkv, replace(CONFIG, top_p=1.0), scale=0.5)
    query, key, value = (x.transpose(1, 2) for x in qkv)
    assert relative_error(out, scaled_dot_product_attention(query, key, value, scale=0.5).transpose(1, 2)) < 1e-5
    assert out.is_contiguous()


def test_a_short_sequence_is_dense_and_says_why() -> None:
    qkv = semantic(100)
    out, info = svg2_attention(*qkv, SVG2Config())
    assert torch.equal(out, dense(qkv))
    assert info.dense_reason == "fewer than 4096 tokens"
    assert info.density == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_dense_attention_is_faster_for_longer_in_half_precision(dtype: torch.dtype) -> None:
    info = svg2_attention(*(x.to(dtype) for x in semantic(100)), SVG2Config())[1]
    assert info.dense_reason == "fewer than 32768 tokens"


def test_random_numbers_of_the_user_are_left_alone() -> None:
    before = torch.get_rng_state()
    first, second = (svg2_attention(*semantic(), SPARSE)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


class TestState:
    def test_the_next_step_starts_from_the_last_centroids(self) -> None:
        state = SVG2State()
        svg2_attention(*semantic(), SPARSE, state=state)
        before = state.key_centroids
        svg2_attention(*semantic(seed=1), SPARSE, state=state)
        assert before is not None and state.key_centroids is not None
        assert 0 < relative_error(state.key_centroids, before) < 0.5

    def test_clusters_serve_for_as_many_steps_as_asked(self) -> None:
        state, config, seen = SVG2State(), replace(SPARSE, refresh_every=3, max_drift=1e9), []
        for seed in range(7):
            svg2_attention(*semantic(seed=seed), config, state=state)
            seen.append(state.kept)
        assert [a is b for a, b in pairwise(seen)] == [True, True, False, True, True, False]

    def test_reuse_is_exact_for_the_tokens_of_this_step(self) -> None:
        state, config = SVG2State(), replace(SPARSE, refresh_every=2, top_p=1.0, max_drift=1e9)
        svg2_attention(*semantic(), config, state=state)
        qkv = semantic(seed=5)
        assert relative_error(svg2_attention(*qkv, config, state=state)[0], dense(qkv)) < 1e-5

    def test_stand_ins_are_made_anew_for_old_clusters(self) -> None:
        state, config = SVG2State(), replace(SPARSE, refresh_every=2, max_drift=1e9)
        qkv = semantic()
        svg2_attention(*qkv, config, state=state, text_tokens=10)
        doubled = (qkv[0], qkv[1], 2 * qkv[2])
        out, _ = svg2_attention(*doubled, config, state=state, text_tokens=10)
        assert relative_error(out, dense(doubled)) < 0.15

    def test_drift_asks_for_a_refresh_at_the_next_step(self) -> None:
        state, config = SVG2State(), replace(SPARSE, refresh_every=100, max_drift=0.5)
        svg2_attention(*semantic(), config, state=state)
        first = state.kept
        svg2_attention(*semantic(), config, state=state)
        assert state.kept is first
        svg2_attention(*semantic(seed=3), config, state=state)  # other tokens in the old clusters
        assert state.kept is first
        svg2_attention(*semantic(seed=3), config, state=state)
        assert state.kept is not first

    def test_stale_clusters_are_made_anew(self) -> None:
        state, config = SVG2State(), replace(SPARSE, refresh_every=100, max_drift=1e9)
        svg2_attention(*semantic(), config, state=state)
        first = state.kept
        state.mark_stale()
        svg2_attention(*semantic(), config, state=state)
        assert state.kept is not first

    def test_another_shape_starts_afresh_and_so_does_a_reset(self) -> None:
        state = SVG2State()
        svg2_attention(*semantic(seed=4), SPARSE, state=state)
        fresh, _ = svg2_attention(*semantic(500), SPARSE)
        assert torch.equal(svg2_attention(*semantic(500), SPARSE, state=state)[0], fresh)
        assert state.nbytes > 0
        state.reset()
        assert state.nbytes == 0
        assert torch.equal(svg2_attention(*semantic(500), SPARSE, state=state)[0], fresh)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_tokens": -1}, "text_tokens must be a count"),
        ({"text_tokens": (300, 301)}, "of at most 600 tokens in all"),
        ({"key_mask": torch.ones(1, 600)}, "key_mask must be bool of shape"),
    ],
)
def test_input_that_does_not_fit_raises(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        svg2_attention(*semantic(), CONFIG, **change)


def test_cross_attention_raises() -> None:
    query, key, value = semantic()
    with pytest.raises(ConfigError, match="must have one shape"):
        svg2_attention(query[:, :10], key, value, CONFIG)
