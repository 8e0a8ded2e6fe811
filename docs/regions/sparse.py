"""Sparse attention and what the caches themselves cost."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from .data import ROOT, result
from .markdown import code, mean, percent, table, times

SHARE = "pairs computed"


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
    """A call of the function on a CPU against dense attention."""
    found = result("svg2_speed")
    rows = []
    for row in found.rows:
        setting, figures = row["setting"], row["figures"]
        ratios = [times(figures[name]) for name in ("speedup_to_sdpa", "ratio")]
        rows.append([str(setting["threads"]), str(setting["tokens"]), percent(figures["density"]), *ratios])
    setting = found.rows[0]["setting"]
    head = [
        "threads",
        "tokens",
        SHARE,
        "against `scaled_dot_product_attention`",
        "against the fastest dense path found",
    ]
    return (
        f"One call on a CPU, everything included, warm: {setting['dtype']}, {setting['heads']} heads of "
        f"{setting['head_dim']} channels, backend `torch`. Above 1 is faster.\n\n"
        + table(head, rows, text_columns=0)
        + f"\n{found.source}"
    )


def svg2_error() -> str:
    """How far it is from dense attention, beside the published one."""
    found = result("svg2_error")
    rows = []
    for row in found.rows:
        if row["subject"] == "dit_accel":
            setting, figures = row["setting"], row["figures"]
            rows.append(
                [
                    setting["data"],
                    *(str(setting[key]) for key in ("head_dim", "queries_per_cluster")),
                    percent(figures["density"]),
                    f"{figures['error']:.3f}",
                    f"{figures['error_to_published']:.2f}",
                    f"{figures['recall_to_oracle']:.2f}",
                ]
            )
    setting = found.rows[0]["setting"]
    head = ["data", "channels", "queries a cluster", SHARE, "relative error", "over that of the published one"]
    return (
        f"Synthetic tokens ({setting['tokens']}, mean over {setting['seeds']} seeds), "
        "same clusters and the same share of pairs. The oracle knows the true attention of every pair of clusters.\n\n"
        + table([*head, "attention kept, over the oracle's"], rows)
        + f"\n{found.source}"
    )


def backends() -> str:
    """The engines and from how many tokens on ``min_tokens="auto"`` uses them."""
    rows = []
    for path in sorted((ROOT / "dit_accel" / "sparse").glob("*_backend.py")):
        rows.append([code(path.stem.removesuffix("_backend")), *_engine(path)])
    return table(["backend", "sparse from (tokens)", "what it is"], rows, text_columns=3)


def _engine(path: Path) -> tuple[str, str]:
    """Its break-even, and what the first paragraph of its module says."""
    module = import_module(f"dit_accel.sparse.{path.stem}")
    engines = [value for value in vars(module).values() if isinstance(value, type) and "min_tokens" in vars(value)]
    (min_tokens,) = {vars(engine)["min_tokens"] for engine in engines}
    what = (module.__doc__ or "").split("\n\n")[0].split(": ", 1)[1]
    return str(min_tokens), " ".join(what.split()).replace("``", "`")


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
