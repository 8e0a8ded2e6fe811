"""Pipelines by name: the embedded one, folders, how they are placed, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dit_accel.errors import JobError
from dit_accel.loading import load_pipeline
from dit_accel.pipelines import wan


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline, saved as diffusers saves it."""
    folder = tmp_path_factory.mktemp("pipeline") / "tiny-wan"
    wan.tiny().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", ["float3", "int8", "nn", "", "bool"])
def test_bad_dtypes(dtype: str) -> None:
    with pytest.raises(JobError, match=f"dtype='{dtype}' is not a torch dtype. Use float32"):
        load_pipeline("demo", dtype)


def test_bad_sources_and_devices(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model_index.json").write_text("{")
    (tmp_path / "file").write_text("")
    for name in ("empty", "broken", "file", "absent/../..", "a\0b"):
        with pytest.raises(JobError, match="diffusers cannot load the pipeline"):
            load_pipeline(str(tmp_path / name))
    for device in ("gpu", "cuda:99"):
        with pytest.raises(JobError, match=f"cannot be moved to device='{device}'"):
            load_pipeline(str(source), device=device)


def test_a_pipeline_comes_in_its_dtype(source: Path) -> None:
    transformer = load_pipeline(str(source), "bfloat16").transformer
    assert transformer.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
    assert transformer.blocks[0].scale_shift_table.dtype == torch.float32  # as the model's class asks for


def test_tiles(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_pipeline(str(source)).vae.use_tiling is False
    assert load_pipeline(str(source), vae_tiling=True).vae.use_tiling is True
    pipe = wan.tiny()
    pipe.vae = torch.nn.Identity()
    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", lambda *_, **__: pipe)
    with pytest.raises(JobError, match=r"The VAE of WanPipeline cannot decode in tiles: .*enable_tiling"):
        load_pipeline("x", vae_tiling=True)


def test_offload(source: Path) -> None:
    with pytest.raises(JobError, match=r"offload='disk' is not allowed. Use one of: none, model, sequential"):
        load_pipeline(str(source), offload="disk")
    with pytest.raises(JobError, match=r"offload='model' moves weights between a GPU and the CPU"):
        load_pipeline(str(source), offload="model")


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offload_is_that_of_diffusers(source: Path, monkeypatch: pytest.MonkeyPatch, offload: str) -> None:
    asked = []
    method = f"enable_{offload}_cpu_offload"
    monkeypatch.setattr(f"diffusers.WanPipeline.{method}", lambda self, device: asked.append(device))
    load_pipeline(str(source), device="cuda", offload=offload)
    assert asked == ["cuda"]
