"""The actions of `random_walk`: a name, and one value for each of its parameters.

Every action may follow every other one: what is not possible as things are must be refused, with the right error, and
nothing may have changed then.
"""

from __future__ import annotations

from typing import Any

from dit_accel import CacheSchedule, DBCacheConfig, LeMiCaConfig, SVG2Config
from dit_accel import errors as refusals

from .calls import ABORTS
from .requests import SCHEDULERS, STEPS, Subject
from .settings import OFFLOADS

# The two pipelines on one denoiser; a new one on all parts of the first; the first in a thread, or in inference mode.
WHO = (0, 0, 1, "twin", "thread", "inference mode")
CALLS: dict[str, tuple[Any, ...]] = {
    "who": WHO,
    "size": (0, 0, 1, 2),
    "steps": ("right", "right", "right", "other"),
    "batch": (1, 1, 2),
    "prompt": (0, 1),
    "guidance": (4.0, 4.0, 1.0),
    "pause": (None, None, None, 1),
}
SMALL_CALLS = {"who": WHO, "size": (0, 1)}
AT = (0, 2, STEPS - 1)
FOREIGN = LeMiCaConfig(CacheSchedule(STEPS, (0, 3), provenance={"family": "CogVideoX", "name": "foreign"}))
REFUSED: dict[str, tuple[tuple[Any, ...], dict[str, Any], type[Exception]]] = {
    "unknown preset": (("lemica-fst",), {}, refusals.UnknownPresetError),
    "nothing": ((), {}, refusals.ConfigError),
    "not a config": ((3,), {}, refusals.ConfigError),
    "two methods": ((DBCacheConfig(), LeMiCaConfig(CacheSchedule(STEPS, (0, 3)))), {}, refusals.ConfigError),
    "twice the same": (("dbcache-fast", DBCacheConfig()), {}, refusals.ConfigError),
    "unknown field": (("dbcache-fast",), {"treshold": 1}, refusals.ConfigError),
    "no block left": ((DBCacheConfig(probe_blocks=40), SVG2Config()), {}, refusals.ConfigError),
    "no such backend here": ((SVG2Config(backend="flashinfer"),), {}, refusals.BackendUnavailableError),
    "limits beside a preset": (("svg2",), {"speedup": 2.0}, refusals.ConfigError),
}
ON_INSTALLING = ("no block left", "no such backend here")
DISABLES = ("handle", "twice", "pipeline 0", "pipeline 1", "context", "error in the context", "old handle")
# How likely each is, and its parameters. A method is one of the subject's.
ACTIONS: dict[str, tuple[int, dict[str, tuple[Any, ...]]]] = {
    "free": (1, {}),
    "run": (8, CALLS),
    "abort": (5, {"who": WHO, "size": (0, 1), "how": ABORTS, "at": AT}),
    "enable": (6, {"method": (), "through": (0, 1)}),
    "refused": (2, {"why": tuple(REFUSED), "through": (0, 1)}),
    "disable": (3, {"how": DISABLES}),
    "disable in a run": (1, {"at": AT, "size": (0, 1)}),
    "enable in a run": (2, {"at": AT, "size": (0, 1), "method": ()}),
    "run in a run": (1, {"at": AT, "size": (0, 1)}),
    "scheduler": (2, {"who": (0, 1), "kind": tuple(SCHEDULERS)}),
    "offload": (3, {"kind": tuple(OFFLOADS)}),
    "hooks": (2, {"is_on": (True, False)}),
    "save and load": (1, {}),
    "copy": (1, {"how": ("deepcopy", "pickle", "a block")}),
    "another cache": (1, {}),
    "start over": (1, {}),
}
Action = tuple[str, dict[str, Any]]


def parameters_of(name: str, subject: Subject) -> dict[str, tuple[Any, ...]]:
    """The parameters of an action, each with the values that it may have."""
    return {key: values or tuple(subject.methods) for key, values in ACTIONS[name][1].items()}
