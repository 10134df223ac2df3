"""The desk: the folded orders and outcomes of one partition, and the outcome of the next command. Pure except for its store.

A `Desk` is the store plus decisions that are not yet written. The same methods fold records from the log and records just
decided, so both lead to the same rows. Key spaces, all prefixed with `<partition>/`:

    o/<order_id>              the order (`ledger.order.Order`)
    c/, x/                    outcomes of commands (`ledger.outcomes`)
    n/<number>                the order with this number (`ledger.order_numbers`)
    w/<order_id>              when the next obligation is due: ms since the epoch (`obligations.due_at`)
    f/, h/                    frozen orders, and their records that wait (`frozen_orders`)
    u/<command log, offset>   an unreadable command was refused
    version                   of these rows: a store of another version is deleted and folded again
    meta                      `Meta`: positions, chain, epoch
"""

from __future__ import annotations

import msgspec
import structlog
from msgspec import Struct
from msgspec.structs import replace

from commands.decide import decide, is_foreign
from commands.decisions import Decision, Refusal
from commands.holds import refuse_held
from commands.messages import OrderCommand
from commands.obligations import due_at
from commands.processor.desk_rows import META, VERSION_KEY, clear, is_of_other_version, unreadable_key
from commands.processor.frozen_orders import FROZEN, FrozenOrder, decode_frozen, fold_held, held_in, held_key
from commands.processor.readable import check_home, head_of, readable
from commands.processor.refusing import refusal_again, refusal_of, refusal_of_unreadable
from ledger.envelope import EventHeaders, Written, seal
from ledger.errors import DecodeError, Hole
from ledger.events import NO_HASH, OrderEvent, OrderRefusal
from ledger.evolve import evolve
from ledger.log import NewRecord, Record, refuse_oversized
from ledger.order import FoldError, Order
from ledger.order_numbers import free_number, place_of
from ledger.outcomes import Outcome, decode_outcome, event_row, outcome_key, refusal_row, reused_key
from ledger.schemas.codec import event_codec, link_of, refusal_codec
from ledger.store import Store
from ledger.topics import Topics
from ledger.transitions import Code, Operation

MAX_KEY_BYTES = 1024
VERSION = b"4"

log = structlog.get_logger(__name__)

_decode_order = msgspec.msgpack.Decoder(Order).decode
_encode = msgspec.msgpack.Encoder().encode


class Meta(Struct, frozen=True, array_like=True):
    """Position of the fold of one partition. `chain` and `refusal` are hashes of the last event and the last refusal.

    `events`, `refusals`: next offset to fold. `dealt`: one past the highest command offset with an outcome. `lasting`: one past
    the highest one that led to an event, which is kept for ever. `resume`: first command of the last batch, where a new
    incarnation starts reading. These three are valid only for the log `command_log`. `log_ids`: of the topics of events and
    refusals (`ledger.log_identity`); empty: kept by an earlier version.
    """

    command_log: bytes
    events: int = 0
    refusals: int = 0
    dealt: int = 0
    resume: int = 0
    epoch: int = 0
    chain: bytes = NO_HASH
    refusal: bytes = b""
    lasting: int = 0
    log_ids: tuple[bytes, bytes] = (b"", b"")


_decode_meta = msgspec.msgpack.Decoder(Meta).decode


class Desk:
    """One partition. Not thread-safe. Write `rows()` to the store atomically, then call `written()`."""

    def __init__(
        self,
        store: Store,
        partition: int,
        partitions: int,
        topics: Topics,
        command_log: bytes,
        log_ids: tuple[bytes, bytes] = (b"", b""),
    ) -> None:
        """`log_ids`, of events and refusals, are stored with the next rows: compare the log first (`fold_check`)."""
        self._log_ids = log_ids
        self.partition, self._partitions = partition, partitions
        self._store = store
        self._topics = topics
        self._headers = EventHeaders(topics.events)
        self._prefix = b"%d/" % partition
        self._rows: dict[bytes, bytes | None] = {}
        self._folded: dict[str, Order] = {}
        self._due: dict[str, int | None] = {}  # of those folded orders that a command changed last
        self._asked: set[str] = set()
        self._events, self._refusals = event_codec(), refusal_codec()
        raw = store.get(self._prefix + META)
        if is_of_other_version(store, partition, VERSION):
            log.warning("folding the partition again: its store is of another version", partition=partition)
            clear(store, partition)
            raw = None
        meta = _decode_meta(raw) if raw else Meta(command_log)
        # Offsets of another incarnation of order-commands are meaningless in this one.
        self.meta = (
            meta if meta.command_log == command_log else replace(meta, command_log=command_log, dealt=0, resume=0, lasting=0)
        )

    # ---- rows

    def _get(self, key: bytes) -> bytes | None:
        return self._rows[key] if key in self._rows else self._store.get(self._prefix + key)

    def order(self, order_id: str) -> Order | None:
        """The order as folded; None if it has no events."""
        if (order := self._folded.get(order_id)) is not None:
            return order
        raw = self._get(b"o/" + order_id.encode())
        return _decode_order(raw) if raw else None

    def frozen(self, order_id: str) -> FrozenOrder | None:
        """Why the fold of this order stopped, if it did."""
        raw = self._get(FROZEN + order_id.encode())
        return decode_frozen(raw) if raw else None

    def changed(self) -> list[Order]:
        """Orders folded since the last write."""
        return list(self._folded.values())

    def take_asked(self) -> set[str]:
        """Orders whose payment was requested again since the last call of this method."""
        asked, self._asked = self._asked, set()
        return asked

    def rows(self) -> dict[bytes, bytes | None]:
        """All changes since the last write, with the position, for one atomic write."""
        due = {self._prefix + b"w/" + order.order_id.encode(): self._due_row(order) for order in self._folded.values()}
        changed = {self._prefix + key: value for key, value in self._rows.items()} | due
        changed[self._prefix + VERSION_KEY] = VERSION
        log_ids = self._log_ids if any(self._log_ids) else self.meta.log_ids
        changed[self._prefix + META] = _encode(replace(self.meta, log_ids=log_ids))
        return changed

    def _due_row(self, order: Order) -> bytes | None:
        """The row `w/`, built once per write, not per event."""
        try:
            due = self._due[order.order_id] if order.order_id in self._due else due_at(order)
        except Exception as exc:  # a bug triggered by this order: it must affect only this order
            log.error("obligations of order could not be derived", order_id=order.order_id, exc_info=True)
            self._freeze(order.order_id, self.meta.events - 1, f"obligations: {type(exc).__name__}", None)
            return None
        return None if due is None else due.to_bytes(8, "big")

    def written(self) -> None:
        """Call this when `rows()` are in the store."""
        self._rows.clear()
        self._folded.clear()
        self._due.clear()

    def _put_order(self, order: Order) -> None:
        self._rows[b"o/" + order.order_id.encode()] = _encode(order)
        self._folded[order.order_id] = order
        self._due.pop(order.order_id, None)

    # ---- folding the log

    def fold(self, record: Record) -> None:
        """Fold one record of `order-events` or `order-refusals`. Raises `Hole` if log and store contradict each other."""
        if record.topic == self._topics.events:
            self._fold_event(record)
            self.meta = replace(self.meta, events=record.offset + 1)
        else:
            self._fold_refusal(record)
            self.meta = replace(self.meta, refusals=record.offset + 1)

    def _fold_event(self, record: Record) -> None:
        value = record.value or b""
        chain = link_of(value)
        try:
            event = self._events.decode(value)
        except DecodeError as exc:
            self._freeze((record.key or b"").decode("utf-8", "replace"), record.offset, str(exc), value)
            self.meta = replace(self.meta, chain=chain)
            return
        if event.prev_hash != self.meta.chain:
            raise Hole(f"chain broken at {record.topic}/{self.partition} offset {record.offset}: the log and this store differ")
        if self.frozen(event.order_id) is None:
            try:
                after = evolve(self.order(event.order_id), event)
            except FoldError as exc:
                self._freeze(event.order_id, record.offset, str(exc), value)
            else:
                self._put_order(after)
        else:
            self._rows[held_key(event.order_id, record.offset)] = value
        self._note_event(event)
        self.meta = replace(self.meta, chain=chain)

    def _fold_refusal(self, record: Record) -> None:
        try:
            refusal = self._refusals.decode(record.value)
        except DecodeError as exc:
            log.error("undecodable refusal", partition=self.partition, offset=record.offset, reason=str(exc))
        else:
            self._note_refusal(refusal)
        self.meta = replace(self.meta, refusal=link_of(record.value or b""))

    def _note_event(self, event: OrderEvent) -> None:
        key, row = event_row(event)
        self._rows[key] = row
        if (content := event.content) is not None and content.number:
            self._rows[b"n/" + content.number.encode()] = event.order_id.encode()
        self._dealt(event.command_log, event.command_offset, event.batch_first, event.writer_epoch)
        lasting = event.command_offset + 1 if event.command_log == self.meta.command_log else 0
        self.meta = replace(self.meta, lasting=max(self.meta.lasting, lasting))

    def _note_refusal(self, refusal: OrderRefusal) -> None:
        if (row := refusal_row(refusal)) is not None:
            self._rows[row[0]] = row[1]
        else:
            self._rows[unreadable_key(refusal.command_log, refusal.command_offset)] = b""
        self._dealt(refusal.command_log, refusal.command_offset, refusal.batch_first, refusal.writer_epoch)

    def _dealt(self, command_log: bytes, offset: int, batch_first: int, epoch: int) -> None:
        meta = self.meta
        if command_log == meta.command_log:
            meta = replace(meta, dealt=max(meta.dealt, offset + 1), resume=max(meta.resume, batch_first))
        self.meta = replace(meta, epoch=max(meta.epoch, epoch))

    def _freeze(self, order_id: str, offset: int, reason: str, value: bytes | None) -> None:
        """`value`: of the record that cannot be folded; None if all are. The first reason remains."""
        if value is not None:
            self._rows[held_key(order_id, offset)] = value
        if self.frozen(order_id) is None:
            log.error("order frozen", order_id=order_id, partition=self.partition, offset=offset, reason=reason)
            self._rows[FROZEN + order_id.encode()] = _encode(FrozenOrder(offset, reason))

    def thaw(self) -> None:
        """Fold the records that wait for frozen orders, up to the first that this program still cannot fold.

        Then store `rows()`. Call it only when everything before is stored.
        """
        prefix = self._prefix + FROZEN
        for key, raw in list(self._store.scan(prefix)):
            self._thaw(key[len(prefix) :].decode(), decode_frozen(raw))

    def _thaw(self, order_id: str, frozen: FrozenOrder) -> None:
        held = held_in(self._store, self._prefix, order_id)
        thawed = fold_held(order_id, self.order(order_id), frozen, held, self._events.decode)
        for event in thawed.events:
            self._note_event(event)
        if thawed.stopped is frozen:
            return
        for offset, _ in held:
            if thawed.stopped is None or offset < thawed.stopped.offset:
                self._rows[held_key(order_id, offset)] = None
        self._rows[FROZEN + order_id.encode()] = None if thawed.stopped is None else _encode(thawed.stopped)
        if thawed.order is not None:
            self._put_order(thawed.order)
        log.warning("order thawed", order_id=order_id, partition=self.partition, offset=frozen.offset, again=thawed.stopped)

    def landed(self, topic: str, position: int) -> None:
        """A transaction of this writer ended at `position`, the lowest offset of the next record of `topic` to fold."""
        self.meta = replace(self.meta, **{"events" if topic == self._topics.events else "refusals": position})

    def passed(self, offset: int) -> None:
        """Commands up to `offset` are processed; a new incarnation need not read them again."""
        self.meta = replace(self.meta, dealt=max(self.meta.dealt, offset + 1), resume=offset + 1)

    # ---- deciding

    def deal(
        self, record: Record, written: Written, unwritable: bool = False, traceparent: bytes | None = None
    ) -> NewRecord | None:
        """The record that this command leads to, already folded; None for a duplicate, whose first outcome remains.

        A duplicate of a command whose refusal the log may have deleted is refused again: newer folds do not know the first one.
        `unwritable`: the log rejected that record, so the command is refused instead. `traceparent`: for the event.
        """
        flaw = ""
        try:
            command = readable(record)
        except DecodeError as exc:
            head = head_of(record)
            if head is None:
                return self._unreadable(record, written, exc)
            command, flaw = head, str(exc)
        first = self._outcome(outcome_key(command.command_id))
        if first is not None and first.fingerprint == command.fingerprint:
            if command.operation == Operation.REQUEST_PAYMENT:
                self._asked.add(command.order_id)
            return self._repeat(first, command, record, written)
        decision: Decision
        if first is not None:
            decision = Refusal(Code.IDEMPOTENCY_KEY_REUSED, "this key was already used for another request")
        elif unwritable or flaw:
            decision = Refusal(Code.COULD_NOT_DECIDE, flaw or "the log rejected the event")
        elif (frozen := self.frozen(command.order_id)) is not None:
            decision = Refusal(
                Code.ORDER_FROZEN, f"the fold of the order stopped at partition {self.partition} offset {frozen.offset}"
            )
            if is_foreign(command, self.order(command.order_id)):
                decision = Refusal(Code.ORDER_NOT_FOUND, "there is no such order")
        else:
            try:
                check_home(command, record, self.partition, self._partitions)
                order, number = self.order(command.order_id), self._number(command)
                decision = refuse_held(command, order) or decide(command, order, record.timestamp_ms, number)
                if isinstance(decision, OrderEvent):
                    return self._accept(decision, record, written, traceparent)
                if decision.code is Code.PAYMENT_OPEN:
                    self._asked.add(command.order_id)
            except Exception as exc:  # a bug here or in a sender: refuse this command, other orders continue
                log.error("could not decide", command_id=command.command_id, order_id=command.order_id, exc_info=True)
                decision = Refusal(Code.COULD_NOT_DECIDE, type(exc).__name__)
        if (reused := self._outcome(reused_key(command.command_id, command.fingerprint))) is not None:
            return self._repeat(reused, command, record, written)  # refused before for a reused key, which is final
        new = self._refuse(decision, command, record, written)
        return new._replace(timestamp_ms=0) if unwritable else new  # the log may have rejected the time: let it use its own

    def _outcome(self, key: bytes) -> Outcome | None:
        row = self._get(key)
        return None if row is None else decode_outcome(row)

    def _repeat(self, outcome: Outcome, command: OrderCommand, record: Record, written: Written) -> NewRecord | None:
        """The refusal of a duplicate if the log may have deleted the first one; else None."""
        again = refusal_again(outcome, command.command_id, record, written)
        return None if again is None else self._record_refusal(again, record.key)

    def _number(self, command: OrderCommand) -> str:
        """The number that a new order gets; empty for other commands, and if the number of an imported one is in use."""
        if command.import_order is not None and (own := command.import_order.number) is not None:
            return "" if self._in_use(own) else own
        if command.operation not in (Operation.PLACE_ORDER, Operation.IMPORT_ORDER):
            return ""
        return free_number(command.order_id, place_of(self.partition, self._partitions), self._in_use)

    def _in_use(self, number: str) -> bool:
        return self._get(b"n/" + number.encode()) is not None

    def _accept(self, decided: OrderEvent, record: Record, written: Written, traceparent: bytes | None) -> NewRecord:
        after = evolve(self.order(decided.order_id), decided)
        event = seal(decided, after, written, record.offset, self.meta.chain)
        value = self._events.encode(event)
        headers = self._headers.of(event, traceparent)
        new = NewRecord(self._topics.events, self.partition, record.key, value, event.occurred_at, headers)
        refuse_oversized(new)
        due = due_at(after)  # if this raises, it must be here, where it affects one command, and not when the rows are built
        self._put_order(after)
        self._due[after.order_id] = due
        self._note_event(event)
        self.meta = replace(self.meta, chain=link_of(value))
        return new

    def _refuse(self, why: Refusal, command: OrderCommand, record: Record, written: Written) -> NewRecord:
        # Another customer's order must look like none, here too.
        met = self.order(command.order_id)
        if why.code is Code.ORDER_NOT_FOUND or is_foreign(command, met):
            met = None
        return self._record_refusal(refusal_of(why, command, met, record, written), record.key)

    def _unreadable(self, record: Record, written: Written, why: DecodeError) -> NewRecord | None:
        if self._get(unreadable_key(written.command_log, record.offset)) is not None:
            return None  # read again after a restart; it has no command id by which to recognise it
        log.error("undecodable command", partition=self.partition, offset=record.offset, reason=str(why))
        return self._record_refusal(refusal_of_unreadable(why, record, written), record.key)

    def _record_refusal(self, refusal: OrderRefusal, key: bytes | None) -> NewRecord:
        value = self._refusals.encode(refusal)
        self._note_refusal(refusal)
        self.meta = replace(self.meta, refusal=link_of(value))
        return NewRecord(self._topics.refusals, self.partition, key and key[:MAX_KEY_BYTES], value, refusal.occurred_at)
