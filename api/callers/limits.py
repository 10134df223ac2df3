"""Rate limits: token buckets in memory, for every principal and for every customer of a gateway.

A request costs one token, and one more per millisecond of long work on the event loop (`ledger.turns`). That is known only
afterwards, so a bucket may be overdrawn, and is then empty until it has refilled. A bucket is full after `BURST_S` without
requests. Each node counts separately, and counts are lost when the process ends.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from api.callers.auth import Principal
from api.problems import Problem
from api.settings import Settings

BURST_S = 10.0  # size of a bucket, in seconds of its rate
TOKENS_PER_S = 1_000.0  # of long work


class Buckets:
    """One bucket per name, filled with `per_s` tokens a second. Forgets full buckets."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kept: dict[str, tuple[float, float]] = {}  # (tokens, time of that count), least recently used first

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, name: str, per_s: float, tokens: float) -> float:
        """Take `tokens` if there is at least one. Returns 0, or the seconds until there is one; then nothing is taken."""
        wait_s = self.wait_s(name, per_s)
        if not wait_s:
            self.charge(name, per_s, tokens)
        return wait_s

    def wait_s(self, name: str, per_s: float) -> float:
        """The seconds until there is a token; 0 if there is one."""
        left = self._left(name, per_s, self._clock())
        return max(0.0, (1 - left) / per_s)

    def charge(self, name: str, per_s: float, tokens: float) -> None:
        """Take `tokens`, even if that overdraws the bucket."""
        now = self._clock()
        self._keep(name, per_s, self._left(name, per_s, now) - tokens, now)

    def _left(self, name: str, per_s: float, now: float) -> float:
        full = per_s * BURST_S
        tokens, at = self._kept.get(name, (full, now))
        return min(full, tokens + (now - at) * per_s)

    def _keep(self, name: str, per_s: float, tokens: float, now: float) -> None:
        self._kept.pop(name, None)
        self._kept[name] = tokens, now
        for _ in range(2):  # faster than new ones are added
            oldest = next(iter(self._kept))
            was, at = self._kept[oldest]
            if was + (now - at) * per_s < per_s * BURST_S:
                return
            del self._kept[oldest]


class RateLimits:
    """The rate limits of one node."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._gateway, self._staff = float(settings.limit_gateway_per_second), float(settings.limit_staff_per_second)
        self._customer = float(settings.limit_customer_per_second)
        self._principals, self._customers = Buckets(clock), Buckets(clock)

    def take(self, principal: Principal) -> None:
        """Count one request of this principal. Raises `Problem` `too-many-requests`."""
        self._refuse(self._principals.take(principal.actor, self._rate(principal), 1.0), principal.actor)

    def take_customer(self, customer: str) -> None:
        """Count one request for this customer. Raises `Problem` `too-many-requests`."""
        self._refuse(self._customers.take(customer, self._customer, 1.0), "this customer")

    def charge(self, principal: Principal, customer: str, worked_s: float) -> None:
        """Charge long work that a request caused; `customer` is empty for staff."""
        tokens = worked_s * TOKENS_PER_S
        self._principals.charge(principal.actor, self._rate(principal), tokens)
        if customer:
            self._customers.charge(customer, self._customer, tokens)

    def wait_s(self, principal: Principal, customer: str) -> float:
        """The seconds until more work may be done for them; 0: now. `customer` is empty for staff. Takes nothing."""
        wait_s = self._principals.wait_s(principal.actor, self._rate(principal))
        return max(wait_s, self._customers.wait_s(customer, self._customer)) if customer else wait_s

    def _rate(self, principal: Principal) -> float:
        return self._gateway if principal.role == "gateway" else self._staff

    @staticmethod
    def _refuse(wait_s: float, who: str) -> None:
        if wait_s:
            headers = {"Retry-After": str(math.ceil(wait_s))}
            raise Problem("too-many-requests", f"This node has received too many requests of {who}.", headers=headers)
