"""Nodes with programs of several versions on one ledger: what they know of each other, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from ledger.errors import DecodeError, LogUnavailable
from ledger.events import OrderEvent
from ledger.log import NewRecord, Record, TopicPartition
from ledger.memory.clients import MemorySender
from ledger.memory.log import MemoryLog
from ledger.schemas import of_the_ledger
from ledger.schemas.codec import Codec, event_codec
from ledger.schemas.of_the_ledger import learn, level_in_use, unusable
from ledger.schemas.versions import EVENTS, SchemaVersion, schema_versions
from ledger.topics import Topics
from ledger.upgrades import membership
from ledger.upgrades.control import Control
from ledger.upgrades.membership import Membership, NotAllUpgraded, ProgramTooOld, finish
from ledger.upgrades.records import LEVEL_KEY, LIVES_MS, View, announcement, node_key, schema_record
from ledger.upgrades.resolving import resolving
from tests.support import later_schemas
from tests.support.avro_values import real_events
from tests.support.patience import until

TOPICS = Topics("up.")
FIRST, SECOND, THIRD = later_schemas.event_versions()
CONTROL = TopicPartition(TOPICS.control, 0)


class Clock:
    """The log's clock, which a test moves."""

    def __init__(self) -> None:
        self.ms = 1_800_000_000_000

    def __call__(self) -> int:
        return self.ms


class Interrupted(MemoryLog):
    """A log whose control topic cannot be reached once, or on which something happens when a sender is asked for."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.unreachable = False
        self.meanwhile: Callable[[], object] | None = None

    def ends(self, partitions: Iterable[TopicPartition], *how: Any, **more: Any) -> dict[TopicPartition, int]:
        wanted = list(partitions)
        if CONTROL in wanted and self.unreachable:
            self.unreachable = False
            raise LogUnavailable("no answer")
        return super().ends(wanted, *how, **more)

    def sender(self, name: str, linger_ms: float = 0) -> MemorySender:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return super().sender(name, linger_ms)


class Ledger:
    """A log in memory, and the nodes that joined it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        self.log = Interrupted(self.clock)
        self.log.ensure_topics(TOPICS.specs(1, 1))
        self.nodes: list[Membership] = []
        self.ended: list[BaseException] = []
        monkeypatch.setattr(membership, "POLL_S", 0.01)

    def node(self, name: str, level: int = 1, kind: str = "commands") -> Membership:
        program = f"0.{level + 1}.0"
        node = Membership(self.log, TOPICS, kind, name, program, self.ended.append, level=level, use_after_s=0.0)
        self.nodes.append(node)
        return node

    def start(self, name: str, level: int = 1, kind: str = "commands", new: bool = False) -> Membership:
        node = self.node(name, level, kind)
        node.join(new)
        node.follow()
        return node

    def view(self) -> View:
        control = Control(self.log, TOPICS)
        return control.read(View())

    def write(self, key: bytes, value: bytes | None) -> None:
        control = Control(self.log, TOPICS)
        control.write([(key, value)])
        control.close()


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    with later_schemas.nothing_learned():
        ledger = Ledger(monkeypatch)
        try:
            yield ledger
        finally:
            for node in ledger.nodes:
                node.leave()


# ---- what the topic says --------------------------------------------------------------------------------------------


def test_a_node_publishes_its_schemas_once_and_announces_itself_until_it_stops(ledger: Ledger) -> None:
    one = ledger.start("a")
    assert set(ledger.view().schemas) == {schema.id for schema in schema_versions()}
    position = ledger.view().position
    ledger.start("a", kind="serve")
    view = ledger.view()
    assert view.position == position + 1, "the schemas are there already"
    assert [(node.name, node.level, node.program) for node in view.live()] == [
        ("commands/a", 1, "0.2.0"),
        ("serve/a", 1, "0.2.0"),
    ]
    one.leave()
    assert [node.name for node in ledger.view().live()] == ["serve/a"]


def test_a_node_that_was_killed_is_forgotten_when_the_others_have_announced_themselves_for_five_minutes(ledger: Ledger) -> None:
    ledger.node("dead").join()
    ledger.clock.ms += LIVES_MS
    ledger.node("b").join()
    assert [node.name for node in ledger.view().live()] == ["commands/b", "commands/dead"]
    ledger.clock.ms += 1
    ledger.node("c").join()
    assert [node.name for node in ledger.view().live()] == ["commands/b", "commands/c"]


def test_a_record_that_is_not_understood_changes_nothing_and_is_reported() -> None:
    view = View()
    bad = [
        (b"level", b"x"),
        (b"node/commands/a", b"{}"),
        (b"schema/7", schema_record(FIRST)[1]),
        (b"schema/x", b"{}"),
        (b"?", b""),
    ]
    view.apply(Record(TOPICS.control, 0, n, 1, key, value) for n, (key, value) in enumerate(bad))
    assert (view.level, view.nodes, view.schemas, view.position) == (1, {}, {}, len(bad))
    assert len(view.faults) == 4
    assert "another content than its id says" in view.faults[2]


def test_the_level_is_never_lowered() -> None:
    view = View()
    levels = (2, 3, 2)
    view.apply(Record(TOPICS.control, 0, n, 1, LEVEL_KEY, announcement(level, f"0.{level}")) for n, level in enumerate(levels))
    assert (view.level, view.raised_by) == (3, "0.3")


# ---- the order of an upgrade ----------------------------------------------------------------------------------------


def test_the_level_cannot_be_raised_while_an_older_program_runs(ledger: Ledger) -> None:
    old = ledger.start("old", level=1)
    ledger.start("new", level=2, kind="serve")
    with pytest.raises(NotAllUpgraded, match=r"commands/old \(version 0.2.0, level 1\).*stop them"):
        finish(ledger.log, TOPICS, "0.3.0", level=2)
    assert ledger.view().level == 1
    old.leave()
    assert finish(ledger.log, TOPICS, "0.3.0", level=2).level == 2
    position = ledger.view().position
    assert finish(ledger.log, TOPICS, "0.3.0", level=2).level == 2
    assert ledger.view().position == position, "nothing to write the second time"


def test_an_older_program_does_not_start_on_a_later_level(ledger: Ledger) -> None:
    finish(ledger.log, TOPICS, "0.3.0", level=2)
    with pytest.raises(
        ProgramTooOld, match=r"uses feature level 2, raised by version 0.3.0; this program, version 0.2.0, reads up to"
    ):
        ledger.node("old", level=1).join()
    assert ledger.view().nodes == {}
    with pytest.raises(ProgramTooOld, match="level 2 is in use already"):
        finish(ledger.log, TOPICS, "0.2.0", level=1)


def test_a_running_program_ends_when_the_level_is_raised_beyond_it(ledger: Ledger) -> None:
    """It was believed dead, or started at that moment."""
    ledger.start("slow", level=1)
    ledger.write(LEVEL_KEY, announcement(2, "0.3.0"))
    until(lambda: bool(ledger.ended))
    assert isinstance(ledger.ended[0], ProgramTooOld)


def test_the_verb_names_a_node_that_started_while_the_level_was_raised(ledger: Ledger) -> None:
    ledger.log.meanwhile = lambda: ledger.node("late", level=1).join()
    with pytest.raises(NotAllUpgraded, match=r"commands/late .*they end now"):
        finish(ledger.log, TOPICS, "0.3.0", level=2)


def test_a_raised_level_is_used_by_all_nodes_after_a_pause(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    monkeypatch.setattr(membership, "use_level", used.append)
    ledger.start("a", level=2)
    assert used == [1]
    slow = Membership(ledger.log, TOPICS, "serve", "b", "0.3.0", ledger.ended.append, level=2, use_after_s=3600.0)
    ledger.nodes.append(slow)
    slow.join()
    slow.follow()
    finish(ledger.log, TOPICS, "0.3.0", level=2)
    until(lambda: used == [1, 1, 2])
    until(lambda: slow._raised_at is not None)
    assert used == [1, 1, 2], "the other one still waits"


def test_a_new_ledger_uses_the_level_of_the_program_that_created_it(ledger: Ledger) -> None:
    ledger.start("a", level=2, new=True)
    assert ledger.view().level == 2
    with pytest.raises(ProgramTooOld):
        ledger.node("old", level=1).join()


def test_a_node_repeats_its_announcement_and_publishes_again_what_a_recreated_topic_has_lost(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "ANNOUNCE_EVERY_MS", 20)
    ledger.start("a")
    first = ledger.view().nodes[node_key("commands", "a")].at_ms
    ledger.clock.ms += 1
    until(lambda: ledger.view().nodes[node_key("commands", "a")].at_ms > first)
    ledger.log.recreate(TOPICS.control)
    until(lambda: len(ledger.view().schemas) == len(schema_versions()))
    until(lambda: [node.name for node in ledger.view().live()] == ["commands/a"])


def test_a_stop_does_not_wait_for_a_log_that_is_unreachable(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    node = ledger.start("a")
    ledger.log.away(True)
    monkeypatch.setattr(membership, "SILENT_S", 0.05)
    until(lambda: node._silent_s > 0.05)
    written: list[object] = []
    monkeypatch.setattr(node._control, "write", lambda *arguments: written.append(arguments))
    node.leave()
    assert written == []
    ledger.log.away(False)
    assert [one.name for one in ledger.view().live()] == ["commands/a"]


# ---- schemas of later programs --------------------------------------------------------------------------------------


def later_event() -> bytes:
    """An event that a program with version 2 of the schema wrote."""
    return Codec(OrderEvent, [FIRST, SECOND]).encode(real_events()[0])


def put(log: MemoryLog, *values: bytes) -> None:
    sender = log.sender("test")
    for value in values:
        sender.send(NewRecord(TOPICS.events, 0, b"ord_1", value), lambda acked, error: None)
    sender.flush(10)
    sender.close()


def test_a_reader_looks_up_the_schema_of_a_later_program_before_anybody_decodes_its_record(ledger: Ledger) -> None:
    with pytest.raises(DecodeError, match="unknown_schema_id"):
        event_codec().decode(later_event())
    ledger.write(*schema_record(SECOND))
    put(ledger.log, later_event())
    log = resolving(ledger.log, TOPICS)
    reader = log.reader("test", eof=True)
    reader.assign({TopicPartition(TOPICS.events, 0): 0})
    (record,) = reader.poll(10, 1.0)
    assert event_codec().decode(record.value) == real_events()[0]
    reader.close()


def test_a_node_knows_the_schemas_of_the_others_from_its_start_and_learns_later_ones(ledger: Ledger) -> None:
    ledger.write(*schema_record(SECOND))
    ledger.start("a")
    assert of_the_ledger.learned() == 1
    ledger.write(*schema_record(THIRD))
    until(lambda: of_the_ledger.learned() == 2)


def test_junk_is_looked_up_once_and_returned_as_it_is(ledger: Ledger) -> None:
    values = [b"\0\0\0\0\7junk", b"\0\0\0\0\7more", b"", b"\0\0", b"{}", event_codec().encode(real_events()[0])]
    put(ledger.log, *values)
    log = resolving(ledger.log, TOPICS)
    reader = log.reader("test", eof=True)
    reader.assign({TopicPartition(TOPICS.events, 0): 0})
    assert [record.value for record in reader.poll(10, 1.0)] == values
    ledger.log.away(True)
    ledger.log.away(False)
    reader.assign({TopicPartition(TOPICS.events, 0): 0})
    ledger.log.recreate(TOPICS.control)  # a second look-up would read it
    assert [record.value for record in reader.poll(10, 1.0)] == values
    reader.close()


def test_a_record_whose_schema_cannot_be_looked_up_now_is_returned_by_a_later_poll(ledger: Ledger) -> None:
    ledger.write(*schema_record(SECOND))
    put(ledger.log, later_event())
    log = resolving(ledger.log, TOPICS)
    reader = log.reader("test", eof=True)
    reader.assign({TopicPartition(TOPICS.events, 0): 0})
    ledger.log.unreachable = True
    with pytest.raises(LogUnavailable):
        reader.poll(10, 1.0)
    (record,) = reader.poll(10, 1.0)
    assert event_codec().decode(record.value).order_id == real_events()[0].order_id
    reader.close()


def test_a_ledger_without_the_topic_is_read_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    log = MemoryLog()
    log.ensure_topics([spec for spec in TOPICS.specs(1, 1) if spec.name != TOPICS.control])
    put(log, later_event())
    reader = resolving(log, TOPICS).reader("test", eof=True)
    reader.assign({TopicPartition(TOPICS.events, 0): 0})
    assert len(reader.poll(10, 1.0)) == 1
    reader.close()


def changed(text: str, old: str, new: str) -> SchemaVersion:
    assert old in text
    return SchemaVersion(EVENTS, 2, text.replace(old, new, 1))


RECURSIVE = '{"type":"record","name":"Gift","fields":[{"name":"inside","type":["null","Gift"],"default":null},'
EMPTY_ITEMS = '{"name":"many","type":{"type":"array","items":{"type":"record","name":"E","fields":[]}},"default":[]}'


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (changed(SECOND.text, '{"type":"record","name":"Gift","fields":[', RECURSIVE), "Gift contains itself"),
        (changed(SECOND.text, '"fields":[', f'"fields":[{EMPTY_ITEMS},'), "an array whose items may have no bytes"),
        (changed(SECOND.text, '"fields":[', '"fields":[{"name":"x","type":"double","default":0},'), "the type double"),
        (changed(SECOND.text, '"fields":[', '"fields":[{"name":"x","type":["null","int","long"]},'), "a union other than"),
        (changed(SECOND.text, '{"name":"order_id","type":"string"}', '{"name":"order_ref","type":"string"}'), "cannot read"),
        (SchemaVersion(EVENTS, 2, '"string"'), "cannot read"),
        (SchemaVersion(EVENTS, 2, "[]"), "a union other than"),
        (SchemaVersion(EVENTS, 2, '{"type":"record"}'), "not an Avro schema"),
        (SchemaVersion("order-teas", 1, SECOND.text), "does not know its topic"),
        (SchemaVersion(EVENTS, 2, SECOND.text + " " * 70_000), "more than"),
    ],
)
def test_a_schema_that_is_not_safe_or_not_compatible_is_not_used(schema: SchemaVersion, why: str) -> None:
    """Whoever can write the topic must not be able to crash every node with six bytes."""
    with later_schemas.nothing_learned():
        assert why in str(unusable(schema))
        assert not learn(schema)
        assert of_the_ledger.learned() == 0
        assert level_in_use() == 1


def test_the_schemas_of_this_program_and_its_likely_successors_are_usable() -> None:
    for schema in (*schema_versions(), SECOND, THIRD):
        assert unusable(schema) is None
