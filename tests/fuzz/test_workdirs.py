"""Work directories of profiles with damaged files: each is refused by its name, or says what it said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from dit_accel.errors import DitAccelError, JobError
from dit_accel.profiling.merging import merge
from dit_accel.profiling.rollout import Rollout, read_model
from dit_accel.profiling.workdir import WorkDir
from tests.conftest import examples

from .conftest import outcome
from .mutation import NUMBERS, TEXT_EDITS, TREE_EDITS, Edit, broken, encoded

NUM_STEPS = 4
DESCRIPTION: dict[str, Any] = {
    **{"model": {"id": "tiny"}, "scheduler": {"class": "X", "shift": None}, "num_inference_steps": NUM_STEPS},
    **{"inputs": {"height": 16}, "max_segment": 2, "mode": "exact", "forecasts": ["hold"]},
    "batches": [{"prompts": ["a", "b"], "seed": 0}],
}
FILES = ("job.json", "rollouts/000-000-002.json", "step-times.json", "trials/abc.json")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A complete exact profile of one batch of two videos."""
    path = tmp_path_factory.mktemp("finished")
    work = WorkDir(path, DESCRIPTION)
    for start in range(NUM_STEPS - 2):
        work.write((0, Rollout(start, start + 2)), [0.5, 0.25])
    work.write_step_times({"full": 8.0, "reuse": 1.0})
    work.write_trial("abc", [0.1, 0.2])
    times = torch.arange(NUM_STEPS).double()
    statistics = {"residual_gram": torch.eye(NUM_STEPS).double(), "residual_elements": torch.tensor(7)}
    save_file({**statistics, "model_times": times, "final": torch.zeros(2, 3)}, work.trajectory(0))
    yield path


def read_all(path: Path) -> list[Any]:
    """Everything that a job or a merge reads."""
    work = WorkDir(path, DESCRIPTION)
    return [work.results([2]), work.step_times(), work.trial("abc", 2), merge([path]).to_json()]


@given(st.sampled_from(FILES), TREE_EDITS, TEXT_EDITS, NUMBERS)
@examples(450)
def test_a_damaged_result_is_refused_or_read(
    finished: Path, name: str, edits: list[Edit], text_edits: list[Edit], choice: int
) -> None:
    path = finished / name
    whole = path.read_bytes()
    try:
        damaged = encoded(broken(whole.decode(), edits, text_edits if choice % 4 == 0 else []), choice)
        path.write_bytes(damaged)
        found = outcome(lambda: read_all(finished), kind=DitAccelError)
        if name == "job.json":
            outcome(lambda: merge([finished]), kind=DitAccelError)
        assert path.read_bytes() == damaged
    finally:
        path.write_bytes(whole)
    if found is not None:
        assert all(len(errors) == 2 and min(errors) >= 0 for errors in [*found[0].values(), found[2] or (0, 0)])


@given(st.integers(0, 2000), st.integers(0, 5), st.integers(0, 255))
@examples(200)
def test_a_damaged_trajectory_is_refused_or_read(finished: Path, at: int, kind: int, byte: int) -> None:
    path = finished / "trajectory-000.safetensors"
    data = path.read_bytes()
    at %= len(data)
    damaged = (
        *(data[:at], data[:at] + bytes([byte]) + data[at + 1 :], data[:at] + data[at + 1 :]),
        *(data[:at] + bytes([byte] * 9) + data[at:], data[:8][::-1] + data[8:], bytes([byte] * 8) + data[8:]),
    )[kind]
    copy = finished.parent / "damaged.safetensors"
    copy.write_bytes(damaged)
    outcome(lambda: read_model([copy]), kind=DitAccelError)


@given(st.text(alphabet="0123456789-.jsonhldfite\u0663", max_size=24))
@examples(100)
def test_any_file_name_beside_the_results(finished: Path, name: str) -> None:
    path = finished / "rollouts" / f"{name}.json"
    if path.exists() or len(path.name.encode()) > 200:
        return
    shutil.copy(finished / FILES[1], path)
    try:
        found = outcome(lambda: WorkDir(finished, DESCRIPTION).results([2]), kind=JobError)
        assert found is None or len(found) >= NUM_STEPS - 2
    finally:
        path.unlink()


def test_the_directory_is_as_it_was(finished: Path) -> None:
    """What the tests above compare with: all of it can be read."""
    results, times, trial, graph = read_all(finished)
    assert len(results) == NUM_STEPS - 2 and times["full"] == 8.0 and trial == [0.1, 0.2]
    assert json.loads(graph)["num_steps"] == NUM_STEPS
