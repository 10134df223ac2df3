"""The clients of the ports: one that gets no answers is replaced, and the old one closed when no call can be under way."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import structlog

from commands.obligations import MINUTE_MS
from commands.reconciler.payment_port import PaymentProvider
from commands.reconciler.performing import RECONCILER, Ports
from commands.reconciler.stock_port import StockService
from ledger.errors import LedgerError

SILENT_MS, SILENT_CALLS = MINUTE_MS, 5  # a port that answers nothing for so long, so often, gets a new client

Client = PaymentProvider | StockService

log = structlog.get_logger(__name__)


class Clients:
    """On one event loop. `ports` are those to call now; `done` counts `new client`."""

    def __init__(self, make: Callable[[], Ports], done: Counter[str]) -> None:
        self._make, self._done = make, done
        self.ports = make()
        self._retired: list[tuple[float, Client]] = []
        self._silent_since: dict[str, tuple[int, int]] = {}  # since when a port answered nothing, and to how many calls

    def heard(self, port: str, answered: bool, now_ms: int) -> None:
        """A call ended. A port gets a new client when none of its calls got an answer for a minute: the old one may be what is
        broken."""
        if answered:
            self._silent_since.pop(port, None)
            return
        since, calls = self._silent_since.get(port, (now_ms, 0))
        self._silent_since[port] = (since, calls + 1)
        if now_ms - since < SILENT_MS or calls < SILENT_CALLS or port == RECONCILER:
            return
        del self._silent_since[port]
        log.warning("no call got an answer: taking a new client", port=port, calls=calls + 1, for_ms=now_ms - since)
        self._done["new client"] += 1
        try:
            old, fresh = self.ports, self._make()
        except LedgerError as exc:
            log.error("no new client", port=port, why=str(exc))
            return
        if port == old.payments.name:
            self.ports = Ports(fresh.payments, old.stock)
            unused: list[Client] = [old.payments, *fresh.stock.values()]
        else:
            self.ports = Ports(old.payments, {**old.stock, port: fresh.stock[port]})
            unused = [old.stock[port], fresh.payments, *(s for name, s in fresh.stock.items() if name != port)]
        self._retire(unused)

    def _retire(self, clients: list[Client]) -> None:
        self._retired += [(time.monotonic(), client) for client in clients]

    async def close_retired(self, after_s: float) -> None:
        """Close clients that were replaced so long ago that no call with them can be under way."""
        for at, client in list(self._retired):
            if time.monotonic() - at >= after_s:
                self._retired.remove((at, client))
                await client.close()

    async def close(self) -> None:
        """Close all of them."""
        self._retire([self.ports.payments, *self.ports.stock.values()])
        await self.close_retired(0)
