"""What a profile takes on many machines."""

from __future__ import annotations

from .data import Result, result
from .markdown import code, listed, table, times

MODES = ("exact", "lazy", "estimate")


def cost() -> str:
    """Hours on 1, 8 and 64 GPUs, and what moves."""
    found = result("profile_scale")
    rows = []
    for mode in MODES:
        for row in found.rows:
            if row["subject"] == mode:
                figures = row["figures"]
                rows.append(
                    [
                        code(f'"{mode}"'),
                        f"{row['setting']['gpus']}",
                        f"{figures['generations']:.0f}",
                        f"{figures['rollouts']:.0f}",
                        f"{figures['rounds']:.0f}",
                        _hours(figures["hours"]),
                        f"{100 * figures['busy_share']:.0f} %",
                        f"{figures['moved_gigabytes']:.0f} GB",
                    ]
                )
    head = ["`mode`", "GPUs", "generations", "rollouts", "rounds", "takes", "GPUs busy", "over the network"]
    return f"{_assumed(found)}\n\n{table(head, rows)}\n{found.source}"


def saturation() -> str:
    """From how many GPUs on most of them wait."""
    found = result("profile_scale")
    parts = []
    for mode in MODES:
        figures = found.figures(f"{mode}, saturation")
        parts.append(
            f'`"{mode}"` keeps half of {figures["gpus_at_least_half_busy"]:.0f} GPUs busy, and takes '
            f"{_hours(figures['least_hours'])} at the least"
        )
    return f"{listed(parts)} {found.note}."


def local() -> str:
    """Two real workers against one."""
    found = result("profile_scale_local")
    (row,) = found.rows
    figures = row["figures"]
    return (
        f"The embedded model on a Ray cluster of one machine: two workers are {times(figures['ratio'])} as fast as "
        f"one, and giving out a task takes {figures['dispatch_milliseconds']:.1f} ms; load average "
        f"{row['setting']['load_average']} {found.note}."
    )


def _assumed(found: Result) -> str:
    setting = next(iter(found.rows))["setting"]
    return (
        f"Simulated, with assumptions for Wan 2.1 14B at 720p, 81 frames, 50 steps: {setting['step_seconds']:.1f} s a "
        f"step of one video on one GPU (from the 31.48 minutes a video in LeMiCa's README), "
        f"{setting['trajectory_gigabytes']:.2f} GB a recorded trajectory, {setting['load_seconds']:.0f} s to load the "
        f"pipeline, a link of {setting['link_gigabits']:.0f} Gbit/s, 8 GPUs a node. {setting['videos']} videos, edges "
        f"of at most 8 steps, budgets {setting['budgets'].replace(' ', ', ')}. The rollouts are those that the "
        "embedded model needs."
    )


def _hours(hours: float) -> str:
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"


REGIONS = {"scale-cost": cost, "scale-saturation": saturation, "scale-local": local}
