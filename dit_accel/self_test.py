"""`check_contract`: does acceleration on this pipeline, here and now, keep what is promised of it?"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from .api import enable_acceleration
from .configs import DBCacheConfig, LeMiCaConfig, SVG2Config
from .errors import ConfigError, did_you_mean
from .registry import all_specs, find_spec
from .schedule import CacheSchedule
from .specs import AttentionSpec, TinyPipeline

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_STEPS = 6


@dataclass(frozen=True)
class Check:
    """One part of the contract.

    Args:
        pipeline: name of the pipeline's class.
        name: what has to hold.
        problem: why it does not; None: it does.
    """

    pipeline: str
    name: str
    problem: str | None


class _Broken(Exception):
    """A check does not hold; says why."""


def tiny_pipelines(name: str) -> dict[str, TinyPipeline]:
    """The tiny pipelines of a family (``"wan"``), or of one class (``"WanPipeline"``), by class name.

    Raises:
        ConfigError: there is no such family and no such class.
    """
    families = {spec.family: _by_class(spec.pipelines) for spec in all_specs()}
    classes = {cls: {cls: tiny} for family in families.values() for cls, tiny in family.items()}
    known = {**classes, **families}
    if name not in known:
        raise ConfigError(
            f"There is no family or pipeline class {name!r}. Families: {', '.join(families)}."
            f"{did_you_mean(name, known)}"
        )
    return known[name]


def tiny_of(pipe: DiffusionPipeline) -> TinyPipeline:
    """The tiny pipeline of the class of ``pipe``, whose inputs are the smallest that such a pipeline takes."""
    spec = find_spec(pipe)
    return next(
        spec.pipelines[name]
        for cls in type(pipe).__mro__
        if (name := f"{cls.__module__}.{cls.__qualname__}") in spec.pipelines
    )


def check_contract(pipe: Any, tiny: TinyPipeline, **changes: Any) -> Iterator[Check]:
    """Run ``pipe`` a few steps in several ways, and yield every check when it is done.

    Args:
        pipe: a supported pipeline that is not accelerated now.
        tiny: where the inputs come from, and how to ask for a number of steps.
        **changes: inputs to replace.
    """
    lab = _Lab(pipe, tiny, changes)
    for name, check in _CHECKS.items():
        try:
            check(lab)
        except Exception as error:  # whatever goes wrong on this machine is the answer
            problem = str(error) if isinstance(error, _Broken) else f"{type(error).__name__}: {error}"
            yield Check(type(pipe).__name__, name, problem)
        else:
            yield Check(type(pipe).__name__, name, None)


class _Lab:
    """The pipeline, and what the checks know of it."""

    def __init__(self, pipe: Any, tiny: TinyPipeline, changes: Mapping[str, Any]) -> None:
        self.pipe, self._tiny, self._changes = pipe, tiny, changes
        self.before: dict[str, Any] = {}
        self.num_steps = 0

    def run(self) -> Tensor:
        """What the pipeline makes, latents where it can. Inputs are made anew, as some pipelines write into them."""
        inputs = {**self._tiny.inputs(), **self._tiny.steps(_STEPS), **self._changes}
        output = self.pipe(
            generator=torch.Generator().manual_seed(0), return_dict=False, **{"output_type": "latent", **inputs}
        )
        while isinstance(output, (tuple, list)):
            output = output[0]
        return output if isinstance(output, Tensor) else torch.as_tensor(np.asarray(output))

    @functools.cached_property
    def full(self) -> Tensor:
        """The run that nothing accelerates."""
        output = self.run()
        self.before = _attributes(self.pipe)  # after the run, in which a pipeline may set some of its own
        return output

    def require_same(self) -> None:
        """Run, and raise unless the output is the full run's to the bit."""
        found = self.run()
        if not found.equal(self.full):
            furthest = float((found.double() - self.full.double()).abs().max())
            raise _Broken(f"the output differs from the full run, by up to {furthest:.3g}")


def _repeats(lab: _Lab) -> None:
    if not lab.full.isfinite().all():
        raise _Broken("the full run gives what is not finite")
    lab.require_same()


def _never_reuses(lab: _Lab) -> None:
    with enable_acceleration(lab.pipe, DBCacheConfig(residual_diff_threshold=0)) as acceleration:
        lab.require_same()
        lab.num_steps = acceleration.stats.num_steps


def _computes_all(lab: _Lab) -> None:
    with enable_acceleration(lab.pipe, _schedule(lab, range(lab.num_steps))):
        lab.require_same()


def _reuses(lab: _Lab) -> None:
    schedule = _schedule(lab, range(0, lab.num_steps, 3))
    with enable_acceleration(lab.pipe, schedule) as acceleration:
        found = lab.run()
        reused = {
            step
            for branches in acceleration.stats.reused_steps.values()
            for steps in branches.values()
            for step in steps
        }
    if not found.isfinite().all():
        raise _Broken("the output is not finite")
    if not reused or reused & set(schedule.cache_schedule.compute_steps):
        raise _Broken(
            f"it reused the steps {sorted(reused)}, and was to compute {schedule.cache_schedule.compute_steps}"
        )


def _is_sparse(lab: _Lab) -> None:
    if not all(isinstance(b.attention, AttentionSpec) for b in find_spec(lab.pipe).denoisers.values()):
        return  # refused, with the reason, when it is enabled
    with enable_acceleration(lab.pipe, SVG2Config(dense_steps=0.0, dense_layers=0.0, min_tokens=0)):
        found = lab.run()
    if not found.isfinite().all():
        raise _Broken("the output is not finite")


def _is_restored(lab: _Lab) -> None:
    lab.require_same()
    after = _attributes(lab.pipe)
    changed = [name for name in {**lab.before, **after} if lab.before.get(name) != after.get(name)]
    if changed:
        raise _Broken(f"something is left on {', '.join(changed[:3])}")


_CHECKS: dict[str, Callable[[_Lab], None]] = {
    "a seed gives the same video twice": _repeats,
    "DBCache that never reuses: the same to the bit": _never_reuses,
    "schedule that computes all steps: the same to the bit": _computes_all,
    "schedule that reuses: its steps, finite": _reuses,
    "sparse attention: finite": _is_sparse,
    "disabled: the same to the bit, nothing left behind": _is_restored,
}


def _schedule(lab: _Lab, steps: range) -> LeMiCaConfig:
    if not lab.num_steps:
        raise _Broken("the number of steps is not known, as the check before failed")
    return LeMiCaConfig(CacheSchedule(lab.num_steps, tuple(steps)))


def _attributes(pipe: Any) -> dict[str, Any]:
    """Names of all instance attributes of the pipeline and its modules, and how many hooks hang on each module."""
    found: dict[str, Any] = {type(pipe).__name__: sorted(vars(pipe))}
    for component, model in pipe.components.items():
        for path, module in model.named_modules() if isinstance(model, nn.Module) else ():
            hooks = (len(module._forward_hooks), len(module._forward_pre_hooks))
            found[f"{component}.{path}".rstrip(".")] = (sorted(vars(module)), hooks)
    return found


def _by_class(pipelines: Mapping[str, TinyPipeline]) -> dict[str, TinyPipeline]:
    return {name.rsplit(".", 1)[1]: tiny for name, tiny in pipelines.items()}
