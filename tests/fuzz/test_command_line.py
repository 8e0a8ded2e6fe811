"""Values of options of the command line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dit_accel.cli import main
from dit_accel.cli.options import parse_overrides, pipeline_inputs, read_prompts
from dit_accel.cli.program import spread_lists
from dit_accel.errors import ConfigError
from tests.conftest import examples

from .conftest import outcome
from .mutation import NUMBERS, TEXT_EDITS, TREE_EDITS, Edit, broken, edit_text, encoded
from .test_graphs import SECOND

ASSIGNMENTS = (
    *("top_p=0.8", "forecast=hold", "dense_steps=[0, 1]", "compute_steps=(0, 3)", "max_error=None", "backend='torch'"),
    *("x={1: [2]}", "x={1, 2}", 'schedule="a.json"', "x=b'1'", "x=1e5", "x=-3", "x=1j", "x=0x10", "x=True", "x=true"),
)
BITS = st.sampled_from(
    [
        *"[](){}:,'\"=-+*.\\ #0123456789eEjJx_\n\0",
        "{[]}",
        "{{}:1}",
        "None",
        "NaN",
        "not ",
        "1is 2",
        "\\d",
        "f'",
        "b'",
        "...",
        "\ud800",
    ]
)
INPUTS = (
    '{"height": 480, "nested": [{"a": [1, 2.5, null, true]}], "image": "@no/such.png", "negative_prompt": "blurry"}'
)


@given(
    st.builds(edit_text, st.sampled_from(ASSIGNMENTS), TEXT_EDITS)
    | st.lists(BITS, max_size=12).map(lambda bits: "x=" + "".join(bits))
)
@examples(450)
def test_any_assignment_is_read_or_refused(text: str) -> None:
    found = outcome(lambda: parse_overrides([text]), kind=ConfigError)
    assert found is None or list(found) == [text.partition("=")[0]]


@pytest.mark.parametrize(
    "value", ["(" * 10**5, "-" * 10**5, "[" * 10**4 + "]" * 10**4, "1+" * 10**5, "{" * 500, "lambda: " * 10**4]
)
def test_deep_expressions_are_texts(value: str) -> None:
    assert parse_overrides([f"x={value}"]) == {"x": value}


@given(TREE_EDITS, TEXT_EDITS, NUMBERS)
@examples(300)
def test_any_inputs_are_read_or_refused(edits: list[Edit], text_edits: list[Edit], choice: int) -> None:
    text = broken(INPUTS, edits, text_edits if choice % 4 == 0 else [])
    found = outcome(lambda: pipeline_inputs("demo", text), kind=ConfigError, says="--inputs")
    assert found is None or not {"prompt", "num_inference_steps", "metrics"} & set(found)


@given(
    st.lists(
        st.sampled_from(["--seeds", "--budget", "-1", "-x", "", "a", "--", "--seeds=1", "\0"]) | st.text(max_size=3)
    )
)
@examples(150)
def test_lists_are_spread_without_loss(words: list[str]) -> None:
    spread = spread_lists(words, {"--seeds"})
    assert [word for word in spread if word != "--seeds"] == [word for word in words if word != "--seeds"]


@given(st.text() | st.sampled_from(["\ufeff", "\x85", "\u2028\n"]), NUMBERS)
@examples(100)
def test_any_file_of_prompts(tmp_path_factory: pytest.TempPathFactory, text: str, choice: int) -> None:
    path = tmp_path_factory.getbasetemp() / "prompts.txt"
    path.write_bytes(encoded(text, choice))
    found = outcome(lambda: read_prompts(path), kind=ConfigError, says=str(path))
    assert all(prompt == prompt.strip() != "" for prompt in found or ())


OPTIONS = {
    "--budget": ["3", "4", "0", "-1", "x", "9" * 5000, "", "1e1", "3.0"],
    "--milliseconds": ["20", "0", "nan", "inf", "-inf", "1e999", "1e-320", "x"],
    "--speedup": ["1.5", "1e-320", "1e308", "nan", "0", "-1"],
    "--steps": ["8", "3", "2", "10001", "-5"],
    "--shift": ["2", "0", "nan", "1e308", "1e-320"],
    "--objective": ["sum-power", "lexicographic-minimax", "", "\0", "o" * 3000],
    "--power": ["2", "0", "nan", "1e308", "1e-320"],
}


@given(
    st.lists(st.sampled_from(sorted(OPTIONS)), max_size=3, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: st.sampled_from(OPTIONS[name]) for name in names})
    ),
    st.none() | TREE_EDITS,
)
@examples(150)
def test_plan_ends_in_a_schedule_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, options: dict[str, str], edits: list[Edit] | None
) -> None:
    path = tmp_path_factory.getbasetemp() / "asked.graph.json"
    path.write_bytes(encoded(broken(SECOND, edits or []), 1))
    with pytest.MonkeyPatch.context() as patch:
        said: list[tuple[str, bool]] = []
        patch.setattr("typer.echo", lambda text="", err=False, **_: said.append((text, err)))
        try:
            code = main(["plan", str(path), *(word for pair in options.items() for word in pair), "--json"])
        except SystemExit as exit_:
            code = int(exit_.code or 0)
    assert len(said) == 1 and said[0][1] == (code != 0)
    if code == 0:
        assert json.loads(said[0][0])["compute_steps"]
    else:
        assert "\n" not in said[0][0] and code in (1, 2) and ("Error: " in said[0][0] or "See dit-accel" in said[0][0])
        assert len(said[0][0]) < 1500
