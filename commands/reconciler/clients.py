"""The clients of the ports. A client without answers is replaced, and closed when none of its calls can be in progress."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

import structlog

from commands.reconciler.payment_port import PaymentProvider
from commands.reconciler.performing import RECONCILER, Ports
from commands.reconciler.stock_port import StockService
from ledger.durations import MINUTE_MS
from ledger.errors import LedgerError

ASK_AGAIN_S = 30.0
_WITHOUT_PARTS = "orders of which lines are cancelled, or units sent back, are flagged for staff"
SILENT_MS, SILENT_CALLS = MINUTE_MS, 5  # a port gets a new client after this time and this many calls without an answer

Client = PaymentProvider | StockService

log = structlog.get_logger(__name__)


class Clients:
    """Used on one event loop. `ports` are the current ones; `done` counts `new client`."""

    def __init__(self, make: Callable[[], Ports], done: Counter[str]) -> None:
        self._make, self._done = make, done
        self.ports = make()
        self._retired: list[tuple[float, Client]] = []
        self._silent_since: dict[str, tuple[int, int]] = {}  # by port: (time of first unanswered call, count)

    def heard(self, port: str, answered: bool, now_ms: int) -> None:
        """Note the end of a call. Replaces the client of a port whose calls got no answer for a minute: it may be broken."""
        if answered:
            self._silent_since.pop(port, None)
            return
        since, calls = self._silent_since.get(port, (now_ms, 0))
        self._silent_since[port] = (since, calls + 1)
        if now_ms - since < SILENT_MS or calls < SILENT_CALLS or port == RECONCILER:
            return
        del self._silent_since[port]
        log.warning("no call was answered, replacing the client", port=port, calls=calls + 1, for_ms=now_ms - since)
        self._done["new client"] += 1
        try:
            old, fresh = self.ports, self._make()
        except LedgerError as exc:
            log.error("client could not be replaced", port=port, why=str(exc))
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

    async def ask_about_parts(self) -> None:
        """Warn once about each stock service that cannot release a part of an order. Waits for those that do not answer yet."""
        unknown = set(self.ports.stock)
        while unknown:
            for name in sorted(unknown):
                known = await self.ports.stock[name].knows_parts()
                if known is not None:
                    unknown.remove(name)
                if known is False:
                    log.warning("stock service cannot release a part of an order", service=name, consequence=_WITHOUT_PARTS)
                    self._done["stock service without parts"] += 1
            await asyncio.sleep(ASK_AGAIN_S if unknown else 0)

    async def close_retired(self, after_s: float) -> None:
        """Close clients that were replaced so long ago that no call of theirs can be in progress."""
        for at, client in list(self._retired):
            if time.monotonic() - at >= after_s:
                self._retired.remove((at, client))
                await client.close()

    async def close(self) -> None:
        """Close all of them."""
        self._retire([self.ports.payments, *self.ports.stock.values()])
        await self.close_retired(0)
