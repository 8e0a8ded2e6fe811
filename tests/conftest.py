"""What tests of more than one file use."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
from hypothesis import Phase, settings
from torch import Tensor

# Property tests: the same examples in every run of the suite. Ten times as many, and others each time:
# pytest tests --hypothesis-profile thorough. The deadline, of one example in ms, is for what hangs.
_HOW: dict[str, Any] = {"deadline": 20_000, "phases": [p for p in Phase if p is not Phase.explain], "print_blob": True}
settings.register_profile("suite", max_examples=100, derandomize=True, **_HOW)
settings.register_profile("thorough", max_examples=1000, derandomize=False, **_HOW)
settings.load_profile("suite")


def examples(count: int) -> settings:
    """The settings of a property test that tries ``count`` examples in the suite."""
    return settings(max_examples=count * settings().max_examples // 100)


def shares_with(nodeid: str) -> str:
    """The name of what a test has something costly in common with. All of one name run in one worker, in their order.

    That is the file with its fixtures; in the contract, where files are long, the pipeline of a class.
    """
    path, _, test = nodeid.partition("::")
    if path.startswith("tests/contract/"):
        of_class = re.search(r"\[.*?(\w+Pipeline)\b", test)
        return of_class[1] if of_class else nodeid
    # What starts several processes has them for itself.
    starts_processes = path.startswith("tests/parallel/") or path.endswith(("/test_ray_pool.py", "/test_kill.py"))
    return "processes" if starts_processes else path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long begins first, so that no worker is left with it at the end."""
    slow = {shares_with(item.nodeid) for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: shares_with(item.nodeid) not in slow)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    if config.getvalue("dist") != "load":  # another way than that of -n alone was asked for
        return None
    from xdist.scheduler import LoadScopeScheduling  # here, because pytest runs without xdist too

    class BySharing(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return shares_with(nodeid)

    config.option.loadscopereorder = False
    return BySharing(config, log)


def document(**changes: Any) -> str:
    """A valid schedule file with some keys replaced; ``None`` as a value takes the key out."""
    valid = {"schema": "dit_accel.cache_schedule", "version": 1, "num_steps": 10, "compute_steps": [0, 4, 9]}
    merged: dict[str, Any] = {**valid, "provenance": {"name": "mine"}, **changes}
    return json.dumps({key: value for key, value in merged.items() if value is not None})


def tiny_inputs() -> dict[str, Any]:
    """Arguments of a call of the tiny Wan pipeline (`wan.tiny`), without the prompt."""
    from dit_accel.pipelines import wan  # here, because it imports transformers

    return {key: value for key, value in wan.tiny_inputs().items() if key != "prompt"}


def tiny_pipeline() -> Any:
    """A tiny Wan pipeline that shows no progress."""
    from dit_accel.pipelines import wan

    pipe = wan.tiny()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run_tiny(pipe: Any, **changes: Any) -> Tensor:
    """The latents that it makes in six steps."""
    generator = torch.Generator().manual_seed(0)
    inputs = {"prompt": "a red seven spinning on navy", "num_inference_steps": 6, **tiny_inputs(), **changes}
    latents: Tensor = pipe(generator=generator, output_type="latent", return_dict=False, **inputs)[0]
    return latents


def attributes(pipe: Any) -> dict[str, Any]:
    """Names of all attributes of the denoiser's modules, and how many hooks hang on each."""
    modules = pipe.transformer.named_modules()
    return {n: (sorted(vars(m)), len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in modules}
