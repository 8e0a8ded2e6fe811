"""The embedded demo model: a small text-to-video DiT, trained for this project, as an ordinary ``WanPipeline``."""

from __future__ import annotations

from importlib.resources import as_file, files
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import WanPipeline

DEMO_INPUTS: MappingProxyType[str, Any] = MappingProxyType(
    # One latent frame is one frame here, and the pipeline adds one to num_frames: 8 draws 9.
    {"height": 48, "width": 48, "num_frames": 8, "guidance_scale": 4.0, "max_sequence_length": 16}
)


def load_demo_pipeline() -> WanPipeline:
    """The ``digits-wan`` pipeline: CPU, float32, no download.

    It draws handwritten digits that move, from prompts of the form ``"a red seven moving left on navy"``; call it with
    ``**DEMO_INPUTS``. Videos have 9 frames of 48x48 pixels.
    """
    from diffusers import WanPipeline

    with as_file(files("dit_accel.pipelines.digits_wan").joinpath("weights")) as folder:
        return WanPipeline.from_pretrained(str(folder), local_files_only=True)
