"""A picture of what one head of sparse attention does: its clusters on a frame, and which of them attend to which."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..errors import ConfigError, MissingPackageError
from .state import SVG2State


def plot_clusters(
    state: SVG2State, grid: tuple[int, int, int], path: str | Path, *, frame: int = 0, head: int = 0, item: int = 0
) -> None:
    """Draw the clusters of queries and of keys on one frame, and the map of the blocks that are computed.

    In the map a row is a cluster of queries, a column one of keys, as high and as wide as they have tokens; what is
    white has stand-ins.

    Args:
        state: see `Acceleration.clusters`.
        grid: frames, rows and columns of video tokens; text tokens that follow are left out.
        path: image file, in a format that matplotlib knows from its ending.
        frame, head, item: which frame of latents, head, and video of the batch.

    Raises:
        MissingPackageError: matplotlib is not installed.
        ConfigError: the state holds nothing, the grid does not fit, or the path cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingPackageError(
            'plot_clusters needs matplotlib, which is not installed. pip install "dit-accel[plot]"'
        ) from None
    if state.query is None or state.key is None or state.kept is None:
        raise ConfigError(
            "This state holds no clusters. Look at it while the pipeline runs, after a step with sparse attention."
        )
    batch, heads, num_tokens = state.query.labels.shape
    frames, height, width = grid
    if not (frames * height * width <= num_tokens and 0 <= frame < frames and 0 <= head < heads and 0 <= item < batch):
        raise ConfigError(
            f"grid={grid}, frame={frame}, head={head}, item={item} do not fit a state of {num_tokens} tokens, {heads} "
            f"heads and {batch} items."
        )
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for axes, clusters, title in ((left, state.query, "queries"), (middle, state.key, "keys")):
        labels = clusters.labels[item, head, : frames * height * width].view(frames, height, width)[frame]
        axes.imshow(_shuffled(labels.cpu()).numpy(), cmap="nipy_spectral", interpolation="nearest")
        axes.set(title=f"{clusters.sizes.shape[-1]} clusters of {title}", xticks=[], yticks=[])
    kept = state.kept[item, head].cpu()
    rows, columns = (_edges(c.sizes[item, head]) for c in (state.query, state.key))
    right.pcolormesh(columns.numpy(), rows.numpy(), kept.numpy(), cmap="Blues", vmin=0, vmax=1.3)
    right.invert_yaxis()
    share = float((rows.diff()[:, None] * columns.diff() * kept).sum()) / (num_tokens * num_tokens)
    right.set(title=f"{share:.0%} of the pairs computed", xlabel="keys", ylabel="queries")
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as problem:
        raise ConfigError(f"The plot cannot be written to {str(path)!r}: {problem}. Give another path.") from None


def _edges(sizes: Tensor) -> Tensor:
    """[C + 1], where each cluster begins and the last ends."""
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]).cpu().double()


def _shuffled(labels: Tensor) -> Tensor:
    """Labels in other colours than their order would give: clusters start as stretches of the sequence."""
    return (labels.double() * 0.6180339887498949) % 1
