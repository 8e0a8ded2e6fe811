"""Which specification covers a pipeline. Families register themselves when ``dit_accel.pipelines`` is imported, which
happens at the first lookup."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from .errors import UnsupportedPipelineError, did_you_mean
from .specs import PipelineSpec, Variant

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_SPECS: dict[str, PipelineSpec] = {}


def register_pipeline(spec: PipelineSpec) -> PipelineSpec:
    """Make a family known; its pipeline classes must not be covered yet.

    Raises:
        UnsupportedPipelineError: another family covers one of the classes.
    """
    for name in spec.pipeline_classes:
        if _SPECS.setdefault(name, spec) is not spec:
            raise UnsupportedPipelineError(f"{name} is already covered by the family {_SPECS[name].family!r}.")
    return spec


def all_specs() -> list[PipelineSpec]:
    """Every registered family once, in order of registration."""
    _discover()
    return list(dict.fromkeys(_SPECS.values()))


def find_spec(pipe: DiffusionPipeline) -> PipelineSpec:
    """The specification of ``pipe`` by the qualified name of its class or of a parent class.

    Raises:
        UnsupportedPipelineError: no family covers it.
    """
    _discover()
    for cls in type(pipe).__mro__:
        spec = _SPECS.get(f"{cls.__module__}.{cls.__qualname__}")
        if spec is not None:
            return spec
    known = {name.rsplit(".", 1)[1] for name in _SPECS}
    given = type(pipe).__name__
    raise UnsupportedPipelineError(
        f"{given} is not supported. Supported: {', '.join(sorted(known))}.{did_you_mean(given, known)} "
        "A new family is one file in pipelines/ that calls register_pipeline; see CONTRIBUTING.md."
    )


def find_variant(pipe: DiffusionPipeline, spec: PipelineSpec) -> Variant | None:
    """The published model that ``pipe`` is, recognised by its first denoiser's configuration, or None."""
    denoiser = next((d for d in (getattr(pipe, name, None) for name in spec.denoisers) if d is not None), None)
    for variant in spec.variants:
        if denoiser is not None and all(
            denoiser.config.get(key) == value for key, value in variant.denoiser_config.items()
        ):
            return variant
    return None


def _discover() -> None:
    """Import every module of ``dit_accel.pipelines`` once; each registers its family."""
    package = importlib.import_module("dit_accel.pipelines")
    for module in pkgutil.iter_modules(package.__path__):
        if not module.ispkg:
            importlib.import_module(f"{package.__name__}.{module.name}")
