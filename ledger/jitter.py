"""Chance for pauses and ports. A generator of our own: it neither disturbs nor follows whoever seeds Python's shared one."""

from __future__ import annotations

import random

CHANCE = random.Random()


def between(least: float, most: float) -> float:
    """A number between the two, all equally likely."""
    return CHANCE.uniform(least, most)
