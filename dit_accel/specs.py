"""What dit_accel knows about a pipeline family, as pure data. One file in ``pipelines/`` fills these in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .configs import Config, LeMiCaConfig

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

PresetBuilder = Callable[[], tuple[Config, ...]]


@dataclass(frozen=True, slots=True)
class BlockSpec:
    """Where a denoiser keeps its transformer blocks and which tensors flow through them.

    Args:
        lists: attribute names of the ``ModuleList`` s, in execution order.
        streams: names of the block arguments that a block transforms, in the order in which it returns them; one
            stream is returned bare, several as a tuple.
    """

    lists: tuple[str, ...]
    streams: tuple[str, ...] = ("hidden_states",)


@dataclass(frozen=True, slots=True, eq=False)
class Variant:
    """One published model of a family, recognised by the configuration of its denoiser, with its presets.

    Args:
        name: also the folder of its schedules in ``offline_profiles/``.
        denoiser_config: configuration values that must all be equal for the variant to be recognised.
        presets: preset name -> builder of its configs.
    """

    name: str
    denoiser_config: Mapping[str, Any]
    presets: Mapping[str, PresetBuilder]


@dataclass(frozen=True, slots=True, eq=False)
class PipelineSpec:
    """A family of pipelines that share denoiser blocks.

    Args:
        family: short name used in messages.
        pipeline_classes: qualified names of the diffusers pipeline classes covered.
        denoisers: pipeline attributes that hold a denoiser; an attribute that is None is skipped.
        blocks: how the denoisers' blocks are laid out.
        tiny: builds the smallest real pipeline of the family (random weights, no download), for contract tests.
        tiny_inputs: keyword arguments of a call of the tiny pipeline.
        variants: published models with presets of their own.
    """

    family: str
    pipeline_classes: tuple[str, ...]
    denoisers: tuple[str, ...]
    blocks: BlockSpec
    tiny: Callable[[], DiffusionPipeline]
    tiny_inputs: Mapping[str, Any]
    variants: tuple[Variant, ...] = field(default=())


def lemica_presets(variant: str, names: tuple[str, ...]) -> dict[str, PresetBuilder]:
    """Presets that are each a shipped schedule ``<variant>/<name>``."""

    def builder(name: str) -> PresetBuilder:
        return lambda: (LeMiCaConfig(f"{variant}/{name}"),)

    return {name: builder(name) for name in names}
