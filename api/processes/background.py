"""Background tasks of `serve`, beside answering and folding."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping

from api.context import AppContext
from api.processes.contact_expiry import sweep_for_ever, tend_for_ever
from ledger.schemas.of_the_ledger import learned

THAW_EVERY_S = 1.0

Works = Mapping[str, Callable[[], Coroutine[None, None, None]]]
"""By name: coroutines that run on the event loop until the process ends. None of them returns by itself."""


def background(ctx: AppContext) -> Works:
    """Tasks that run from the start."""
    works = {"loop lag": ctx.loop_lag.measure_for_ever, "audit": ctx.audit.tend_for_ever}
    if ctx.oidc is not None:
        works["keys of the issuer"] = ctx.oidc.issuer.keep_for_ever
    return works


def beside_the_fold(ctx: AppContext) -> Works:
    """Tasks that run once there are read models and the log answers."""
    return {
        "contact sweep": lambda: sweep_for_ever(ctx),
        "contacts": lambda: tend_for_ever(ctx),
        "erasures": ctx.erasures.go_on_for_ever,
        "frozen orders": lambda: thaw_for_ever(ctx),
    }


async def thaw_for_ever(ctx: AppContext) -> None:
    """Fold what waits for frozen orders, whenever a schema of a later program was learned."""
    tried = 0
    while True:
        if (known := learned()) != tried:
            await ctx.turns.run(ctx.projector.thaw())
            tried = known
        await asyncio.sleep(THAW_EVERY_S)
