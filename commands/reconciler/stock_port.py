"""The port to a stock service: three verbs. The contract of the service, over HTTP or gRPC:

    reserve   takes the units of all lines or of none, checks item and unit price; the same key is the same reservation
    release   returns whatever the order holds; succeeds for an unknown reservation, **and bars a later reserve** of the
              order (a delayed reserve may still be on the wire): such a reserve is answered `released`
    release part   returns some units of a reservation, at most those that it still holds; the same key returns them once.
              An older service need not know it: orders whose lines are cancelled then wait for a person

Shipping is not reported: reserving already takes the units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # `up` needs only the names, and should not import codecs
    from commands.reconciler.answers import Answer
    from ledger.events import Line, Units


NO_PARTS = "parts_not_supported"


class StockService(Protocol):
    """One service. No call raises for a failure of the service."""

    name: str  # `product` or `merch`, as in the lines

    async def reserve(self, order_id: str, currency: str, lines: Sequence[Line], key: str) -> Answer:
        """Done: StockReserved with its reference; or StockRejected with a reason `out_of_stock`, `unknown_item`,
        `price_changed` and the available units of the items; or StockReleased if it was released before."""

    async def release(self, order_id: str, key: str) -> Answer:
        """Done: StockReleased."""

    async def release_part(self, order_id: str, lines: Sequence[Units], part: int, key: str) -> Answer:
        """Done: StockReleased of this part. No: the service cannot release parts (`NO_PARTS`)."""

    async def knows_parts(self) -> bool | None:
        """Whether the service can release parts; None: it did not answer."""

    async def close(self) -> None: ...
