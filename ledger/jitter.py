"""Random numbers for pauses and ports, from a separate generator: independent of Python's shared one and its seed."""

from __future__ import annotations

import random

CHANCE = random.Random()


def between(least: float, most: float) -> float:
    """A uniformly distributed number between the two."""
    return CHANCE.uniform(least, most)
