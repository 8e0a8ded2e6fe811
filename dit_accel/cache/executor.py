"""One executor for all caching: blocks ``first … last`` are computed or reused, every other block always runs.

    compute:  probe blocks ─ entry ─ block first ─ … ─ block last ─ exit ─ corrector blocks    residual = exit − entry
    reuse:    probe blocks ─ entry ─ ───────── skipped ────────── ─ entry + residual ─ corrector blocks

The residual is applied at the range's exit from the saved entry: some models add tensors between blocks (VACE hints,
face adapters), and those are part of the residual already.

The first branch that reaches the range in a step decides, for all branches of the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._diffusers import Forward, eager, output_tensors, replace_tensors
from ..run_record import RunRecord
from ..running import Running
from ..step_tracker import DenoiserCall
from .block_range import BlockRange
from .policies import CachePolicy
from .probe import Probe
from .state import BranchState, Kept, Streams
from .streams import added, copied, difference, form_of, joined, unchanged, weighted


class BlockRangeExecutor:
    """Runs the blocks of one denoiser under a policy, with one `BranchState` a branch.

    Args:
        policy: decides compute or reuse.
        record: where stats go; shared by the denoisers of a pipeline.
        block_range: the blocks and the cached ones among them.
        reuses_output: keep the denoiser's output instead of the residual; at a reuse step it is returned as it was.
        rank_sum: adds the probe's sums up over the ranks that hold parts of the sequence.
        peers: the executors of the pipeline's denoisers; this one adds itself.
        is_inner: another executor caches more blocks around these, and counts the steps.
        running: where the blocks find the executor in charge; shared by those of other runs of the denoiser.
    """

    def __init__(
        self,
        policy: CachePolicy,
        record: RunRecord,
        block_range: BlockRange,
        *,
        reuses_output: bool = False,
        rank_sum: Callable[[Tensor], Tensor] = lambda sums: sums,
        peers: list[BlockRangeExecutor] | None = None,
        is_inner: bool = False,
        running: Running[BlockRangeExecutor] | None = None,
    ) -> None:
        self._policy, self._record, self._range, self._reuses_output = policy, record, block_range, reuses_output
        self._probe, self._rank_sum, self._is_inner = Probe(), rank_sum, is_inner
        self._running = Running() if running is None else running
        self._states: dict[str, BranchState] = {}
        self._ran: set[str] = set()  # branches, in this step
        self._trajectory = self._step = self._decided_step = self._computed_step = -1
        self._is_compute = True
        self._held_bytes = 0
        self._times: list[float] = []
        self._call: DenoiserCall | None = None
        self._state = BranchState()
        self._peers = [] if peers is None else peers
        self._peers.append(self)

    def begin(self, call: DenoiserCall | None) -> None:
        """A forward begins: find the branch's state. None is a forward to leave alone."""
        self._call = None  # also if the one before it raised
        self._running.enter(self)
        if call is None:
            return
        if call.trajectory != self._trajectory or len(self._peers) > 1:
            for executor in self._peers:
                if executor._is_stale(call, self):
                    executor.release()
        if call.trajectory != self._trajectory:
            self._policy.check(call)
            self._decided_step = self._computed_step = -1
            if self._policy.needs_times and call.times is not None:
                self._times = call.times()  # once a trajectory
        if call.step != self._step or call.trajectory != self._trajectory:
            self._start_step()
        self._trajectory, self._step = call.trajectory, call.step
        self._ran.add(call.branch)
        self._record.begin(call)
        self._record.watch.start()
        state = self._states.setdefault(call.branch, BranchState())
        state.first, state.last = self._range.running()
        state.is_reuse = state.is_kept = False
        state.origin = None
        self._call, self._state = call, state

    def end(self, output: Any) -> Any:
        """The forward is over: count it, let go of what no later step needs. Returns another output or None."""
        call, state = self._call, self._state
        if call is None:
            return None
        replaced = None
        if self._reuses_output and state.is_reuse:
            # A copy, because the pipeline may go on in place.
            replaced = replace_tensors(output, iter([None if t is None else t.clone() for t in state.value or ()]))
        elif self._reuses_output and state.is_kept:
            self._keep(call, tuple(tensor.clone() for tensor in output_tensors(output)))
        (self._record.count_partial if self._is_inner else self._record.count)(call, is_reuse=state.is_reuse)
        self._record.watch.lap()
        for kept in tuple(state.kept):
            if self._policy.last_use(kept.step, call.num_steps) <= call.step:
                state.kept.remove(kept)
        if not state.kept:
            self._probe.clear(call.branch)
        state.entry = state.value = state.origin = None
        if not state.is_reuse or not state.kept:
            self._account()
        self._call = None
        return replaced

    def _start_step(self) -> None:
        """Forget branches that did not run in the step before: a guider may have stopped using one."""
        for branch in self._states.keys() - self._ran:
            del self._states[branch]
            self._probe.clear(branch)
        self._probe.start_step()
        self._ran.clear()
        self._account()

    def release(self) -> None:
        """Forget the trajectory and free all buffers."""
        self._states.clear()
        self._state = BranchState()  # it would be held still if a forward raised
        self._probe.clear()
        self._account()
        self._trajectory = -1
        self._call = None

    def _is_stale(self, call: DenoiserCall, caller: BlockRangeExecutor) -> bool:
        """Whether nothing held here serves ``call``'s trajectory: it is of another, or its denoiser has handed over.

        Wan 2.2 changes the denoiser midway. The first one's residuals would otherwise be held through the VAE.
        """
        has_handed_over = self is not caller and call.step > self._step + 1
        return call.trajectory != self._trajectory or has_handed_over

    @staticmethod
    def block_forward(
        running: Running[BlockRangeExecutor],
        block_range: BlockRange,
        index: int,
        original: Forward,
        *,
        uses_probe: bool,
        reuses_output: bool,
    ) -> Forward:
        """The forward of block ``index``: run it, pass its input through, or rebuild the range's exit."""
        streams, video = block_range.streams[index], block_range.video
        at, name = streams[0]
        is_single = len(streams) == 1

        # All in one function, and what it calls kept out of graphs: a reuse step spends its time here, once a block.
        def forward(*args: Any, **kwargs: Any) -> Any:
            executor = None if running.entered is None else running.entered()
            if executor is None or executor._call is None or index > executor._state.last:
                return original(*args, **kwargs)
            state = executor._state
            if index < state.first:
                if uses_probe and state.origin is None:
                    origin, key = streams[video]
                    state.origin = args[origin] if origin < len(args) else kwargs[key]
                return original(*args, **kwargs)
            if index == state.first:
                executor._enter(index, args, kwargs)
            if state.is_reuse:
                if index == state.last and not reuses_output:
                    return joined(tuple(map(added, state.entry or (), state.value or ())))
                passed = copied if index == state.first else unchanged
                if is_single:
                    return passed(args[at] if at < len(args) else kwargs[name])
                return tuple(map(passed, executor._inputs(index, args, kwargs)))
            output = original(*args, **kwargs)
            if index == state.last and state.is_kept and not reuses_output:
                executor._keep_residual(output)
            return output

        return forward

    @eager
    def _enter(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The range begins: measure, decide, and get ready what a reuse needs."""
        call, state = self._call, self._state
        assert call is not None
        state.entry = self._range.inputs(index, args, kwargs)
        video = state.entry[self._range.video]
        is_first = call.step != self._decided_step
        residual = None
        if self._policy.uses_probe and state.origin is not None and video is not None:
            residual = video - state.origin
            self._probe.measure(call.branch, residual, is_first=is_first)
        is_inference = not torch.is_grad_enabled()  # a graph through a reused residual would be silently wrong
        can_reuse = (
            is_inference
            and bool(state.kept)
            and state.kept[-1].step >= self._computed_step  # else the branch has missed the last compute step
            and state.kept_form == form_of(state.entry)
        )
        if is_first:
            self._is_compute = not can_reuse or self._policy.is_compute(call, self._record.progress, self._distance)
            self._record.progress.note(call.step, is_compute=self._is_compute)
            self._decided_step = call.step
            if self._is_compute and self._policy.last_use(call.step, call.num_steps) > call.step:
                self._computed_step = call.step
        state.is_reuse = can_reuse and not self._is_compute
        state.is_kept = is_inference and self._policy.last_use(call.step, call.num_steps) > call.step
        if state.is_reuse:
            state.value = self._forecast(call, state)
        elif state.is_kept and residual is not None:
            self._probe.anchor(call.branch, residual)
        state.origin = None

    def _distance(self) -> float:
        """The probe's distance at this step. The one synchronisation with the device, once a step."""
        assert self._call is not None
        distance = self._probe.distance(self._rank_sum)
        value = math.nan if distance is None else float(distance)
        self._record.note_distance(self._call, value)
        return value

    def _forecast(self, call: DenoiserCall, state: BranchState) -> Streams:
        """The kept values carried to this step, by the policy's weights."""
        weights = self._policy.weights(call.step, [kept.step for kept in state.kept], self._times)
        if tuple(weights) == (1.0,):
            return state.kept[-1].tensors
        values = [kept.tensors for kept in state.kept[-len(weights) :]]
        return tuple(weighted(column, weights) for column in zip(*values, strict=True))

    @eager
    def _inputs(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Streams:
        return self._range.inputs(index, args, kwargs)

    @eager
    def _keep_residual(self, output: Any) -> None:
        """Store exit − entry, in the buffers of the oldest kept value where they fit."""
        state, call = self._state, self._call
        exits = output if isinstance(output, tuple) else (output,)
        assert call is not None and state.entry is not None
        spare: Streams = (None,) * len(state.entry)
        if len(state.kept) >= self._policy.num_values and state.kept_form == form_of(state.entry):
            spare = state.kept.pop(0).tensors
        self._keep(call, tuple(map(difference, exits, state.entry, spare)))

    def _keep(self, call: DenoiserCall, tensors: Streams) -> None:
        state, form = self._state, form_of(self._state.entry or ())
        if state.kept_form != form:
            state.kept.clear()
        state.kept_form = form
        state.kept = [*state.kept, Kept(call.step, tensors)][-self._policy.num_values :]
        self._account()

    def _account(self) -> None:
        """Tell the record how many bytes are kept now."""
        held = self._probe.nbytes + sum(kept.nbytes for state in self._states.values() for kept in state.kept)
        self._record.hold(held - self._held_bytes)
        self._held_bytes = held
