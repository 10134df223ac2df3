"""Lists read only the rows they show, whatever the filter and whatever has left them; an order as of a time folds little."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from commands.messages import (
    CancelOrder,
    OrderCommand,
    PlaceOrder,
    RaiseAttention,
    RecordPayment,
    RecordStock,
    RequestPayment,
    ResolveAttention,
    command_codec,
)
from commands.processor.desk import Desk
from ledger import events as e
from ledger import sparse_keys
from ledger.envelope import Written
from ledger.events import Line
from ledger.evolve import evolve
from ledger.log import NewRecord, Record
from ledger.memory.store import MemoryStore
from ledger.order import Order, display
from ledger.partitioner import partition_for
from ledger.rocks_store import RocksStore
from ledger.schemas.codec import event_codec
from ledger.topics import Topics
from ledger.transitions import Operation, Status
from ledger.turns import Steps, in_one_go
from projections.projector import Projector
from projections.queries import InvalidCursor, OrderFilter, Page, Queries, VersionNotFound
from projections.read_models import SNAPSHOT_EVERY, VERSION, order_key
from tests.benchmarks.lives import COMMAND_LOG, read_back

TOPICS, PARTITIONS = Topics(), 3
T0_MS = 1_700_000_000_000
CUSTOMERS = ("c-1", "c-2", "c-10")  # one is a prefix of another
LINE = Line("product", "mug", "Mug", 1, 1000)


class CountedStore(MemoryStore):
    """Counts which rows are read; rows outlive a close, as on a disk."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[bytes] = Counter()

    def get(self, key: bytes) -> bytes | None:
        self.reads[key[:2]] += 1
        return super().get(key)

    def scan(self, prefix: bytes, start: bytes | None = None, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        for key, row in super().scan(prefix, start, reverse):
            self.reads[key[:2]] += 1
            yield key, row


class Shop:
    """Orders decided by the product's own desks, folded as `serve` folds them, and the same orders by a plain loop."""

    def __init__(self, open_store: Callable[[str], MemoryStore | RocksStore] = lambda name: CountedStore()) -> None:
        stores = [MemoryStore() for _ in range(PARTITIONS)]
        self._desks = [Desk(stores[p], p, PARTITIONS, TOPICS, COMMAND_LOG) for p in range(PARTITIONS)]
        self._clock, self._numbers = T0_MS, itertools.count()
        self.records: list[NewRecord] = []
        self.projector = Projector.open(open_store, TOPICS, PARTITIONS)
        self.queries = Queries(self.projector)

    def command(self, order_id: str, operation: Operation, customer: str = "", **payload: object) -> OrderCommand:
        number = next(self._numbers)
        command = OrderCommand(
            command_id=f"cmd_{number}",
            order_id=order_id,
            fingerprint=number.to_bytes(16, "big"),
            operation=operation.value,
            actor="gateway:web" if customer else "reconciler",
            customer_id=customer,
        )
        return replace(command, **payload)

    def deal(self, command: OrderCommand, step_ms: int = 1) -> None:
        self._clock += step_ms
        key = command.order_id.encode()
        p = partition_for(key, PARTITIONS)
        record = Record(TOPICS.commands, p, self._clock, self._clock, key, command_codec().encode(command))
        new = self._desks[p].deal(record, Written(COMMAND_LOG, self._clock, 1))
        if new is not None and new.topic == TOPICS.events:
            self.records.append(new)

    def place(self, order_id: str, customer: str, step_ms: int = 1) -> None:
        place = PlaceOrder("EUR", 1000, (LINE,), (), bytes(32), 30 * 60_000, None)
        self.deal(self.command(order_id, Operation.PLACE_ORDER, customer, place=place), step_ms)

    def fold(self, chunk: int = 50) -> None:
        records = list(read_back(self.records))
        for start in range(0, len(records), chunk):
            self.projector.apply_chunk(records[start : start + chunk])

    def orders(self) -> list[Order]:
        """Every order, newest first, ties as the lists have them."""
        orders_by_id: dict[str, Order] = {}
        for new in self.records:
            event = event_codec().decode(new.value)
            orders_by_id[event.order_id] = evolve(orders_by_id.get(event.order_id), event)
        return sorted(orders_by_id.values(), key=lambda order: (-order.placed_at, order.order_id))

    def reads(self) -> Counter[bytes]:
        """Rows read since the last call."""
        total: Counter[bytes] = Counter()
        for store in self.projector.stores:
            assert isinstance(store, CountedStore)
            total += store.reads
            store.reads.clear()
        return total


def random_shop(seed: int) -> Shop:
    shop, choice = Shop(), random.Random(seed)
    for number in range(90):
        order_id, customer = f"ord_{number}", choice.choice(CUSTOMERS)
        shop.place(order_id, customer, step_ms=choice.choice((0, 1, 1000)))
        for _ in range(choice.randrange(4)):
            of = f"ord_{choice.randrange(number + 1)}"
            shop.deal(
                choice.choice(
                    (
                        shop.command(of, Operation.CANCEL_ORDER, cancel=CancelOrder("other")),
                        shop.command(of, Operation.RAISE_ATTENTION, raise_attention=RaiseAttention("stuck", f"att:{of}")),
                        shop.command(of, Operation.RAISE_ATTENTION, raise_attention=RaiseAttention("dispute", f"dis:{of}")),
                        shop.command(
                            of, Operation.RESOLVE_ATTENTION, resolve_attention=ResolveAttention("stuck", f"att:{of}", "retry")
                        ),
                        shop.command(of, Operation.RECORD_STOCK, record_stock=RecordStock(e.STOCK_RESERVED, "product", "r")),
                    )
                )
            )
    shop.fold(choice.choice((1, 7, 50)))
    return shop


def pages(shop: Shop, wanted: OrderFilter, limit: int) -> list[Page]:
    pages_read, resume = [], None
    while True:
        page = in_one_go(shop.queries.page(wanted, limit, resume))
        pages_read.append(page)
        if page.resume is None:
            return pages_read
        resume = shop.queries.read_cursor(wanted, shop.queries.cursor(wanted, page.resume))


@pytest.mark.parametrize("seed", range(4))
def test_every_combination_of_filters_shows_its_orders_and_reads_no_others(seed: int) -> None:
    shop = random_shop(seed)
    orders, choice = shop.orders(), random.Random(seed)
    shown = 0
    for customer, status, attention in itertools.product((None, *CUSTOMERS), (None, *Status), (None, True)):
        times = [None, None, None, choice.choice(orders).placed_at, choice.choice(orders).placed_at + 1]
        wanted = OrderFilter(status, customer, choice.choice(times), choice.choice(times), attention)
        expected = [
            order.order_id
            for order in orders
            if (customer is None or order.customer_id == customer)
            and (status is None or display(order) == status)
            and (not attention or order.attention)
            and (wanted.placed_from_ms is None or order.placed_at >= wanted.placed_from_ms)
            and (wanted.placed_to_ms is None or order.placed_at <= wanted.placed_to_ms)
        ]
        limit = choice.choice((1, 3, 100))
        shop.reads()
        pages_read = pages(shop, wanted, limit)
        assert [order.order_id for page in pages_read for order in page.orders] == expected, wanted
        assert all(len(page.orders) == limit for page in pages_read[:-1])
        reads = shop.reads()
        assert reads.pop(b"o/", 0) == len(expected), "an order was read that is not shown"
        # In each partition the next key is read too, whether or not a page has room for it.
        assert sum(reads.values()) <= len(expected) + (PARTITIONS + 1) * len(pages_read)
        shown += len(expected)
    assert shown > 200


def test_the_first_order_of_a_status_is_read_alone_however_many_others_there_are() -> None:
    shop = Shop()
    for number in range(300):
        shop.place(f"ord_{number}", "c-1")
    shop.deal(shop.command("ord_0", Operation.CANCEL_ORDER, cancel=CancelOrder("other")))
    shop.fold()
    shop.reads()
    page = in_one_go(shop.queries.page(OrderFilter("cancelled", "c-1"), 1))
    assert ([order.order_id for order in page.orders], page.resume) == (["ord_0"], None)
    assert sum(shop.reads().values()) == 2, "its row in the list and the order"


def test_a_cursor_into_another_list_is_refused() -> None:
    shop = random_shop(1)
    wanted = OrderFilter("pending", "c-1")
    page = in_one_go(shop.queries.page(wanted, 1))
    assert page.resume is not None
    other = {p: b"u/c-1\0" + key[-30:] for p, key in page.resume.items()}
    with pytest.raises(InvalidCursor):
        shop.queries.read_cursor(wanted, shop.queries.cursor(wanted, other))


# ---- what has left a list -------------------------------------------------------------------------------------------


def steps_of(steps: Steps[Page]) -> tuple[Page, int]:
    count = 0
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value, count
        count += 1


@pytest.mark.parametrize("apart_ms", [1, 1000, 10**8])
def test_a_list_that_everything_has_left_is_read_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apart_ms: int) -> None:
    """Until RocksDB has compacted, deleted rows are still in the way, and passing over them cannot be interrupted."""
    monkeypatch.setattr(sparse_keys, "MOST_DELETED", 20)
    shop = Shop(lambda name: RocksStore(tmp_path / name))
    try:
        for number in range(400):
            shop.place(f"ord_{number}", "c-1", step_ms=apart_ms)
        shop.fold()
        shop.records, placed = [], shop.records
        left = [number for number in range(400) if number not in (3, 200, 201)]
        for number in left:
            shop.deal(shop.command(f"ord_{number}", Operation.CANCEL_ORDER, cancel=CancelOrder("other")))
        shop.records = placed + shop.records
        shop.fold()
        pending = OrderFilter("pending", "c-1")
        page, steps = steps_of(shop.queries.page(pending, 10))
        assert ([order.order_id for order in page.orders], page.resume) == (["ord_201", "ord_200", "ord_3"], None)
        assert steps > len(left) // 20, "one step passed over more than it may"
        assert [len(page.orders) for page in pages(shop, pending, 1)] == [1, 1, 1]
        assert len(steps_of(shop.queries.page(OrderFilter("cancelled"), 500))[0].orders) == len(left)
    finally:
        shop.projector.close()


def test_many_deleted_rows_of_one_millisecond_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_keys, "MOST_DELETED", 20)
    shop = Shop(lambda name: RocksStore(tmp_path / name))
    try:
        for number in range(300):
            shop.place(f"ord_{number}", "c-1", step_ms=0)
        shop.fold()
        for number in range(299):
            shop.deal(shop.command(f"ord_{number}", Operation.CANCEL_ORDER, cancel=CancelOrder("other")))
        shop.fold()
        page = in_one_go(shop.queries.page(OrderFilter("pending"), 10))
        assert [order.order_id for order in page.orders] == ["ord_299"]
    finally:
        shop.projector.close()


# ---- other databases between two steps ------------------------------------------------------------------------------


def test_a_read_continues_in_the_databases_that_are_taken_over_meanwhile() -> None:
    shop = random_shop(3)
    orders = shop.orders()
    busiest = max(orders, key=lambda order: order.version)
    partition = partition_for(busiest.order_id.encode(), PARTITIONS)
    works: list[Callable[[], Steps[object]]] = [
        lambda: shop.queries.page(OrderFilter(customer_id="c-1"), 100),
        lambda: shop.queries.page(OrderFilter("pending"), 7),
        lambda: shop.queries.history(partition, busiest.order_id),
        lambda: shop.queries.as_of_version(partition, busiest.order_id, busiest.version - 1),
        lambda: shop.queries.daily(0, 2**31),
    ]
    taken_over = 0
    for work in works:
        alone, steps, result = in_one_go(work()), work(), None
        while result is None:
            try:
                next(steps)
            except StopIteration as done:
                result = done.value
            other = Shop()
            other.records = shop.records
            other.fold()
            shop.projector.take_over(other.projector.databases).close()
            taken_over += 1
        assert result == alone
    assert taken_over > 30


# ---- as of then -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_lived() -> tuple[Shop, list[Order]]:
    """An order of 230 versions, several of them at the same time, and the order as of each."""
    shop, choice = Shop(), random.Random(1)
    shop.place("ord_1", "c-1")
    shop.deal(shop.command("ord_1", Operation.REQUEST_PAYMENT, "c-1", request_payment=RequestPayment(1000, "EUR")))
    while len(shop.records) < 230:
        declined = RecordPayment(e.PAYMENT_DECLINED, 1, code=f"no_{len(shop.records)}", provider_ref="pi_1")
        shop.deal(shop.command("ord_1", Operation.RECORD_PAYMENT, record_payment=declined), step_ms=choice.choice((0, 1, 5)))
    shop.fold(chunk=33)
    then: list[Order] = []
    for new in shop.records:
        then.append(evolve(then[-1] if then else None, event_codec().decode(new.value)))
    return shop, then


def test_an_order_as_of_any_version_is_that_of_the_fold_and_few_events_are_read(long_lived: tuple[Shop, list[Order]]) -> None:
    shop, then = long_lived
    partition = partition_for(b"ord_1", PARTITIONS)
    for order in then:
        shop.reads()
        assert in_one_go(shop.queries.as_of_version(partition, "ord_1", order.version)) == order
        assert shop.reads()[b"e/"] < SNAPSHOT_EVERY
    with pytest.raises(VersionNotFound):
        in_one_go(shop.queries.as_of_version(partition, "ord_1", 231))


def test_an_order_as_of_any_time_is_that_of_the_fold_and_few_events_are_read(long_lived: tuple[Shop, list[Order]]) -> None:
    shop, then = long_lived
    partition = partition_for(b"ord_1", PARTITIONS)
    for at_ms in range(then[0].updated_at, then[-1].updated_at + 3):
        shop.reads()
        expected = [order for order in then if order.updated_at <= at_ms][-1]
        assert in_one_go(shop.queries.as_of_time(partition, "ord_1", at_ms)) == expected
        assert shop.reads()[b"e/"] <= SNAPSHOT_EVERY
    with pytest.raises(VersionNotFound):
        in_one_go(shop.queries.as_of_time(partition, "ord_1", then[0].updated_at - 1))


def test_databases_have_another_version_than_before_there_were_these_lists() -> None:
    assert VERSION >= 5
    assert order_key("ord_1") == b"o/ord_1"
