"""The meaning of a stock service's answer, over HTTP or gRPC. Pure.

Only a well-formed `reserved`, `rejected` or `released` is an answer. Anything else, including a 404 or a 400, says nothing about
the order: it is a fault somewhere, and must not cancel anything.
"""

from __future__ import annotations

import re

import msgspec
from msgspec import Struct

from commands.messages import RecordStock
from commands.reconciler.answers import Answer, Done, Unknown
from ledger import events
from ledger.bounds import DOTTED_ID, MAX_INT

MAX_ITEMS = 100
_REF = re.compile(r"[\x21-\x7e]{1,128}")
_SKU = re.compile(DOTTED_ID)
REASONS = frozenset({"out_of_stock", "unknown_item", "price_changed"})


class Item(Struct, frozen=True):
    """An article that is missing, and how many are available."""

    sku: str
    available: int = 0


class StockAnswer(Struct, frozen=True):
    """`reservation_ref` with reserved, `reason` and `items` with rejected."""

    status: str
    reservation_ref: str | None = None
    reason: str | None = None
    items: tuple[Item, ...] = ()


decode = msgspec.json.Decoder(StockAnswer).decode


def answer_of(service: str, said: StockAnswer, released_only: bool, part: int | None = None) -> Answer:
    """`released_only`: a release, of `part` or of everything, was requested, and only `released` answers it."""
    match said.status:
        case "released":
            return Done((RecordStock(events.STOCK_RELEASED, service, part=part),))
        case "reserved" if not released_only:
            if said.reservation_ref is not None and not _REF.fullmatch(said.reservation_ref):
                return Unknown("reservation_ref is not 1 to 128 visible ASCII characters")
            return Done((RecordStock(events.STOCK_RESERVED, service, reservation_ref=said.reservation_ref),))
        case "rejected" if not released_only:
            if said.reason not in REASONS:
                return Unknown("rejected without a valid reason")
            known = [i for i in said.items[:MAX_ITEMS] if _SKU.fullmatch(i.sku)]
            items = tuple(events.StockItem(i.sku, min(max(0, i.available), MAX_INT)) for i in known)
            return Done((RecordStock(events.STOCK_REJECTED, service, reason=said.reason, items=items),))
    return Unknown("answer is not one of reserved, rejected, released")
