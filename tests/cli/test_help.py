"""Help texts, most of which are those of docstrings, and what ``--help`` costs."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from docstring_parser import DocstringStyle, parse
from rich.text import Text

from dit_accel import DBCacheConfig, LeMiCaConfig, SVG2Config, configs, evaluate
from dit_accel import plan as plan_schedule
from dit_accel.bench import measure_speed
from dit_accel.cli import app
from dit_accel.cli.help_texts import arguments
from dit_accel.loading import load_pipeline
from dit_accel.profiling.error_graph import ErrorGraph
from dit_accel.profiling.job_file import run_job
from dit_accel.profiling.merging import merge
from dit_accel.recommend import recommend
from dit_accel.showcase import run_showcase

from .shell import Shell

COMMANDS: dict[str, Any] = vars(typer.main.get_command(app))["commands"]
PARAMETERS = [(name, parameter) for name, command in COMMANDS.items() for parameter in command.params]
# Command -> where the help of its options comes from: option -> its name as an argument, if it is another.
SOURCES: list[tuple[str, Any, dict[str, str]]] = [
    ("demo", run_showcase, {"out": "out", "prompts": "num_prompts"}),
    ("profile", run_job, {"workdir": "workdir", "out": "out", "polish": "rollouts", "workers": "num_workers"}),
    ("profile", run_job, {"ray": "ray"}),
    ("merge", merge, {"workdirs": "workdirs"}),
    ("plan", plan_schedule, {n: n for n in ("budget", "milliseconds", "speedup", "objective", "power")}),
    ("plan", ErrorGraph.resample, {"steps": "num_steps", "shift": "shift"}),
    ("report", evaluate, {n: n for n in ("seeds", "metrics", "out", "videos", "fps")}),
    (
        "recommend",
        recommend,
        {n: n for n in ("speedup", "max_lpips", "max_st_lpips", "min_psnr", "min_ssim", "reports")},
    ),
    *(
        (name, load_pipeline, {n: n for n in ("dtype", "device", "offload", "vae_tiling")})
        for name in ("report", "bench")
    ),
    ("bench", measure_speed, {n: n for n in ("prompt", "seed", "repeats")}),
]
HEAVY = {"torch", "diffusers", "transformers", "matplotlib", "jinja2", "imageio"}
PROBE = """
import json, sys, time
start = time.process_time()
from dit_accel.cli import main
code = main(sys.argv[1:])
found = {"code": code, "seconds": time.process_time() - start}
print(json.dumps({**found, "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""


def described(source: Any) -> Iterator[tuple[str, str]]:
    """Argument -> its text in the docstring of a function that was really imported."""
    for entry in parse(inspect.getdoc(source) or "", DocstringStyle.GOOGLE).params:
        for name in entry.arg_name.split(", "):
            yield name, " ".join((entry.description or "").replace("`", "").split())


def probe(*arguments: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_every_command_says_what_it_does() -> None:
    assert list(COMMANDS) == [
        "demo",
        "presets",
        "recommend",
        "report",
        "bench",
        "compare",
        "profile",
        "merge",
        "plan",
        "doctor",
    ]
    assert all(command.help for command in COMMANDS.values())


@pytest.mark.parametrize(("command", "parameter"), PARAMETERS, ids=lambda value: getattr(value, "name", value))
def test_every_parameter_has_help_without_marks_that_rich_would_eat(command: str, parameter: Any) -> None:
    assert parameter.help and Text.from_markup(parameter.help).plain == parameter.help


@pytest.mark.parametrize(
    ("command", "source", "names"), SOURCES, ids=lambda value: str(getattr(value, "__name__", ""))
)
def test_help_is_that_of_the_docstring(command: str, source: Any, names: dict[str, str]) -> None:
    texts, helps = dict(described(source)), {parameter.name: parameter.help for parameter in COMMANDS[command].params}
    assert {name: helps[name] for name in names} == {name: texts[argument] for name, argument in names.items()}


def test_fields_are_those_of_the_configs(shell: Shell) -> None:
    found = json.loads(shell.ok("presets", "--fields", "--json"))["fields"]
    for kind in (DBCacheConfig, LeMiCaConfig, SVG2Config):
        assert [(field["name"], field["text"]) for field in found[kind.__name__]] == list(described(kind))
    threshold = next(field for field in found["DBCacheConfig"] if field["name"] == "residual_diff_threshold")
    assert (threshold["default"], threshold["kind"]) == (
        str(DBCacheConfig().residual_diff_threshold),
        "float, at least 0",
    )
    assert "| residual_diff_threshold | 0.08 | float, at least 0. Reuse while" in shell.ok("presets", "--fields")


def test_what_is_read_is_what_the_class_says() -> None:
    assert configs.__name__ == "dit_accel.configs"
    assert (
        arguments("configs", "SVG2Config")["num_k_centroids"] == arguments("configs", "SVG2Config")["num_q_centroids"]
    )


def test_help_is_quick_and_imports_no_model_library() -> None:
    found = [probe("--help") for _ in range(2)]
    assert not HEAVY & set(found[0]["modules"]) and found[0]["code"] == 0
    assert min(run["seconds"] for run in found) < 1.0


def test_a_plan_imports_no_model_library(graph: str) -> None:
    found = probe("plan", graph, "--budget", "3")
    assert not HEAVY & set(found["modules"]) and found["code"] == 0


def test_completion_of_presets_loads_no_pipeline(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dit_accel.cli import main

    monkeypatch.setenv("_DIT_ACCEL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "dit-accel report --presets svg2+lemica-")
    monkeypatch.setenv("COMP_CWORD", "3")
    with pytest.raises(SystemExit) as caught:
        main([])
    names = [f"svg2+lemica-{speed}" for speed in ("fast", "medium", "slow", "turbo", "ultra")]
    assert caught.value.code == 0 and capsys.readouterr().out.split() == names
