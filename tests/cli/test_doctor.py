"""``dit-accel doctor``."""

from __future__ import annotations

import json

from dit_accel.registry import all_specs

from .shell import Shell


def test_doctor(shell: Shell) -> None:
    found = json.loads(shell.ok("doctor", "--json"))
    assert found["packages"]["torch"] and found["device"]
    assert found["families"]["wan"][:2] == ["WanPipeline", "WanImageToVideoPipeline"]
    assert sum(map(len, found["families"].values())) == sum(len(spec.pipelines) for spec in all_specs())
    assert found["sparse_backends"]["torch"] == "ok"
    assert "runs on cuda" in found["sparse_backends"]["flashinfer"] or found["device"] != "cpu"
    text = shell.ok("doctor")
    assert "family wan: WanPipeline, WanImageToVideoPipeline" in text
    assert all(f"sparse attention backend {name}: {s}" in text for name, s in found["sparse_backends"].items())
