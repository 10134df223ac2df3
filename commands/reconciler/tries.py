"""One external call with its retries: up to three tries under the same key, within the time limit of the call.

    quickly        after "not now" or a broken connection: a pause of 20 to 60 ms, then of 60 to 180 ms
    in parallel    a try without an answer after half the remaining time continues, and another one starts beside it: a late
                   answer still counts. The first definite answer ends the others
    as requested   a longer pause that the service requests is respected; the call fails if it would end too late
    only if safe   a call that is neither a read nor has a key is tried only once

The same key has its effect only once (`payment_port`), so two tries may run in parallel: the service then answers one of them
that its key is in use, which is another "not now".
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from ledger.jitter import between

TRIES = 3
PAUSES_S = ((0.02, 0.06), (0.06, 0.18))
LONGEST_ASKED_PAUSE_S = 60.0  # longer ones are ignored: the reconciler retries the obligation anyway
_NOT_NOW = frozenset({409, 425, 429})
_READS = frozenset({"GET", "HEAD"})
_KEY = "idempotency-key"

T = TypeVar("T")


def may_repeat(method: str, headers: Mapping[str, str]) -> bool:
    """Whether repeating this request has no second effect."""
    return method.upper() in _READS or any(name.lower() == _KEY and value for name, value in headers.items())


def is_not_now(status: int) -> bool:
    """Whether an HTTP status is a temporary failure that says nothing about the request."""
    return status in _NOT_NOW or status >= 500


async def with_tries(
    once: Callable[[], Awaitable[T]],
    again_after: Callable[[T], float | None],
    limit_s: float,
    tries: int = TRIES,
    jitter: Callable[[float, float], float] = between,
) -> T:
    """The first result of `once` that `again_after` calls definite (None), else the last one.

    Otherwise `again_after(result)` is the pause in seconds that the service requests, 0 for none. Raises `TimeoutError` if a try
    has no result after `limit_s`, and whatever `once` raises. Remaining tries are cancelled and have ended before this returns.
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
