"""Installs sparse attention on the denoisers of a pipeline, and takes it away again."""

from __future__ import annotations

import functools

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
from ..installation import Installation
from .backends import load_backend
from .layers import SparseDenoiser, SparseLayer, num_dense_layers


def install_svg2(installation: Installation, config: SVG2Config) -> None:
    """The installer of `SVG2Config`: the self-attention of every block goes through a `SparseLayer`.

    Raises:
        UnsupportedPipelineError: the denoiser has no quadratic self-attention, a processor that cannot be reached, or
            ring attention; where that is enabled later, the first call of the pipeline raises.
        BackendUnavailableError: the backend asked for cannot run where the pipeline runs.
    """
    load_backend(config.backend, torch.device(installation.pipe._execution_device))
    peers: list[SparseDenoiser] = []
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
        sparse = SparseDenoiser(name, config, installation.record, peers, check)
        installation.undo.callback(sparse.release)
        num_dense = num_dense_layers(config, len(blocks))
        video = spec.streams.index(spec.video or spec.streams[0])
        for index, block in enumerate(blocks):
            module = find_attention(block, attention.path)
            layer = SparseLayer(
                sparse,
                attention,
                (stream_positions(block, spec.streams)[video], spec.streams[video]),
                functools.partial(is_perturbed, module),
                is_dense=index < num_dense,
            )
            installation.undo.callback(reroute_attention(module, attention.processors))
            installation.undo.callback(wrap_forward(block, functools.partial(run_in, layer)))
        installation.attention_layers[name] = sparse.layers
        installation.observe(name, sparse)
