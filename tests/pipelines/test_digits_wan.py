"""The demo model's data, scorer, analytic parts and training loop, and the weights that ship."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dit_accel.demo import DEMO_INPUTS, load_demo_pipeline
from dit_accel.pipelines.digits_wan import build, train
from dit_accel.pipelines.digits_wan.captions import MOTIONS, Caption, all_captions, words
from dit_accel.pipelines.digits_wan.clips import prototypes, render
from dit_accel.pipelines.digits_wan.score import read_clip, score
from dit_accel.pipelines.digits_wan.text import build_tokenizer, embed
from dit_accel.pipelines.digits_wan.vae import LatentEncoder, build_vae, to_unit
from dit_accel.showcase import HELD_OUT_PROMPTS

TEXTS = {caption.text: caption for caption in all_captions()}


def some_captions(count: int, seed: int) -> list[Caption]:
    captions = all_captions()
    return [captions[i] for i in np.random.default_rng(seed).integers(len(captions), size=count)]


def as_numpy(clips: torch.Tensor) -> list[np.ndarray]:
    return list(clips.permute(0, 2, 3, 4, 1).numpy())


def test_grammar() -> None:
    assert len(TEXTS) == 8 * 10 * 8 * 3
    assert "a red seven moving left on navy" in TEXTS
    assert {word for text in TEXTS for word in text.split()} == set(words())
    held_out = {(c.colour, c.digit, c.motion) for c in all_captions() if c.is_held_out}
    assert 0.05 < len(held_out) / 640 < 0.1


def test_report_prompts_were_never_trained_on_or_profiled() -> None:
    from dit_accel.profiling.job_file import JobFile

    job = JobFile.load(Path("offline_profiles/jobs/digits-wan.toml"))
    assert len(set(HELD_OUT_PROMPTS)) == 8
    assert all(TEXTS[prompt].is_held_out for prompt in HELD_OUT_PROMPTS)
    assert not set(job.profile["prompts"]) & set(HELD_OUT_PROMPTS)
    assert {TEXTS[prompt].motion for prompt in HELD_OUT_PROMPTS} == set(MOTIONS)


def test_clips_depend_on_the_generator_alone() -> None:
    captions = some_captions(3, seed=0)
    first, again = (render(captions, np.random.default_rng(1)) for _ in range(2))
    assert first.shape == (3, 3, 9, 48, 48) and first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert not torch.equal(first, render(captions, np.random.default_rng(2)))
    assert all(len(hands) == 12 for hands in prototypes().values())


def test_scorer_reads_real_clips_and_notices_wrong_ones() -> None:
    captions = some_captions(200, seed=3)
    clips = as_numpy(render(captions, np.random.default_rng(3)))
    assert min(score(clips, captions).values()) >= 0.97
    assert max(score(clips, captions[1:] + captions[:1])[word] for word in ("colour", "digit", "motion")) < 0.3


@pytest.mark.parametrize("motion", MOTIONS)
def test_each_motion_is_told_from_the_others(motion: str) -> None:
    captions = [Caption("red", "seven", motion, "navy")] * 8
    clips = as_numpy(render(captions, np.random.default_rng(4)))
    assert all(read_clip(clip, caption).motion == motion for clip, caption in zip(clips, captions, strict=True))


def test_vae_is_its_principal_components() -> None:
    vae = build_vae()
    clips = render(some_captions(8, seed=5), np.random.default_rng(5))
    with torch.inference_mode():
        latents = vae.encode(to_unit(clips)).latent_dist.mean
        decoded = vae.decode(latents).sample
    assert latents.shape == (8, 16, 9, 12, 12)
    psnr_db = 10 * torch.log10(4 / (decoded - to_unit(clips)).square().flatten(1).mean(1))
    assert psnr_db.mean() > 34
    std = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    relative = (LatentEncoder(vae)(clips) - latents / std).norm() / (latents / std).norm()
    assert relative < 0.05


def test_words_are_orthogonal_and_unmixed() -> None:
    first, second = embed(["a red seven moving left on navy", "a blue seven spinning on black"])
    assert torch.allclose(first[2], second[2], atol=1e-5)  # "seven" is the same vector in every sentence
    gram = first[:7] @ first[:7].T
    assert torch.allclose(gram, torch.diag(gram.diagonal()), atol=1e-3)
    assert build_tokenizer().unk_token_id not in build_tokenizer()(list(TEXTS)[:50]).input_ids[0]


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning")  # autocast, in torch
def test_training_resumes_where_it_stopped(tmp_path: Path) -> None:
    config = train.TrainConfig(
        stage1_steps=2, stage2_steps=2, stage1_batch=2, stage2_batch=2, pool_clips=100, decay_steps=2
    )
    pool = train.ClipPool(config, 0, 1)

    def trainer(workdir: Path) -> train.Trainer:
        workdir.mkdir(exist_ok=True)
        return train.Trainer(config, workdir, 0, 1, torch.device("cpu"))

    with torch.compiler.set_stance("force_eager"):
        whole = trainer(tmp_path / "whole")
        losses = [whole.train_step(pool) for _ in range(4)]
        part = trainer(tmp_path / "part")
        assert [part.train_step(pool) for _ in range(3)] == losses[:3]
        part.save()
        resumed = trainer(tmp_path / "part")
        assert resumed.step == 3
        assert resumed.train_step(pool) == losses[3]
    trained, again = (each.export().state_dict() for each in (whole, resumed))
    for name, value in trained.items():
        assert torch.equal(value, again[name]), name
    start = train.build_transformer(config.seed).state_dict()
    assert not torch.equal(start["proj_out.weight"], trained["proj_out.weight"])


def test_shipped_pipeline_draws_what_is_asked() -> None:
    pipe = load_demo_pipeline()
    pipe.set_progress_bar_config(disable=True)
    assert type(pipe).__name__ == "WanPipeline" and len(pipe.transformer.blocks) >= 12
    captions = build.held_out_captions(4, seed=11)
    result = score(build.generate(pipe, captions, seed=11, num_steps=20), captions)
    assert result["colour"] == result["background"] == 1.0
    assert result["motion"] >= 0.75 and result["digit"] >= 0.5


def test_committed_scores_are_of_enough_clips_and_a_scorer_that_reads_the_ground_truth() -> None:
    scores = json.loads(Path("pipelines/digits_wan/scores.json").read_text())
    assert scores["clips"] == 64 and scores["ground_truth"]["digit"] >= 0.97


def test_shipped_pipeline_is_small_and_complete() -> None:
    folder = Path("pipelines/digits_wan/weights")
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 20e6
    parts = {"transformer", "vae", "text_encoder", "tokenizer", "scheduler"}
    assert parts <= {path.name for path in folder.iterdir()}
    assert not list(folder.rglob("*.bin")) and not list(folder.rglob("*.pt"))
    assert dict(DEMO_INPUTS)["height"] == 48
