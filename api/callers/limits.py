"""How much each caller may ask for: token buckets in memory, of every principal and of every customer that a gateway acts for.

A request costs a token, and another one for every millisecond of long work that it made the event loop do (`ledger.turns`), which
is known only afterwards: a bucket may be overdrawn, and then gives nothing until it has been filled again. A bucket is full when
nothing was taken for `BURST_S`. Each node counts for itself; what is counted is gone with the process.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from api.callers.auth import Principal
from api.problems import Problem
from api.settings import Settings

BURST_S = 10.0  # so many seconds' worth may come at once
TOKENS_PER_S = 1_000.0  # of work


class Buckets:
    """One bucket for each name, filled with `per_s` tokens a second. Forgets those that are full again."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kept: dict[str, tuple[float, float]] = {}  # tokens then, and when; the one used last is at the end

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, name: str, per_s: float, tokens: float) -> float:
        """Take `tokens`, as soon as there is a whole one at all; 0, or the seconds until there will be one (nothing is taken)."""
        now = self._clock()
        left = self._left(name, per_s, now)
        if left < 1:
            return (1 - left) / per_s
        self._keep(name, per_s, left - tokens, now)
        return 0.0

    def charge(self, name: str, per_s: float, tokens: float) -> None:
        """Take `tokens`, whether or not they are there."""
        now = self._clock()
        self._keep(name, per_s, self._left(name, per_s, now) - tokens, now)

    def _left(self, name: str, per_s: float, now: float) -> float:
        full = per_s * BURST_S
        tokens, at = self._kept.get(name, (full, now))
        return min(full, tokens + (now - at) * per_s)

    def _keep(self, name: str, per_s: float, tokens: float, now: float) -> None:
        self._kept.pop(name, None)
        self._kept[name] = tokens, now
        for _ in range(2):  # faster than new ones come
            oldest = next(iter(self._kept))
            was, at = self._kept[oldest]
            if was + (now - at) * per_s < per_s * BURST_S:
                return
            del self._kept[oldest]


class Limits:
    """The limits of one node."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._gateway, self._staff = float(settings.limit_gateway_per_second), float(settings.limit_staff_per_second)
        self._customer = float(settings.limit_customer_per_second)
        self._principals, self._customers = Buckets(clock), Buckets(clock)

    def take(self, principal: Principal) -> None:
        """One request of this principal. Raises `Problem` `too-many-requests`."""
        self._refuse(self._principals.take(principal.actor, self._rate(principal), 1.0), principal.actor)

    def take_customer(self, customer: str) -> None:
        """One request for this customer. Raises `Problem` `too-many-requests`."""
        self._refuse(self._customers.take(customer, self._customer, 1.0), "this customer")

    def charge(self, principal: Principal, customer: str, worked_s: float) -> None:
        """Long work that was done for a request; `customer` is empty when it was nobody's."""
        tokens = worked_s * TOKENS_PER_S
        self._principals.charge(principal.actor, self._rate(principal), tokens)
        if customer:
            self._customers.charge(customer, self._customer, tokens)

    def _rate(self, principal: Principal) -> float:
        return self._gateway if principal.role == "gateway" else self._staff

    @staticmethod
    def _refuse(wait_s: float, who: str) -> None:
        if wait_s:
            headers = {"Retry-After": str(math.ceil(wait_s))}
            raise Problem("too-many-requests", f"This node has had too many requests of {who} lately.", headers=headers)
