"""``dit-accel report``."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from dit_accel import DEMO_INPUTS, CacheSchedule, LeMiCaConfig
from dit_accel.cli import main
from dit_accel.cli.options import parse_overrides, pipeline_inputs, steps_input
from dit_accel.errors import ConfigError
from dit_accel.registry import all_specs

from ..conftest import tiny_inputs
from .shell import Shell

MP4 = base64.b64encode(b"\0\0\0 ftypiso").decode("ascii").rstrip("=")[:12]  # how the files begin
STEPS = {"half": (0, 2), "most": (0, 1, 2)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--metrics": "fid"}, "no metric 'fid'"),
        ({"--inputs": "{height: 16}"}, "--inputs is not valid JSON"),
        ({"--inputs": "[16]"}, "--inputs must be a JSON object, got [16]"),
        ({"--inputs": '{"seeds": [1]}'}, "--inputs holds arguments of the pipeline only, got seeds"),
        ({"--inputs": '{"prompt": "x"}'}, "got prompt. Leave them out"),
        ({"--prompts": "absent.txt"}, "There is no prompts file at absent.txt"),
        ({"--prompts": "."}, "is a directory"),
        ({"--presets": "lemica-fast"}, "UnknownPresetError"),
        ({"--pipeline": "."}, "diffusers cannot load"),
        ({"--offload": "model"}, "offload='model' moves weights between a GPU and the CPU; device='cpu' was given"),
        ({"--out": "no/such/report.json"}, "Create it first"),
    ],
)
def test_report_errors(
    shell: Shell, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a red seven\n\n")
    options: dict[str, Any] = {
        "--pipeline": source,
        "--presets": "x",
        "--prompts": "prompts.txt",
        "--metrics": "psnr",
        **changes,
    }
    assert words in shell.fails("report", *(text for option in options.items() for text in option))


@pytest.fixture
def options(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A report of two presets of the test's own over two prompts."""
    (wan,) = (spec for spec in all_specs() if spec.family == "wan")
    for name, steps in STEPS.items():
        config = LeMiCaConfig(CacheSchedule(4, steps))
        monkeypatch.setitem(wan.presets, name, lambda config=config: (config,))
    (tmp_path / "prompts.txt").write_text("a red seven\n\n  a blue one  \n")
    inputs = ["--inputs", json.dumps(tiny_inputs()), "--metrics", "psnr", "--steps", "4"]
    return ["report", "--pipeline", source, "--prompts", str(tmp_path / "prompts.txt"), *inputs]


def test_report(shell: Shell, options: list[str], tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    (row,) = json.loads(shell.ok(*options, "--presets", "half", "--out", str(out), "--json"))["rows"]
    assert (row["name"], row["computed_steps"], row["num_videos"]) == ("half", 2, 2)
    assert json.loads(out.read_text())["provenance"]["prompts"] == ["a red seven", "a blue one"]


@pytest.mark.parametrize(
    "lists",
    [
        ["--presets", "half", "most", "--seeds", "3", "4"],
        ["--presets", "half", "--seeds", "3", "--presets", "most", "--seeds", "4"],
        ["--presets=half", "--presets=most", "--seeds", "3", "--seeds=4"],
    ],
)
def test_lists_are_given_at_once_or_one_by_one(shell: Shell, options: list[str], lists: list[str]) -> None:
    rows = json.loads(shell.ok(*options, *lists, "--json"))["rows"]
    assert [(row["name"], row["computed_steps"], row["num_videos"]) for row in rows] == [
        ("half", 2, 4),
        ("most", 3, 4),
    ]


def test_report_with_fields_replaced(shell: Shell, options: list[str], tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    shell.ok(*options, "--presets", "half", "--set", "forecast=taylor1", "--set", "reuse=output", "--out", str(out))
    label = "half, forecast=taylor1, reuse=output"
    made = json.loads(out.read_text())["provenance"]["accelerations"]
    assert list(made) == [label] and "reuse='output', forecast='taylor1'" in made[label][0]


def test_a_page_of_a_run_and_of_a_stored_report(shell: Shell, options: list[str], tmp_path: Path) -> None:
    report, page, videos = (tmp_path / name for name in ("report.json", "page.html", "videos"))
    text = shell.ok(*options, "--presets", "half", "--html", str(page), "--out", str(report))
    assert text.splitlines()[-1] == f"The page is {page}" and "| half | 2 / 4 |" in text
    assert MP4 in page.read_text(), "the videos are in the page also if no folder keeps them"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "prompts.txt", "report.json"]

    shell.ok(*options, "--presets", "half", "--videos", str(videos), "--fps", "8", "--out", str(report))
    assert list(videos.glob("*.mp4")) and json.loads(report.read_text())["provenance"]["fps"] == 8
    shell.ok("report", "--from", str(report), "--html", str(page))
    assert MP4 not in page.read_text()
    shell.ok("report", "--from", str(report), "--html", str(page), "--videos", str(videos))
    assert MP4 in page.read_text()
    rows = json.loads(shell.ok("report", "--from", str(report), "--json"))["rows"]
    assert rows == json.loads(report.read_text())["rows"]


def test_a_page_that_cannot_be_is_found_before_the_work(
    shell: Shell, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = shell.fails(*options, "--presets", "half", "--html", "no/such/page.html")
    assert "The folder of --html 'no/such/page.html' does not exist" in line
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert "The report page needs jinja2" in shell.fails(*options, "--presets", "half", "--html", "page.html")


@pytest.mark.parametrize(
    "arguments", [["--presets", "half"], ["--prompts", "p.txt"], ["--from", "r.json", "--out", "o.json"]]
)
def test_report_needs_what_to_run_or_a_report(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["report", *arguments])
    assert caught.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_inputs_of_the_embedded_model_are_known() -> None:
    assert pipeline_inputs("demo", '{"height": 96}') == {**DEMO_INPUTS, "height": 96}
    assert pipeline_inputs("other", "{}") == {}


def test_files_among_the_inputs_are_loaded(tmp_path: Path) -> None:
    Image.new("RGB", (4, 2), "red").save(tmp_path / "a.png")
    iio.imwrite(tmp_path / "b.mp4", np.zeros((3, 16, 16, 3), np.uint8), fps=8)
    texts = {"image": f"@{tmp_path}/a.png", "references": [f"@{tmp_path}/a.png", 1], "video": f"@{tmp_path}/b.mp4"}
    found = pipeline_inputs("other", json.dumps(texts))
    assert found["image"].size == found["references"][0].size == (4, 2) and found["references"][1] == 1
    assert [frame.size for frame in found["video"]] == [(16, 16)] * 3
    with pytest.raises(ConfigError, match=r"--inputs: '@absent.png' cannot be read as a picture or video"):
        pipeline_inputs("other", '{"image": "@absent.png"}')


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.8", 0.8),
        ("true", True),
        ("True", True),
        ("null", None),
        ("None", None),
        ("[0, 2]", (0, 2)),
        ("hold", "hold"),
    ],
)
def test_values_are_json_or_python_or_text(text: str, value: object) -> None:
    assert parse_overrides([f"field={text}", "other=a=b"]) == {"field": value, "other": "a=b"}


def test_steps_are_asked_for_as_the_pipeline_takes_them() -> None:
    class Pyramid:
        def __call__(self, prompt: str, pyramid_num_inference_steps_list: list[int]) -> None: ...

    wan_pipe: Any = next(spec for spec in all_specs() if spec.family == "wan").pipelines
    pipe = next(iter(wan_pipe.values())).build()
    assert steps_input(pipe, None) == {"num_inference_steps": 50}
    assert steps_input(pipe, 4) == {"num_inference_steps": 4}
    pyramid: Any = Pyramid()
    assert steps_input(pyramid, None) == {}
    with pytest.raises(ConfigError, match="Pyramid has no num_inference_steps, and --steps 4 was given"):
        steps_input(pyramid, 4)
