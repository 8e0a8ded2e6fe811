"""What dit_accel knows about a pipeline family, as pure data. One file in ``pipelines/`` fills these in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from .configs import Config, DBCacheConfig, Forecast, LeMiCaConfig, SVG2Config

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

PresetBuilder = Callable[[], tuple[Config, ...]]


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """The quadratic self-attention of a denoiser's blocks.

    Args:
        path: attribute of the attention module in every block; ``"a.b"`` is attribute ``b`` of ``a``.
        text: where text tokens stand in the joint sequence; ``"none"``: there are only video tokens.
        masks_only_text: the attention mask that the model gives is False at padded text and nowhere else.
        processors: class name of a processor -> qualified name of one that does the same and builds no S × S mask.
    """

    path: str
    text: Literal["none", "start", "end"] = "none"
    masks_only_text: bool = False
    processors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BlockSpec:
    """Where a denoiser keeps its transformer blocks and which tensors flow through them.

    Args:
        lists: attribute names of the ``ModuleList`` s, in execution order. ``"a.b"`` is attribute ``b`` of ``a``.
        streams: names of the block arguments that a block transforms, in the order in which it returns them; one
            stream is returned bare, several as a tuple. A stream may be None.
        video: the stream that the probe measures; the first if not given.
        is_interleaved: the lists take turns (``a[0], b[0], a[1], b[1], …``) with a reshape in between, so that a
            cached range has to begin and end in blocks of one list.
        compute_when: names of arguments of the denoiser's forward (``"a.b"`` is the item ``b`` of the dict ``a``). A
            call in which one of them is set (neither None nor False) always computes and leaves the cache alone, e.g.
            because its blocks write a KV cache.
        attention: where sparse attention goes, or why it does not apply.
    """

    lists: tuple[str, ...]
    streams: tuple[str, ...] = ("hidden_states",)
    video: str | None = None
    is_interleaved: bool = False
    compute_when: tuple[str, ...] = ()
    attention: AttentionSpec | str = "its specification names no self-attention"


def by_num_inference_steps(num_steps: int) -> dict[str, Any]:
    """The usual way to ask a pipeline for ``num_steps`` steps."""
    return {"num_inference_steps": num_steps}


@dataclass(frozen=True, slots=True, eq=False)
class TinyPipeline:
    """The smallest real pipeline of a class: random weights, no download. For contract tests and ``doctor``.

    Args:
        build: makes it, always with the same weights.
        inputs: makes the arguments of a call, prompt included, without steps and generator.
        steps: number of model steps -> the arguments that ask for them.
        variations: label -> arguments to change for another kind of call ("batch of two", "another size", …).
    """

    build: Callable[[], DiffusionPipeline]
    inputs: Callable[[], dict[str, Any]]
    steps: Callable[[int], dict[str, Any]] = by_num_inference_steps
    variations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def dbcache_presets(
    slow: float = 0.04, medium: float = 0.08, fast: float = 0.16, forecast: Forecast = "hold"
) -> dict[str, PresetBuilder]:
    """The DBCache presets that every family has; the numbers are their thresholds."""

    def builder(threshold: float, limit_steps: int) -> PresetBuilder:
        config = DBCacheConfig(
            residual_diff_threshold=threshold, max_continuous_cached_steps=limit_steps, forecast=forecast
        )
        return lambda: (config,)

    return {
        "dbcache-slow": builder(slow, 2),
        "dbcache-medium": builder(medium, 3),
        "dbcache-fast": builder(fast, 4),
    }


def svg2_presets(**knobs: Any) -> dict[str, PresetBuilder]:
    """The presets of sparse attention; ``knobs`` are fields of `SVG2Config` that both get."""
    turbo = {"top_p": 0.8, "min_kept_ratio": 0.05, "dense_steps": 0.1, **knobs}
    return {"svg2": lambda: (SVG2Config(**knobs),), "svg2-turbo": lambda: (SVG2Config(**turbo),)}


@dataclass(frozen=True, slots=True, eq=False)
class Variant:
    """One published model of a family, recognised by the configuration of its denoiser, with its presets.

    Args:
        name: also the folder of its schedules in ``offline_profiles/``.
        denoiser_config: configuration values that must all be equal for the variant to be recognised.
        presets: preset name -> builder of its configs; they come before the family's.
        pipelines: class names of the pipelines that run this model.
        denoisers: the denoisers it has, and no other (Wan 2.2 has two of the configuration of Wan 2.1).
    """

    name: str
    denoiser_config: Mapping[str, Any]
    presets: Mapping[str, PresetBuilder]
    pipelines: tuple[str, ...]
    denoisers: tuple[str, ...] = ("transformer",)


@dataclass(frozen=True, slots=True, eq=False)
class PipelineSpec:
    """A family of pipelines whose denoisers are built alike.

    Args:
        family: short name used in messages.
        pipelines: qualified name of each diffusers pipeline class covered -> its tiny pipeline.
        denoisers: pipeline attribute that holds a denoiser -> its blocks; an attribute that is None is skipped.
        variants: published models with presets of their own.
        presets: presets that every pipeline of the family has.
    """

    family: str
    pipelines: Mapping[str, TinyPipeline]
    denoisers: Mapping[str, BlockSpec]
    variants: tuple[Variant, ...] = ()
    presets: Mapping[str, PresetBuilder] = field(default_factory=dbcache_presets)

    @property
    def all_presets(self) -> dict[str, PresetBuilder]:
        """Those of the family, with `svg2_presets` where sparse attention applies."""
        is_sparse = all(isinstance(blocks.attention, AttentionSpec) for blocks in self.denoisers.values())
        return {**(svg2_presets() if is_sparse else {}), **self.presets}


LEMICA_PRESETS = ("lemica-slow", "lemica-medium", "lemica-fast", "lemica-ultra")


def lemica_presets(variant: str, names: tuple[str, ...] = LEMICA_PRESETS) -> dict[str, PresetBuilder]:
    """Presets that are each a shipped schedule ``<variant>/<name>``."""

    def builder(name: str) -> PresetBuilder:
        return lambda: (LeMiCaConfig(f"{variant}/{name}"),)

    return {name: builder(name) for name in names}
