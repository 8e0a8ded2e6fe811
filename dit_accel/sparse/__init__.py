"""Sparse attention over semantic clusters of tokens (SVG2), as one function on tensors: no diffusers in here."""

from .state import SparseInfo, SVG2State
from .svg2 import svg2_attention

__all__ = ["SVG2State", "SparseInfo", "svg2_attention"]
