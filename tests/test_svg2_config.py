"""`SVG2Config`: what it takes, and what it says of the rest."""

from __future__ import annotations

from typing import Any

import pytest

from dit_accel.configs import SVG2Config
from dit_accel.errors import ConfigError


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top_p": 1.1}, r"top_p must be a finite number in \[0, 1\], got 1.1"),
        ({"top_p": True}, "top_p must be a finite number"),
        ({"min_kept_ratio": -0.1}, "min_kept_ratio must be a finite number"),
        ({"dense_steps": float("nan")}, "dense_steps must be a finite number"),
        ({"dense_layers": "all"}, "dense_layers must be a finite number"),
        ({"num_q_centroids": 0}, "num_q_centroids must be an integer of at least 1, got 0"),
        ({"num_k_centroids": "many"}, "num_k_centroids must be an integer of at least 1, got 'many'"),
        ({"min_tokens": -1}, "min_tokens must be an integer of at least 0"),
        ({"kmeans_iters_init": 0}, "kmeans_iters_init must be an integer of at least 1"),
        ({"kmeans_iters_step": -1}, "kmeans_iters_step must be an integer of at least 0"),
        ({"refresh_every": 0}, "refresh_every must be an integer of at least 1"),
        ({"max_drift": -1}, "max_drift must be a finite number of at least 0"),
        ({"max_error": float("inf")}, "max_error must be a finite number of at least 0"),
        ({"max_error": 0.1, "probe_rows": 0}, "max_error=0.1 needs probe_rows of at least 1"),
        ({"compensate": 1}, "compensate must be True or False, got 1"),
        ({"backend": "cuda"}, "backend='cuda' is not allowed. Use one of: 'auto', 'reference', 'torch'"),
    ],
)
def test_a_bad_value_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SVG2Config(**change)


def test_counts_may_be_left_to_the_sequence() -> None:
    assert SVG2Config() == SVG2Config(num_q_centroids="auto", num_k_centroids="auto", min_tokens="auto")
