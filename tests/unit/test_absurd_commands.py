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
from tests.support.order_commands import PLACED_AT, WHOLE, order_command

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


def changed(path: str, value: Any) -> dict[str, Any]:
    fields = copy.deepcopy(as_lists(PLACE))
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
]


@pytest.mark.parametrize(("path", "value"), ABSURD, ids=[f"{path} {str(value)[:12]}" for path, value in ABSURD])
def test_an_absurd_command_is_refused_and_the_next_one_is_decided(path: str, value: Any) -> None:
    ledger = Ledger()
    said = ledger.deal(encoded(changed(path, value)), encoded(PLACE))
    refused = {Code.COULD_NOT_DECIDE, Code.UNDECODABLE, Code.PAYMENT_WINDOW_NOT_ALLOWED, Code.AMOUNT_DIFFERS}
    assert said[0] in refused
    assert said[1] == "OrderPlaced"


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
