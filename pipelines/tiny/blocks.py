"""What transformer blocks of tiny pipelines need so that an error in caching them shows."""

from __future__ import annotations

import torch
from torch import nn


def strengthen_blocks(transformer: nn.Module, *lists: str) -> None:
    """Double the weight matrices of all blocks, because what a block of random weights adds is small."""
    with torch.no_grad():
        for name in lists:
            for parameter in getattr(transformer, name).parameters():
                if parameter.ndim == 2:
                    parameter.mul_(2.0)
