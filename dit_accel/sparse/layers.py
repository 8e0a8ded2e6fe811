"""Sparse attention in a running denoiser: which step and branch it is, and what every layer carries between steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from .._diffusers import AttentionCall, eager
from ..configs import SVG2Config
from ..run_record import RunRecord
from ..running import Running
from ..specs import AttentionSpec
from ..step_tracker import DenoiserCall
from .state import SVG2State
from .svg2 import svg2_attention, why_dense


class SparseDenoiser:
    """The sparse attention of one denoiser; told of every forward.

    Args:
        name: attribute of the denoiser on its pipeline.
        config: the knobs.
        record: where stats go; shared by the methods and denoisers of a pipeline.
        peers: those of the pipeline's denoisers; this one adds itself.
        check: raises if the denoiser is in a state in which sparse attention does not apply; asked at every forward.
        running: where the blocks find the one in charge; shared by those of other runs of the denoiser.
    """

    def __init__(
        self,
        name: str,
        config: SVG2Config,
        record: RunRecord,
        peers: list[SparseDenoiser],
        check: Callable[[], None],
        running: Running[SparseDenoiser],
    ) -> None:
        self.name, self.config, self.record, self._check = name, config, record, check
        self.call: DenoiserCall | None = None
        self.layers: list[SparseLayer] = []
        self._trajectory = self._step = -1
        self._ran: set[str] = set()  # branches, in this step
        self._held_bytes = 0
        self._peers, self._running = peers, running
        peers.append(self)

    def begin(self, call: DenoiserCall | None) -> None:
        """A forward begins; None is one to leave alone."""
        self.call = None
        self._running.enter(self)
        if call is None:
            return
        self._check()
        for peer in self._peers:
            has_handed_over = peer is not self and call.step > peer._step + 1
            if call.trajectory != peer._trajectory or has_handed_over:
                peer.release()
        if call.step != self._step or call.trajectory != self._trajectory:
            self._start_step()
        self._ran.add(call.branch)
        self.call, self._trajectory, self._step = call, call.trajectory, call.step

    def _start_step(self) -> None:
        """Forget branches that did not run in the step before: guidance may be over."""
        for layer in self.layers:
            layer.keep_only(self._ran)
        self._ran.clear()

    def end(self, output: Any) -> None:
        """The forward is over: let go of what no later step needs."""
        call, self.call = self.call, None
        if call is None:
            return
        if call.step >= call.num_steps - 1:
            for layer in self.layers:
                layer.forget(call.branch)
        self._account()

    def release(self) -> None:
        """Forget the trajectory and free all states."""
        for layer in self.layers:
            layer.forget()
        self.call, self._trajectory = None, -1
        if self._held_bytes:
            self._account()

    def why_dense(self) -> str | None:
        """What about this step only dense attention is right for."""
        if self.call is None:
            return "a forward that is no denoising step"
        dense = self.config.dense_steps
        if isinstance(dense, tuple):
            if self.call.step in dense:
                return "dense steps"
        elif self.call.step < _share(dense, self.call.num_steps):
            return "first steps"
        return "gradients" if torch.is_grad_enabled() else None

    def _account(self) -> None:
        held = sum(layer.nbytes for layer in self.layers)
        self.record.hold(held - self._held_bytes)
        self._held_bytes = held


class RunningLayer:
    """The `AttentionLayer` that a block has for all runs: passes all on to the `SparseLayer` of the present one.

    Args:
        running: where to find the denoiser that the layer belongs to.
        index: which of its layers.
        masks_only_text: see `AttentionLayer`.
    """

    def __init__(self, running: Running[SparseDenoiser], index: int, masks_only_text: bool) -> None:
        self.masks_only_text = masks_only_text
        self._running, self._index = running, index

    @eager
    def enter(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See `AttentionLayer.enter`."""
        layer = self._layer()
        if layer is not None:
            layer.enter(args, kwargs)

    def attend(self, call: AttentionCall) -> Tensor:
        """See `AttentionLayer.attend`. A block that is called by itself, in a thread that runs nothing, is dense."""
        layer = self._layer()
        return call.dense() if layer is None else layer.attend(call)

    @eager
    def leave(self) -> None:
        """See `AttentionLayer.leave`."""
        layer = self._layer()
        if layer is not None:
            layer.leave()

    def _layer(self) -> SparseLayer | None:
        denoiser = self._running.current()
        return None if denoiser is None else denoiser.layers[self._index]


class SparseLayer:
    """The `AttentionLayer` of one block in one run, with one `SVG2State` a branch.

    Args:
        denoiser: the one that the block belongs to; the layer adds itself to it.
        spec: what is known about the attention.
        video: position and name, among the arguments of the block, of the tensor with the video tokens.
        is_perturbed: whether a guider does something of its own to this attention now.
        is_dense: compute dense always.
    """

    def __init__(
        self,
        denoiser: SparseDenoiser,
        spec: AttentionSpec,
        video: tuple[int, str],
        is_perturbed: Callable[[], bool],
        *,
        is_dense: bool,
    ) -> None:
        self._denoiser, self._text, self._video, self._is_perturbed = denoiser, spec.text, video, is_perturbed
        self._index, self._is_dense = len(denoiser.layers), is_dense
        self._states: dict[tuple[str, int], tuple[int, SVG2State]] = {}
        self._num_video = self._num_calls = 0
        denoiser.layers.append(self)

    @property
    def states(self) -> dict[str, SVG2State]:
        """What is held now, by branch; of the first call where a block makes several."""
        return {branch: state for (branch, number), (_, state) in self._states.items() if number == 1}

    @property
    def nbytes(self) -> int:
        """Bytes held for later steps."""
        return sum(state.nbytes for _, state in self._states.values())

    def forget(self, branch: str | None = None) -> None:
        """Free the states of ``branch``, or of all."""
        self._states = {key: kept for key, kept in self._states.items() if branch not in (None, key[0])}

    def keep_only(self, branches: set[str]) -> None:
        """Free the states of all others."""
        self._states = {key: kept for key, kept in self._states.items() if key[0] in branches}

    def enter(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See `AttentionLayer.enter`."""
        at, name = self._video
        self._num_video = (args[at] if at < len(args) else kwargs[name]).shape[-2]
        self._num_calls = 0

    def leave(self) -> None:
        """See `AttentionLayer.leave`. What did not come through here was dense, and the stats must tell."""
        if self._num_calls == 0 and not self._is_perturbed():
            self._denoiser.record.attention.note_dense("its attention was not reached", 0)

    def attend(self, call: AttentionCall) -> Tensor:
        """See `AttentionLayer.attend`."""
        self._num_calls += 1
        num_queries, num_keys = call.query.shape[1], call.key.shape[1]
        num_text = 0
        if self._text != "none":
            num_text = num_keys - self._num_video
        reason = self._why_dense(call, num_text)
        if reason is not None:
            batch, _, heads, _ = call.query.shape
            self._denoiser.record.attention.note_dense(reason, batch * heads * num_queries * num_keys)
            return call.dense()
        return self._attend_sparse(call, num_text)

    def _why_dense(self, call: AttentionCall, num_text: int) -> str | None:
        reason = call.dense_reason or self._denoiser.why_dense()
        if reason is not None:
            return reason
        if self._is_dense:
            return "first layers"
        if call.rank_sum is not None and self._text != "none":
            return "context parallelism divides text and video"
        if self._is_perturbed():
            return "a guider changes this attention"
        if call.key.shape[1] - call.query.shape[1] not in (0, num_text):
            return "fewer queries than keys"
        return why_dense(self._denoiser.config, call.query, call.key.shape[1] - num_text)

    def _attend_sparse(self, call: AttentionCall, num_text: int) -> Tensor:
        query, key, value = _alike(call, at_start=self._text == "start")
        text = (num_text, 0) if self._text == "start" else (0, num_text)
        denoiser = self._denoiser
        out, info = svg2_attention(
            query,
            key,
            value,
            denoiser.config,
            state=self._state(),
            text_tokens=text,
            key_mask=call.key_mask,
            scale=call.scale,
            rank_sum=call.rank_sum,
        )
        assert info.pairs is not None and denoiser.call is not None
        denoiser.record.count_sparse(denoiser.call)
        denoiser.record.attention.note_sparse(denoiser.name, self._index, info.num_pairs_total, info.pairs, info.error)
        num_queries = call.query.shape[1]
        return out[:, -num_queries:] if self._text == "start" else out[:, :num_queries]

    def _state(self) -> SVG2State:
        """The state for this call, to be refreshed if the layer was skipped in the step before."""
        current = self._denoiser.call
        assert current is not None
        at = (current.branch, self._num_calls)
        last_step, state = self._states.get(at, (current.step, SVG2State()))
        if current.step > last_step + 1:
            state.mark_stale()
        self._states[at] = (current.step, state)
        return state


def _alike(call: AttentionCall, *, at_start: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value of one shape: grouped keys repeated, zeros for queries of text that has keys alone."""
    query, key, value = call.query, call.key, call.value
    repeats, missing = query.shape[2] // key.shape[2], key.shape[1] - query.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, 2), value.repeat_interleave(repeats, 2)
    if missing:
        query = pad(query, (0, 0, 0, 0, missing, 0) if at_start else (0, 0, 0, 0, 0, missing))
    return query, key, value


def _share(share: float, count: int) -> int:
    """``share`` of ``count``, rounded down; 0.3 of 10 is 3, whatever binary fractions say."""
    return math.floor(round(share * count, 9))


def num_dense_layers(config: SVG2Config, num_layers: int) -> int:
    """How many of the layers, from the first, are dense under ``config``."""
    return _share(config.dense_layers, num_layers)
