"""Sparse attention and what the caches themselves cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

from .data import ROOT, result
from .markdown import code, mean, percent, table, times

SHARE, GROWTH = "pairs computed", "growth of "


def svg2_quality() -> str:
    """The presets on the demo model, and without stand-ins."""
    found = result("svg2_quality")
    rows = []
    for row in found.rows:
        figures = row["figures"]
        psnr = mean(figures["psnr_db"], figures["psnr_standard_error_db"])
        rows.append([row["subject"], percent(figures["density"]), psnr, f"{figures['ssim']:.4f}"])
    videos = {int(row["figures"]["videos"]) for row in found.rows}
    return (
        f"Demo model against its own run with dense attention, {min(videos)} held-out videos, mean ± standard error. "
        "Without stand-ins, as in the paper, as many pairs are computed.\n\n"
        + table(["preset", SHARE, "PSNR (dB)", "SSIM"], rows)
        + f"\n{found.source}"
    )


def svg2_speed() -> str:
    """A call of the function on a CPU against dense attention, its rivals, and how time grows."""
    found = result("svg2_speed")
    measured = [row for row in found.rows if not row["subject"].startswith(GROWTH)]
    rows = []
    for row in sorted(measured, key=lambda row: (row["setting"]["threads"], row["setting"]["tokens"])):
        setting, figures = row["setting"], row["figures"]
        share = figures.get("clustering_share")
        ratios = [times(figures[name]) for name in ("speedup_to_sdpa", "ratio")]
        own = [str(setting["threads"]), str(setting["tokens"]), row["subject"], percent(figures["density"])]
        rows.append([*own, *ratios, "–" if share is None else percent(share)])
    setting = measured[0]["setting"]
    heads = "1 head" if setting["heads"] == 1 else f"{setting['heads']} heads"
    head = ["threads", "tokens", "method", SHARE, "against `scaled_dot_product_attention`"]
    return (
        f"One call on a CPU, everything included, warm: {setting['dtype']}, {heads} of {setting['head_dim']} "
        "channels. Above 1 is faster.\n\n"
        + table([*head, "against the fastest dense path found", "k-means, of the call"], rows, text_columns=3)
        + _growth(found.rows)
        + f"\n{found.source}"
    )


def _growth(rows: Sequence[Mapping[str, Any]]) -> str:
    """The exponents of time over tokens, if they were fitted."""
    fitted: dict[int, list[str]] = {}
    for row in rows:
        if row["subject"].startswith(GROWTH):
            name = code(row["subject"].removeprefix(GROWTH))
            fitted.setdefault(row["setting"]["threads"], []).append(f"{name} {row['figures']['exponent']:.2f}")
    lines = [f"- {threads} thread{'' if threads == 1 else 's'}: {', '.join(all_)}" for threads, all_ in fitted.items()]
    return "\nTime grows with the number of tokens to the power of\n\n" + "\n".join(lines) + "\n" if lines else ""


def svg2_error() -> str:
    """How far it and its rivals are from dense attention, by density."""
    found = result("svg2_error")
    chosen = [row for row in found.rows if row["setting"]["data"].startswith("model") or _is_typical(row["setting"])]
    densities = sorted({row["setting"]["density"] for row in chosen})
    curves: dict[tuple[str, str], dict[float, float]] = {}
    for row in chosen:
        setting = row["setting"]
        name = f"{setting['data']}, {setting['tokens']} tokens" if "model" in setting["data"] else setting["data"]
        curves.setdefault((name, row["subject"]), {})[setting["density"]] = row["figures"]["error"]
    subjects = list(dict.fromkeys(row["subject"] for row in chosen))
    datas = list(dict.fromkeys(name for name, _ in curves))
    rows = [
        [*names, *(f"{curves[names][density]:.3f}" if density in curves[names] else "–" for density in densities)]
        for names in product(datas, subjects)
        if names in curves
    ]
    return (
        "Relative error of the output, by the share of the pairs that is computed; stand-ins and probe rows count. "
        "Where so small a share does not suffice for these, there is none. Synthetic data are hard for clusters; "
        '"model" is the attention of the demo model, with a held-out prompt at some steps and layers. In "every head '
        'alike" all heads keep the same share of their own attention, where dit_accel takes one of all heads.\n\n'
        + table(["data", "method", *(percent(density) for density in densities)], rows, text_columns=2)
        + f"\n{found.source}"
    )


def _is_typical(setting: Mapping[str, Any]) -> bool:
    """Clusters as `"auto"` makes them, and the head size of most models."""
    return bool(setting["queries_per_cluster"] == 256 and setting["head_dim"] == 128)


def backends() -> str:
    """The engines and from how many tokens on ``min_tokens="auto"`` uses them."""
    rows = []
    for path in sorted((ROOT / "dit_accel" / "sparse").glob("*_backend.py")):
        rows.append([code(path.stem.removesuffix("_backend")), *_engine(path)])
    columns = ["backend", "sparse from (tokens, float32)", "half precision", "what it is"]
    return table(columns, rows, text_columns=4)


def _engine(path: Path) -> tuple[str, str, str]:
    """Its break-even, and what the first paragraph of its module says."""
    module = import_module(f"dit_accel.sparse.{path.stem}")
    engines = [value for value in vars(module).values() if isinstance(value, type) and "min_tokens" in vars(value)]
    (min_tokens,) = {vars(engine)["min_tokens"] for engine in engines}
    what = (module.__doc__ or "").split("\n\n")[0].split(": ", 1)[1]
    return str(min_tokens.float32), str(min_tokens.half), " ".join(what.split()).replace("``", "`")


def cache_overhead() -> str:
    """Time of a call beside a loop that was written for this model alone."""
    found = result("cache_overhead")
    rows = []
    for row in found.rows:
        figures = row["figures"]
        spread = f"{1 / figures['ratio_p80']:.3f} to {1 / figures['ratio_p20']:.3f}"
        tokens, call = str(row["setting"]["tokens"]), f"{figures['call_ms']:.2f}"
        rows.append([row["subject"], tokens, f"{1 / figures['ratio']:.3f}", spread, call])
    setting = found.rows[0]["setting"]
    return (
        f"Time of a denoiser call over that of a skip loop written by hand into the model: {setting['blocks']} blocks "
        f"of width {setting['width']}, {setting['threads']} thread, median and 20th to 80th percentile.\n\n"
        + table(["call", "tokens", "ratio", "spread", "milliseconds"], rows)
        + f"\n{found.source}"
    )


REGIONS = {
    "svg2-quality": svg2_quality,
    "svg2-speed": svg2_speed,
    "svg2-error": svg2_error,
    "backends": backends,
    "cache-overhead": cache_overhead,
}
