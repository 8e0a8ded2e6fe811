"""The closed grammar of the demo model: ``a {colour} {digit} {motion} on {background}``."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (235, 45, 45),
    "green": (50, 205, 70),
    "blue": (70, 110, 255),
    "yellow": (245, 225, 50),
    "magenta": (230, 60, 220),
    "cyan": (50, 220, 225),
    "orange": (250, 140, 30),
    "white": (245, 245, 245),
}
DIGITS: tuple[str, ...] = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
MOTIONS: tuple[str, ...] = (
    "moving left",
    "moving right",
    "moving up",
    "moving down",
    "spinning",
    "growing",
    "shrinking",
    "bouncing",
)
BACKGROUNDS: dict[str, tuple[int, int, int]] = {"black": (8, 8, 8), "gray": (90, 90, 90), "navy": (20, 25, 80)}


@dataclass(frozen=True, slots=True)
class Caption:
    """One sentence of the grammar, by its four words."""

    colour: str
    digit: str
    motion: str
    background: str

    @property
    def text(self) -> str:
        """The prompt, e.g. ``"a red seven moving left on navy"``."""
        return f"a {self.colour} {self.digit} {self.motion} on {self.background}"

    @property
    def is_held_out(self) -> bool:
        """Whether this (colour, digit, motion) triple, one in twelve, is never shown in training."""
        triple = f"{self.colour}-{self.digit}-{self.motion}"
        return int(hashlib.md5(triple.encode(), usedforsecurity=False).hexdigest(), 16) % 12 == 0


def all_captions() -> list[Caption]:
    """All 1,920 captions, in a fixed order."""
    return [Caption(*words) for words in itertools.product(COLOURS, DIGITS, MOTIONS, BACKGROUNDS)]


def words() -> list[str]:
    """Every word of the grammar once, in a fixed order: the tokenizer's vocabulary."""
    motion_words = sorted({word for motion in MOTIONS for word in motion.split()})
    return ["a", "on", *COLOURS, *DIGITS, *motion_words, *BACKGROUNDS]
