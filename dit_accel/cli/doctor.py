"""``dit-accel doctor``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import SOURCE_HELP, Device, Dtype, Inputs, Offload, VaeTiling, load_pipeline, pipeline_inputs
from .output import Drawn, Result, Table, status

if TYPE_CHECKING:
    from ..self_test import Check

# Package -> what it is for, if not for everything.
_PACKAGES = {
    "dit_accel": "",
    "torch": "",
    "diffusers": "",
    "transformers": "",
    "accelerate": "",
    "typer": "",
    "scikit-image": "ssim",
    "lpips": "lpips",
    "stlpips_pytorch": "st_lpips",
    "jinja2": "report page",
    "matplotlib": "pictures, report page",
    "triton": "sparse attention on GPUs",
    "flashinfer-python": "sparse attention on GPUs",
    "ray": "profiles on a cluster",
}


def doctor(
    *,
    pipeline: Annotated[
        str | None, typer.Argument(help=f"put this to a self-test: {SOURCE_HELP}", show_default=False)
    ] = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    offload: Offload = "none",
    vae_tiling: VaeTiling = False,
    inputs: Inputs = "{}",
    self_test: Annotated[
        str | None,
        typer.Option(
            metavar="FAMILY",
            help="put the smallest real pipelines of a family, e.g. wan, or of one class, e.g. WanPipeline, to a "
            "self-test; they need no download.",
        ),
    ] = None,
) -> Result:
    """Tell what is installed and works, and test a pipeline.

    The test runs it a few steps with and without acceleration: what must be the same to the bit, what must be undone.
    """
    with status("Looking"):
        data, parts = _installation()
    if pipeline is None and self_test is None:
        return Result(data, parts)
    checks: list[Check] = []
    if pipeline is not None:
        pipe = load_pipeline(pipeline, dtype, device, offload=offload, vae_tiling=vae_tiling)
        checks += _checks_of(pipe, pipeline_inputs(pipeline, inputs))
    if self_test is not None:
        checks += _checks_of_tiny(self_test)
    rows = [[check.pipeline, check.name, "fail" if check.problem else "pass", check.problem or ""] for check in checks]
    failed = sum(check.problem is not None for check in checks)
    return Result(
        {**data, "self_test": checks},
        [*parts, Table(["pipeline", "check", "result", "problem"], rows, num_words=4)],
        f"{failed} of {len(checks)} checks failed" if failed else None,
    )


def _installation() -> tuple[dict[str, Any], list[str | Drawn]]:
    """Packages, device, families, backends and metrics, and how they are shown."""
    import torch

    from ..quality.metrics import METRICS, unavailable_metrics
    from ..registry import all_specs
    from ..sparse.backends import backend_report

    has_cuda = torch.cuda.is_available()
    packages = {name: _version(name) for name in _PACKAGES}
    device = torch.cuda.get_device_name() if has_cuda else "cpu"
    families = {spec.family: [name.rsplit(".", 1)[1] for name in spec.pipelines] for spec in all_specs()}
    backends = backend_report(torch.device("cuda" if has_cuda else "cpu"))
    missing = unavailable_metrics()
    data = {
        "packages": packages,
        "device": device,
        "families": families,
        "sparse_backends": backends,
        "unavailable_metrics": missing,
    }
    parts: list[str | Drawn] = [
        _table(
            "{0} {1}", ("package", "version", "for"), [(name, packages[name], use) for name, use in _PACKAGES.items()]
        ),
        _table("device {}", ("device",), [(device,)]),
        _table("family {}: {}", ("family", "pipelines"), [(name, ", ".join(each)) for name, each in families.items()]),
        _table("sparse attention backend {}: {}", ("sparse attention backend", "state"), [*backends.items()]),
        _table("metric {}: {}", ("metric", "state"), [(name, missing.get(name, "ok")) for name in METRICS]),
    ]
    return data, parts


def _table(line: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table of words, as text one ``line`` a row."""
    return Table(head, rows, num_words=len(head), text="\n".join(line.format(*row) for row in rows))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _checks_of(pipe: Any, inputs: dict[str, Any]) -> list[Check]:
    from ..self_test import check_contract, tiny_of

    with status(f"Testing {type(pipe).__name__}"):
        return list(check_contract(pipe, tiny_of(pipe), **inputs))


def _checks_of_tiny(name: str) -> Iterator[Check]:
    from ..self_test import check_contract, tiny_pipelines

    pipelines = tiny_pipelines(name)
    for number, (class_name, tiny) in enumerate(pipelines.items(), 1):
        with status(f"Testing {class_name}, {number} of {len(pipelines)}"):
            pipe = tiny.build()
            pipe.set_progress_bar_config(disable=True)
            yield from check_contract(pipe, tiny)
