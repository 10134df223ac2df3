"""The orders in the store of one writer, for threads other than the deciding one. The rows are those of `desk`."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from ledger.order import Order
from ledger.store import Store

_decode_order = msgspec.msgpack.Decoder(Order).decode


class OrderBook:
    """The orders in the store of one writer, as of its last write. For threads other than the deciding one."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def order(self, partition: int, order_id: str) -> Order | None:
        """The order; None if it is unknown, or frozen, so that its obligations are unknown."""
        name = order_id.encode()
        raw, frozen = self._store.get_many([b"%d/o/%b" % (partition, name), b"%d/f/%b" % (partition, name)])
        return _decode_order(raw) if raw and frozen is None else None

    def owing(self, partition: int) -> Iterator[tuple[str, int]]:
        """(order id, when its first obligation is due in ms since the epoch) for every order with obligations."""
        prefix = b"%d/w/" % partition
        for key, due in self._store.scan(prefix):
            yield key[len(prefix) :].decode(), int.from_bytes(due, "big")
