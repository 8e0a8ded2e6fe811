"""Job files, and the arguments of a profile: of all that may be asked for, only what can be done is accepted."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dit_accel.errors import ConfigError, DitAccelError, JobError
from dit_accel.profiling import job_file
from dit_accel.profiling.job_file import JobFile
from dit_accel.profiling.request import checked_job
from dit_accel.profiling.shards import Shard
from tests.conftest import examples

from .conftest import outcome
from .mutation import NUMBERS, TEXT_EDITS, Edit, edit_text, encoded
from .values import make, make_all, of, same

TEXT = """\
[job]
name = "mine"
[pipeline]
source = "demo"
dtype = "float32"
vae_tiling = false
[profile]
num_inference_steps = 10
max_segment = 4
mode = "lazy"
safety = 2.0
seeds = [0, 1]
batch_size = 4
budgets = [4, 5]
forecasts = ["hold", "fitted"]
partial_blocks = [1, 0]
prompts = ["a red three", "a blue one"]
[sparse]
top_p = 0.5
[inputs]
height = 48
guidance_scale = 4.0
[plan]
objective = "lexicographic-minimax"
power = 4
presets = { fast = 5, slow = 8 }
speedups = { faster = 2.5 }
"""
VALUES = (
    *("0", "1", "-1", "3", "true", '""', '"x"', "nan", "inf", "-inf", "1e999", "9223372036854775808", "9" * 5000),
    *("[]", "[0]", "[1, 0]", "[[]]", '["x"]', "{}", "{ a = 1 }", "1979-05-27", "07:32:00", "1979-05-27T07:32:00Z"),
    *("0x10", "1_000", "01", "'''a\nb'''", '"\\ud800"', '"\\u0000"', '"../x"', "[" * 2000, "[0, 0]", "0.5", "1e300"),
    *('"' + "s" * 3000 + '"', "[" + "0, " * 5000 + "]", '"exact"', '"estimate"', '"sum-power"', "2.0", '"auto"', "12"),
)
NAMES = ("x", "name", "prompts", "seeds", "objective", "pipe", "progress", "prompt", "'a b'", '""', "a.b", "k" * 3000)


def _rename(lines: list[str], at: int, choice: int) -> None:
    line = lines[at]
    names = (*NAMES, *(other.partition(" = ")[0] for other in lines))
    name = names[choice % len(names)].strip("[]")
    lines[at] = f"[{name}]" if line.startswith("[") else f"{name} = {line.partition(' = ')[2]}"


def _replace(lines: list[str], at: int, choice: int) -> None:
    lines[at] = f"{lines[at].partition(' = ')[0].strip('[]')} = {VALUES[choice % len(VALUES)]}"


def _insert(lines: list[str], at: int, choice: int) -> None:
    lines.insert(at, f"{NAMES[choice % len(NAMES)]} = {VALUES[choice % len(VALUES)]}")


OPERATIONS: tuple[Callable[[list[str], int, int], None], ...] = (
    *(_replace, _replace, _replace, _rename, _insert),
    lambda lines, at, choice: lines.pop(at),
    lambda lines, at, choice: lines.insert(choice % len(lines), lines[at]),
    lambda lines, at, choice: lines.insert(choice % len(lines), lines.pop(at)),
)
LINE_EDITS = st.lists(st.tuples(st.integers(0, len(OPERATIONS) - 1), NUMBERS, NUMBERS), min_size=1, max_size=3)


def edit_lines(text: str, edits: list[Edit]) -> str:
    """Values, keys and sections changed, moved, left out, or given twice."""
    lines = text.splitlines()
    for operation, where, choice in edits:
        OPERATIONS[operation](lines, where % len(lines), choice)
    return "\n".join(lines)


def check(job: JobFile | None) -> None:
    """What follows from it is refused or possible, and its names are those of files in one folder."""
    if job is None:
        return
    assert all("/" not in name and "." not in name for name in (job.name, *job.presets, *job.speedups))
    asked = outcome(lambda: checked_job(**job.profile_arguments()), kind=ConfigError)
    if asked is not None:
        json.dumps(dict(asked.inputs), allow_nan=False)
        outcome(lambda: job_file._check_plan(job), kind=DitAccelError)


@given(LINE_EDITS, TEXT_EDITS, NUMBERS)
@examples(600)
def test_a_damaged_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, edits: list[Edit], text_edits: list[Edit], choice: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "job.toml"
    text = edit_lines(TEXT, edits)
    path.write_bytes(encoded(edit_text(text, text_edits) if choice % 4 == 0 else text, choice))
    check(outcome(lambda: JobFile.load(path), kind=JobError, says=str(path)))


ARGUMENTS: dict[str, st.SearchStrategy[str]] = {
    "seeds": of(st.lists(st.integers(0, 9), max_size=3)),
    "max_segment": of(st.integers(1, 12)),
    "batch_size": of(st.integers(0, 4)),
    "mode": of(st.sampled_from(["exact", "lazy", "estimate"])),
    "forecasts": of(st.lists(st.sampled_from(["hold", "fitted"]), max_size=2)),
    "budgets": of(st.lists(st.integers(3, 10), max_size=3)),
    "objective": of(st.just("sum-power")),
    "power": of(st.floats(0, 4)),
    "safety": of(st.floats(0, 4)),
    "step_times": of(st.booleans()),
    "partial_blocks": of(st.tuples(st.integers(0, 2), st.integers(0, 2))),
    "sparse": of(st.none()),
    "height": of(st.integers(1, 99)),
    "prompt": of(st.just("x")),
}


@given(
    of(st.lists(st.sampled_from("abc"), max_size=3)),
    of(st.integers(2, 10)),
    st.lists(st.sampled_from(sorted(ARGUMENTS)), max_size=3, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: ARGUMENTS[name] for name in names})
    ),
)
@examples(500)
def test_any_arguments_are_taken_or_refused(prompts: str, num_steps: str, others: dict[str, str]) -> None:
    values = {"prompts": make(prompts), "num_inference_steps": make(num_steps), **make_all(others)}
    before = same(values)
    job = outcome(lambda: checked_job(**values), kind=DitAccelError)
    assert same(values) == before
    if job is not None:
        assert sum(job.batch_sizes) == len(values["prompts"]) * len(values.get("seeds", (0,)))
        assert all(3 <= rollout.stop + 1 <= job.num_steps for rollout in islice(job.rollouts(), 200))


@given(
    st.text(max_size=6)
    | st.from_regex(r"[0-9]{0,7}/[0-9]{0,7}")
    | st.sampled_from(["auto", "1/2 ", "\u0661/2", "9" * 5000])
)
@examples(100)
def test_any_shard_is_taken_or_refused(text: str) -> None:
    share = outcome(lambda: Shard.parse(text, {}), kind=ConfigError)
    assert share is None or 0 <= share.index < share.count


@given(st.dictionaries(st.sampled_from(["RANK", "WORLD_SIZE", "LOCAL_RANK"]), st.integers(-1, 9).map(str) | st.text()))
@examples(100)
def test_any_launcher_is_taken_or_refused(environment: dict[str, str]) -> None:
    share = outcome(lambda: Shard.parse("auto", environment), kind=ConfigError)
    assert share is None or 0 <= share.index < share.count
