"""`compare`: pairs, paired errors, what is missing and what differs, on reports made by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dit_accel.errors import ConfigError
from dit_accel.quality.comparison import Figure, compare
from dit_accel.quality.records import QualityReport, QualityRow, QualitySample


def report(rows: dict[str, dict[tuple[str, int], tuple[float, float]]], **provenance: Any) -> QualityReport:
    """Label -> (prompt, seed) -> speed-up and PSNR. The row's own figures are far off, so that they show if used."""
    samples = tuple(
        QualitySample(label, prompt, seed, 2, 4, speedup, {"psnr": psnr}, None, 0)
        for label, videos in rows.items()
        for (prompt, seed), (speedup, psnr) in videos.items()
    )
    of_rows = tuple(
        QualityRow(label, 2, 4, 100.0, len(v), {"psnr": (200.0, 1.0)}, None, 0) for label, v in rows.items()
    )
    return QualityReport(of_rows, provenance, samples)


A = {("a", 0): (2.0, 30.0), ("a", 1): (3.0, 40.0), ("b", 0): (9.0, 90.0)}
B = {("c", 0): (7.0, 10.0), ("a", 1): (3.5, 43.0), ("a", 0): (2.5, 31.0)}


def test_figures_are_means_over_the_pairs_with_the_error_of_their_differences() -> None:
    (row,) = compare(report({"fast": A}), report({"fast": B})).rows
    assert (row.name, row.num_pairs) == ("fast", 2)
    assert row.figures == (
        Figure("speedup", 2.5, 3.0, 0.5, 0.0),
        Figure("psnr", 35.0, 37.0, 2.0, pytest.approx(1.0)),  # differences 1 and 3: deviation √2, over √2
    )


def test_a_pair_counts_where_both_are_defined() -> None:
    undefined = {**B, ("a", 1): (3.5, math.nan)}
    (row,) = compare(report({"fast": A}), report({"fast": undefined})).rows
    speedup, psnr = row.figures
    assert speedup.difference == 0.5
    assert (psnr.first, psnr.second, psnr.difference) == (30.0, 31.0, 1.0) and math.isnan(psnr.standard_error)


def test_without_pairs_the_rows_are_shown_and_nothing_is_concluded() -> None:
    (row,) = compare(report({"fast": A}), report({"fast": {("z", 0): (1.0, 1.0)}})).rows
    assert row.num_pairs == 0
    assert [(f.first, f.second) for f in row.figures] == [(100.0, 100.0), (200.0, 200.0)]
    assert all(math.isnan(f.difference) and math.isnan(f.standard_error) for f in row.figures)


def test_what_only_one_has_and_what_differs() -> None:
    first = report({"x": A, "slow": A, "fast": A}, device="CPU", pipeline="WanPipeline", date="1")
    second = report({"fast": B, "slow": B, "y": B}, device="GPU", pipeline="WanPipeline", date="2")
    found = compare(first, second)
    assert [row.name for row in found.rows] == ["slow", "fast"]
    assert (found.only_first, found.only_second) == (("x",), ("y",))
    assert found.differing == {"device": ("CPU", "GPU")}


def test_nothing_in_common_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no row in common: one has x, the other y"):
        compare(report({"x": A}), report({"y": B}))
