"""The fields of the configs, from their docstrings."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from functools import partial

from docstring_parser import DocstringStyle, parse

from dit_accel.configs import DBCacheConfig, LeMiCaConfig, SVG2Config

from .data import DocumentationError
from .markdown import code, table


def fields(config: type) -> str:
    """Field, type, default and meaning of every field of ``config``.

    Raises:
        DocumentationError: docstring and fields do not agree.
    """
    found = {field.name: field for field in dataclasses.fields(config) if field.init}
    rows = []
    for argument in parse(config.__doc__ or "", style=DocstringStyle.GOOGLE).params:
        for name in argument.arg_name.split(", "):
            if name not in found:
                raise DocumentationError(
                    f"The docstring of {config.__name__} tells of {name!r}, which is no field of it."
                )
            rows.append(
                [code(name), argument.type_name or "", _default(found.pop(name)), _flat(argument.description or "")]
            )
    if found:
        raise DocumentationError(f"The docstring of {config.__name__} does not tell of {', '.join(found)}.")
    return table(["field", "type", "default", "meaning"], rows, text_columns=4)


def _default(field: dataclasses.Field[object]) -> str:
    return "required" if field.default is dataclasses.MISSING else code(repr(field.default).replace("'", '"'))


def _flat(text: str) -> str:
    """A description in one line, its double backticks single."""
    return re.sub(r"``(.+?)``", r"`\1`", " ".join(text.split()))


REGIONS: dict[str, Callable[[], str]] = {
    "config-dbcache": partial(fields, DBCacheConfig),
    "config-lemica": partial(fields, LeMiCaConfig),
    "config-svg2": partial(fields, SVG2Config),
}
