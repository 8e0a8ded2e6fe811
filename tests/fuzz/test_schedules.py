"""`CacheSchedule`: files and arguments that are nearly right."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dit_accel.actions import PartialSteps, SparseSteps
from dit_accel.errors import ScheduleError
from dit_accel.schedule import CacheSchedule
from tests.conftest import document, examples

from .conftest import outcome
from .mutation import NUMBERS, TEXT_EDITS, TREE_EDITS, Edit, broken, encoded
from .values import anything, make, make_all, of, same

ACTIONS = {
    "forecasts": {"6": [-1.0, 2.0], "8": [0.25, 0.25, 0.5]},
    "partial": {"steps": [1, 3], "probe_blocks": 1, "corrector_blocks": 0},
    "sparse": {"steps": [4, 9], "config": {"top_p": 0.5}},
}
DOCUMENTS = (document(), document(version=2, **ACTIONS), document(version=2, **{name: None for name in ACTIONS}))
DOCUMENTS = (*DOCUMENTS[:2], json.dumps({**json.loads(DOCUMENTS[1]), "partial": None, "forecasts": {}}))


def check(schedule: CacheSchedule | None) -> None:
    """What is true of every schedule: its steps are in order, and its file is read back as it is."""
    if schedule is None:
        return
    steps = schedule.compute_steps
    assert steps[0] == 0 and list(steps) == sorted(set(steps)) and steps[-1] < schedule.num_steps <= 10_000
    assert all(len(schedule.sources(step, len(w))) == len(w) for step, w in schedule.forecasts.items())
    text = outcome(schedule.to_json, kind=ScheduleError)
    if text is not None:
        again = CacheSchedule.from_json(text)
        assert again.to_json() == text and again.compute_steps == steps and again.forecasts == schedule.forecasts
        assert (again.partial, again.num_steps) == (schedule.partial, schedule.num_steps)


@given(st.sampled_from(DOCUMENTS), TREE_EDITS)
@examples(750)
def test_a_changed_document_is_read_or_refused(text: str, edits: list[Edit]) -> None:
    changed = broken(text, edits)
    found = outcome(lambda: CacheSchedule.from_json(changed, origin="mine"), kind=ScheduleError, says="mine")
    check(found)
    if found is not None:  # it is what the text says, and that says nothing else
        document = json.loads(changed)
        assert (document["num_steps"], document["compute_steps"]) == (found.num_steps, list(found.compute_steps))
        assert set(document) - {"schema", "version"} <= {"num_steps", "compute_steps", "provenance", *ACTIONS}


@given(st.sampled_from(DOCUMENTS), st.none() | TREE_EDITS, TEXT_EDITS, NUMBERS)
@examples(300)
def test_a_damaged_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, text: str, edits: list[Edit] | None, text_edits: list[Edit], choice: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    data = encoded(broken(text, edits or [], text_edits), choice)
    path.write_bytes(data)
    check(outcome(lambda: CacheSchedule.load(path), kind=ScheduleError, says=str(path)))
    assert path.read_bytes() == data


@given(st.text() | st.text(alphabet='{}[]",:0123456789eE.-truefalsn\\'))
@examples(100)
def test_any_text_is_refused(text: str) -> None:
    assert outcome(lambda: CacheSchedule.from_json(text), kind=ScheduleError, says="text ") is None


STEPS = of(st.lists(st.integers(0, 12), max_size=4).map(lambda steps: sorted({0, *steps})))


@given(of(st.integers(2, 12)), STEPS, st.dictionaries(st.sampled_from([*ACTIONS, "provenance"]), anything()))
@examples(500)
def test_any_arguments_are_taken_or_refused(num_steps: str, compute_steps: str, others: dict[str, str]) -> None:
    values = [make(num_steps), make(compute_steps), make_all(others)]
    before = same(values)
    check(outcome(lambda: CacheSchedule(values[0], values[1], **values[2]), kind=ScheduleError))
    assert same(values) == before


@given(
    of(st.sampled_from([2, 7, 11])),
    of(st.lists(st.floats(-2, 2), min_size=1, max_size=4)),
    of(st.sampled_from([(1,), [2, 6], [0], [2, 1], (1, 13)])),
    of(st.sampled_from([(0,), [4, 9], [1], [4, 4], (0, 4, 9)])),
    of(st.integers(0, 2)),
    of(st.sampled_from([{}, {"top_p": 0.5}, {"x": [1]}])),
)
@examples(500)
def test_any_actions_are_taken_or_refused(
    step: str, weights: str, partial: str, sparse: str, blocks: str, config: str
) -> None:
    parts: dict[str, Any] = {}
    with suppress(RuntimeError, TypeError):  # not hashable
        parts["forecasts"] = {make(step): make(weights)}
    parts["partial"] = PartialSteps(make(partial), make(blocks), 1)
    parts["sparse"] = SparseSteps(make(sparse), make(config))
    before = same(parts)
    for name, part in parts.items():
        extras = {name: part}
        check(outcome(lambda: CacheSchedule(13, (0, 4, 9), **extras), kind=ScheduleError, says=name))  # noqa: B023
    check(outcome(lambda: CacheSchedule(13, (0, 4, 9), **parts), kind=ScheduleError))
    assert same(parts) == before
