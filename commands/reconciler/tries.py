"""How one outside call is tried: up to three times under the same key, within the time that the call has as a whole.

    at once        after an answer that says "not now" or a broken connection: a pause of 20 to 60 ms, then of 60 to 180 ms
    beside         a try that has no answer after half the time that is left gets a second one beside it, and goes on: an answer
                   that comes late still counts. Whichever gives a definite answer first ends the others
    as asked       a longer pause that the service asks for is kept; the call fails when it would end too late
    only if safe   a call that is not a read and carries no key is tried once

The same key is the same effect (`payment_port`), so two tries may be under way together: the service then says of one
that its key is in use, which is one more "not now".
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

TRIES = 3
PAUSES_S = ((0.02, 0.06), (0.06, 0.18))
LONGEST_ASKED_PAUSE_S = 60.0  # more is not believed: the obligation comes up again by itself
_NOT_NOW = frozenset({409, 425, 429})
_READS = frozenset({"GET", "HEAD"})
_KEY = "idempotency-key"

T = TypeVar("T")


def may_repeat(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a second request like this has no effect of its own."""
    return method.upper() in _READS or any(name.lower() == _KEY and value for name, value in headers.items())


def is_not_now(status: int) -> bool:
    """Whether an HTTP status says nothing about what was asked, and may be another one in a moment."""
    return status in _NOT_NOW or status >= 500


async def with_tries(
    once: Callable[[], Awaitable[T]],
    again_after: Callable[[T], float | None],
    limit_s: float,
    tries: int = TRIES,
    jitter: Callable[[float, float], float] = random.uniform,
) -> T:
    """What `once` gives: the first result that `again_after` calls definite (None), else the last one.

    `again_after(result)` is otherwise the pause in seconds that the service asks for, 0 for none. Raises `TimeoutError` when
    `limit_s` is over and a try has no result yet, and whatever `once` raises. Tries still under way are cancelled and have
    ended before this returns.
    """
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + limit_s
    running: set[asyncio.Task[T]] = set()
    failed: list[T] = []
    started, next_at, not_before = 0, loop.time(), 0.0
    try:
        while True:
            now = loop.time()
            if started < tries and next_at <= now < ends_at:
                running.add(loop.create_task(_run(once)))
                started += 1
                next_at = max(not_before, now + (ends_at - now) / 2)
            more = started < tries and next_at < ends_at
            if not running and not more:
                return failed[-1]
            if now >= ends_at:
                raise TimeoutError
            pause_s = (next_at if more else ends_at) - now
            if not running:
                await asyncio.sleep(pause_s)
                continue
            done, running = await asyncio.wait(running, timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                result = task.result()
                if (asked_s := again_after(result)) is None:
                    return result
                failed.append(result)
                low_s, high_s = PAUSES_S[min(len(failed), len(PAUSES_S)) - 1]
                now = loop.time()
                not_before = max(not_before, now + asked_s)
                next_at = max(not_before, min(next_at, now + jitter(low_s, high_s)))
    finally:
        for task in running:
            task.cancel()
        if running:
            await asyncio.gather(*running, return_exceptions=True)


async def _run(once: Callable[[], Awaitable[T]]) -> T:
    return await once()
