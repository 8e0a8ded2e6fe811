"""Which specification covers a pipeline, and which published model it is."""

from __future__ import annotations

import dataclasses
import re
from types import SimpleNamespace
from typing import Any

import pytest

from dit_accel import (
    DBCacheConfig,
    LeMiCaConfig,
    SVG2Config,
    available_presets,
    disable_acceleration,
    enable_acceleration,
)
from dit_accel.errors import UnsupportedPipelineError
from dit_accel.pipelines import wan
from dit_accel.registry import all_specs, find_spec, find_variant, register_pipeline
from dit_accel.schedule import shipped_schedules
from dit_accel.specs import PipelineSpec, Variant


class StrangePipeline:
    """No family covers it."""

    transformer = None


class WanPipelin(StrangePipeline):
    """Nor this, but the name is near to one that is."""


@pytest.mark.parametrize("verb", [lambda p: enable_acceleration(p, "x"), disable_acceleration, available_presets])
def test_an_unknown_pipeline_is_met_with_the_nearest_and_how_to_add_it(verb):
    with pytest.raises(UnsupportedPipelineError) as caught:
        verb(WanPipelin())
    message = str(caught.value)
    assert "WanPipelin is not supported. The nearest supported pipeline is WanPipeline, of the family 'wan'" in message
    assert "one file in pipelines/ that calls register_pipeline; see CONTRIBUTING.md" in message
    supported = re.search(r"Supported: (.*?)\.", message).group(1).split(", ")
    assert supported == sorted(name.rsplit(".", 1)[1] for spec in all_specs() for name in spec.pipelines)


def test_a_name_that_is_near_to_none_has_a_nearest_all_the_same():
    with pytest.raises(UnsupportedPipelineError, match=r"StrangePipeline is not supported. The nearest supported"):
        find_spec(StrangePipeline())


def test_a_class_of_the_same_name_from_elsewhere_is_not_covered():
    impostor = type("WanPipeline", (), {})
    with pytest.raises(UnsupportedPipelineError, match="WanPipeline is not supported"):
        find_spec(impostor())


def test_a_class_cannot_be_covered_twice():
    other = PipelineSpec("other", wan.WAN.pipelines, wan.WAN.denoisers)
    with pytest.raises(UnsupportedPipelineError, match="already covered by the family 'wan'"):
        register_pipeline(other)
    assert register_pipeline(wan.WAN) is wan.WAN
    assert all_specs().count(wan.WAN) == 1 and other not in all_specs()


def test_every_family_and_every_class_is_registered_once():
    specs = all_specs()
    names = [name for spec in specs for name in spec.pipelines]
    assert len(set(names)) == len(names)
    assert len({spec.family for spec in specs}) == len(specs)


# Published models


def fake(cls: str = "WanPipeline", denoisers: tuple[str, ...] = ("transformer",), **config: Any) -> Any:
    """A pipeline of which only class and configuration matter; both denoisers have the same."""
    found = {name: SimpleNamespace(config=config) for name in denoisers}
    return type(cls, (), {"transformer": None, "transformer_2": None, **found})()


VARIANTS = (
    Variant("one", {"num_layers": 30, "image_dim": None}, {}, ("WanPipeline", "WanVideoToVideoPipeline")),
    Variant("two", {"num_layers": 30}, {}, ("WanPipeline",), ("transformer", "transformer_2")),
    Variant("three", {"num_layers": 40}, {}, ("WanPipeline",)),
)


@pytest.mark.parametrize(
    ("pipe", "name"),
    [
        (fake(num_layers=30), "one"),
        (fake(num_layers=30, image_dim=None, more=1), "one"),
        (fake("WanVideoToVideoPipeline", num_layers=30), "one"),
        (fake(num_layers=30, image_dim=1280), None),
        (fake(num_layers=40), "three"),
        (fake(num_layers=50), None),
        (fake(), None),
        (fake("WanVACEPipeline", num_layers=30), None),
        (fake(denoisers=("transformer", "transformer_2"), num_layers=30), "two"),
        (fake(denoisers=("transformer", "transformer_2"), num_layers=40), None),
        (fake(denoisers=("transformer_2",), num_layers=30), None),
        (fake(denoisers=(), num_layers=30), None),
    ],
)
def test_a_variant_is_of_its_class_its_denoisers_and_all_of_its_values(pipe, name):
    found = find_variant(pipe, dataclasses.replace(wan.WAN, variants=VARIANTS))
    assert (found and found.name) == name


@pytest.mark.parametrize(
    "variant", [variant for spec in all_specs() for variant in spec.variants], ids=lambda variant: variant.name
)
def test_every_preset_of_a_shipped_variant_can_be_built(variant):
    planned = [name for name in variant.presets if name.startswith(("lemica-", "planned-"))]
    schedules = [f"{variant.name}/{name}" for name in planned]
    assert set(schedules) <= set(shipped_schedules())
    for name, build in variant.presets.items():
        (config,) = build()
        if isinstance(config, LeMiCaConfig):
            assert config.schedule == f"{variant.name}/{name}"
        else:
            assert name.startswith({DBCacheConfig: "dbcache-", SVG2Config: "svg2"}[type(config)])


def test_every_variant_names_classes_and_denoisers_of_its_family():
    for spec in all_specs():
        classes = {name.rsplit(".", 1)[1] for name in spec.pipelines}
        for variant in spec.variants:
            assert set(variant.pipelines) <= classes
            assert set(variant.denoisers) <= set(spec.denoisers)


def test_every_shipped_schedule_is_a_preset():
    variants = [variant for spec in all_specs() for variant in spec.variants]
    presets = {f"{variant.name}/{name}" for variant in variants for name in variant.presets}
    others = set(shipped_schedules()) - presets
    assert {name.split("/")[0] for name in others} == {"digits-wan-hold"}  # what the presets are compared with
