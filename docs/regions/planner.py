"""What a profile costs, what the planner predicts, and which schedules ship."""

from __future__ import annotations

from pathlib import Path

from dit_accel import CacheSchedule, ErrorGraph
from dit_accel.schedule import shipped_schedules

from .data import PROFILES, ROOT, DocumentationError, dated, result
from .markdown import code, percent, table

GRAPHS = {
    "digits-wan": "dit-accel profile offline_profiles/jobs/digits-wan.toml --workers 2",
    "digits-wan-hold": "dit-accel profile offline_profiles/jobs/digits-wan-hold.toml --workers 2",
}
DEFAULT_SAFETY = 2.0  # of `profile`


def graph(folder: str) -> ErrorGraph:
    """The committed error graph of a folder of ``offline_profiles``."""
    (path,) = (PROFILES / folder).glob("*.graph.json")
    return ErrorGraph.load(path)


def generations(found: ErrorGraph) -> float:
    """Full generations a video that a graph took."""
    return found.rollout_steps / _videos(found) / found.num_steps


def planner_cost() -> str:
    """Generations that each mode of `profile` takes."""
    found = result("planner_cost")
    all_budgets = found.figures("all budgets", safety=DEFAULT_SAFETY)
    single = [row["figures"] for row in found.rows if row["subject"].startswith("budget ")]
    costs = [figures["generations_a_video"] for figures in single]
    agreed = sum(figures["agreement"] == 1 for figures in single)
    agreed_of_all = f"{all_budgets['agreement'] * all_budgets['budgets']:.0f} of {all_budgets['budgets']:.0f} budgets"
    rows = [
        ['`"exact"`', "every edge measured", f"{generations(graph('digits-wan-hold')):.0f}"],
        [
            '`"lazy"`, budgets 10 to 30 at once',
            f"the exhaustive ones for {agreed_of_all}",
            f"{all_budgets['generations_a_video']:.0f}",
        ],
        [
            '`"lazy"`, one budget',
            f"the exhaustive one for {agreed} of {len(single)} budgets",
            f"{min(costs):.0f} to {max(costs):.0f}",
        ],
        [
            '`"estimate"`',
            "no edge measured; see the quality of the plan from one prompt",
            f"{found.figures('estimate')['generations_a_video']:.1f}",
        ],
    ]
    return (
        "In full generations a video: demo model, 50 steps, edges of at most 8 steps, the held residual.\n\n"
        + table(["`mode`", "plans", "generations"], rows, text_columns=2)
        + f"\n{found.source}"
    )


def planner_safety() -> str:
    """What a larger safety costs."""
    found = result("planner_cost")
    rows = []
    for row in found.rows:
        if row["subject"] == "all budgets":
            figures = row["figures"]
            rows.append(
                [
                    f"{row['setting']['safety']:g}",
                    f"{figures['rollouts']:.0f}",
                    f"{figures['generations_a_video']:.0f}",
                    f"{figures['agreement'] * figures['budgets']:.0f} of {figures['budgets']:.0f}",
                    percent(figures["worst_excess"], 1),
                ]
            )
    head = ["`safety`", "rollouts", "generations", "same plan as exhaustive", "largest error above it, worst budget"]
    return table(head, rows, text_columns=0) + f"\n{found.source}"


def planner_time() -> str:
    """How long the planner takes."""
    found = result("planner_cost")
    rows = []
    for row in found.rows:
        if row["subject"] == "solve every budget":
            setting, figures = row["setting"], row["figures"]
            spent = f"{1000 * figures['seconds']:.0f} ms"
            rows.append([str(setting["num_steps"]), str(setting["max_segment"]), f"{figures['budgets']:.0f}", spent])
    head = ["steps", "longest edge", "budgets planned", "time"]
    return table(head, rows, text_columns=0) + f"\n{found.source}"


def planner_curve() -> str:
    """Predicted and measured error of whole schedules."""
    found = result("planner_curve")
    rows = [
        [
            row["subject"].removeprefix("budget "),
            *(f"{row['figures'][key]:.4f}" for key in ("predicted_l1", "measured_l1")),
        ]
        for row in found.rows
    ]
    return (
        "Mean L1 of the final latents over the profiled videos.\n\n"
        + table(["computed steps of 50", "predicted", "measured"], rows, text_columns=0)
        + f"\n{found.source}"
    )


def measured_profiles() -> str:
    """The committed error graphs and what they took."""
    rows = []
    for folder, command in GRAPHS.items():
        found = graph(folder)
        measured = len(found.edges) - len(found.estimated)
        rows.append(
            [
                code(folder),
                f"{code(command)}, {dated(found.provenance, folder)}",
                f"{found.num_steps}",
                f"{measured} of {len(found.edges)}",
                ", ".join(dict.fromkeys(found.provenance.get("forecasts", ["hold"]))),
                f"{_videos(found)}",
                f"{found.rollout_steps:,}",
                f"{generations(found):.0f}",
            ]
        )
    head = [
        "profile",
        "from",
        "steps",
        "edges measured",
        "forecasts",
        "videos",
        "denoiser steps",
        "generations a video",
    ]
    return table(head, rows, text_columns=2)


def step_times() -> str:
    """Milliseconds of each kind of step, as the joint planner has them."""
    found = graph("digits-wan")
    assert found.actions is not None
    rows = [[name, f"{spent:.1f}"] for name, spent in found.actions.milliseconds.items()]
    source = f"*`{GRAPHS['digits-wan']}` · {dated(found.provenance, 'digits-wan')}*\n"
    return table(["step of the embedded model", "milliseconds"], rows) + f"\n{source}"


def shipped() -> str:
    """Every schedule in the package and where it comes from."""
    groups: dict[str, list[CacheSchedule]] = {}
    for name in shipped_schedules():
        groups.setdefault(name.split("/")[0], []).append(CacheSchedule.resolve(name))
    rows = []
    for folder, schedules in groups.items():
        ordered = sorted(schedules, key=lambda schedule: (-schedule.budget, schedule.name))
        names = ", ".join(f"`{each.name.split('/')[1]}` ({each.budget})" for each in ordered)
        (steps,) = {each.num_steps for each in ordered}
        rows.append([code(folder), str(steps), names, _origin(folder, ordered)])
    return table(["folder", "steps", "schedules (computed steps)", "from"], rows, text_columns=4)


def _origin(folder: str, schedules: list[CacheSchedule]) -> str:
    if folder in GRAPHS:
        return f"measured here, {dated(graph(folder).provenance, folder)}: {code(GRAPHS[folder])}"
    origins = {(each.provenance["source"], each.provenance["published_in"]) for each in schedules}
    if len(origins) != 1:
        raise DocumentationError(
            f"The schedules of offline_profiles/{folder} have several origins: {sorted(origins)}."
        )
    source, published_in = origins.pop()
    return f"{source}: {published_in}"


def jobs() -> str:
    """The shipped profiling jobs, each with its own first words."""
    rows = []
    for path in sorted(PROFILES.glob("jobs/*.toml")):
        rows.append([code(str(path.relative_to(ROOT))), _opening(path)])
    return table(["job", "what"], rows, text_columns=2)


def _opening(path: Path) -> str:
    """The first sentence of the comment that a job begins with."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return " ".join(lines).split(". ")[0]


def _videos(found: ErrorGraph) -> int:
    return sum(len(batch["prompts"]) for batch in found.provenance["batches"])


REGIONS = {
    "planner-cost": planner_cost,
    "planner-safety": planner_safety,
    "planner-time": planner_time,
    "planner-curve": planner_curve,
    "step-times": step_times,
    "measured-profiles": measured_profiles,
    "shipped-schedules": shipped,
    "jobs": jobs,
}
