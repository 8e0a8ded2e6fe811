"""Options that several commands share, and what their texts mean."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..documents import quoted, read_json_file
from ..errors import ConfigError
from .help_texts import arguments
from .output import status

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

DEMO = "demo"
_MAX_PROMPTS_BYTES = 1 << 20
_DEFAULT_STEPS = 50
_VIDEOS = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
# What --inputs must not set, as other options do.
_OWN = {*arguments("quality.report", "evaluate"), *arguments("bench", "measure_speed"), "num_inference_steps"}

_LOAD = arguments("loading", "load_pipeline")
SOURCE_HELP = f"the pipeline: {_LOAD['source'].text}"
Pipeline = Annotated[str, typer.Option(help=SOURCE_HELP)]
Dtype = Annotated[str, typer.Option(help=_LOAD["dtype"].text)]
Device = Annotated[str, typer.Option(help=_LOAD["device"].text)]
Offload = Annotated[str, typer.Option(help=_LOAD["offload"].text)]
VaeTiling = Annotated[bool, typer.Option("--vae-tiling", metavar="", help=_LOAD["vae_tiling"].text)]
Steps = Annotated[int | None, typer.Option(min=1, help="denoising steps of every run.", show_default="50")]
Inputs = Annotated[
    str,
    typer.Option(
        metavar="JSON",
        help='further arguments of the pipeline as a JSON object, e.g. \'{"height": 480, "image": "@first.png"}\'; '
        "@FILE is a picture or video to load. Those of the embedded model are known.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="change a field of the presets' configs, e.g. forecast=taylor1; every preset must have it. "
        "'dit-accel presets --fields' lists them.",
    ),
]


def complete_preset(incomplete: str) -> list[str]:
    """Completions of presets joined by ``+``: every name that ships, as loading the pipeline would take too long."""
    from ..registry import all_specs

    before, plus, last = incomplete.rpartition("+")
    families = all_specs()
    names = {name for spec in families for name in spec.all_presets}
    names |= {name for spec in families for variant in spec.variants for name in variant.presets}
    return [before + plus + name for name in sorted(names) if name.startswith(last)]


Presets = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME ...",
        help="presets of the pipeline; a+b joins two. 'dit-accel presets' lists them.",
        autocompletion=complete_preset,
    ),
]


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Without the bars of diffusers and transformers, which would tear the command's own line."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    with ExitStack() as restore:
        for logging in (diffusers_logging, transformers_logging):
            if logging.is_progress_bar_enabled():
                logging.disable_progress_bar()
                restore.callback(logging.enable_progress_bar)
        yield


def load_pipeline(source: str, *where: str, **how: Any) -> DiffusionPipeline:
    """`dit_accel.loading.load_pipeline`, told at a terminal; the pipeline shows no progress of its own."""
    with status(f"Loading {source}"), quiet_loading():
        from .. import loading

        pipe = loading.load_pipeline(source, *where, **how)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pipeline_inputs(source: str, text: str) -> dict[str, Any]:
    """What ``--inputs`` holds, over what the embedded model was made for.

    Raises:
        ConfigError: it is no JSON object, holds what a command sets itself, or a file that cannot be read.
    """
    from ..demo import DEMO_INPUTS

    example = "Example: --inputs '{\"height\": 480}'"
    try:
        inputs = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise ConfigError(f"--inputs is not valid JSON: {problem}. {example}") from None
    if not isinstance(inputs, dict):
        raise ConfigError(f"--inputs must be a JSON object, got {quoted(inputs)}. {example}")
    taken = sorted(_OWN & set(inputs))
    if taken:
        raise ConfigError(
            f"--inputs holds arguments of the pipeline only, got {', '.join(taken)}. Leave them out; most are options."
        )
    return {**(DEMO_INPUTS if source == DEMO else {}), **_with_files(inputs)}


def _with_files(value: Any) -> Any:
    """``value`` with each text ``"@FILE"`` replaced by the picture, or the frames, of the file."""
    if isinstance(value, dict):
        return {key: _with_files(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_files(item) for item in value]
    if not isinstance(value, str) or not value.startswith("@"):
        return value
    from diffusers.utils import load_image, load_video

    path = Path(value[1:])
    try:
        return load_video(str(path)) if path.suffix.lower() in _VIDEOS else load_image(str(path))
    except Exception as problem:  # of the library that decodes it
        raise ConfigError(
            f"--inputs: {quoted(value)} cannot be read as a picture or video: {problem!s:.200}"
        ) from None


def steps_input(pipe: DiffusionPipeline, steps: int | None) -> dict[str, int]:
    """How the pipeline is asked for ``--steps``; nothing where it has another way, which ``--inputs`` can go."""
    from ..timed_run import takes

    if takes(pipe, "num_inference_steps"):
        return {"num_inference_steps": _DEFAULT_STEPS if steps is None else steps}
    if steps is not None:
        raise ConfigError(
            f"{type(pipe).__name__} has no num_inference_steps, and --steps {steps} was given. Ask for steps as this "
            "pipeline is asked, in --inputs."
        )
    return {}


def check_folder(path: Path | None, option: str) -> None:
    """Raise now what writing ``path`` would raise after minutes of work: `ConfigError` if its folder is missing."""
    if path is not None and not path.absolute().parent.is_dir():
        raise ConfigError(f"The folder of {option} {str(path)!r} does not exist. Create it first.")


def read_prompts(path: Path) -> list[str]:
    """The lines of a text file that are not empty."""
    lines = read_json_file(path, _MAX_PROMPTS_BYTES, ConfigError, "prompts").splitlines()
    return [line.strip() for line in lines if line.strip()]


def parse_overrides(assignments: Sequence[str]) -> dict[str, Any]:
    """``["top_p=0.8", "forecast=hold"]`` -> field -> value: JSON, or as Python writes it, or else the text itself."""
    overrides = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not name or not equals:
            raise ConfigError(f"--set {quoted(assignment)} sets nothing. Write FIELD=VALUE, e.g. --set top_p=0.8")
        overrides[name] = _value(text)
    return overrides


def _value(text: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        # TypeError: a list in a set. MemoryError: what Python's parser says of an expression that is nested too deep.
        with suppress(ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            value = read(text)
            return tuple(value) if isinstance(value, list) else value
    return text


def accelerations(pipe: DiffusionPipeline, presets: Sequence[str], assignments: Sequence[str]) -> Any:
    """The presets; or, if fields are replaced, label -> configs, under labels that say so."""
    from ..api import enable_acceleration

    overrides = parse_overrides(assignments)
    if not overrides:
        return list(presets)
    found = {}
    for preset in presets:
        with enable_acceleration(pipe, preset, **overrides) as acceleration:  # which checks the fields
            found[", ".join([preset, *assignments])] = acceleration.configs
    return found
