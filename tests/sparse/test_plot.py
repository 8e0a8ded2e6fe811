"""The picture of clusters, and the way to the state that it shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dit_accel import DBCacheConfig, SVG2Config, enable_acceleration
from dit_accel.errors import ConfigError
from dit_accel.sparse import SVG2State, plot_clusters, svg2_attention
from tests.conftest import run_tiny, tiny_pipeline

CONFIG = SVG2Config(top_p=0.5, min_kept_ratio=0.0, min_tokens=0, num_q_centroids=4, num_k_centroids=6)


@pytest.fixture
def state() -> SVG2State:
    state = SVG2State()
    query, key, value = torch.randn(3, 1, 2 * 4 * 5 + 3, 2, 16, generator=torch.Generator().manual_seed(0))
    svg2_attention(query, key, value, CONFIG, state=state, text_tokens=3)
    return state


def test_a_picture_is_written_and_heads_differ(state: SVG2State, tmp_path: Path) -> None:
    for head in (0, 1):
        plot_clusters(state, (2, 4, 5), tmp_path / f"{head}.png", frame=1, head=head)
    first, second = (Image.open(tmp_path / f"{head}.png").convert("RGB") for head in (0, 1))
    assert first.size[0] > first.size[1] > 100
    assert first.tobytes() != second.tobytes()


@pytest.mark.parametrize(
    "wrong",
    [
        {"grid": (3, 4, 5)},
        {"grid": (2, 4, 5), "frame": 2},
        {"grid": (2, 4, 5), "head": 2},
        {"grid": (2, 4, 5), "item": 1},
    ],
)
def test_what_does_not_fit_is_refused(state: SVG2State, tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="do not fit a state of 43 tokens, 2 heads and 1 items"):
        plot_clusters(state, path=tmp_path / "a.png", **wrong)
    with pytest.raises(ConfigError, match="cannot be written"):
        plot_clusters(state, (2, 4, 5), tmp_path / "no" / "a.png")
    with pytest.raises(ConfigError, match="holds no clusters"):
        plot_clusters(SVG2State(), (2, 4, 5), tmp_path / "a.png")


def test_the_handle_shows_the_clusters_of_a_layer_while_the_pipeline_runs() -> None:
    pipe = tiny_pipeline()
    config = SVG2Config(min_tokens=0, num_q_centroids=2, num_k_centroids=3, dense_steps=0.0, dense_layers=0.0)
    seen: list[dict[str, SVG2State]] = []
    with enable_acceleration(pipe, config) as acceleration:
        handle = pipe.transformer.norm_out.register_forward_hook(lambda *_: seen.append(acceleration.clusters(1)))
        run_tiny(pipe)
        handle.remove()
        assert acceleration.clusters(1) == {}
        with pytest.raises(ConfigError, match=r"no sparse attention in layer 99 of 'transformer'. Layers: {'transf"):
            acceleration.clusters(99)
    assert {"cond", "uncond"} <= set(seen[-2])
    assert seen[-2]["cond"].query_centroids is not None
    with enable_acceleration(pipe, DBCacheConfig()) as acceleration, pytest.raises(ConfigError, match="no sparse att"):
        acceleration.clusters(0)
