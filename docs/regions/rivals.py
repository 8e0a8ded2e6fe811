"""The presets beside other caches of steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .data import Result, result
from .markdown import code, table, times

OURS = "dit_accel lemica"
Figures = Mapping[str, float]


def budgets(found: Result) -> list[int]:
    """The budgets of the rows, largest first."""
    return sorted({row["setting"]["target_steps"] for row in found.rows}, reverse=True)


def step_quality() -> str:
    """PSNR and ST-LPIPS of every method at every budget, and by how much ours is ahead."""
    found = result("step_quality")
    columns = budgets(found)
    names = list(dict.fromkeys(row["subject"] for row in found.rows))
    rows = {name: [found.figures(name, target_steps=budget) for budget in columns] for name in names}
    rows = dict(sorted(rows.items(), key=lambda item: (item[0] != OURS, -item[1][0]["psnr_db"])))
    best = [max(figures[k]["psnr_db"] for figures in rows.values()) for k in range(len(columns))]
    cells = [
        [_label(name), *(_cell(figures[k], columns[k], best[k]) for k in range(len(columns)))]
        for name, figures in rows.items()
    ]
    videos = {int(row["figures"]["videos"]) for row in found.rows}
    return (
        f"PSNR (dB) / ST-LPIPS against the full run at equal computed steps, mean over {min(videos)} held-out videos. "
        "Each rival was tuned on other prompts (`benchmarks/tune_rivals.py`) to compute at least as many steps; in "
        "parentheses how many it computes where that is more. Bold: the highest PSNR.\n\n"
        + table(["method", *(f"{budget} of 50 steps" for budget in columns)], [*cells, *_margins(found, columns)])
        + f"\n{found.source}"
    )


def _label(name: str) -> str:
    return "`lemica-*`" if name == OURS else name


def _cell(figures: Figures, budget: int, best: float) -> str:
    text = f"{figures['psnr_db']:.1f} / {_small(figures['st_lpips'])}"
    steps = f" ({figures['computed_steps']:.0f} steps)" if figures["computed_steps"] >= budget + 0.5 else ""
    return (f"**{text}**" if figures["psnr_db"] == best else text) + steps


def _small(value: float) -> str:
    return f"{value:.5f}" if value < 1e-4 else f"{value:.4f}"


def _rivals_at(found: Result, budget: int) -> list[Mapping[str, Any]]:
    rows = (row for row in found.rows if row["setting"]["target_steps"] == budget)
    return [row for row in rows if row["subject"] != OURS]


def _margins(found: Result, columns: list[int]) -> list[list[str]]:
    """Our PSNR less the best rival's, and our ST-LPIPS beside the least of the rivals': of means and of medians."""
    psnr, shares = ["*`lemica-*` less the best other, dB*"], {"st_lpips": "mean", "st_lpips_median": "median"}
    lpips = {name: [f"*`lemica-*`, {kind} ST-LPIPS over the least other*"] for name, kind in shares.items()}
    for budget in columns:
        ours = found.figures(OURS, target_steps=budget)
        others = [row["figures"] for row in _rivals_at(found, budget)]
        psnr.append(f"{ours['psnr_db'] - max(other['psnr_db'] for other in others):+.1f}")
        for name, cells in lpips.items():
            cells.append(f"{ours[name] / min(other[name] for other in others):.2f}")
    return [psnr, *lpips.values()]


def headline_table() -> str:
    """The presets beside the best of what else there is."""
    found = result("step_quality")
    num_rivals = len({row["subject"] for row in found.rows}) - 1
    rows = [["`lemica-*`"], [f"the best of {num_rivals} rivals"]]
    for budget in budgets(found):
        best = max(_rivals_at(found, budget), key=lambda row: float(row["figures"]["psnr_db"]))
        rows[0].append(f"**{found.figures(OURS, target_steps=budget)['psnr_db']:.1f}**")
        rows[1].append(f"{best['figures']['psnr_db']:.1f} ({best['subject']})")
    head = ["PSNR (dB) at as many computed steps", *(f"{budget} of 50" for budget in budgets(found))]
    return f"{table(head, rows)}\n{found.source}"


def equal_quality() -> str:
    """How much sooner the presets are there at no less quality."""
    found = result("equal_quality")
    columns = budgets(found)
    rows = []
    for name in dict.fromkeys(row["subject"] for row in found.rows):
        cells = []
        for budget in columns:
            (row,) = [each for each in found.rows if each["subject"] == name and _is_at(each, budget)]
            figures, setting = row["figures"], row["setting"]
            preset = "none as near" if "note" in setting else code(setting["preset"])
            cells.append(f"{figures['psnr_db']:.1f} dB at {times(figures['ratio_to_full'])} → {preset}")
            if "note" not in setting:
                cells[-1] += f", {times(figures['ratio'])} sooner"
        rows.append([name, *cells])
    return (
        "Each rival's PSNR and speed-up, then the fastest preset that is at least as near to the full run, and the "
        "wall time of the rival's denoising loop over that preset's.\n\n"
        + table(["rival", *(f"at {budget} of 50 steps" for budget in columns)], rows, text_columns=len(columns) + 1)
        + f"\n{found.source}"
    )


def _is_at(row: Mapping[str, Any], budget: int) -> bool:
    return bool(row["setting"]["target_steps"] == budget)


def held_memory() -> str:
    """What each method holds."""
    found = result("cache_memory")
    rows = [
        [
            _label(row["subject"]),
            f"{row['figures']['peak_bytes'] / 1024:.0f}",
            _kib(row["figures"]["held_after_bytes"]),
        ]
        for row in sorted(found.rows, key=lambda row: float(row["figures"]["peak_bytes"]))
    ]
    steps = found.rows[0]["setting"]["target_steps"]
    return (
        f"Bytes of all tensors at the end of a step beyond those of the full run, at {steps} of 50 steps, counted the "
        "same for all: the most of any step, and what is still held when the call has returned.\n\n"
        + table(["method", "at most (KiB)", "held after the call (KiB)"], rows)
        + f"\n{found.source}"
    )


def _kib(size: float) -> str:
    return f"{max(size, 0) / 1024:.0f}"


def cost_growth() -> str:
    """How costs grow with tokens, steps and videos."""
    found = result("cost_growth")
    calls = [
        [
            str(row["setting"]["tokens"]),
            *(f"{row['figures'][f'{kind}_call_ms']:.2f}" for kind in ("computed", "reused")),
        ]
        for row in found.rows
        if row["subject"] == "call"
    ]
    profiles = [
        [row["subject"], *(str(row["setting"][key]) for key in ("num_steps", "videos")), *_generations(row)]
        for row in found.rows
        if "generations" in row["figures"]
    ]
    plans = [
        [
            str(row["setting"]["num_steps"]),
            f"{row['figures']['budgets']:.0f}",
            f"{row['figures']['seconds'] * 1e3:.0f} ms",
        ]
        for row in found.rows
        if row["subject"].startswith("solve")
    ]
    return "\n".join(
        (
            table(["tokens", "computed call (ms)", "reused call (ms)"], calls, text_columns=0),
            table(["profile", "steps", "videos", "generations a video", "generations"], profiles),
            table(["steps", "budgets planned", "time"], plans, text_columns=0),
            found.source,
        )
    )


def _generations(row: Mapping[str, Any]) -> list[str]:
    return [f"{row['figures'][key]:.0f}" for key in ("generations_a_video", "generations")]


REGIONS = {
    "step-quality": step_quality,
    "rivals": headline_table,
    "equal-quality": equal_quality,
    "held-memory": held_memory,
    "cost-growth": cost_growth,
}
