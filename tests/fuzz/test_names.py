"""Names of presets, schedules and files on the Hub, and whatever else `enable_acceleration` may be given."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dit_accel import hub
from dit_accel.api import enable_acceleration
from dit_accel.errors import DitAccelError, HubError
from dit_accel.hub import HubFile
from dit_accel.schedule import CacheSchedule
from tests.conftest import attributes, examples, tiny_pipeline

from .conftest import outcome
from .mutation import NUMBERS, TEXT_EDITS, edit_text
from .values import anything, make, make_all, of, same

REFERENCES = ("org/repo:name", "org/repo@main:name", "org/repo@refs/pr/1:a_b-1", "digits-wan/lemica-fast", "mine.json")
NAMES = ("dbcache-fast", "svg2", "svg2-turbo+dbcache-slow", "lemica-fast", *REFERENCES)


def edited(names: tuple[str, ...]) -> st.SearchStrategy[str]:
    return st.builds(edit_text, st.sampled_from(names), TEXT_EDITS)


@pytest.fixture(scope="module", autouse=True)
def no_hub() -> Iterator[list[HubFile]]:
    """In place of the Hub: what was asked for."""
    asked: list[HubFile] = []

    def refuse(file: HubFile, *_: object, **__: object) -> NoReturn:
        asked.append(file)
        raise HubError(f"{file} was asked for.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub, "download", refuse)
        yield asked


def is_harmless(file: HubFile) -> bool:
    """Whether its parts can stand in a path and in a URL as they are."""
    parts = (file.repo_id, file.name, file.revision or "main", file.path)
    return all(re.fullmatch(r"[A-Za-z0-9_./-]+", part) and ".." not in part for part in parts)


@given(edited(REFERENCES))
@examples(350)
def test_any_reference_is_taken_or_refused(reference: str) -> None:
    file = outcome(lambda: HubFile.parse(reference), kind=HubError)
    if file is not None:
        assert str(file) == reference and HubFile.parse(str(file)) == file and is_harmless(file)


@given(
    of(st.just("org/repo")),
    of(st.from_regex(r"[a-z_-]{1,9}", fullmatch=True)),
    of(st.sampled_from([None, "v1", "a/b"])),
)
@examples(250)
def test_any_part_of_a_reference_is_taken_or_refused(repo_id: str, name: str, revision: str) -> None:
    parts = make(repo_id), make(name), make(revision)
    file = outcome(lambda: HubFile("report", *parts), kind=HubError)
    if file is not None:
        assert (file.repo_id, file.name, file.revision) == parts and is_harmless(file)


@given(edited(REFERENCES).map(repr) | anything())
@examples(300)
def test_any_source_of_a_schedule_is_taken_or_refused(source: str) -> None:
    value = make(source)
    found = outcome(lambda: CacheSchedule.resolve(value), kind=DitAccelError)
    assert found is None or value == "digits-wan/lemica-fast"


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_pipeline()


OVERRIDES: dict[str, st.SearchStrategy[str]] = {
    "top_p": of(st.floats(0, 1)),
    "forecast": of(st.sampled_from(["hold", "taylor1"])),
    "probe_blocks": of(st.integers(0, 3)),
    "compute_steps": of(st.just([0, 3])),
    "schedule": of(st.just("digits-wan/lemica-fast")),
    **{name: of(st.floats(0, 3)) for name in ("speedup", "max_lpips", "min_psnr", "nonsense")},
    "k" * 2000: of(st.none()),
}
WANTED = edited(NAMES).map(repr) | st.sampled_from(NAMES).map(repr) | anything()


@given(
    st.lists(WANTED, max_size=2),
    st.lists(st.sampled_from(sorted(OVERRIDES)), max_size=2, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: OVERRIDES[name] for name in names})
    ),
    NUMBERS,
)
@examples(450)
def test_anything_is_enabled_or_refused(pipe: Any, wanted: list[str], overrides: dict[str, str], kind: int) -> None:
    items, options = [make(item) for item in wanted], make_all(overrides)
    items = [items] if kind % 4 == 0 else items
    before, clean = same([items, options]), attributes(pipe)
    acceleration = outcome(lambda: enable_acceleration(pipe, *items, **options), kind=DitAccelError)
    if acceleration is not None:
        assert acceleration.configs
        acceleration.disable()
    assert attributes(pipe) == clean and same([items, options]) == before
