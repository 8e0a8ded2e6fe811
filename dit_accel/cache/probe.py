"""The probe of one denoiser: how far its first blocks' residual has moved since the last compute step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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

    Ranks that hold parts of one sequence have to get the same distance as a single process. So what is kept are sums,
    which add up over ranks, and quotients are taken of the totals; and how tokens are divided does not matter to
    `_total`.
    """

    def __init__(self) -> None:
        self._anchors: dict[str, Tensor] = {}
        self._norms: dict[str, Tensor] = {}
        self._changes: dict[str, tuple[Tensor, Tensor]] = {}  # n_b and n_first, when both were last measured
        self._ratios: dict[str, Tensor] = {}  # ρ_b, as of the last distance
        self._first: tuple[str, Tensor] | None = None

    def measure(self, branch: str, residual: Tensor, *, is_first: bool) -> None:
        """Compare the residual of ``branch`` at this step with its anchor, if it has one of this form."""
        anchor = self._anchors.get(branch)
        change = None
        if anchor is not None and anchor.shape == residual.shape and anchor.dtype == residual.dtype:
            change = _total(torch.sub(residual, anchor).abs_())
        if is_first:
            self._first = None if change is None else (branch, change)
        elif self._first is not None and change is not None:
            self._changes[branch] = (change, self._first[1])

    def distance(self, rank_sum: Callable[[Tensor], Tensor]) -> Tensor | None:
        """Σ n_b / Σ m_b ([] on the device), or None if the first branch has nothing to compare with.

        Args:
            rank_sum: adds a vector up over the ranks that hold parts of the sequence; all ask at the same steps.
        """
        if self._first is None:
            return None
        first, change = self._first
        others = [branch for branch in self._norms if branch != first]
        zero = torch.zeros_like(change)
        values = [change, self._norms[first]]
        for branch in others:
            values += [self._norms[branch], *self._changes.get(branch, (zero, zero))]
        change, norm, *rest = rank_sum(torch.stack(values))
        total, total_norm = change, norm
        for index, branch in enumerate(others):
            other_norm, moved, first_moved = rest[3 * index : 3 * index + 3]
            known = self._ratios.get(branch, other_norm / norm)
            ratio = torch.where(first_moved > 0, moved / first_moved, known)  # 0 / 0 says nothing
            if branch in self._changes:
                self._ratios[branch] = ratio
            total, total_norm = total + change * ratio, total_norm + other_norm
        return total / total_norm

    def start_step(self) -> None:
        """A step begins: what was measured in the one before is no answer for it."""
        self._first = None

    def anchor(self, branch: str, residual: Tensor) -> None:
        """The step is computed: later steps are compared with this residual."""
        self._anchors[branch] = residual
        self._norms[branch] = _total(residual.abs())

    def clear(self, branch: str | None = None) -> None:
        """Forget one branch, or all, and free their residuals."""
        tables: tuple[dict[str, Any], ...] = (self._anchors, self._norms, self._changes, self._ratios)
        for table in tables:
            if branch is None:
                table.clear()
            else:
                table.pop(branch, None)
        if self._first is not None and branch in (None, self._first[0]):
            self._first = None  # its norm is gone, so nothing can be compared with it

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(anchor.nbytes for anchor in self._anchors.values())


def _total(values: Tensor) -> Tensor:
    """The sum of [..., S, C], the same however ranks divide the S tokens among them.

    In float32 over the channels of a token, which one rank has; in float64 over the tokens. Float64 has 29 bits more:
    as long as tokens are within 2²⁹ / S of each other nothing is rounded, so their order does not matter.
    """
    wide = torch.float32 if values.device.type == "mps" else torch.float64  # which has neither float64 nor ranks
    return values.sum(-1, dtype=torch.float32).sum(dtype=wide)
