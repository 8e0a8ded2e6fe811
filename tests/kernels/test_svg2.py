"""All kernels together, in `svg2_attention`, against the backend in plain torch."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dit_accel.configs import SVG2Config
from dit_accel.sparse import SVG2State, svg2_attention
from tests.kernels.conftest import random
from tests.sparse.conftest import relative_error

CONFIG = SVG2Config(
    top_p=0.5, min_kept_ratio=0.0, num_q_centroids=4, num_k_centroids=12, kmeans_iters_init=2, min_tokens=0
)


@pytest.mark.parametrize("text", [0, (5, 9)])
def test_two_steps_are_those_of_torch(text: int | tuple[int, int]) -> None:
    outputs, densities = {}, {}
    for name in ("torch", "triton"):
        state, config = SVG2State(), replace(CONFIG, backend=name)
        for step in range(2):
            query, key, value = (random(1, 230, 2, 32, seed=3 * step + x) for x in range(3))
            outputs[name], info = svg2_attention(query, key, value, config, state=state, text_tokens=text)
            densities[name] = info.density
    assert 0.05 < densities["triton"] < 0.9
    assert densities["triton"] == densities["torch"]
    assert relative_error(outputs["triton"], outputs["torch"]) < 1e-5
