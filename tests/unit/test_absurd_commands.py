"""Commands that can be decoded and make no sense: each costs only itself, and leaves nothing that breaks a fold or a reader."""

from __future__ import annotations

import copy
import random
import shutil
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from api.representations import to_json, whole_order
from commands.messages import command_codec
from commands.obligations import obligations
from commands.processor.desk import Desk
from ledger.envelope import Written
from ledger.log import Record, TopicPartition
from ledger.memory.store import MemoryStore
from ledger.partitioner import partition_for
from ledger.schemas.codec import event_codec, refusal_codec
from ledger.topics import Topics
from ledger.transitions import Code
from projections.databases import Databases
from tests.support.absurd_commands import MARK, PLACES, as_lists, encoded, feed, mutated, plain
from tests.support.absurd_shop import AbsurdShop
from tests.support.order_commands import (
    IMPORT,
    M1,
    P1,
    PAY,
    PLACED_AT,
    WHOLE,
    arrived,
    ask_back,
    cut,
    notes,
    order_command,
    parcel,
    part_back,
    payments_of,
    stock_of,
)
from tests.support.order_model import Command

TOPICS = Topics()
COMMAND_LOG = bytes(range(16))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Drops what the desk logs about bad records; here there are thousands."""
    with structlog.testing.capture_logs():
        yield


@pytest.fixture
def said() -> Iterator[list[str]]:
    """Log lines that repeat part of a contact; the others, a million, are dropped."""
    lines: list[str] = []

    def judge(logger: Any, method: str, line: Any) -> Any:
        text = f"{line} {traceback.format_exc() if line.get('exc_info') else ''}"
        if MARK in text:
            lines.append(text)
        raise structlog.DropEvent

    structlog.configure(processors=[judge])
    yield lines
    structlog.reset_defaults()


class Ledger:
    """The desk of one of four partitions, and read models over its output."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.desk = Desk(self.store, 0, 4, TOPICS, COMMAND_LOG)
        self.read_models = Databases(lambda name: MemoryStore(), TOPICS, [0], None)
        self.offset = 0
        self.ends = {TOPICS.events: 0, TOPICS.refusals: 0}
        self.answers: list[tuple[str, Any]] = []

    def deal(self, *values: bytes, key: bytes | None = None) -> list[str]:
        """Decide one batch. Returns the result of each value: the event's type, the refusal's code, or "nothing"."""
        written = Written(COMMAND_LOG, self.offset, 1)
        said, records = [], []
        for value in values:
            try:
                own = command_codec().decode_fields(value)["order_id"].encode()
            except Exception:
                own = b"?"
            command = Record(TOPICS.commands, 0, self.offset, PLACED_AT, key or own, value)
            self.offset += 1
            new = self.desk.deal(command, written)
            if new is None:
                said.append("nothing")
                continue
            codec: Any = event_codec() if new.topic == TOPICS.events else refusal_codec()
            answer = codec.decode(new.value)
            said.append(answer.type if new.topic == TOPICS.events else answer.code)
            at = self.ends[new.topic]
            self.ends[new.topic] += 1
            records.append(Record(new.topic, 0, at, new.timestamp_ms or PLACED_AT, new.key, new.value))
        for topic, end in self.ends.items():
            self.desk.landed(topic, end)
        self.store.write(self.desk.rows())
        changed = self.desk.changed()
        self.desk.written()
        for topic in self.ends:
            self.read_models.write_chunk(TopicPartition(topic, 0), [r for r in records if r.topic == topic])
        for order in changed:
            obligations(order)
            to_json(whole_order(order, None, None))
        assert self.read_models.frozen_count() == 0
        return said


def home_id(partition: int = 0) -> str:
    """An order id whose home is this partition."""
    return next(f"ord_{n}" for n in range(1000) if partition_for(f"ord_{n}".encode(), 4) == partition)


HOME = home_id()
PLACE = plain(order_command(next(c for c in WHOLE if c["op"] == "PlaceOrder"), HOME, "cmd_place"))


def changed(path: str, value: Any, sensible: dict[str, Any] = PLACE) -> dict[str, Any]:
    fields = copy.deepcopy(as_lists(sensible))
    *path_to_it, last = path.split(".")
    inner = fields
    for step in path_to_it:
        inner = inner[int(step)] if isinstance(inner, list) else inner[step]
    inner[int(last) if isinstance(inner, list) else last] = value
    return fields | {"command_id": f"cmd_{abs(hash((path, str(value)[:50]))) % 10**9}"}


ABSURD = [
    ("place.payment_window_ms", -(2**62)),
    ("place.payment_window_ms", 2**62),
    ("place.payment_window_ms", 0),
    ("place.total_minor", -1),
    ("place.total_minor", 2**63 - 1),
    ("place.lines", []),
    ("place.lines", [PLACE["place"]["lines"][0]] * 101),
    ("place.lines.0.quantity", 0),
    ("place.lines.0.quantity", -(2**31)),
    ("place.lines.0.unit_price_minor", 2**63 - 1),
    ("place.lines.0.sku", "x" * 90_000),
    ("place.lines.0.service", ""),
    ("place.lines.0.service", "flowers"),
    ("place.lines", [PLACE["place"]["lines"][0]] * 2),
    ("place.currency", ""),
    ("place.currency", "EURO"),
    ("place.reference", "r" * 60_000),
    ("customer_id", "c" * 1000),
    ("customer_id", ""),
    ("actor", "a" * 90_000),
    ("operation", "x" * 1000),
    ("expected_version", -1),
    ("place.adjustments.0.service", "product"),
    ("place.adjustments.0", {"kind": "tax", "label": "", "amount_minor": 800, "service": "product", "sku": "none"}),
    ("place.adjustments.0", {"kind": "shipping", "label": "", "amount_minor": 800, "service": "product", "sku": "product-1"}),
    ("place.metadata", [{"name": "", "text": ""}]),
    ("place.metadata", [{"name": "n" * 41, "text": ""}]),
    ("place.metadata", [{"name": "n", "text": "x" * 201}]),
    ("place.metadata", [{"name": f"n{n}", "text": ""} for n in range(21)]),
    ("place.metadata", [{"name": "n", "text": ""}] * 2),
]


@pytest.mark.parametrize(("path", "value"), ABSURD, ids=[f"{path} {str(value)[:12]}" for path, value in ABSURD])
def test_an_absurd_command_is_refused_and_the_next_one_is_decided(path: str, value: Any) -> None:
    ledger = Ledger()
    said = ledger.deal(encoded(changed(path, value)), encoded(PLACE))
    refused = {Code.COULD_NOT_DECIDE, Code.UNDECODABLE, Code.PAYMENT_WINDOW_NOT_ALLOWED, Code.AMOUNT_DIFFERS}
    assert said[0] in refused
    assert said[1] == "OrderPlaced"


UNIT = {"service": "product", "sku": "product-1", "quantity": 1}
REFUND = {"reason": "other", "lines": [], "amount_minor": None, "shipping": False, "restock": False}
ABSURD_AT_THE_DESK: list[tuple[Command, str, Any]] = [
    (cut(P1), "cancel_lines", None),
    (cut(P1), "cancel_lines.lines", []),
    (cut(P1), "cancel_lines.lines.0.quantity", 0),
    (cut(P1), "cancel_lines.lines.0.quantity", -1),
    (cut(P1), "cancel_lines.lines.0.service", ""),
    (cut(P1), "cancel_lines.lines", [UNIT] * 101),
    (cut(P1), "cancel_lines.reason", "x" * 65),
    (parcel(P1), "ship", None),
    (parcel(P1), "ship.lines", []),
    (parcel(P1), "ship.lines.0.quantity", -(2**31)),
    (parcel(P1), "ship.carrier", "x" * 90_000),
    (arrived(1), "deliver", None),
    (arrived(1), "deliver.parcel", -1),
    (ask_back(P1), "request_refund", None),
    (ask_back(P1), "request_refund", REFUND),
    (ask_back(P1), "request_refund", REFUND | {"amount_minor": -1}),
    (ask_back(P1), "request_refund", REFUND | {"amount_minor": 2**62}),
    (ask_back(P1), "request_refund", REFUND | {"amount_minor": 1, "restock": True}),
    (ask_back(P1), "request_refund.lines.0.sku", "x" * 65),
    (notes(till="7"), "change_metadata", None),
    (notes(till="7"), "change_metadata.entries.0.name", ""),
    (notes(till="7"), "change_metadata.entries.0.text", "x" * 201),
    (notes(till="7"), "change_metadata.entries", [{"name": "n", "text": None}] * 41),
    (part_back("product", 1), "record_stock.part", -1),
    (part_back("product", 1), "record_stock.fact", "StockReserved"),
]


@pytest.mark.parametrize(
    ("command", "path", "value"), ABSURD_AT_THE_DESK, ids=[f"{path} {str(value)[:24]}" for _, path, value in ABSURD_AT_THE_DESK]
)
def test_an_absurd_command_of_the_desk_is_refused_and_the_next_one_is_decided(command: Command, path: str, value: Any) -> None:
    """Of a paid order whose first parcel left: for none of them it would be too early or too late."""
    ledger = Ledger()
    place = {"op": "PlaceOrder", "role": "customer", "cart": "two and one"}
    paid = [place, PAY, *payments_of(1)[::9], stock_of("product")[0], stock_of("merch")[0], parcel(P1)]
    said = ledger.deal(*(encoded(plain(order_command(c, HOME, f"cmd_{n}"))) for n, c in enumerate(paid)))
    assert said[-1] == "ParcelShipped"
    absurd = encoded(changed(path, value, plain(order_command(command, HOME, "cmd_absurd"))))
    said = ledger.deal(absurd, encoded(plain(order_command(cut(M1), HOME, "cmd_next"))))
    assert said[0] in {Code.COULD_NOT_DECIDE, Code.UNDECODABLE}
    assert said[1] == "LinesCancelled"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("import_order", None),
        ("import_order.status", "pending"),
        ("import_order.status", ""),
        ("import_order.captured_minor", 999),
        ("import_order.refunded_minor", -1),
        ("import_order.refunded_minor", 1001),
        ("import_order.placed_at", 2**50),
        ("import_order.placed_at", PLACED_AT + 10_000),
        ("import_order.delivered_at", PLACED_AT - 1),
        ("import_order.carrier", "UPS"),
        ("import_order.old_id", "x" * 256),
        ("import_order.place.lines", []),
        ("import_order.place.metadata", [{"name": "n", "text": ""}] * 2),
        ("customer_id", ""),
    ],
)
def test_an_absurd_order_of_an_older_service_is_refused_and_the_next_one_is_decided(path: str, value: Any) -> None:
    ledger = Ledger()
    sensible = plain(order_command(IMPORT, HOME, "cmd_import"))
    assert ledger.deal(encoded(changed(path, value, sensible)))[0] in {Code.COULD_NOT_DECIDE, Code.UNDECODABLE}
    assert ledger.deal(encoded(sensible | {"command_id": "cmd_other"})) == ["OrderImported"]


@pytest.mark.parametrize("order_id", ["", "a/b", "ord_\n", "o" * 90_000, "ord_é"])
def test_an_order_id_that_no_path_can_name_gets_no_order(order_id: str) -> None:
    said = Ledger().deal(encoded(PLACE | {"order_id": order_id}), encoded(PLACE | {"command_id": "cmd_other"}))
    assert said[0] in (Code.COULD_NOT_DECIDE, Code.UNDECODABLE)
    assert said[1] == "OrderPlaced"


def test_an_order_gets_no_home_in_a_partition_where_nobody_looks_for_it() -> None:
    assert Ledger().deal(encoded(PLACE | {"order_id": home_id(1)})) == [Code.COULD_NOT_DECIDE]


def test_the_refusal_of_an_absurd_command_names_it_and_a_retry_leaves_no_second_one() -> None:
    ledger = Ledger()
    absurd = encoded(changed("place.payment_window_ms", -(2**62)))
    assert ledger.deal(absurd, absurd) == [Code.COULD_NOT_DECIDE, "nothing"]
    assert ledger.deal(absurd) == ["nothing"]


def run(commands: int, seed: int) -> dict[str, int]:
    """Decide this many mutated commands, twenty to a batch. Returns how often each answer came."""
    chance, ledger = random.Random(seed), Ledger()
    homes = [f"ord_{n}" for n in range(400) if partition_for(f"ord_{n}".encode(), 4) == 0]
    counts: dict[str, int] = {}
    number_decided = 0
    while number_decided < commands:
        if number_decided % 20_000 == 0:
            ledger = Ledger()
        batch = []
        for _ in range(20):
            wish = chance.choice(PLACES if chance.random() < 0.3 else WHOLE)
            whole = plain(order_command(wish, chance.choice(homes), f"cmd_{number_decided}"))
            fields = mutated(whole, chance) if chance.random() < 0.8 else whole
            try:
                batch.append(encoded(fields))
            except Exception:  # a value that does not fit its Avro type cannot be encoded
                batch.append(b"junk")
            number_decided += 1
        for answer in ledger.deal(*batch):
            counts[answer] = counts.get(answer, 0) + 1
    return counts


def test_thousands_of_mutated_commands_each_cost_only_themselves() -> None:
    counts = run(6_000, 1)
    assert counts["OrderPlaced"] > 50
    assert counts[Code.COULD_NOT_DECIDE] > 300


# ---- the same through a whole ledger --------------------------------------------------------------------------------

LIFE_COMMANDS = 50_000


def lived(folder: Path, said: list[str], commands: int, seed: int, first: int = 0) -> Counter[str]:
    """Run one ledger. Returns counts of everything that happened in it."""
    chance = random.Random(seed)
    with AbsurdShop(folder, seed) as shop:
        feed(shop, commands, chance, first)
        shop.quiet_down()
        assert said == []
        assert shop.unread() == set()
        return shop.counts()


@pytest.mark.timeout(600)
def test_thousands_of_mutated_commands_stop_nothing_of_a_whole_ledger(tmp_path: Path, said: list[str]) -> None:
    counts = lived(tmp_path, said, 6_000, 3)
    print(dict(sorted(counts.items())))


@pytest.mark.campaign
@pytest.mark.timeout(7200)
def test_a_million_mutated_commands_stop_nothing_of_a_whole_ledger(tmp_path: Path, said: list[str]) -> None:
    counts: Counter[str] = Counter()
    for life in range(1_000_000 // LIFE_COMMANDS):
        folder = tmp_path / str(life)
        counts += lived(folder, said, LIFE_COMMANDS, 100 + life, life * LIFE_COMMANDS)
        shutil.rmtree(folder)
        print(life, dict(sorted(counts.items())), flush=True)
