"""Figures in a sentence, each with its command and day."""

from __future__ import annotations

from .data import dated, result
from .markdown import percent, times
from .model import FOLDER, SCORING, read_scores
from .planner import generations, graph
from .quality import REPORT, report, report_command, report_row


def headline() -> str:
    """What the preset to begin with does."""
    row, where = report_row("lemica-fast"), report().provenance
    psnr, uniform_psnr = (each.metrics["psnr"][0] for each in (row, report_row(f"uniform-{row.computed_steps}")))
    return (
        f"On the embedded model `lemica-fast` computes {row.computed_steps} of {row.num_steps} steps and is "
        f"{times(row.speedup)} faster; its videos are at {psnr:.1f} dB PSNR of the full run's, those of as many "
        f"evenly spread steps at {uniform_psnr:.1f} dB; {row.num_videos} held-out videos, {where['device']} "
        f"(`{report_command()}`, {dated(where, REPORT)})."
    )


def planner_cost() -> str:
    """What a profile costs."""
    found = result("planner_cost")
    estimate = found.figures("estimate")["generations_a_video"]
    single = [row["figures"]["generations_a_video"] for row in found.rows if row["subject"].startswith("budget ")]
    return (
        f"On the embedded model a plan takes {estimate:.1f} generations a video "
        f'with `mode="estimate"`, {min(single):.0f} to {max(single):.0f} with `"lazy"` for one budget, and '
        f"{generations(graph('digits-wan-hold')):.0f} if every edge is measured {found.note}."
    )


def svg2_speed() -> str:
    """From how many tokens on it pays."""
    found = result("svg2_speed")
    single = sorted(
        (row["setting"]["tokens"], row["figures"]["speedup_to_sdpa"], row["figures"]["ratio"])
        for row in found.rows
        if row["setting"]["threads"] == 1 and row["subject"] == "dit_accel, backend torch"
    )
    pays = next((tokens for tokens, _, fastest in single if fastest > 1), None)
    tokens, to_sdpa, to_fastest = single[-1]
    start = "no size measured pays" if pays is None else f"a call pays from {pays} tokens"
    return (
        f"On one CPU thread {start}; at {tokens} its speed is {times(to_sdpa)} that of "
        f"`scaled_dot_product_attention`, and {times(to_fastest)} that of the fastest dense path found {found.note}."
    )


def model_scores() -> str:
    """How well the embedded model draws."""
    found = read_scores()
    shown, truth = (percent(found[kind]["all"], 1) for kind in ("generated", "ground_truth"))
    return (
        f"Its own scorer reads the asked colour, background, motion and digit in {shown} of {found['clips']} clips of "
        f"held-out prompts, and in {truth} of rendered ground truth "
        f"(`{SCORING}`, {dated(found, str(FOLDER / 'scores.json'))})."
    )


REGIONS = {
    "headline": headline,
    "planner-cost-line": planner_cost,
    "svg2-speed-line": svg2_speed,
    "model-scores-line": model_scores,
}
