"""Installs sparse attention on the denoisers of a pipeline, and takes it away again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch

from .._diffusers import (
    find_attention,
    find_blocks,
    is_perturbed,
    refuse_ring,
    reroute_attention,
    run_in,
    stream_positions,
    wrap_forward,
)
from ..configs import SVG2Config
from ..errors import UnsupportedPipelineError
from ..installation import Installation, Run
from ..running import Running
from .backends import load_backend
from .layers import RunningLayer, SparseDenoiser, SparseLayer, num_dense_layers


def install_svg2(installation: Installation, config: SVG2Config) -> None:
    """The installer of `SVG2Config`: the self-attention of every block goes through a `SparseLayer`.

    Raises:
        UnsupportedPipelineError: the denoiser has no quadratic self-attention, a processor that cannot be reached, or
            ring attention; where that is enabled later, the first call of the pipeline raises.
        BackendUnavailableError: the backend asked for cannot run where the pipeline runs.
    """
    load_backend(config.backend, torch.device(installation.pipe._execution_device))
    for name, denoiser in installation.denoisers.items():
        spec = installation.spec.denoisers[name]
        attention = spec.attention
        if isinstance(attention, str):
            raise UnsupportedPipelineError(
                f"SVG2 does not apply to {type(installation.pipe).__name__}.{name}: {attention}. Use a preset without "
                "svg2, e.g. 'dbcache-medium'."
            )
        blocks = find_blocks(name, denoiser, spec)
        check = functools.partial(refuse_ring, type(installation.pipe).__name__, name, denoiser)
        check()
        running: Running[SparseDenoiser] = Running()
        layers: list[Callable[[SparseDenoiser], SparseLayer]] = []
        num_dense = num_dense_layers(config, len(blocks))
        video = spec.streams.index(spec.video or spec.streams[0])
        for index, block in enumerate(blocks):
            module = find_attention(block, attention.path)
            layers.append(
                functools.partial(
                    SparseLayer,
                    spec=attention,
                    video=(stream_positions(block, spec.streams)[video], spec.streams[video]),
                    is_perturbed=functools.partial(is_perturbed, module),
                    is_dense=index < num_dense,
                )
            )
            layer = RunningLayer(running, index, attention.masks_only_text)
            installation.undo.callback(reroute_attention(module, attention.processors))
            installation.undo.callback(wrap_forward(block, functools.partial(run_in, layer)))
        installation.attention_layers[name] = len(layers)
        installation.observe_runs(name, functools.partial(_denoiser_of_run, name, config, check, running, layers))


def _denoiser_of_run(
    name: str,
    config: SVG2Config,
    check: Callable[[], None],
    running: Running[SparseDenoiser],
    layers: Sequence[Callable[[SparseDenoiser], SparseLayer]],
    run: Run,
) -> SparseDenoiser:
    """What observes the denoiser in ``run``, with its layers."""
    sparse = SparseDenoiser(name, config, run.record, run.peers[config], check, running)
    for make in layers:
        make(sparse)
    run.attention_layers[name] = sparse.layers
    return sparse
