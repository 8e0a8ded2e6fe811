"""How near accelerated videos are to the full run, and how much sooner they are there."""

from __future__ import annotations

import re
from functools import cache

from dit_accel import CacheSchedule, QualityReport
from dit_accel.quality.records import QualityRow, metric_text

from .data import PROFILES, DocumentationError, Result, dated, result
from .markdown import code, mean, table, times

BUDGETS = (25, 20, 17, 14)
PRESET_OF = {25: "slow", 20: "medium", 17: "fast", 14: "ultra"}
REPORT = "offline_profiles/digits-wan/held-out.report.json"


@cache
def report() -> QualityReport:
    """The report of the presets on held-out prompts."""
    return QualityReport.load(PROFILES.parent / REPORT)


def report_row(name: str) -> QualityRow:
    """A row of it."""
    for row in report().rows:
        if row.name == name:
            return row
    raise DocumentationError(f"{REPORT} has no row {name!r}. Run `{report_command()}` again.")


def report_source() -> str:
    """The line below what comes from the report."""
    found = report().provenance
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items() if name != "dit_accel")
    return f"*`{report_command()}` · {dated(found, REPORT)} · {found['device']}, {versions}*\n"


def report_command() -> str:
    """What measures it again."""
    found = report().provenance
    sparse = " --sparse" if any(row.density is not None for row in report().rows) else ""
    return f"dit-accel demo --prompts {len(found['prompts'])} --seeds {len(found['seeds'])}{sparse}"


def held_out_quality() -> str:
    """The table of the report, and what it was measured on."""
    found = report().provenance
    inputs = found["inputs"]
    text = (
        f"{len(found['prompts'])} held-out prompts × {len(found['seeds'])} seeds, {inputs['num_inference_steps']} "
        f"steps, guidance {inputs['guidance_scale']:g}, {inputs['width']} × {inputs['height']} pixels. Speed-up: wall "
        "time of the denoising loop, full run over accelerated run, median over the pairs. Quality: against the same "
        "seed's full run, mean ± standard error over the videos. `uniform-N` computes N evenly spread steps.\n\n"
    )
    missing = found["unavailable_metrics"]
    unmeasured = f"Not measured, as its weights were not at hand: {', '.join(missing)}.\n\n" if missing else ""
    return f"{text}{report().to_markdown()}\n{unmeasured}{report_source()}"


def dbcache_quality() -> str:
    """The presets of DBCache beside cache-dit."""
    found = result("dbcache_quality")
    rows = []
    for name in ("dbcache-slow", "dbcache-medium", "dbcache-fast"):
        ours = found.figures(f"dit_accel {name}")
        theirs = [found.figures(f"{label} like {name}") for label in ("cache-dit", "cache-dit TaylorSeer")]
        psnr = [mean(each["psnr_db"], each["psnr_standard_error_db"]) for each in (ours, *theirs)]
        rows.append([code(name), f"{ours['computed_steps']:.1f} / 50", times(ours["ratio"]), *psnr])
    videos = _only({int(row["figures"]["videos"]) for row in found.rows})
    return (
        f"PSNR (dB) against the full run, mean ± standard error over {videos} held-out videos. cache-dit has the same "
        "probe block, warmup and limit, and a threshold searched so that it computes at least as many steps.\n\n"
        + table(["preset", "computed steps", "speed-up", "PSNR", "cache-dit", "cache-dit, TaylorSeer"], rows)
        + f"\n{found.source}"
    )


def joint_plans() -> str:
    """The presets that were planned in milliseconds."""
    found = result("step_quality_planned")
    rows = []
    for name in ("planned-slow", "planned-fast"):
        schedule, figures = CacheSchedule.resolve(f"digits-wan/{name}"), found.figures(name)
        partial = len(schedule.partial.steps) if schedule.partial else 0
        sparse = len(schedule.sparse.steps) if schedule.sparse else 0
        reused = schedule.num_steps - schedule.budget - partial
        rows.append(
            [
                code(name),
                *map(str, (schedule.budget - sparse, sparse, partial, reused)),
                times(schedule.provenance["speedup"]),
                times(figures["ratio"]),
                mean(figures["psnr_db"], figures["psnr_standard_error_db"]),
            ]
        )
    head = ["preset", "full", "sparse", "partial", "reused", "planned speed-up", "measured speed-up", "PSNR (dB)"]
    return table(head, rows) + f"\n{found.source}"


def objectives() -> str:
    """Lexicographic minimax beside the sum of squares."""
    found = result("step_quality_planned")
    kinds = {
        "lexicographic minimax": [f"lemica-{PRESET_OF[budget]}" for budget in BUDGETS],
        "sum of squares": [f"sum2-{budget}" for budget in BUDGETS],
        'lexicographic minimax from one prompt, `mode="estimate"`': [f"estimate-{budget}" for budget in BUDGETS],
    }
    rows = []
    for label, names in kinds.items():
        figures = [found.figures(name) for name in names]
        rows.append([label, *(mean(each["psnr_db"], each["psnr_standard_error_db"]) for each in figures)])
    return (
        f"PSNR (dB) on {_videos(found)} held-out videos, mean ± standard error.\n\n"
        + table(["objective", *(f"{budget} of 50 steps" for budget in BUDGETS)], rows)
        + f"\n{found.source}"
    )


def polish() -> str:
    """What whole runs add to a plan."""
    found = result("step_quality_polished")
    rows = []
    for name in sorted({row["subject"] for row in found.rows}, key=lambda name: (-_number(name), name)):
        figures = found.figures(name)
        (row,) = [row for row in found.rows if row["subject"] == name]
        runs = str(row["setting"].get("polish_rollouts", 0))
        psnr = mean(figures["psnr_db"], figures["psnr_standard_error_db"])
        rows.append([f"{figures['computed_steps']:.0f} of 50", runs, psnr, f"{figures['st_lpips']:.4f}"])
    return (
        table(["computed steps", "whole runs spent", "PSNR (dB)", "ST-LPIPS"], rows)
        + f"\n*The schedules: `python benchmarks/planner_schedules.py FOLDER --polish 20`. {found.source[1:]}"
    )


def resample() -> str:
    """A graph of 50 steps used for 30, beside a fresh profile."""
    found = result("planner_transfer")
    rows = []
    for budget in sorted({_number(row["subject"]) for row in found.rows}, reverse=True):
        pair = [found.figures(f"{kind} {budget}") for kind in ("resampled", "fresh")]
        steps = next(row["setting"]["num_steps"] for row in found.rows)
        rows.append([f"{budget} of {steps}", *(mean(x["psnr_db"], x["psnr_standard_error_db"]) for x in pair)])
    return (
        f"PSNR (dB) on {_videos(found)} held-out videos, mean ± standard error.\n\n"
        + table(["computed steps", "resampled from 50 steps", "profiled afresh"], rows)
        + f"\n{found.source}"
    )


def preset_figures() -> str:
    """Every preset of the embedded model with what was measured of it."""
    presets = [row for row in report().rows if not row.name.startswith("uniform")]
    even = {row.computed_steps: row for row in report().rows if row.name.startswith("uniform")}
    order = ("lemica", "planned", "dbcache", "svg2")
    rows = []
    for row in sorted(presets, key=lambda row: (order.index(re.split("-|$", row.name)[0]), -row.computed_steps)):
        as_many = even.get(row.computed_steps) if row.density is None else None
        rows.append(
            [
                code(row.name),
                f"{row.computed_steps} of {row.num_steps}",
                times(row.speedup),
                mean(*row.metrics["psnr"]),
                metric_text("st_lpips", row.metrics["st_lpips"][0]),
                mean(*as_many.metrics["psnr"]) if as_many else "–",
            ]
        )
    found = report().provenance
    head = ["preset", "full steps", "speed-up", "PSNR (dB)", "ST-LPIPS", "PSNR of as many even steps"]
    return (
        f"{len(found['prompts'])} held-out prompts × {len(found['seeds'])} seeds against the same seed's full run, "
        "mean ± standard error. Speed-up: wall time of the denoising loop, median over pairs that ran one after the "
        "other.\n\n" + table(head, rows) + f"\n{report_source()}"
    )


def cache_memory() -> str:
    """What the caches held."""
    rows = [[code(row.name), f"{row.cache_bytes_peak / 1024:.0f}"] for row in report().rows]
    inputs = report().provenance["inputs"]
    return (
        "The most that a cache held in any run of the embedded model "
        f"({inputs['width']} × {inputs['height']} pixels, both branches, float32).\n\n"
        + table(["acceleration", "cache at its largest (KiB)"], rows)
        + f"\n{report_source()}"
    )


def _number(name: str) -> int:
    return int(re.findall(r"\d+$", name)[0])


def _videos(found: Result) -> int:
    return _only({int(row["figures"]["videos"]) for row in found.rows})


def _only(values: set[int]) -> int:
    """The one number that all rows share."""
    if len(values) != 1:
        raise DocumentationError(f"The rows of one table are over different numbers of videos: {sorted(values)}.")
    return values.pop()


REGIONS = {
    "held-out-quality": held_out_quality,
    "dbcache-quality": dbcache_quality,
    "joint-plans": joint_plans,
    "objectives": objectives,
    "polish": polish,
    "resample": resample,
    "preset-figures": preset_figures,
    "cache-memory": cache_memory,
}
