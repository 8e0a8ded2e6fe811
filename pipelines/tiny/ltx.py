"""What LTX-Video and LTX-2 have in common."""

from __future__ import annotations

from diffusers import FlowMatchEulerDiscreteScheduler


def shifting_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """The published settings: the grid depends on the size of the video."""
    return FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=0.95,
        max_shift=2.05,
        base_image_seq_len=1024,
        max_image_seq_len=4096,
        shift_terminal=0.1,
    )
