"""The charts of a report: quality against speed, what each step did, quality frame by frame."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from .front import HIGHER_IS_BETTER, pareto_front
from .records import FULL, IDLE, PARTIAL, REUSE, SPARSE, UNITS, QualityReport, QualitySample

KINDS = {FULL: "full", SPARSE: "full, sparse attention", PARTIAL: "partial", REUSE: "reuse", IDLE: "not run"}
MARKERS = "osD^vPX"  # one fewer than colours, so that together they tell many rows apart
DASHES = ("-", "--", ":")
# Where a label may stand, in points from its point, with what of it stands there; the first is preferred.
_OFFSETS = {
    (6, 4): ("left", "bottom"),
    (6, -4): ("left", "top"),
    (-6, 4): ("right", "bottom"),
    (-6, -4): ("right", "top"),
    (9, 0): ("left", "center"),
    (-9, 0): ("right", "center"),
    (0, 9): ("center", "bottom"),
    (0, -9): ("center", "top"),
}


@dataclass(frozen=True)
class Theme:
    """The colours of a chart, each as matplotlib takes it."""

    ink: str
    muted: str
    grid: str
    series: tuple[str, ...]
    kinds: Mapping[str, str]

    def series_colour(self, number: int) -> str:
        """That of the series with this place in the report."""
        return self.series[number % len(self.series)]


# For pictures: dark on white.
LIGHT = Theme(
    ink="#1f2328",
    muted="#656d76",
    grid="#d8dee4",
    series=("#0969da", "#bc4c00", "#1a7f37", "#8250df", "#bf3989", "#0f766e", "#9a6700", "#57606a"),
    kinds={FULL: "#0969da", SPARSE: "#0f766e", PARTIAL: "#8bbcf0", REUSE: "#d8dee4", IDLE: "#ffffff"},
)
# For a page: colours that nothing else uses, each replaced in the SVG by the page's variable of that name.
_VARIABLES = {
    **{f"#00fe{number:02x}": f"var(--{name})" for number, name in enumerate(("ink", "muted", "grid"))},
    **{f"#00fd{number:02x}": f"var(--series-{number})" for number in range(len(LIGHT.series))},
    **{f"#00fc{number:02x}": f"var(--kind-{number})" for number in range(len(KINDS))},
}
_NAMES = list(_VARIABLES)
_PAGE = Theme(_NAMES[0], _NAMES[1], _NAMES[2], tuple(_NAMES[3:-5]), dict(zip(KINDS, _NAMES[-5:], strict=True)))


def page_charts(report: QualityReport) -> dict[str, Any]:
    """Every chart as SVG text in the page's colours: ``front`` and ``frames`` by metric, and ``steps`` (or None)."""
    metrics = list(dict.fromkeys(name for row in report.rows for name in row.metrics))
    has_frames = any(sample.frames for sample in report.samples)
    has_steps = any(sample.steps for sample in report.samples)
    # Labels come from files: they are text, of any length, and the browser that draws them has more glyphs than we do.
    with rc_context({"text.parse_math": False, "text.usetex": False}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return {
            "front": {name: svg(draw_front(report, name, _PAGE)) for name in metrics},
            "frames": {name: svg(draw_frames(report, name, _PAGE)) for name in metrics} if has_frames else {},
            "steps": svg(draw_steps(report, _PAGE)) if has_steps else None,
        }


def svg(figure: Figure) -> str:
    """The figure as an SVG element whose text is text and whose size follows the page's."""
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "dit_accel"}):
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    element = text.getvalue()
    element = element[element.index("<svg") :]
    # A page holds many of them: their style sheets would hold for all of it, and they number their parts alike.
    element = re.sub(r"<(metadata|style)\b.*?</\1>", "", element, flags=re.DOTALL)
    used = set(re.findall(r"#([\w-]+)", element))
    element = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", element)
    for colour, variable in _VARIABLES.items():
        element = element.replace(colour, variable)
    return re.sub(r"font:[^;\"]*?([\d.]+px)[^;\"]*", r"font-size: \1", element)


def draw_front(report: QualityReport, metric: str, theme: Theme = LIGHT) -> Figure:
    """Quality against speed-up, better is up; error bars are standard errors, the line joins the Pareto front."""
    figure, axes = _axes((4.4, 3.3), theme)
    front = pareto_front(report.rows, metric)
    labels: list[Any] = []
    line = [row.speedup for row in front], [row.metrics[metric][0] for row in front]
    axes.plot(*line, "--", color=theme.muted, lw=1, zorder=1)
    for number, row in enumerate(report.rows):
        mean, error = row.metrics.get(metric, (math.nan, math.nan))
        if math.isnan(mean):
            continue
        axes.errorbar(
            row.speedup,
            mean,
            yerr=None if math.isnan(error) else error,
            fmt=MARKERS[number % len(MARKERS)],
            color=theme.series_colour(number),
            markersize=6 if row in front else 4,
            elinewidth=1,
        )
        colour = theme.ink if row in front else theme.muted
        labels.append(axes.annotate(row.name, (row.speedup, mean), (0, 0), textcoords="offset points", color=colour))
    if metric not in HIGHER_IS_BETTER:
        axes.invert_yaxis()
    axes.margins(x=0.18, y=0.12)
    axes.set(xlabel="speed-up of the denoising loop (×)", ylabel=f"{metric}{UNITS.get(metric, '')}, better is up")
    _place(figure, labels)
    return figure


def _place(figure: Figure, labels: Sequence[Any]) -> None:
    """Put each label beside its point where it covers no other and no point, or where it covers the fewest."""
    FigureCanvasAgg(figure)  # measures text
    figure.draw_without_rendering()
    dots = [label.axes.transData.transform(label.xy) for label in labels]
    taken: list[Bbox] = [Bbox.from_extents(x - 4, y - 4, x + 4, y + 4) for x, y in dots]
    for label in labels:
        tried = {}
        for offset, sides in _OFFSETS.items():
            label.set(position=offset, fontsize=7, ha=sides[0], va=sides[1])
            tried[offset] = label.get_window_extent()
        best = min(tried, key=lambda offset: tried[offset].count_overlaps(taken))
        label.set(position=best, ha=_OFFSETS[best][0], va=_OFFSETS[best][1])
        taken.append(tried[best])


def draw_frames(report: QualityReport, metric: str, theme: Theme = LIGHT) -> Figure:
    """A metric frame by frame, the mean over the videos of each row."""
    num_columns = 3
    figure, axes = _axes((4.4, 2.7 + 0.14 * -(-len(report.rows) // num_columns)), theme)
    for number, row in enumerate(report.rows):
        videos = [s.frames[metric] for s in report.samples if s.name == row.name and metric in s.frames]
        videos = [values for values in videos if not any(map(math.isnan, values))]
        if videos:
            means = [fmean(values) for values in zip(*videos, strict=True)]
            axes.plot(
                range(len(means)),
                means,
                marker=MARKERS[number % len(MARKERS)] if len(means) <= 16 else None,
                color=theme.series_colour(number),
                label=row.name,
                ls=DASHES[number // len(theme.series) % len(DASHES)],
                lw=1.5,
                markersize=3.5,
            )
    if metric not in HIGHER_IS_BETTER:
        axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="frame", ylabel=f"{metric}{UNITS.get(metric, '')}, better is up")
    if axes.lines:
        _legend(figure, theme, ncols=num_columns, loc="outside lower center")
    return figure


def draw_steps(report: QualityReport, theme: Theme = LIGHT) -> Figure:
    """A strip for each row, denoiser and branch: what every step did. Where videos differ, the shares of each."""
    strips = {
        f"{row.name}  {lane}": shares
        for row in report.rows
        for lane, shares in _lanes([sample for sample in report.samples if sample.name == row.name]).items()
    }
    longest = max((len(shares) for shares in strips.values()), default=1)
    figure, axes = _axes((8.2, 0.22 * len(strips) + 0.8), theme)
    used: set[str] = set()
    for place, shares in enumerate(strips.values()):
        used |= {kind for step in shares for kind, share in step.items() if share}
        _draw_strip(axes, place, shares, theme)
    axes.vlines(range(longest + 1), -0.5, len(strips) - 0.5, color=theme.grid, lw=0.5)
    axes.set_yticks(range(len(strips)), list(strips), fontsize=7)
    axes.set(xlim=(0, longest), ylim=(len(strips) - 0.5, -0.5), xlabel="denoising step")
    axes.grid(False)
    handles = [axes.bar(0, 0, color=theme.kinds[kind], label=name) for kind, name in KINDS.items() if kind in used]
    _legend(axes, theme, handles=handles, ncols=5, loc="lower left", bbox_to_anchor=(0, 1))
    return figure


def _lanes(samples: Sequence[QualitySample]) -> dict[str, list[dict[str, float]]]:
    """``"denoiser branch"`` -> for each step the share of the videos of each kind. Equal branches are one."""
    letters: dict[tuple[str, str], list[str]] = {}
    for sample in samples:
        for denoiser, branches in sample.steps.items():
            for branch, line in branches.items():
                letters.setdefault((denoiser, branch), []).append(line)
    alike: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (denoiser, branch), lines in letters.items():
        alike.setdefault((denoiser, tuple(lines)), []).append(branch)
    return {
        f"{denoiser} {', '.join(branches)}": [
            {kind: found.count(kind) / len(found) for kind in KINDS} for found in zip(*lines, strict=False)
        ]
        for (denoiser, lines), branches in alike.items()
    }


def _draw_strip(axes: Any, place: int, shares: Sequence[dict[str, float]], theme: Theme) -> None:
    """Bars of equal neighbours are one bar, which keeps the page small."""
    step = 0
    for share, run in groupby(shares):
        width = len(list(run))
        bottom = place + 0.4
        for kind, part in share.items():
            if part and kind != IDLE:
                axes.bar(step, -0.8 * part, width, bottom, align="edge", color=theme.kinds[kind])
            bottom -= 0.8 * part
        step += width


def _axes(size: tuple[float, float], theme: Theme) -> tuple[Figure, Any]:
    figure = Figure(figsize=size, layout="constrained")
    axes: Any = figure.add_subplot()
    axes.set_facecolor("none")
    axes.tick_params(colors=theme.muted, labelcolor=theme.ink, labelsize=8)
    axes.grid(color=theme.grid, lw=0.6)
    axes.set_axisbelow(True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(color=theme.ink, fontsize=9)
    for side, spine in axes.spines.items():
        spine.set_color(theme.grid)
        spine.set_visible(side in ("left", "bottom"))
    return figure, axes


def _legend(owner: Any, theme: Theme, **how: Any) -> None:
    owner.legend(fontsize=7, frameon=False, labelcolor=theme.ink, **how)
