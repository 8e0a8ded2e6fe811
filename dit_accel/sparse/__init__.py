"""Sparse attention over semantic clusters of tokens (SVG2), as one function on tensors: no diffusers in here."""

from .plot import plot_clusters
from .state import SparseInfo, SVG2State
from .svg2 import svg2_attention

__all__ = ["SVG2State", "SparseInfo", "plot_clusters", "svg2_attention"]
