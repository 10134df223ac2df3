"""What `serve` does besides answering and folding, for as long as it runs."""

from __future__ import annotations

from collections.abc import Callable, Coroutine

from api.contact_sweep import sweep_for_ever, tend_for_ever
from api.context import AppContext


def background(ctx: AppContext) -> dict[str, Callable[[], Coroutine[None, None, None]]]:
    """By name; to be kept at beside the fold, on its event loop, until the process ends. None of them ends by itself."""
    return {
        "contact sweep": lambda: sweep_for_ever(ctx),
        "contacts": lambda: tend_for_ever(ctx),
        "loop lag": ctx.loop_lag.measure_for_ever,
    }
