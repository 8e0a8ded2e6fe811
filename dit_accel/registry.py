"""Which specification covers a pipeline. Families register themselves when ``dit_accel.pipelines`` is imported, which
happens at the first lookup."""

from __future__ import annotations

import difflib
import importlib
import os
import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .errors import ScheduleMismatchError, UnsupportedPipelineError
from .schedule import CacheSchedule
from .specs import PipelineSpec, PresetBuilder, Variant

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_SPECS: dict[str, PipelineSpec] = {}


def register_pipeline(spec: PipelineSpec) -> PipelineSpec:
    """Make a family known; its pipeline classes must not be covered yet.

    Raises:
        UnsupportedPipelineError: another family covers one of the classes.
    """
    for name in spec.pipelines:
        if _SPECS.setdefault(name, spec) is not spec:
            raise UnsupportedPipelineError(f"{name} is already covered by the family {_SPECS[name].family!r}.")
    return spec


def all_specs() -> list[PipelineSpec]:
    """Every registered family once, sorted by name: whichever was imported first."""
    _discover()
    return sorted(dict.fromkeys(_SPECS.values()), key=lambda spec: spec.family)


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
    known = {name.rsplit(".", 1)[1]: spec.family for name, spec in _SPECS.items()}
    given = type(pipe).__name__
    nearest = difflib.get_close_matches(given, known, n=1, cutoff=0.0)[0]
    raise UnsupportedPipelineError(
        f"{given} is not supported. The nearest supported pipeline is {nearest}, of the family {known[nearest]!r}. "
        f"Supported: {', '.join(sorted(known))}. "
        "A new family is one file in pipelines/ that calls register_pipeline; see CONTRIBUTING.md."
    )


def find_variant(pipe: DiffusionPipeline, spec: PipelineSpec) -> Variant | None:
    """The published model that ``pipe`` is, recognised by its class and its denoiser's configuration, or None."""
    denoisers = {name: d for name in spec.denoisers if (d := getattr(pipe, name, None)) is not None}
    for variant in spec.variants:
        if tuple(denoisers) != variant.denoisers or type(pipe).__name__ not in variant.pipelines:
            continue
        config = denoisers[variant.denoisers[0]].config
        if all(config.get(key) == value for key, value in variant.denoiser_config.items()):
            return variant
    return None


def presets_of(pipe: DiffusionPipeline) -> dict[str, PresetBuilder]:
    """Preset name -> builder of its configs: those of the family, and before them those of the published model."""
    spec = find_spec(pipe)
    variant = find_variant(pipe, spec)
    return {**spec.all_presets, **(variant.presets if variant else {})}


def model_id(pipe: DiffusionPipeline) -> str:
    """The recognised variant's name, else the last part of the path or hub id the pipeline was loaded from."""
    variant = find_variant(pipe, find_spec(pipe))
    return variant.name if variant else os.path.basename(str(pipe.config.get("_name_or_path", "") or "unnamed"))


def refuse_other_family(pipe: DiffusionPipeline, spec: PipelineSpec, schedule: CacheSchedule) -> None:
    """Raise `ScheduleMismatchError` if ``schedule`` was planned for a pipeline of another family than ``spec``.

    Its provenance names the class of the pipeline that was profiled; one that no family covers may be anything.
    """
    model = schedule.provenance.get("model")
    planned = model.get("pipeline_class") if isinstance(model, Mapping) else None
    for other in all_specs():
        if other is not spec and planned in [name.rpartition(".")[2] for name in other.pipelines]:
            raise ScheduleMismatchError(
                f"Schedule {schedule.name!r} was planned for a {planned}, of the family {other.family!r}; this is a "
                f"{type(pipe).__name__}, of the family {spec.family!r}. Use a schedule of its family, or profile it: "
                "dit-accel profile JOB.toml"
            )


def _discover() -> None:
    """Import every module of ``dit_accel.pipelines`` once; each registers its family."""
    package = importlib.import_module("dit_accel.pipelines")
    for module in pkgutil.iter_modules(package.__path__):
        if not module.ispkg:
            importlib.import_module(f"{package.__name__}.{module.name}")
