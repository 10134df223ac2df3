"""Which contacts come back: the last record of each key, if its order is restored and its person is not erased. Pure.

What erases, whatever was written first: a record that marks the key as permanently erased, and an erasure of the order's
customer. An erasure that is not finished takes everything of the customer, as the node would that finishes it; a finished one
takes what was written until its end. Notes go with the customer's contacts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Literal

from api.cli.backup.contact_lines import ContactLine
from ledger.contacts import BARRIER_KEY, NOBODY, contact_key, erased_contact, erased_key, note_id_of, order_of
from ledger.erasures import Erasure, decode_erasure, encode_erasure, erased_customer, erasure_key, is_erasure
from ledger.errors import DecodeError
from ledger.log import NewRecord
from ledger.order import Order
from ledger.partitioner import partition_for
from ledger.schemas.codec import contact_codec

Fate = Literal["contacts", "notes", "erased", "without_order", "erasures", "superseded"]


class Choice:
    """Two passes over the same lines: `note` all of them, then ask for the `fate` of each."""

    def __init__(
        self,
        partitions: int,
        order: Callable[[int, str], Order | None],
        is_frozen: Callable[[int, str], bool],
        also_erased: Collection[str] = (),
    ) -> None:
        """`order(partition, order_id)` is a restored order. A frozen one keeps all its contacts: a later program may know more.

        `also_erased` are customers whom no record of the backup erases.
        """
        self._partitions, self._order, self._is_frozen, self._also = partitions, order, is_frozen, frozenset(also_erased)
        self._last: dict[bytes, int] = {}  # by key: number of its last line
        self._erased: set[bytes] = set()
        self._erasures: dict[str, Erasure] = {}

    def note(self, number: int, line: ContactLine) -> None:
        """Line `number` of the first pass."""
        if line.value is None or line.key == BARRIER_KEY or not line.key or not line.key[0]:
            self._last.pop(line.key, None)
            return
        self._last[line.key] = number
        if (erased := erased_contact(line.key)) is not None:
            self._erased.add(erased)
        elif is_erasure(line.key):
            erasure = _erasure_of(line)
            self._erasures[erasure.customer_id] = erasure

    def fate(self, number: int, line: ContactLine) -> Fate:
        """What becomes of line `number`, in the second pass."""
        if self._last.get(line.key) != number or line.value is None:
            return "superseded"
        if erased_contact(line.key) is not None or is_erasure(line.key):
            return "erasures"
        order_id = order_of(line.key)
        partition = partition_for(order_id.encode(), self._partitions)
        order, is_frozen = self._order(partition, order_id), self._is_frozen(partition, order_id)
        customers = {_customer_of(line.value), order.customer_id if order else ""} - {""}
        if line.key in self._erased or any(self._is_erased(customer, line.at) for customer in customers):
            return "erased"
        if order is None and not is_frozen:
            return "without_order"
        if note_id_of(line.key) is not None:
            return "notes"
        is_named = order is not None and contact_key(order_id, order.contact_digest) == line.key
        return "contacts" if is_named or is_frozen else "without_order"

    def _is_erased(self, customer_id: str, written_at: int) -> bool:
        erasure = self._erasures.get(customer_id)
        if customer_id in self._also:
            return True
        return erasure is not None and (erasure.done_at is None or written_at <= max(erasure.done_at, erasure.requested_at))

    def records(self, topic: str, number: int, line: ContactLine) -> list[NewRecord]:
        """The records to write for line `number`: itself, the mark of its erasure, or nothing."""
        fate = self.fate(number, line)
        if fate in ("contacts", "notes", "erasures"):
            return [NewRecord(topic, line.partition, line.key, line.value, line.at)]
        if fate == "erased" and line.key not in self._erased and note_id_of(line.key) is None:
            # a later retry of the order must not bring it back
            return [NewRecord(topic, line.partition, erased_key(line.key), contact_codec().encode(NOBODY), line.at)]
        return []

    def erasures_to_finish(self, topic: str, node: str, now_ms: int) -> list[NewRecord]:
        """Records of the erasures of `also_erased`: the first `serve` finishes them, as if they had been requested now."""
        return [
            NewRecord(
                topic,
                partition_for(erasure_key(customer), self._partitions),
                erasure_key(customer),
                encode_erasure(Erasure(customer, now_ms, node)),
                now_ms,
            )
            for customer in sorted(self._also)
        ]


def _erasure_of(line: ContactLine) -> Erasure:
    """The erasure in a record; an unreadable one counts as not finished, because its key names the customer."""
    try:
        return decode_erasure(line.value or b"")
    except DecodeError:
        return Erasure(erased_customer(line.key), line.at, "")


def _customer_of(value: bytes) -> str:
    try:
        return contact_codec().decode(value).customer_id
    except DecodeError:  # its order still names the customer
        return ""
