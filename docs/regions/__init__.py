"""The generated regions of the documentation: a name, and the function that writes it from committed data."""

from __future__ import annotations

from collections.abc import Callable

from . import (
    commands,
    configs,
    gpu,
    lines,
    model,
    notebooks,
    planner,
    quality,
    rivals,
    scale,
    serving,
    sparse,
    support,
)

REGIONS: dict[str, Callable[[], str]] = {
    **lines.REGIONS,
    **quality.REGIONS,
    **rivals.REGIONS,
    **planner.REGIONS,
    **scale.REGIONS,
    **serving.REGIONS,
    **sparse.REGIONS,
    **gpu.REGIONS,
    **support.REGIONS,
    **configs.REGIONS,
    **model.REGIONS,
    **commands.REGIONS,
    **notebooks.REGIONS,
}
