"""``"org/repo:name"`` wherever a schedule is taken, to the last bit of a video; and what such a string may be."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from huggingface_hub import constants

from dit_accel import CacheSchedule, DBCacheConfig, LeMiCaConfig, SVG2Config, enable_acceleration
from dit_accel.errors import HubError, ScheduleError, ScheduleMismatchError, UnknownPresetError
from dit_accel.hub import HubFile

from ..conftest import attributes, run_tiny, tiny_pipeline
from .conftest import REPO, SCHEDULE, put

OTHER = CacheSchedule(6, (0, 2, 4))
WRONG = r"does not refer to a schedule|is no repository|cannot be the name|is no revision"


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


def test_wherever_a_schedule_is_taken(filled):
    first = filled.repos[REPO].refs["main"]
    put(filled, "fast", OTHER)
    assert CacheSchedule.resolve(f"{REPO}@{first}:fast") == SCHEDULE
    assert CacheSchedule.resolve(f"{REPO}:fast") == OTHER
    assert LeMiCaConfig(f"{REPO}:fast").cache_schedule == OTHER
    assert DBCacheConfig(compute_steps=f"{REPO}@{first}:fast").schedule == SCHEDULE


def test_enabling_by_reference_is_the_local_file_to_the_bit(filled, tmp_path, pipe):
    full, before = run_tiny(pipe), attributes(pipe)
    SCHEDULE.save(tmp_path / "fast.json")
    with enable_acceleration(pipe, LeMiCaConfig(tmp_path / "fast.json")) as local:
        expected = run_tiny(pipe)
    with enable_acceleration(pipe, f"{REPO}:fast") as acceleration:
        assert run_tiny(pipe).equal(expected)
        assert acceleration.stats.computed_steps == local.stats.computed_steps
    assert attributes(pipe) == before
    assert run_tiny(pipe).equal(full) and not full.equal(expected)


def test_a_reference_joins_presets_and_takes_overrides(filled, pipe):
    with enable_acceleration(pipe, f"{REPO}@main:fast+svg2", forecast="hold", top_p=0.5) as acceleration:
        lemica, svg2 = acceleration.configs
    assert isinstance(lemica, LeMiCaConfig) and isinstance(svg2, SVG2Config)
    assert (lemica.cache_schedule, lemica.forecast, svg2.top_p) == (SCHEDULE, "hold", 0.5)
    filled.requests.clear()
    enable_acceleration(pipe, lemica).disable()
    assert filled.requests == []  # a config is not looked up again


def test_the_checks_of_a_run_hold_for_a_schedule_of_the_hub(filled, pipe):
    with (
        enable_acceleration(pipe, f"{REPO}:fast"),
        pytest.raises(ScheduleMismatchError, match="6 steps, this run has 8"),
    ):
        run_tiny(pipe, num_inference_steps=8)


@pytest.mark.parametrize("make", [LeMiCaConfig, lambda steps: DBCacheConfig(compute_steps=steps)])
def test_a_schedule_for_another_family_is_refused(pipe, make):
    before = attributes(pipe)
    schedule = CacheSchedule(6, (0, 3), {"name": "theirs", "model": {"pipeline_class": "LTXPipeline"}})
    with pytest.raises(
        ScheduleMismatchError, match=r"'theirs' was planned for a LTXPipeline, of the family 'ltx'.*WanPipeline.*'wan'"
    ):
        enable_acceleration(pipe, make(schedule))
    assert attributes(pipe) == before


@pytest.mark.parametrize(
    "model",
    [{"pipeline_class": "WanVideoToVideoPipeline"}, {"pipeline_class": "Mine"}, {"pipeline_class": [3]}, 3, None],
)
def test_a_schedule_of_the_family_or_of_unknown_origin_is_taken(pipe, model):
    enable_acceleration(pipe, LeMiCaConfig(CacheSchedule(6, (0, 3), {"model": model}))).disable()


def test_an_error_of_the_hub_leaves_nothing_behind(hub, pipe):
    before = attributes(pipe)
    with pytest.raises(HubError, match="There is no model repository 'me/schedules'"):
        enable_acceleration(pipe, f"svg2+{REPO}:fast")
    assert attributes(pipe) == before


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        ("me/schedules:fast", ("me/schedules", "fast", None)),
        ("Me-2/a.b_c:Fast_1-x", ("Me-2/a.b_c", "Fast_1-x", None)),
        ("me/schedules@v1.0:fast", ("me/schedules", "fast", "v1.0")),
        ("me/schedules@refs/pr/12:fast", ("me/schedules", "fast", "refs/pr/12")),
    ],
)
def test_what_a_reference_means(reference, parts):
    file = HubFile.parse(reference)
    assert (file.repo_id, file.name, file.revision) == parts
    assert str(file) == reference and file.path == f"dit_accel/{parts[1]}.json"


BAD = [
    "schedules:fast",
    "me/schedules:",
    ":fast",
    ":",
    "me/schedules:fast:slow",
    "me/schedules@:fast",
    "me/schedules@v1@v2:fast",
    "me/schedules@../..:fast",
    "me/schedules@a..b:fast",
    "me/schedules@/v1:fast",
    "me/schedules@-v1:fast",
    "me/schedules@v 1:fast",
    "me/schedules:../../secret",
    "me/schedules:..",
    "me/schedules:a/b",
    "me/schedules:a\\b",
    "me/schedules:a.b",
    "me/schedules:fast\n",
    "me/schedules\n:fast",
    "me/schedules: fast",
    "me/schedules:fast?x=1",
    "me/schedules:%2e%2e",
    "me/schedules:" + "x" * 65,
    "../schedules:fast",
    "me/..:fast",
    "me/a--b:fast",
    "me/a.git:fast",
    "/me/schedules:fast",
    "a/b/c:fast",
    "https://huggingface.co/me/schedules:fast",
    "hf://me/schedules:fast",
    "C:\\schedules\\fast",
    "C:/schedules/fast",
]


@pytest.mark.parametrize("reference", BAD)
def test_what_is_no_reference_asks_nobody(hub, reference, pipe):
    with pytest.raises(HubError, match=WRONG):
        CacheSchedule.resolve(reference)
    with pytest.raises((HubError, UnknownPresetError)):
        enable_acceleration(pipe, reference)
    assert hub.requests == []


@pytest.mark.parametrize(
    "parts",
    [
        ("../me", "fast", None),
        ("schedules", "fast", None),
        (None, "fast", None),
        (3, "fast", None),
        (REPO, "../fast", None),
        (REPO, "fast.json", None),
        (REPO, "", None),
        (REPO, None, None),
        (REPO, "fast", "../main"),
        (REPO, "fast", ""),
        (REPO, "fast", 3),
    ],
)
def test_parts_are_checked_as_well(logged_in, parts):
    repo_id, name, revision = parts
    with pytest.raises(HubError, match=WRONG):
        CacheSchedule.from_hub(repo_id, name, revision=revision)
    with pytest.raises(HubError, match=WRONG):
        SCHEDULE.push_to_hub(repo_id, name, revision=revision)
    assert logged_in.requests == []


@pytest.mark.parametrize("path", ["C:\\schedules\\fast.json", "me/schedules:fast.json", "file:fast.json"])
def test_what_ends_in_json_is_a_file(hub, path):
    with pytest.raises(ScheduleError, match="There is no schedule file at"):
        CacheSchedule.resolve(path)
    assert hub.requests == []


def test_a_process_of_its_own_set_by_the_environment_alone(filled, tmp_path):
    """As users set it, with nothing patched; then the same offline."""
    code = (
        "import sys, dit_accel; assert 'huggingface_hub' not in sys.modules;"
        f"print(dit_accel.LeMiCaConfig('{REPO}:fast').cache_schedule.to_json())"
    )
    environment = {**os.environ, "HF_ENDPOINT": filled.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    for settings in ({}, {"HF_HUB_OFFLINE": "1"}):
        filled.requests.clear()
        run = subprocess.run(
            [sys.executable, "-c", code], env={**environment, **settings}, capture_output=True, text=True, check=True
        )
        assert json.loads(run.stdout) == json.loads(SCHEDULE.to_json())
        assert bool(filled.methods()) == (not settings)
    assert constants.HF_HUB_OFFLINE is False
