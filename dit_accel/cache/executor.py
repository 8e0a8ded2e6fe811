"""One executor for all caching: blocks ``first … last`` are computed or reused, every other block always runs.

    compute:  entry ─ block first ─ … ─ block last ─ exit        residual = exit − entry
    reuse:    entry ─ ───────── skipped ────────── ─ entry + residual

The residual is applied at the range's exit from the saved entry: some models add tensors between blocks (VACE hints,
face adapters), and those are part of the residual already.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._diffusers import DenoiserCall, Forward, eager, eager_shell
from .policies import CachePolicy
from .state import BranchState, RunRecord


class BlockRangeExecutor:
    """Runs the blocks of one denoiser under a policy, with one `BranchState` a branch.

    Args:
        policy: decides compute or reuse.
        record: where stats go; shared by the denoisers of a pipeline.
        first, last: the cached range, inclusive block indices.
        positions: position of each stream among the block's arguments.
        streams: their names, for calls by keyword.
        peers: the executors of the pipeline's denoisers; this one adds itself.
    """

    def __init__(
        self,
        policy: CachePolicy,
        record: RunRecord,
        *,
        first: int,
        last: int,
        positions: tuple[int, ...],
        streams: tuple[str, ...],
        peers: list[BlockRangeExecutor] | None = None,
    ) -> None:
        self._policy, self._record = policy, record
        self._first, self._last = first, last
        self._streams = tuple(zip(positions, streams, strict=True))
        self._states: dict[str, BranchState] = {}
        self._trajectory = self._step = -1
        self._call: DenoiserCall | None = None
        self._state = BranchState()
        self._peers = [] if peers is None else peers
        self._peers.append(self)

    def begin(self, call: DenoiserCall) -> None:
        """A forward begins: find the branch's state and decide."""
        for executor in self._peers:
            if executor._is_stale(call, self):
                executor.release()
        if call.trajectory != self._trajectory:
            self._policy.check(call)
        self._trajectory, self._step = call.trajectory, call.step
        self._record.begin(call)
        self._record.watch.start()
        state = self._states.setdefault(call.branch, BranchState())
        is_inference = not torch.is_grad_enabled()  # a graph through a reused residual would be silently wrong
        state.is_reuse = is_inference and state.residual is not None and not self._policy.is_compute(call)
        state.is_kept = is_inference and self._policy.is_kept(call)
        self._call, self._state = call, state

    def end(self) -> None:
        """The forward is over: count it and let go of what no later step needs."""
        call, state = self._call, self._state
        if call is not None:
            self._record.count(call, is_reuse=state.is_reuse)
            self._record.watch.lap()
        if not state.is_kept:
            self._drop(state)
        state.entry = None
        self._call = None

    def release(self) -> None:
        """Forget the trajectory and free all buffers."""
        for state in self._states.values():
            self._drop(state)
            state.entry = None  # still there if the forward raised
        self._states.clear()
        self._trajectory = -1
        self._call = None

    def _is_stale(self, call: DenoiserCall, caller: BlockRangeExecutor) -> bool:
        """Whether nothing held here serves ``call``'s trajectory: it is of another, or its denoiser has handed over.

        Wan 2.2 changes the denoiser midway. The first one's residuals would otherwise be held through the VAE.
        """
        has_handed_over = self is not caller and call.step > self._step + 1
        return call.trajectory != self._trajectory or has_handed_over

    # Only a shell, like its caller: the original stays compiled. All else in here is kept out of graphs altogether,
    # or every block at every kind of step would be one graph more.
    @eager_shell
    def run_block(self, index: int, original: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Block ``index`` of the denoiser: run it, pass its input through, or rebuild the range's exit."""
        if self._call is None or not self._first <= index <= self._last:
            return original(*args, **kwargs)
        if index == self._first:
            self._enter(args, kwargs)
        if self._state.is_reuse:
            return self._reuse(index, args, kwargs)
        output = original(*args, **kwargs)
        if index == self._last and self._state.is_kept:
            self._keep(output if isinstance(output, tuple) else (output,))
        return output

    @eager
    def _enter(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Save the range's entry; a residual of another form cannot be reused."""
        state = self._state
        state.entry = self._inputs(args, kwargs)
        if state.is_reuse and not _same_form(state.entry, state.residual):
            state.is_reuse = False

    @eager_shell
    def _reuse(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | tuple[Tensor, ...]:
        """What a block returns that does not run."""
        state = self._state
        if index == self._last:
            return _joined(tuple(map(_added, state.entry or (), state.residual or ())))
        return _joined(tuple(map(_copied if index == self._first else _passed, self._inputs(args, kwargs))))

    @eager
    def _inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, ...]:
        return tuple(args[position] if position < len(args) else kwargs[name] for position, name in self._streams)

    @eager
    def _keep(self, exits: tuple[Tensor, ...]) -> None:
        """Store exit − entry, in the buffer of the last compute step where it fits."""
        state = self._state
        entries = state.entry or ()
        if _same_form(entries, state.residual):
            for exit_, entry, buffer in zip(exits, entries, state.residual or (), strict=True):
                torch.sub(exit_, entry, out=buffer)
            return
        self._drop(state)
        state.residual = tuple(exit_ - entry for exit_, entry in zip(exits, entries, strict=True))
        self._record.hold(state.residual_bytes)

    def _drop(self, state: BranchState) -> None:
        self._record.hold(-state.residual_bytes)
        state.residual = None


# A block compiled with fullgraph=True refuses a call that compiles nothing; each of these is one small graph for all.
def _passed(stream: Tensor) -> Tensor:
    return stream.view_as(stream)


def _copied(entry: Tensor) -> Tensor:
    """Not the entry itself, because Cosmos adds its control hints in place."""
    return entry.clone()


def _added(entry: Tensor, residual: Tensor) -> Tensor:
    return entry + residual


@eager
def _joined(streams: tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
    """A block's return value: one stream bare, several as a tuple."""
    return streams[0] if len(streams) == 1 else streams


def _same_form(tensors: tuple[Tensor, ...], others: tuple[Tensor, ...] | None) -> bool:
    """Whether the tensors agree pairwise in shape, dtype and device."""
    return others is not None and all(
        a.shape == b.shape and a.dtype == b.dtype and a.device == b.device
        for a, b in zip(tensors, others, strict=True)
    )
