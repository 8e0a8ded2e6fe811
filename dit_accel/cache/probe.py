"""The probe of one denoiser: how far its first blocks' residual has moved since the last compute step."""

from __future__ import annotations

import torch
from torch import Tensor


class Probe:
    """Measures one distance a step for all CFG branches together.

    Per branch b, with R the probe blocks' residual now and R* the one at the last compute step, the two sums are
    n_b = Σ|R − R*| and m_b = Σ|R*|. The distance is Σ n_b / Σ m_b over all branches.

    It is asked for when the *first* branch of a step has run its probe blocks, so that the first branch can be reused
    too; the others have not run by then. Their n_b is predicted: n_b = ρ_b · n_first, with ρ_b measured at the last
    step at which both ran. Branches see the same latents and drift alike, so ρ_b changes slowly, and with a single
    batched call nothing is predicted at all. Before ρ_b was measured once, the branches' relative changes are taken as
    equal. All sums stay on the device; asking for the distance is the only synchronisation, once a step.
    """

    def __init__(self) -> None:
        self._anchors: dict[str, Tensor] = {}
        self._norms: dict[str, Tensor] = {}
        self._ratios: dict[str, Tensor] = {}
        self._first: tuple[str, Tensor] | None = None

    def measure(self, branch: str, residual: Tensor, *, is_first: bool) -> None:
        """Compare the residual of ``branch`` at this step with its anchor, if it has one of this form."""
        anchor = self._anchors.get(branch)
        change = None
        if anchor is not None and anchor.shape == residual.shape and anchor.dtype == residual.dtype:
            change = torch.sub(residual, anchor).abs_().sum(dtype=torch.float32)
        if is_first:
            self._first = None if change is None else (branch, change)
        elif self._first is not None and change is not None:
            first = self._first[1]
            self._ratios[branch] = torch.where(first > 0, change / first, self._ratio(branch))  # 0 / 0 says nothing

    def sums(self) -> Tensor | None:
        """Σ n_b and Σ m_b (two values on the device), or None if the first branch has nothing to compare with."""
        if self._first is None:
            return None
        first, change = self._first
        norm, total = self._norms[first], change
        for branch, other in self._norms.items():
            if branch == first:
                continue
            norm = norm + other
            total = total + change * self._ratio(branch)
        return torch.stack((total, norm))

    def start_step(self) -> None:
        """A step begins: what was measured in the one before is no answer for it."""
        self._first = None

    def _ratio(self, branch: str) -> Tensor:
        """The branch's change over the first one's, as last measured; before that, that of their norms."""
        assert self._first is not None
        measured = self._ratios.get(branch)
        return self._norms[branch] / self._norms[self._first[0]] if measured is None else measured

    def anchor(self, branch: str, residual: Tensor) -> None:
        """The step is computed: later steps are compared with this residual."""
        self._anchors[branch] = residual
        self._norms[branch] = residual.abs().sum(dtype=torch.float32)

    def clear(self, branch: str | None = None) -> None:
        """Forget one branch, or all, and free their residuals."""
        if branch is not None:
            for kept in (self._anchors, self._norms, self._ratios):
                kept.pop(branch, None)
            if self._first is not None and self._first[0] == branch:
                self._first = None  # its norm is gone, so nothing can be compared with it
            return
        for kept in (self._anchors, self._norms, self._ratios):
            kept.clear()
        self._first = None

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(anchor.nbytes for anchor in self._anchors.values())
