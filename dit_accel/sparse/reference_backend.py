"""The backend ``"reference"``: slow, exact, on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference
from .backends import MinTokens, TorchOps
from .clusters import Selection


class ReferenceBackend(TorchOps):
    """See `Backend`."""

    min_tokens = MinTokens(0, 0)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, selection: Selection, scale: float) -> Tensor:
        """See `Backend.attend`."""
        return reference.attend(query, key, value, selection, scale)


def load(device: torch.device) -> ReferenceBackend:  # the same everywhere
    """The backend."""
    return ReferenceBackend()
