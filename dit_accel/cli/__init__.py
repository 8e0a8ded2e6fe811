"""The command line ``dit-accel``. Commands import what is heavy when they run, so that ``--help`` answers at once."""

from __future__ import annotations

from .bench import bench
from .compare import compare
from .demo import demo
from .doctor import doctor
from .merge import merge
from .plan import plan
from .presets import presets
from .profile import profile
from .program import Command, add_command, app, main
from .recommend import recommend
from .report import report

__all__ = ["app", "main"]

_PANELS: dict[str, tuple[Command, ...]] = {
    "Choose": (demo, presets, recommend),
    "Measure": (report, bench, compare),
    "Plan": (profile, merge, plan),
    "Check": (doctor,),
}
for panel, commands in _PANELS.items():
    for command in commands:
        add_command(command, panel)
