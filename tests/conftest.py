"""What tests of more than one file use."""

from __future__ import annotations

import json
from typing import Any


def document(**changes: Any) -> str:
    """A valid schedule file with some keys replaced; ``None`` as a value takes the key out."""
    valid = {"schema": "dit_accel.cache_schedule", "version": 1, "num_steps": 10, "compute_steps": [0, 4, 9]}
    merged: dict[str, Any] = {**valid, "provenance": {"name": "mine"}, **changes}
    return json.dumps({key: value for key, value in merged.items() if value is not None})
