"""Bugs to plant: the simulator has to find each of them. Each takes the place of one function of the product, or of the log."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from commands.processor import desk, fold_check, frozen_orders
from commands.processor.desk import Desk
from commands.processor.desks import Desks
from commands.processor.fold_check import FoldCheck
from commands.processor.held_back import HeldBack
from commands.processor.retention import Retention
from commands.processor.writer_loop import WriterLoop
from ledger.contact_rows import KeptContacts
from ledger.log import Isolation, NewRecord, Record, TopicPartition
from ledger.store import Store
from projections.databases import Databases
from projections.read_models import Rows
from tests.simulator.outside import StockDoor
from tests.simulator.replacing import replace
from tests.simulator.unkind_log import UnkindLog, UnkindReader, UnkindState, UnkindWriter

Names = Sequence[tuple[Any, str, Any]]
BUGS: dict[str, Callable[[], Names]] = {}


def bug(make: Callable[[], Names]) -> Callable[[], Names]:
    """Register under the name of the function, as words."""
    BUGS[make.__name__.replace("_", " ")] = make
    return make


@contextmanager
def planted(name: str) -> Iterator[None]:
    """While the block runs, the bug is there."""
    restore = replace(BUGS[name]())
    try:
        yield
    finally:
        restore()


# ---- deciding


@bug
def a_retry_is_decided_again() -> Names:
    return [(desk, "outcome_key", lambda command_id: b"c/")]


@bug
def a_refusal_is_dropped() -> Names:
    decide = WriterLoop._deal

    def deal(self: WriterLoop, records: list[Record], epoch: int) -> list[NewRecord]:
        return [new for new in decide(self, records, epoch) if new.topic == self._topics.events]

    return [(WriterLoop, "_deal", deal)]


@bug
def a_freeze_is_forgotten_after_a_restart() -> Names:
    def frozen(self: Desk, order_id: str) -> Any:
        raw = self._rows.get(b"f/" + order_id.encode())
        return frozen_orders.decode_frozen(raw) if raw else None

    return [(Desk, "frozen", frozen)]


@bug
def decisions_survive_a_commit_in_doubt() -> Names:
    return [(Desks, "forget", lambda self: None)]


# ---- taking over


@bug
def a_marker_is_not_waited_for() -> Names:
    return [(FoldCheck, "ahead_of_open", lambda self, positions, stable, end: set()), (fold_check, "AHEAD_S", 0.0)]


@bug
def a_commit_that_was_confirmed_is_believed_for_ever() -> Names:
    return [(FoldCheck, "wrote", lambda self, partitions: list(partitions))]


@bug
def an_open_transaction_is_decided_behind() -> Names:
    return [(HeldBack, "left_out", lambda self, stable, end: frozenset())]


@bug
def the_log_is_not_folded_before_deciding() -> Names:
    return [(WriterLoop, "_fold_to_the_end", lambda self: 0)]


@bug
def commands_are_read_from_the_end() -> Names:
    def resume_at(self: Retention, desks: Mapping[int, Desk], partitions: Iterable[int]) -> dict[TopicPartition, int]:
        return self._log.ends([TopicPartition(self._topics.commands, p) for p in partitions])

    return [(Retention, "resume_at", resume_at)]


@bug
def expired_refusals_are_not_skipped() -> Names:
    return [(Retention, "skip_expired", lambda self, desks: None)]


# ---- the log


@bug
def aborted_records_are_read() -> Names:
    reader = UnkindLog.reader

    def uncommitted(self: UnkindLog, name: str, **options: Any) -> UnkindReader:
        isolation: Isolation = "read_committed" if name.startswith(("commands", "last")) else "read_uncommitted"
        return reader(self, name, **(options | {"isolation": isolation}))

    return [(UnkindLog, "reader", uncommitted)]


@bug
def an_old_epoch_may_write() -> Names:
    return [(UnkindState, "fences", False)]


@bug
def a_torn_batch_is_left_as_it_is() -> Names:
    """Two bugs: a producer is used again after its connection was lost, and reading continues behind the last decided command."""

    def transact(self: UnkindWriter, records: Sequence[NewRecord]) -> Any:
        self._suspect = None
        return write(self, records)

    def resume_at(self: Retention, desks: Mapping[int, Desk], partitions: Iterable[int]) -> dict[TopicPartition, int]:
        tps = {TopicPartition(self._topics.commands, p): desks[p].meta.dealt for p in partitions}
        starts = self._log.starts(tps)
        return {tp: max(starts[tp], dealt) for tp, dealt in tps.items()}

    write = UnkindWriter.transact
    return [
        (UnkindWriter, "trouble", lambda self: self._dead),
        (UnkindWriter, "transact", transact),
        (Retention, "resume_at", resume_at),
    ]


# ---- stores


@bug
def a_position_is_stored_before_its_rows() -> Names:
    def write(self: Databases, store: Store, tp: TopicPartition, rows: Rows, last: Record) -> None:
        put = store.write

        class InTwo:
            def write(self, rows: Mapping[bytes, bytes | None]) -> None:
                put({key: value for key, value in rows.items() if key.startswith(b"\0position")})
                put({key: value for key, value in rows.items() if not key.startswith(b"\0position")})

        whole(self, InTwo(), tp, rows, last)  # type: ignore[arg-type]

    whole = Databases._write
    return [(Databases, "_write", write)]


@bug
def a_writer_stores_its_position_first() -> Names:
    def save(self: Desks) -> None:
        rows: dict[bytes, bytes | None] = {}
        for one in self.values():
            rows |= one.rows()
        self._store.write({key: value for key, value in rows.items() if key.endswith((b"/meta", b"/version"))})
        self._store.write({key: value for key, value in rows.items() if not key.endswith((b"/meta", b"/version"))})
        for one in self.values():
            one.written()

    return [(Desks, "save", save)]


@bug
def contacts_that_are_too_old_are_kept() -> Names:
    return [(KeptContacts, "_is_too_old", lambda self: False)]


# ---- what an order owes


@bug
def a_reservation_is_repeated_under_another_key() -> Names:
    reserve, numbers = StockDoor.reserve, itertools.count()

    async def under_another(self: StockDoor, order_id: str, currency: str, lines: Any, key: str) -> Any:
        return await reserve(self, order_id, currency, lines, f"{key}:{next(numbers)}")

    return [(StockDoor, "reserve", under_another)]


@bug
def an_order_that_changed_is_not_checked() -> Names:
    """The reconciler learns of no batch, only of what is owed when a writer becomes ready."""
    finish = WriterLoop._finish

    def silently(self: WriterLoop, records: list[Record]) -> None:
        watchers, self._watchers = self._watchers, ()
        try:
            finish(self, records)
        finally:
            self._watchers = watchers

    return [(WriterLoop, "_finish", silently)]
