"""dit_accel: faster Hugging Face Diffusers video DiT pipelines, measured.

    acc = dit_accel.enable_acceleration(pipe, "lemica-fast")
    pipe(...)          # fast
    acc.disable()      # exactly as before

Names are resolved on first use: importing the package imports neither diffusers nor any optional dependency.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .configs import DBCacheConfig, LeMiCaConfig, SVG2Config
from .errors import DitAccelError
from .schedule import CacheSchedule

if TYPE_CHECKING:
    from .api import Acceleration, available_presets, disable_acceleration, enable_acceleration
    from .demo import DEMO_INPUTS, load_demo_pipeline
    from .profiling.error_graph import ErrorGraph
    from .profiling.job import profile
    from .profiling.planner import plan
    from .quality.report import QualityReport, evaluate

__version__ = "0.1.0"

_LAZY = {
    "Acceleration": "api",
    "available_presets": "api",
    "disable_acceleration": "api",
    "enable_acceleration": "api",
    "DEMO_INPUTS": "demo",
    "load_demo_pipeline": "demo",
    "ErrorGraph": "profiling.error_graph",
    "plan": "profiling.planner",
    "profile": "profiling.job",
    "QualityReport": "quality.report",
    "evaluate": "quality.report",
}

__all__ = [
    "DEMO_INPUTS",
    "Acceleration",
    "CacheSchedule",
    "DBCacheConfig",
    "DitAccelError",
    "ErrorGraph",
    "LeMiCaConfig",
    "QualityReport",
    "SVG2Config",
    "available_presets",
    "disable_acceleration",
    "enable_acceleration",
    "evaluate",
    "load_demo_pipeline",
    "plan",
    "profile",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'dit_accel' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
