"""A pipeline that a job names is data: no weights that are pickles, no Python files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dit_accel.errors import JobError
from dit_accel.loading import load_pipeline
from dit_accel.pipelines import wan


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pipeline") / "tiny"
    wan.tiny().save_pretrained(path)
    return path


def test_pickled_weights_are_not_opened(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("a pickle was opened")

    part = folder / "transformer"
    whole = part / "diffusion_pytorch_model.safetensors"
    whole.rename(tmp_path / whole.name)
    (part / "diffusion_pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch /tmp/owned'\ntR.")
    monkeypatch.setattr(torch, "load", load)
    try:
        with pytest.raises(JobError, match=r"Only weights in safetensors are read, and no code"):
            load_pipeline(str(folder))
    finally:
        (tmp_path / whole.name).rename(whole)
        (part / "diffusion_pytorch_model.bin").unlink()


def test_python_files_are_not_run(folder: Path, tmp_path: Path) -> None:
    index = folder / "model_index.json"
    before = index.read_text(encoding="utf-8")
    ran = tmp_path / "ran"
    (folder / "mine.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Mine: pass\n", encoding="utf-8")
    (folder / "transformer" / "mine.py").write_text((folder / "mine.py").read_text(encoding="utf-8"), encoding="utf-8")
    try:
        for change in ({"_class_name": ["mine", "Mine"]}, {"transformer": ["mine", "Mine"]}):
            index.write_text(json.dumps({**json.loads(before), **change}), encoding="utf-8")
            with pytest.raises(JobError, match="cannot load the pipeline"):
                load_pipeline(str(folder))
            assert not ran.exists()
    finally:
        index.write_text(before, encoding="utf-8")
