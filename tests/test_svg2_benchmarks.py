"""What ``benchmarks/svg2_error.py`` and ``svg2_speed.py`` compare: each method is what it says, at its density."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dit_accel.errors import BackendUnavailableError
from dit_accel.sparse import SVG2State, svg2_attention

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def error() -> Iterator[Any]:
    """The module; with it, the path to the others. What was imported from there is forgotten afterwards."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        import svg2_error

        yield svg2_error
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == FOLDER:
            del sys.modules[name]


@pytest.fixture(scope="module")
def clustered(error: Any) -> Any:
    return error.Clustered(error.synthetic("groups", 512, 2, 32, 0), 64, 16)


@pytest.mark.parametrize("compensate", [True, False])
def test_what_is_kept_is_what_the_product_keeps(clustered: Any, compensate: bool) -> None:
    case, state = clustered.case, SVG2State()
    config = replace(clustered.config, top_p=0.9, compensate=compensate)
    _, info = svg2_attention(case.query, case.key, case.value, config, state=state)
    kept = clustered.kept(0.9, compensate=compensate)
    assert torch.equal(kept, state.kept) and 0.05 < info.density < 0.9
    assert clustered.density(kept) == pytest.approx(info.density)


def test_every_method_has_the_density_and_gets_nearer(error: Any, clustered: Any) -> None:
    found = error.measure(clustered.case, (64, 16), (0.2, 0.4))
    assert {name for name, _ in found} == set(error.METHODS)
    for name in error.METHODS:
        assert found[name, 0.2]["density"] == pytest.approx(0.2, rel=error.REACH)
        assert 0 < found[name, 0.4]["error"] < found[name, 0.2]["error"] < 1
    assert found["token oracle", 0.2]["error"] < found["cluster oracle", 0.2]["error"]
    assert found["cluster oracle", 0.2]["recall_to_oracle"] == pytest.approx(1.0)
    assert found["SVG2 as published", 0.2]["recall_to_oracle"] < 1.0


@pytest.mark.parametrize("name", ["positional blocks", "positional blocks, sorted", "token oracle"])
def test_with_everything_kept_it_is_dense(error: Any, clustered: Any, name: str) -> None:
    result = error.METHODS[name](clustered, 1.0)
    assert result.density == 1.0 and result.errors(clustered.case)[0] < 1e-5


def test_stand_ins_and_probe_rows_count(clustered: Any) -> None:
    kept = torch.zeros_like(clustered.pairs, dtype=torch.bool)
    num_clusters = kept.shape[-1]
    assert clustered.density(kept) == 0
    found = clustered.density(kept, with_stand_ins=True)
    assert found == pytest.approx(num_clusters / 512 + clustered.config.probe_rows / 512)


def test_positional_blocks_are_blocks_in_order_chosen_by_means(error: Any) -> None:
    """Keys of one block in two are near the queries; the others are far."""
    tokens = torch.full((1, 64, 1, 4), -1.0)
    tokens.view(1, 8, 8, 1, 4)[:, ::2] = 1.0
    case = error.Case(torch.ones_like(tokens), tokens, torch.arange(64.0).view(1, 64, 1, 1).expand_as(tokens))
    out = error.METHODS["positional blocks"](error.Clustered(case, 8, 8), 0.5).out
    assert out[0, 0, 0, 0] == pytest.approx(torch.arange(64.0).view(8, 8)[::2].mean().item(), rel=1e-4)


def test_what_cannot_reach_the_density_has_no_row(error: Any, clustered: Any) -> None:
    rows = error.rows_of("groups", [clustered.case], (64, 16), (0.02,))
    assert "dit_accel" not in {row.subject for row in rows} and "token oracle" in {row.subject for row in rows}
    assert all(row.setting["density"] == 0.02 and row.shapes["tokens"] == 512 for row in rows)


def test_the_models_own_attention_is_captured(error: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The captured tokens, attended to, give what the model's own attention gave."""
    from dit_accel import DEMO_INPUTS, load_demo_pipeline

    pipe, outputs = load_demo_pipeline(), []
    pipe.set_progress_bar_config(disable=True)
    attention = pipe.transformer.blocks[3].attn1
    attention.to_out[0].register_forward_pre_hook(lambda _, given: outputs.append(given[0]))
    cases = error.captured(pipe, error.PROMPT, 101, **DEMO_INPUTS)
    assert [tuple(case.query.shape) for case in cases] == [(1, 324, 4, 32)] * 4
    assert "forward" not in vars(pipe.transformer)
    # Two branches in steps 0 … 2, and one in the last; steps 1 and 3 are captured, layer 3 first.
    for case, output in zip(cases[::2], (outputs[2], outputs[6]), strict=True):
        torch.testing.assert_close(case.dense.flatten(2), output, rtol=1e-3, atol=1e-4)


def test_speed_counts_rounds_and_growth(error: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import svg2_speed

    bench = svg2_speed.Bench(1024, 1, 32, None)
    rounds = bench.rounds(0.0)
    assert len(rounds) == svg2_speed.MIN_ROUNDS and set(svg2_speed.NAMES.values()) - set(rounds[0]) == {"flex"}
    assert all(0.1 < density < 0.5 for density in bench.density.values())
    monkeypatch.setattr(svg2_speed, "seconds", lambda call: 0.0)
    assert len(bench.rounds(60.0)) == svg2_speed.MAX_ROUNDS
    names = ("sdpa", "chunked", "svg2", "uncompensated", "clustering")
    rows = [
        svg2_speed.Row("svg2_speed", svg2_speed.OURS, shapes={"tokens": n, "heads": 1, "head_dim": 8})
        for n in (1024, 4096, 8192, 16384)
    ]
    rows = [
        replace(row, setting={"threads": 1}, figures={f"{name}_ms": row.shapes["tokens"] ** 1.5 for name in names})
        for row in rows
    ]
    fitted = svg2_speed.growth(rows, 1)
    assert [row.subject for row in fitted] == [f"growth of {name}" for name in names]
    assert all(row.figures["exponent"] == pytest.approx(1.5) for row in fitted)
    assert fitted[0].setting["of"] == [4096, 8192, 16384]


@pytest.mark.slow
def test_positional_flex_attends_to_the_blocks_of_the_best_means(error: Any) -> None:
    from svg2_flex import BLOCK, PositionalFlex

    tokens = [torch.randn(1, 512, 2, 32, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    try:
        flex = PositionalFlex(512, 2, 32, 0.5, torch.float32)
    except BackendUnavailableError as problem:
        pytest.skip(str(problem))
    query, key, value = (x.transpose(1, 2) for x in tokens)
    means = [x.unflatten(2, (-1, BLOCK)).mean(3) for x in (query, key)]
    best = (means[0] @ means[1].transpose(-1, -2)).topk(2, -1).indices
    kept = torch.zeros(1, 2, 4, 4, dtype=torch.bool).scatter(-1, best, True)
    mask = kept.repeat_interleave(BLOCK, 2).repeat_interleave(BLOCK, 3)
    wanted = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)
    torch.testing.assert_close(flex(*tokens), wanted, rtol=1e-4, atol=1e-5)
    assert flex.density(512) == 0.5
