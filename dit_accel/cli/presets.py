"""``dit-accel presets``."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..configs import DBCacheConfig, LeMiCaConfig, SVG2Config
from .help_texts import arguments
from .options import DEMO, SOURCE_HELP, load_pipeline
from .output import Result, Table

if TYPE_CHECKING:
    from ..configs import Config

_KINDS: tuple[type[Config], ...] = (DBCacheConfig, LeMiCaConfig, SVG2Config)


def presets(
    pipeline: Annotated[str, typer.Argument(help=SOURCE_HELP)] = DEMO,
    fields: Annotated[
        bool,
        typer.Option("--fields", metavar="", help="list the fields of the configs instead, which --set can change."),
    ] = False,
) -> Result:
    """List the presets of a pipeline."""
    if fields:
        return _fields()
    from ..registry import presets_of

    details = [_described(name, build()) for name, build in sorted(presets_of(load_pipeline(pipeline)).items())]
    rows = [[each["name"], each["method"], _steps(each), _settings(each["settings"])] for each in details]
    names = [each["name"] for each in details]
    table = Table(["preset", "method", "full steps", "settings"], rows, num_words=4, text="\n".join(names))
    return Result({"presets": names, "details": details}, [table])


def _described(name: str, configs: tuple[Config, ...]) -> dict[str, Any]:
    schedule = next((config.cache_schedule for config in configs if isinstance(config, LeMiCaConfig)), None)
    return {
        "name": name,
        "method": " + ".join(_method(type(config)) for config in configs),
        "full_steps": schedule and schedule.budget,
        "partial_steps": schedule and len(schedule.partial.steps if schedule.partial else ()),
        "num_steps": schedule and schedule.num_steps,
        "settings": {key: value for config in configs for key, value in _changed(config).items()},
    }


def _method(kind: type[Config]) -> str:
    return kind.__name__.removesuffix("Config")


def _changed(config: Config) -> dict[str, Any]:
    """The fields that are not as they are by default."""
    values = {field.name: (getattr(config, field.name), field.default) for field in fields(config) if field.init}
    return {name: value for name, (value, default) in values.items() if value != default}


def _steps(preset: dict[str, Any]) -> str:
    """How many are computed in full: a schedule says so, DBCache decides as it runs, SVG2 alone leaves none out."""
    if preset["num_steps"] is None:
        return "as it runs" if _method(DBCacheConfig) in preset["method"] else "all"
    partial = f" + {preset['partial_steps']} partial" if preset["partial_steps"] else ""
    return f"{preset['full_steps']} / {preset['num_steps']}{partial}"


def _settings(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items()) or "defaults"


def _fields() -> Result:
    """Every field of the configs, from their docstrings."""
    found = {kind.__name__: [_field(kind, field) for field in fields(kind) if field.init] for kind in _KINDS}
    parts = []
    for name, entries in found.items():
        rows = [[entry["name"], entry["default"], f"{entry['kind']}. {entry['text']}"] for entry in entries]
        parts.append(Table([name, "default", "meaning"], rows, num_words=3))
    return Result({"fields": found}, parts)


def _field(kind: type[Config], field: Any) -> dict[str, str]:
    argument = arguments("configs", kind.__name__)[field.name]
    default = "required" if field.default is MISSING else str(field.default)
    return {"name": field.name, "default": default, "kind": argument.kind, "text": argument.text}
