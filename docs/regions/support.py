"""What is supported, from the specifications."""

from __future__ import annotations

from functools import cache
from importlib.metadata import requires

from dit_accel.configs import DBCacheConfig, LeMiCaConfig, SVG2Config
from dit_accel.registry import all_specs
from dit_accel.specs import AttentionSpec, PipelineSpec, PresetBuilder, Variant

from .markdown import code, table

_SOURCE = "*From the specifications in `pipelines/`: `python docs/generate.py`.*\n"


def supported_count() -> str:
    """How many classes and families there are."""
    specs = all_specs()
    classes = sum(len(spec.pipelines) for spec in specs)
    (diffusers,) = [each for each in requires("dit-accel") or () if each.startswith("diffusers")]
    return f"{classes} pipeline classes in {len(specs)} families, of `{diffusers}`."


def support_matrix() -> str:
    """Family and class against what can be enabled."""
    rows = []
    for spec in all_specs():
        for number, name in enumerate(spec.pipelines):
            short = name.rsplit(".", 1)[1]
            schedules = ", ".join(code(each.name) for each in spec.variants if short in each.pipelines) or "–"
            rows.append(
                [
                    spec.family if number == 0 else "",
                    code(short),
                    "yes" if "dbcache-medium" in spec.presets else "no",
                    schedules,
                    why_not_sparse(spec) or "yes",
                ]
            )
    head = ["family", "pipeline class", "`dbcache-*`", "shipped `lemica-*` schedules", "`svg2`, `svg2-turbo`"]
    return table(head, rows, text_columns=5) + f"\n{_SOURCE}"


def why_not_sparse(spec: PipelineSpec) -> str:
    """Why sparse attention does not apply to the family, or nothing."""
    reasons = {
        blocks.attention for blocks in spec.denoisers.values() if not isinstance(blocks.attention, AttentionSpec)
    }
    return "no: " + "; ".join(sorted(map(str, reasons))) if reasons else ""


def support_summary() -> str:
    """Presets and what they are on, in a few rows."""
    specs = all_specs()
    published = [each.name for spec in specs for each in spec.variants if not _is_demo(each)]
    no_svg2 = [spec.family for spec in specs if why_not_sparse(spec)]
    everywhere = all("dbcache-medium" in spec.presets for spec in specs)
    rows = [
        [_names("dbcache"), "every family" if everywhere else "some families"],
        [_names("svg2"), f"every family but {', '.join(no_svg2)}, which raise with the reason"],
        [
            _names("lemica"),
            f"the demo model (measured here); {', '.join(published)} (published step lists, not measured here)",
        ],
        [_names("planned"), "the demo model (measured here)"],
        ["your own schedule", "every family: profile your model"],
    ]
    return table(["presets", "on"], rows, text_columns=2) + f"\n{_SOURCE}"


def spec_examples() -> str:
    """Block specifications that differ, one of each kind."""
    seen: dict[tuple[object, ...], str] = {}
    for spec in all_specs():
        blocks = spec.denoisers[next(iter(spec.denoisers))]
        kind = (
            len(blocks.lists),
            len(blocks.streams),
            blocks.video,
            blocks.is_interleaved,
            blocks.compute_when,
            len(spec.denoisers),
            _attention_kind(blocks.attention),
        )
        seen.setdefault(kind, spec.family)
    rows = []
    for spec in all_specs():
        if spec.family in seen.values():
            for name, blocks in spec.denoisers.items():
                text = _attention_text(blocks.attention)
                extras = ["interleaved"] * blocks.is_interleaved
                extras += [f"video: `{blocks.video}`"] * (blocks.video is not None)
                extras += [f"computes when `{', '.join(blocks.compute_when)}`"] * bool(blocks.compute_when)
                cells = (", ".join(map(code, names)) for names in (blocks.lists, blocks.streams))
                rows.append([spec.family, code(name), *cells, "; ".join(extras) or "–", text])
    head = ["family", "denoiser", "`lists`", "`streams`", "special", "`attention`"]
    return table(head, rows, text_columns=6) + f"\n{_SOURCE}"


def _attention_text(attention: AttentionSpec | str) -> str:
    if isinstance(attention, str):
        return attention
    said = [f"`path={attention.path!r}`"]
    said += [f"`text={attention.text!r}`"] * (attention.text != "none")
    said += ["`masks_only_text=True`"] * attention.masks_only_text
    return ", ".join([*said, *(f"in place of `{name}` its predecessor's" for name in attention.processors)])


def _attention_kind(attention: AttentionSpec | str) -> object:
    if isinstance(attention, str):
        return "none"
    return attention.text, attention.masks_only_text, "." in attention.path, bool(attention.processors)


def preset_knobs() -> str:
    """What each preset sets besides the defaults."""
    demo = _demo()
    common = next(spec for spec in all_specs() if not spec.variants and not why_not_sparse(spec)).all_presets
    sets = (("every family", common), (demo.name, demo.presets))
    rows = [
        [code(name), where, ", ".join(_settings(build))]
        for where, presets in sets
        for name, build in presets.items()
        if not name.startswith(("lemica", "planned"))
    ]
    return table(["preset", "on", "sets"], rows, text_columns=3) + f"\n{_SOURCE}"


def _settings(build: PresetBuilder) -> list[str]:
    settings = []
    for config in build():
        if isinstance(config, LeMiCaConfig):
            settings.append(code(f"schedule={config.schedule!r}"))
            continue
        defaults = type(config)()
        assert isinstance(defaults, (DBCacheConfig, SVG2Config))
        for name in type(config).__dataclass_fields__:
            if not name.startswith("_") and getattr(config, name) != getattr(defaults, name):
                settings.append(code(f"{name}={getattr(config, name)!r}"))
    return settings or ["the defaults"]


def _names(method: str) -> str:
    """All presets of a method, on any model."""
    found = {name: None for spec in all_specs() for variant in spec.variants for name in variant.presets}
    return ", ".join(code(name) for name in found if name.startswith(method))


@cache
def _demo() -> Variant:
    (demo,) = [variant for spec in all_specs() for variant in spec.variants if _is_demo(variant)]
    return demo


def _is_demo(variant: Variant) -> bool:
    return variant.name == "digits-wan"


REGIONS = {
    "supported-count": supported_count,
    "support-summary": support_summary,
    "support-matrix": support_matrix,
    "spec-examples": spec_examples,
    "preset-knobs": preset_knobs,
}
