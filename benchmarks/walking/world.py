"""The world of `random_walk`: pipelines that share a denoiser, all that is done to them, and what must hold."""

from __future__ import annotations

import copy
import pickle
import tempfile
from collections import Counter
from collections.abc import Callable
from typing import Any

from diffusers import FirstBlockCacheConfig, WanPipeline
from torch import Tensor

from dit_accel import disable_acceleration, enable_acceleration
from dit_accel import errors as refusals

from .actions import ON_INSTALLING, REFUSED, Action
from .calls import abort, at_step, call, in_inference_mode, in_thread
from .checks import leftovers, require, require_refusal
from .requests import SCHEDULERS, Fresh, Request, Subject, comparable
from .settings import OFFLOADS, add_hooks, remove_hooks


class World:
    """Pipelines, what was done to them, and what came of it.

    ``counts`` counts what was done by kind, and the runs that were compared with a fresh pipeline's.
    """

    def __init__(self, subject: Subject, fresh: Fresh | None = None) -> None:
        self.subject, self.fresh = subject, Fresh(subject) if fresh is None else fresh
        self.counts: Counter[str] = Counter()
        self._build()

    def _build(self) -> None:
        pipe = self.fresh.pipeline()
        other = copy.copy(pipe)
        other.scheduler, other.vae = copy.deepcopy(pipe.scheduler), copy.deepcopy(pipe.vae)
        self.pipes, self.schedulers = [pipe, other], ["unipc", "unipc"]
        self.acceleration: Any = None
        self.method: str | None = None
        self.old: Any = None
        self.offload, self.has_hooks = "none", False
        self.below_hooks = "none"  # the offload that was there before the hooks, or "gone" if it is not any more

    def do(self, action: Action) -> None:
        """One action, and what must hold after each."""
        name, values = action
        self.counts[name] += 1
        getattr(self, "_" + name.replace(" ", "_"))(**values)
        if self.acceleration is None:
            found = [place for pipe in self.pipes for place in leftovers(pipe)]
            require(not found, f"left behind: {found}")

    def end(self) -> None:
        """Without acceleration all is as if there had never been any."""
        self._disable("handle")
        for who in (0, 1):
            self._run(who=who)
        self.pipes, self.old = [], None

    # Calls

    def _pipe(self, who: Any) -> tuple[Any, str]:
        """The pipeline, and which scheduler it has."""
        if who == "twin":
            twin = WanPipeline(**self.pipes[0].components, boundary_ratio=self.pipes[0].config.boundary_ratio)
            twin.set_progress_bar_config(disable=True)
            return twin, self.schedulers[0]
        number = who if who in (0, 1) else 0
        return self.pipes[number], self.schedulers[number]

    def _runner(self, who: Any) -> Callable[[Callable[[], Any]], Any]:
        """What a call is made through."""
        if who == "thread":
            return in_thread
        if who == "inference mode" and self.offload == "none":  # else weights that are moved are for that mode only
            return in_inference_mode
        return lambda function: function()

    def _request(self, steps: str = "right", **values: Any) -> Request:
        right = self.subject.steps_of(self.method)
        if values.get("guidance") == 1.0:
            values["pause"] = None
        return Request(steps=right if steps == "right" else right - 2, **values)

    def _run(self, who: Any = 0, **values: Any) -> None:
        pipe, scheduler = self._pipe(who)
        request = self._request(**values)
        run = self._runner(who)
        planned = None if self.method is None else self.subject.methods[self.method][1]
        if planned not in (None, request.steps):
            self.counts["calls refused"] += 1
            require_refusal(refusals.ScheduleMismatchError, lambda: run(lambda: call(pipe, self.subject, request)))
            return
        self._compare(pipe, scheduler, request, run(lambda: call(pipe, self.subject, request)))

    def _compare(self, pipe: Any, scheduler: str, request: Request, found: Tensor) -> None:
        expected, stats = self.fresh.answer(self.method, scheduler, request)
        require(found.equal(expected), f"{request} under {self.method} is not as a fresh pipeline's")
        self.counts["runs compared"] += 1
        if self.method is None:
            return
        self.counts["accelerated runs compared"] += 1
        found_stats = comparable(self.acceleration.stats_of(pipe))
        wrong = {key: (found_stats[key], value) for key, value in (stats or {}).items() if found_stats[key] != value}
        require(not wrong, f"stats of {request} under {self.method}: {wrong}")
        held = self._held(pipe, *self.pipes)  # a call lets go of what another one left that was aborted
        require(not any(held), f"{held} bytes are held after {request} under {self.method}")

    def _abort(self, who: Any, size: int, how: str, at: int) -> None:
        pipe, _ = self._pipe(who)
        request = self._request(size=size)
        run = self._runner(who)
        self.counts[how] += run(lambda: abort(pipe, self.subject, request, how, at)) != "finished"

    def _run_in_a_run(self, at: int, size: int) -> None:
        """As a server does that makes a preview: the other pipeline runs between two steps."""
        inner, found = self._request(size=size), []
        preview = at_step(at, lambda _: found.append(call(self.pipes[1], self.subject, inner)))
        outer = call(self.pipes[0], self.subject, self._request(), callback_on_step_end=preview)
        self._compare(self.pipes[1], self.schedulers[1], inner, found[0])
        self._compare(self.pipes[0], self.schedulers[0], self._request(), outer)

    def _held(self, *pipes: Any) -> list[int]:
        """Bytes that are kept for each."""
        return [self.acceleration._installation.run_of(pipe).record.cache_bytes for pipe in pipes]

    # Acceleration

    def _enable(self, method: str, through: int) -> None:
        configs = self.subject.methods[method][0]
        if self.method is not None:
            before = comparable(self.acceleration.stats)
            enable = lambda: enable_acceleration(self.pipes[through], *configs)  # noqa: E731
            require_refusal(refusals.AlreadyAcceleratedError, enable)
            require(comparable(self.acceleration.stats) == before, "a refused enable changed the stats")
            return
        self.acceleration, self.method = enable_acceleration(self.pipes[through], *configs), method

    def _refused(self, why: str, through: int) -> None:
        given, overrides, error = REFUSED[why]
        if self.method is not None and why in ON_INSTALLING:
            error = refusals.AlreadyAcceleratedError
        require_refusal(error, lambda: enable_acceleration(self.pipes[through], *given, **overrides))

    def _disable(self, how: str) -> None:
        if how == "old handle":
            if self.old is not None:
                self.old.disable()
            return
        if how.startswith("pipeline"):
            disable_acceleration(self.pipes[int(how[-1])])
        elif self.acceleration is not None:
            if how.endswith("context"):
                error = (ValueError, ValueError(), None) if how.startswith("error") else (None, None, None)
                self.acceleration.__enter__().__exit__(*error)
            else:
                self.acceleration.disable()
            if how == "twice":
                self.acceleration.disable()
        self._is_disabled()

    def _is_disabled(self) -> None:
        if self.acceleration is not None:
            self.old = self.acceleration
        self.acceleration = self.method = None

    def _disable_in_a_run(self, at: int, size: int) -> None:
        request = self._request(size=size)
        call(self.pipes[0], self.subject, request, callback_on_step_end=at_step(at, disable_acceleration))
        self._is_disabled()

    def _enable_in_a_run(self, at: int, size: int, method: str) -> None:
        request = self._request(size=size)

        def enable(pipe: Any) -> None:
            self._enable(method, 0)

        planned = self.subject.methods[method][1]
        if self.method is None and planned not in (None, request.steps):
            return
        call(self.pipes[0], self.subject, request, callback_on_step_end=at_step(at, enable))

    def _free(self) -> None:
        if self.acceleration is not None:
            self.acceleration.free()
            held = self._held(*self.pipes)
            require(not any(held), f"{held} bytes are held after free()")

    # Other things that users do

    def _scheduler(self, who: int, kind: str) -> None:
        self.pipes[who].scheduler, self.schedulers[who] = SCHEDULERS[kind](), kind

    def _offload(self, kind: str) -> None:
        if kind == self.offload:
            return
        remove = OFFLOADS[self.offload].remove
        if remove is None:
            self._start_over()
        else:
            remove(self.pipes[0])
        if self.has_hooks and self.offload == self.below_hooks == "sequential":
            self.below_hooks = "gone"
        if OFFLOADS[kind].remove is None:  # diffusers' hooks only leave in reverse order
            self._hooks(False)
        OFFLOADS[kind].apply(self.pipes[0])
        self.offload = kind

    def _hooks(self, is_on: bool) -> None:
        if is_on == self.has_hooks or OFFLOADS[self.offload].remove is None:
            return
        if is_on:
            add_hooks(self.pipes[0])
            self.has_hooks, self.below_hooks = True, self.offload
        elif self.below_hooks == "gone" or self.below_hooks != self.offload == "sequential":
            self._start_over()  # diffusers' hooks only leave a block that has those of accelerate that it had before
        else:
            remove_hooks(self.pipes[0])
            self.has_hooks = False

    def _save_and_load(self) -> None:
        if self.offload not in ("none", "model"):
            return  # the weights are not there to be saved
        with tempfile.TemporaryDirectory() as folder:
            self.pipes[0].save_pretrained(folder)
            loaded = WanPipeline.from_pretrained(folder)
        loaded.set_progress_bar_config(disable=True)
        require(not leftovers(loaded), "a saved pipeline is not plain")
        self._compare_plain(loaded, self.schedulers[0])

    def _compare_plain(self, pipe: Any, scheduler: str) -> None:
        expected, _ = self.fresh.answer(None, scheduler, Request())
        require(call(pipe, self.subject, Request()).equal(expected), "a copy is not as a fresh pipeline")
        self.counts["runs compared"] += 1

    def _copy(self, how: str) -> None:
        part = self.pipes[0].transformer
        if self.method is not None:
            copied = pickle.dumps if how == "pickle" else copy.deepcopy
            whole = part.blocks[1] if how == "a block" else part
            require_refusal(refusals.AlreadyAcceleratedError, lambda: copied(whole))
        elif self.offload == "none" and not self.has_hooks and "_diffusers_hook" not in vars(part):
            pipe = self.fresh.pipeline()
            pipe.transformer = pickle.loads(pickle.dumps(part)) if how == "pickle" else copy.deepcopy(part)
            self._compare_plain(pipe, "unipc")

    def _another_cache(self) -> None:
        """diffusers' own: whichever comes second is refused."""
        enable = lambda: self.pipes[0].transformer.enable_cache(FirstBlockCacheConfig())  # noqa: E731
        if self.method is not None:
            require_refusal(refusals.AlreadyAcceleratedError, enable)
            return
        enable()
        accelerate = lambda: enable_acceleration(self.pipes[0], "dbcache-fast")  # noqa: E731
        require_refusal(refusals.AlreadyAcceleratedError, accelerate)
        self.pipes[0].transformer.disable_cache()

    def _start_over(self) -> None:
        self._build()
