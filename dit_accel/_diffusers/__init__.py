"""The seam: the only package that touches diffusers' internals.

What hangs on a pipeline, and why in this form: torch-native hooks on the denoiser (they survive offload, compile and
context parallelism), a wrapper around the innermost callable of every block's forward chain (diffusers' own hooks may
be added and removed outside of it in any order), an instance override of ``cache_context`` (it carries branch and
step), and on each video self-attention a copy of its processor that computes attention through us.
"""

from .attention import AttentionCall, AttentionLayer, find_attention, is_perturbed, reroute_attention, run_in
from .blocks import Forward, Undo, find_blocks, is_bypassed, stream_positions, wrap_forward
from .callers import Callers, refuse_running_elsewhere
from .calls import (
    CallObserver,
    denoisers_of,
    eager,
    observe_calls,
    output_tensors,
    replace_tensors,
)
from .clock import DenoiseClock
from .exclusive import keep_exclusive, refuse_other_caches
from .parallel import rank_sum, refuse_ring

__all__ = [
    "AttentionCall",
    "AttentionLayer",
    "CallObserver",
    "Callers",
    "DenoiseClock",
    "Forward",
    "Undo",
    "denoisers_of",
    "eager",
    "find_attention",
    "find_blocks",
    "is_bypassed",
    "is_perturbed",
    "keep_exclusive",
    "observe_calls",
    "output_tensors",
    "rank_sum",
    "refuse_other_caches",
    "refuse_ring",
    "refuse_running_elsewhere",
    "replace_tensors",
    "reroute_attention",
    "run_in",
    "stream_positions",
    "wrap_forward",
]
