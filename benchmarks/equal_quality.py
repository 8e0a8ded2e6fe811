"""At equal quality: how much sooner than a rival is the fastest of the presets that come at least as near?

    python benchmarks/equal_quality.py [--out benchmarks/results/equal_quality.json]

From the rows of ``step_quality.py``: nothing is run. For each rival and budget, the preset is the fastest of those
measured there whose mean PSNR is at least the rival's; the ratio is that of their speed-ups over the same full runs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rows import Row, demo_row, write_rows

MEASURED = Path(__file__).parent / "results" / "step_quality.json"
OURS = "dit_accel "


def compare(rival: dict[str, Any], presets: list[dict[str, Any]]) -> Row:
    """The fastest preset that is as near as the rival; without one, the nearest, with a note."""
    psnr = rival["quality"]["psnr_db"]
    as_near = [preset for preset in presets if preset["quality"]["psnr_db"] >= psnr]
    found = max(as_near, key=lambda preset: preset["ratio"]) if as_near else max(presets, key=_psnr)
    note = {} if as_near else {"note": "no preset is as near; this one is the nearest"}
    return demo_row(
        "equal_quality",
        rival["subject"],
        budget=rival["budget"],
        ratio=found["ratio"] / rival["ratio"],
        quality={"psnr_db": psnr, "preset_psnr_db": found["quality"]["psnr_db"]},
        setting={"preset": found["setting"]["preset"], **note},
        figures={"ratio_to_full": rival["ratio"], "preset_ratio_to_full": found["ratio"]},
    )


def _psnr(row: dict[str, Any]) -> float:
    return float(row["quality"]["psnr_db"])


def main() -> None:
    """Compare every rival's rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, default=MEASURED, help="rows of step_quality.py")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = json.loads(args.measured.read_text(encoding="utf-8"))["rows"]
    presets = [row for row in rows if row["subject"].startswith(OURS)]
    rivals = [row for row in rows if not row["subject"].startswith(OURS)]
    write_rows([compare(rival, presets) for rival in rivals], args.out)


if __name__ == "__main__":
    main()
