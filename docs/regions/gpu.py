"""What was measured on a GPU: kernels, attention, caches and memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .data import Result, result
from .markdown import listed, percent, table, times

OWN, DENSE, CHECK, OP = "svg2_attention, triton", "dense: ", "check: ", "op: "
MEMORY_FIGURES = ("peak_memory_mib", "cache_mib")
Row = Mapping[str, Any]


def checks() -> str:
    """The largest error of every kernel against its reference, and what is allowed."""
    found = result("gpu")
    by_name: dict[str, list[Row]] = {}
    for row in _rows(found, CHECK):
        by_name.setdefault(row["subject"].removeprefix(CHECK), []).append(row)
    rows = []
    for name, checked in by_name.items():
        for dtype in dict.fromkeys(row["setting"]["dtype"] for row in checked):
            of_dtype = [row["figures"] for row in checked if row["setting"]["dtype"] == dtype]
            error, bar = max(one["max_error"] for one in of_dtype), of_dtype[0]["bar"]
            rows.append([name, dtype, f"{error:.1e}" if error else "0", f"{bar:.0e}" if bar else "0"])
    columns = ["against its reference", "dtype", "largest error", "allowed"]
    return table(columns, rows, text_columns=2) + f"\n{found.source}"


def attention() -> str:
    """SVG2 at each density against the fastest dense kernel, by size."""
    found = result("gpu")
    by_size: dict[tuple[str, int, int], dict[float, Row]] = {}
    dense: dict[tuple[str, int, int], float] = {}
    for row in found.rows:
        setting = row["setting"]
        if "median_ms" not in row["figures"] or "model" not in setting or "heads" not in setting:
            continue
        size = setting["model"], setting["tokens"], setting["heads"]
        if row["subject"] == OWN:
            by_size.setdefault(size, {})[round(setting["density"], 1)] = row
        elif row["subject"].startswith(DENSE):
            dense[size] = min(dense.get(size, float("inf")), row["figures"]["median_ms"])
    densities = sorted({density for rows in by_size.values() for density in rows})
    rows = []
    for size, own in sorted(by_size.items(), key=lambda item: (item[0][0], item[0][1])):
        model, tokens, heads = size
        ratios = [times(own[density]["figures"]["ratio"]) for density in densities]
        rows.append([f"{model}, {heads} heads", str(tokens), f"{dense[size]:.2f}", *ratios])
    columns = ["layer of", "tokens", "dense (ms)", *(f"{percent(density)} of the pairs" for density in densities)]
    return (
        "One layer's attention, heads of 128 channels in bfloat16, clusters of the step before; k-means, selection, "
        "stand-ins and probe rows included; its speed over that of the fastest dense kernel of torch. Above 1 is "
        "faster.\n\n" + table(columns, rows) + f"\n{found.source}"
    )


def backends() -> str:
    """Other engines and rivals at one size."""
    found = result("gpu")
    chosen = [row for row in found.rows if "ratio" in row["figures"] and _is_at_backend_size(row)]
    rows = [
        [row["subject"], percent(row["setting"]["density"]), f"{row['figures']['median_ms']:.1f}", times(_ratio(row))]
        for row in sorted(chosen, key=_ratio, reverse=True)
    ]
    columns = ["32,768 tokens (ours 32,760), 12 heads", "pairs", "milliseconds", "against the fastest dense kernel"]
    return table(columns, rows) + f"\n{found.source}"


def _is_at_backend_size(row: Row) -> bool:
    setting = row["setting"]
    if setting["tokens"] == 32_768:
        return True
    own = setting["tokens"], setting.get("heads"), round(setting.get("density", 0), 1)
    return row["subject"] == OWN and own == (32_760, 12, 0.3)


def ops() -> str:
    """Each kernel beside the least that the GPU would need."""
    found = result("gpu")
    rows = []
    for row in _rows(found, OP):
        setting, figures = row["setting"], row["figures"]
        size = f"{setting['heads']} heads, {setting['tokens']} tokens"
        share = percent(figures["share_of_floor"]) if figures["share_of_floor"] >= 0.01 else "–"
        rows.append([row["subject"].removeprefix(OP), size, f"{figures['median_ms']:.2f}", share])
    device = found.figures("device")
    return (
        f"The floor is the time of the operations at {device['peak_tflops']:.0f} TFLOP/s, or of the bytes at "
        f"{device['bandwidth_gb_per_s'] / 1000:.1f} TB/s, as measured by a matrix product and a copy. Pairs that are "
        "computed only because tiles are not full do not count. 30 % of the pairs are kept.\n\n"
        + table(["kernel", "size", "milliseconds", "floor, of it"], rows, text_columns=2)
        + f"\n{found.source}"
    )


def runs() -> str:
    """A denoising loop with each method on random weights: time and memory."""
    found = result("gpu")
    chosen = [row for row in _rows(found, "run: ") if row["setting"]["tokens"] > 30_000]
    rows = []
    for row in chosen:
        setting, figures = row["setting"], row["figures"]
        computed = f"{figures['computed_steps']} of {figures['num_steps']}"
        density = percent(figures["density"]) if "density" in figures else "–"
        memory = [f"{figures[name]:.0f}" if name in figures else "–" for name in MEMORY_FIGURES]
        name = row["subject"].removeprefix("run: ")
        speed = times(figures["ratio"]) if "ratio" in figures else "–"
        rows.append([name, computed, density, f"{figures['seconds']:.2f}", speed, *memory])
    setting = chosen[0]["setting"]
    prefix = "host syncs: run, "
    waits = {row["subject"].removeprefix(prefix): row["figures"]["syncs"] for row in _rows(found, prefix)}
    more = [f"{name}: {count - waits['full']}" for name, count in waits.items() if count > waits["full"]]
    return (
        f"`WanPipeline` without its VAE, {setting['blocks']} blocks of width {setting['width']} with random weights, "
        f"{setting['tokens']} tokens (81 frames at 480p), without guidance, one run each. Random weights say nothing "
        "about quality, and their attention is diffuse: SVG2 keeps many pairs.\n\n"
        + table(["method", "full steps", "pairs", "seconds", "speed-up", "peak (MiB)", "held (MiB)"], rows)
        + f"\nIn a loop of six steps the host waits for the GPU {waits['full']} times without acceleration"
        + f", and so it does with it{f', but for decisions ({listed(more)} more)' if more else ''}.\n"
        + f"\n{found.source}"
    )


def overhead() -> str:
    """Time of a call beside a loop that was written by hand."""
    found = result("gpu")
    rows = []
    for row in _rows(found, "cache overhead: "):
        setting, figures = row["setting"], row["figures"]
        if "ratio" not in figures:
            continue
        spread = f"{1 / figures['ratio_p80']:.3f} to {1 / figures['ratio_p20']:.3f}"
        call = f"{row['subject'].removeprefix('cache overhead: ')}, width {setting['width']}"
        rows.append(
            [call, str(setting["tokens"]), f"{1 / figures['ratio']:.3f}", spread, f"{figures['median_ms']:.2f}"]
        )
    return (
        "Time of a denoiser call of four blocks over that of a skip loop written by hand into the model, median and "
        "20th to 80th percentile. Calls of few tokens are as long as their launches take the host.\n\n"
        + table(["call", "tokens", "ratio", "spread", "milliseconds"], rows)
        + f"\n{found.source}"
    )


def line() -> str:
    """From how many tokens on it pays."""
    found = result("gpu")
    shown = []
    for model, tokens in (("Wan 2.1 14B", 75_600), ("Wan 2.1 1.3B", 32_760)):
        ratios = {
            round(row["setting"]["density"], 1): row["figures"]["ratio"]
            for row in _rows(found, OWN)
            if (row["setting"]["model"], row["setting"]["tokens"]) == (model, tokens)
        }
        shown.append(f"{times(ratios[0.3])} and {times(ratios[0.1])} (shapes of {model}, {tokens} tokens)")
    device = found.rows[0]["setting"]["device"]
    return (
        f"On an {device} one layer's sparse attention, everything included, is {' or '.join(shown)} as fast as the "
        f"fastest dense kernel of torch, with 30 % and 10 % of the pairs {found.note}."
    )


def _rows(found: Result, prefix: str) -> list[Row]:
    return [row for row in found.rows if row["subject"].startswith(prefix)]


def _ratio(row: Row) -> float:
    return float(row["figures"]["ratio"])


REGIONS = {
    "gpu-checks": checks,
    "gpu-attention": attention,
    "gpu-backends": backends,
    "gpu-ops": ops,
    "gpu-runs": runs,
    "gpu-overhead": overhead,
    "gpu-line": line,
}
