"""Assemble the trained parts into a ``WanPipeline`` directory, and score it.

python -m dit_accel.pipelines.digits_wan.build --workdir build/digits-wan --out build/digits-wan/pipeline
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from diffusers import UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from PIL import Image, ImageDraw

from dit_accel.demo import DEMO_INPUTS

from .captions import Caption, all_captions
from .clips import render
from .score import score
from .text import build_text_encoder, build_tokenizer
from .vae import build_vae

NUM_SCORED = 64
NUM_TRUTH_CLIPS = 512
SCORE_SEED = 2024


def assemble(transformer: WanTransformer3DModel, out: Path) -> None:
    """Write the whole pipeline in float32."""
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    pipe = WanPipeline(
        tokenizer=build_tokenizer(),
        text_encoder=build_text_encoder(),
        vae=build_vae(),
        transformer=transformer,
        scheduler=scheduler,
    )
    pipe.save_pretrained(out)
    edits = (
        # transformers 5 writes a class name that version 4 does not have; the older name loads everywhere
        ("model_index.json", "tokenizer", ["transformers", "PreTrainedTokenizerFast"]),
        ("tokenizer/tokenizer_config.json", "tokenizer_class", "PreTrainedTokenizerFast"),
        ("transformer/config.json", "_name_or_path", "digits-wan"),
    )
    for name, key, value in edits:
        record = json.loads((out / name).read_text())
        record[key] = value
        (out / name).write_text(json.dumps(record, indent=2) + "\n")


def held_out_captions(count: int, seed: int) -> list[Caption]:
    """``count`` different captions whose (colour, digit, motion) was never trained, in random order."""
    pool = [caption for caption in all_captions() if caption.is_held_out]
    return [pool[i] for i in np.random.default_rng(seed).permutation(len(pool))[:count]]


def generate(
    pipe: WanPipeline, captions: list[Caption], seed: int, num_steps: int = 50, batch: int = 8
) -> list[np.ndarray]:
    """One uint8 clip [9, 48, 48, 3] a caption; clip k is drawn from seed ``seed + k``."""
    videos: list[np.ndarray] = []
    for start in range(0, len(captions), batch):
        group = captions[start : start + batch]
        generators = [torch.Generator().manual_seed(seed + start + k) for k in range(len(group))]
        frames = pipe(
            prompt=[caption.text for caption in group],
            num_inference_steps=num_steps,
            generator=generators,
            **DEMO_INPUTS,
        ).frames
        videos += [(video * 255).round().astype(np.uint8) for video in frames]
    return videos


def score_ground_truth(count: int = NUM_TRUTH_CLIPS) -> dict[str, float]:
    """What the scorer gives rendered clips of random captions: its own ceiling."""
    rng = np.random.default_rng(SCORE_SEED)
    captions = [all_captions()[i] for i in rng.integers(len(all_captions()), size=count)]
    return score(list(render(captions, rng).permute(0, 2, 3, 4, 1).numpy()), captions)


def contact_sheet(videos: list[np.ndarray], titles: list[str], path: Path, scale: int = 2) -> None:
    """One row of frames a video, its prompt beside it."""
    rows = []
    for video, title in zip(videos, titles, strict=True):
        frames = np.concatenate([np.pad(f, ((1, 1), (1, 1), (0, 0)), constant_values=128) for f in video], axis=1)
        strip = Image.fromarray(frames).resize(
            (frames.shape[1] * scale, frames.shape[0] * scale), Image.Resampling.NEAREST
        )
        row = Image.new("RGB", (strip.width + 230, strip.height), (255, 255, 255))
        row.paste(strip, (230, 0))
        ImageDraw.Draw(row).text((6, strip.height // 2 - 6), title, fill=(0, 0, 0))
        rows.append(np.asarray(row))
    Image.fromarray(np.concatenate(rows)).save(path)


def main() -> None:
    """Assemble, generate held-out prompts, score them and the ground truth, write a contact sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True, help="where train.py left 'transformer'")
    parser.add_argument("--out", type=Path, required=True, help="the pipeline directory to write")
    parser.add_argument("--num", type=int, default=NUM_SCORED, help="held-out prompts to score")
    args = parser.parse_args()
    assemble(WanTransformer3DModel.from_pretrained(args.workdir / "transformer"), args.out)
    captions = held_out_captions(args.num, SCORE_SEED)
    pipe = WanPipeline.from_pretrained(args.out)
    videos = generate(pipe, captions, SCORE_SEED)
    scores = {
        "date": datetime.now(UTC).date().isoformat(),
        "ground_truth": score_ground_truth(),
        "generated": score(videos, captions),
        "clips": args.num,
        "ground_truth_clips": NUM_TRUTH_CLIPS,
    }
    (args.out / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
    print(json.dumps(scores, indent=2))
    contact_sheet(videos[:12], [caption.text for caption in captions[:12]], args.out / "contact_sheet.png")


if __name__ == "__main__":
    main()
