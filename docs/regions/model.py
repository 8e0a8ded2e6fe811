"""The embedded model: how large it is and how well it draws."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from .data import ROOT, dated, read
from .markdown import percent, table

FOLDER = ROOT / "pipelines" / "digits_wan"
_BUILT = "build/digits-wan"
SCORING = f"python -m dit_accel.pipelines.digits_wan.build --workdir {_BUILT} --out {_BUILT}/pipeline"
_SHOWN = ("colour", "background", "motion", "digit", "all")


def size() -> str:
    """Blocks and trained parameters, from the weights."""
    config = read(FOLDER / "weights" / "transformer" / "config.json")
    count = num_parameters(FOLDER / "weights" / "transformer" / "diffusion_pytorch_model.safetensors")
    return f"`digits-wan` has {config['num_layers']} blocks and {count / 1e6:.2f} M trained parameters."


def num_parameters(path: Path) -> int:
    """Numbers in a safetensors file, read off its header."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def read_scores() -> dict[str, Any]:
    """What the scorer found when the model was built."""
    return read(FOLDER / "scores.json")


def scores() -> str:
    """The scorer's shares."""
    found = read_scores()
    rows = [
        [f"{label}, {found[clips]} clips", *(percent(found[key][name], 1) for name in _SHOWN)]
        for label, key, clips in (
            ("generated from held-out prompts", "generated", "clips"),
            ("rendered ground truth", "ground_truth", "ground_truth_clips"),
        )
    ]
    head = ["share of clips that show the asked …", *_SHOWN[:-1], "all four"]
    return table(head, rows) + f"\n*`{SCORING}` · {dated(found, 'scores.json')}*\n"


REGIONS = {"model-size": size, "model-scores": scores}
