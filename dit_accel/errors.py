"""Everything that can go wrong through a user's input.

Each message says what happened, what was given, what is allowed and what to do next.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class DitAccelError(Exception):
    """Parent of every error that dit_accel raises for a user's mistake."""


class ConfigError(DitAccelError, ValueError):
    """A configuration value is outside its range or of the wrong type."""


class UnknownPresetError(DitAccelError, ValueError):
    """The pipeline has no preset of this name."""


class UnsupportedPipelineError(DitAccelError):
    """No specification covers this pipeline, or it lacks what the method needs."""


class AlreadyAcceleratedError(DitAccelError):
    """The pipeline, or one of its denoisers, is already accelerated or cached."""


class ConcurrentUseError(DitAccelError):
    """Two calls of accelerated pipelines got in each other's way, or would have."""


class ScheduleError(DitAccelError, ValueError):
    """A cache schedule, or its file, is malformed."""


class ScheduleMismatchError(DitAccelError, ValueError):
    """A valid schedule does not fit this pipeline or this run."""


class GraphError(DitAccelError, ValueError):
    """An error graph, or its file, is malformed or has no path for the budget."""


class JobError(DitAccelError, ValueError):
    """A profiling job or its work directory cannot be used."""


class MissingPackageError(DitAccelError):
    """An optional package that this needs is not installed."""


class BackendUnavailableError(DitAccelError):
    """A backend of sparse attention cannot run on this machine, or not on this input."""


class MetricUnavailableError(DitAccelError):
    """A quality metric lacks its package or its weights."""


class NoRecommendationError(DitAccelError, ValueError):
    """Nothing that was measured answers what was asked for."""


class HubError(DitAccelError):
    """The Hugging Face Hub, or what it gave, cannot be used."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` for the nearest known name, else an empty string."""
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""


def without_secrets(text: str) -> str:
    """``text`` of another library without what may be in it: passwords and signatures of addresses, tokens."""
    text = re.sub(r"(?<=://)[^/\s@]+@", "", text)
    text = re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]+", r"\1?...", text)
    return re.sub(r"\b(hf_|Bearer )[^\s'\"]+", r"\1...", text)
