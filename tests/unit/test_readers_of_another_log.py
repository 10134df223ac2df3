"""Readers of a log that is not the one from before: read models, the notifier, and reads that would never end."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest

from commands.notifier.message_port import OutMessage
from commands.notifier.resuming import mark_of, note_of, resume_at
from ledger import log_identity
from ledger.errors import NotThisLog
from ledger.log import NewRecord, TopicPartition
from ledger.log_identity import EndWatch, Mark, judge, topic_ids
from ledger.memory.log import MemoryLog
from ledger.memory.store import MemoryStore
from ledger.outcomes import outcome_key
from ledger.reading import committed
from ledger.schemas.codec import link_of
from ledger.topics import Topics
from projections.bulk import BulkFold
from projections.databases import Databases
from projections.opening import Opened, open_caught_up, projections_of
from projections.origin import OtherOffsets, check_log
from projections.projector import Projector
from tests.support.changed_logs import (
    CONTINUES,
    FOLDED,
    REFUSES,
    Change,
    another_ledgers,
    live,
    mirrored,
    read_all,
    recreate_all,
    recreated_and_regrown,
    restored,
    send,
)
from tests.support.one_log import PARTITIONS, TOPICS, WRITERS, Ledger, place
from tests.support.patience import PATIENCE_S, until
from tests.support.post import Post
from tests.support.post import running as notifying

ADVICE = r"TOPIC_PREFIX.*restore it whole.*order-ledger adopt-log"


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    for module in ("ledger.log_identity", "commands.processor.fold_check"):
        monkeypatch.setattr(f"{module}.AHEAD_S", 0.3)
    ledger = Ledger()
    yield ledger
    for running in list(ledger.running):
        ledger.stop(running)


# ---- read models ----------------------------------------------------------------------------------------------------


def databases_over(stores: dict[str, MemoryStore]) -> Databases:
    return Databases(lambda name: stores.setdefault(name, MemoryStore()), TOPICS, range(PARTITIONS), None)


def fold(ledger: Ledger) -> Databases:
    """Read models at the end of the log, as a `serve` leaves them."""
    databases = databases_over({})
    check_log(databases, ledger.log)
    bulk = BulkFold(ledger.log, databases, "test")
    bulk.run(bulk.ends())
    bulk.close()
    return databases


@pytest.mark.parametrize("change", [*CONTINUES, *REFUSES])
def test_read_models_know_their_log(ledger: Ledger, change: Change) -> None:
    live(ledger)
    databases = fold(ledger)
    check_log(databases, ledger.log)
    change(ledger)
    if change is restored:
        with pytest.raises(OtherOffsets, match="other offsets"):
            check_log(databases, ledger.log)
    elif change is mirrored:
        check_log(databases, ledger.log)
        assert databases.log_ids() == topic_ids(ledger.log, FOLDED)
    else:
        before = databases.log_ids()
        with pytest.raises(NotThisLog, match=ADVICE):
            check_log(databases, ledger.log)
        assert databases.log_ids() == before


def test_what_is_kept_beside_a_position_does_not_depend_on_chunks(ledger: Ledger) -> None:
    live(ledger)
    at_once, one_by_one = fold(ledger), databases_over({})
    check_log(one_by_one, ledger.log)
    for record in read_all(ledger):
        one_by_one.write_chunk(TopicPartition(record.topic, record.partition), [record])
    assert one_by_one.marks() == at_once.marks()
    last = {TopicPartition(r.topic, r.partition): r for r in read_all(ledger)}
    ids = topic_ids(ledger.log, FOLDED)
    assert at_once.marks() == {tp: Mark(r.offset + 1, ids[tp.topic], link_of(r.value or b"")) for tp, r in last.items()}


def test_read_models_of_an_earlier_version_get_their_log_unless_it_ends_before_them(ledger: Ledger) -> None:
    live(ledger)
    stores = {f"p{p}": store for p, store in fold(ledger).stores.items()}
    for store in stores.values():
        for key, row in list(store.scan(b"\0position/")):
            store.write({key: row[:16]})
        for key, _ in list(store.scan(b"\0log/")):
            store.write({key: None})
    databases = databases_over(stores)  # type: ignore[arg-type]
    assert all(mark.log_id == mark.link == b"" for mark in databases.marks().values())
    check_log(databases, ledger.log)
    assert databases.log_ids() == topic_ids(ledger.log, FOLDED)
    databases.note_log(dict.fromkeys(FOLDED, b""))
    recreate_all(ledger.log)
    with pytest.raises(NotThisLog, match=ADVICE):
        check_log(databases, ledger.log)


def open_node(ledger: Ledger, root: Path) -> Opened:
    opened = open_caught_up(projections_of(root), TOPICS, ledger.log, PARTITIONS, Event(), root / "folding.json")
    assert opened is not None
    return opened


@pytest.mark.parametrize("change", [*CONTINUES, *REFUSES])
def test_a_node_starts_on_the_same_log_folds_a_restored_one_again_and_refuses_others(
    ledger: Ledger, change: Change, tmp_path: Path
) -> None:
    sent = live(ledger)
    first = open_node(ledger, tmp_path)
    digests = {p: digest.value for p, digest in first.databases.digests().items()}
    first.databases.close()
    change(ledger)
    if change not in CONTINUES:
        with pytest.raises(NotThisLog, match=ADVICE):
            open_node(ledger, tmp_path)
        assert projections_of(tmp_path).current() == first.name
        return
    again = open_node(ledger, tmp_path)
    try:
        assert (again.name == first.name, again.moved) == (change is mirrored, change is restored)
        answered = [store.get(outcome_key(c.command_id)) is not None for c in sent for store in again.databases.stores.values()]
        assert sum(answered) == len(sent)
        if change is mirrored:
            assert {p: digest.value for p, digest in again.databases.digests().items()} == digests
        assert again.databases.positions().items() >= ledger.log.ends([]).items()
        assert fold(ledger).digests() == again.databases.digests()
    finally:
        again.databases.close()


def test_a_topic_that_is_replaced_under_a_running_node_ends_its_fold(ledger: Ledger) -> None:
    """A node that was suspended meanwhile reads on at its position, in other records."""
    live(ledger)
    databases = fold(ledger)
    events = [r for r in ledger.records(TOPICS.events) if r.partition == 0]
    node = Projector(Databases(lambda name: MemoryStore(), TOPICS, range(PARTITIONS), PARTITIONS))
    node.databases.note_log(databases.log_ids())
    node.apply_chunk(events[:4])
    node.apply_chunk(events[4:6])
    recreated_and_regrown(ledger)
    later = [r for r in ledger.records(TOPICS.events) if r.partition == 0 and r.offset >= events[5].offset + 1]
    with pytest.raises(NotThisLog, match="does not follow"):
        node.apply_chunk(later)
    assert node.position(0) == events[5].offset + 1


def test_a_broken_chain_of_the_same_log_costs_a_restart(ledger: Ledger) -> None:
    live(ledger)
    events = [r for r in ledger.records(TOPICS.events) if r.partition == 0]
    stores = {name: MemoryStore() for name in [*(f"p{p}" for p in range(PARTITIONS)), "contacts"]}

    def start() -> Projector:
        databases = Databases(lambda name: stores[name], TOPICS, range(PARTITIONS), PARTITIONS)
        databases.note_log(topic_ids(ledger.log, FOLDED))
        return Projector(databases)

    node = start()
    node.apply_chunk(events[:3])
    with pytest.raises(NotThisLog):
        node.apply_chunk(events[4:5])  # as if a foreign record had been written between them
    again = start()
    again.apply_chunk(events[4:5])
    again.apply_chunk(events[5:])
    assert again.position(0) == events[-1].offset + 1


# ---- the notifier ---------------------------------------------------------------------------------------------------


def test_notifier_positions_follow_their_records_and_are_at_the_end_of_another_log(ledger: Ledger) -> None:
    live(ledger)
    databases = fold(ledger)
    marks = {tp: mark for tp, mark in databases.marks().items() if tp.topic == TOPICS.events}
    noted = {tp: mark_of(mark.position, note_of(mark.log_id, mark.link)) for tp, mark in marks.items()}
    assert noted == marks

    def resumed() -> dict[TopicPartition, Mark]:
        return resume_at(ledger.log, TOPICS, ledger.log.topic_id(TOPICS.events), marks)

    assert resumed() == marks
    mirrored(ledger)
    log_id = ledger.log.topic_id(TOPICS.events)
    assert resumed() == {tp: mark._replace(log_id=log_id) for tp, mark in marks.items()}
    restored(ledger)
    send_one = ledger.start()
    send(ledger, [place(f"later{n}") for n in range(12)])
    ledger.stop(send_one)
    for tp, mark in resumed().items():
        record = next(r for r in ledger.records(TOPICS.events) if (r.partition, r.offset) == (tp.partition, mark.position - 1))
        assert link_of(record.value or b"") == marks[tp].link == mark.link
    another_ledgers(ledger)
    log_id = ledger.log.topic_id(TOPICS.events)
    assert resumed() == {tp: Mark(end, log_id, b"") for tp, end in ledger.log.ends(marks).items()}


class Door:
    """Sends e-mail by noting it."""

    channel = "email"

    def __init__(self) -> None:
        self.subjects: list[str] = []

    def send(self, message: OutMessage) -> None:
        self.subjects.append(message.subject)

    def kept(self) -> Collection[str]:
        return ()

    def forget(self, order_ids: Collection[str]) -> None:
        pass


def test_a_notifier_that_resumed_at_the_end_of_another_log_announces_everything_since() -> None:
    """It used to note that end with its next message only, and a restart resumed at the end again."""
    log, topics, door = MemoryLog(), Topics(), Door()
    post = Post(log, topics, "smtp://127.0.0.1:1")
    with notifying(post, doors={"email": door}):
        post.placed("ord_1")
        until(lambda: door.subjects)
        until(post.at_end)
    log.recreate(topics.events)
    post.placed("ord_2")
    with notifying(post, doors={"email": door}):
        pass
    post.placed("ord_3")
    with notifying(post, doors={"email": door}):
        until(lambda: len(door.subjects) == 2)
    post.close()
    assert ["ord_1" in door.subjects[0], "ord_3" in door.subjects[1]] == [True, True]


@pytest.mark.parametrize("note", ["", "x", "zz zz", "00", "0102 0"])
def test_a_note_that_cannot_be_read_is_none(note: str) -> None:
    mark = mark_of(7, note)
    assert mark.position == 7
    assert mark.link == b""


# ---- nothing polls for ever -----------------------------------------------------------------------------------------


def test_a_fold_beyond_the_end_of_the_log_ends(ledger: Ledger) -> None:
    live(ledger)
    databases = databases_over({})
    bulk = BulkFold(ledger.log, databases, "test")
    until = {tp: end + 7 for tp, end in bulk.ends().items()}
    with pytest.raises(NotThisLog, match="this log ends at"):
        bulk.run(until)
    bulk.close()


def test_a_read_beyond_the_end_of_the_log_ends(ledger: Ledger) -> None:
    live(ledger)
    tps = {TopicPartition(TOPICS.events, p): 0 for p in range(PARTITIONS)}
    reader = ledger.log.reader("test", eof=True)
    with pytest.raises(NotThisLog, match="this log ends at"):
        list(committed(reader, tps, {tp: end + 1 for tp, end in ledger.log.ends(tps).items()}, Event()))
    reader.close()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of `ledger.log_identity`, which the test moves."""
    now = [0.0]
    monkeypatch.setattr(log_identity, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_an_end_that_still_moves_is_waited_for(now: list[float]) -> None:
    tp, watch = TopicPartition("t", 0), EndWatch()

    def answers_for(seconds: float, end: int, wanted: dict[TopicPartition, int]) -> None:
        ends_at = now[0] + seconds
        while now[0] < ends_at:
            now[0] += 1.0
            watch.check({tp: end}, wanted, 0.0)

    for end in range(20):
        answers_for(50.0, end, {tp: 100})
    answers_for(1.0, 19, {})  # not wanted any more
    answers_for(50.0, 19, {tp: 100})
    with pytest.raises(NotThisLog):
        answers_for(15.0, 19, {tp: 100})


def test_a_reader_without_answers_is_no_evidence_that_the_log_ends_there(now: list[float]) -> None:
    """The broker left for an hour, or this process was suspended for one: both while too low an end was known."""
    tp, watch = TopicPartition("t", 0), EndWatch()
    watch.check({tp: 90}, {tp: 100}, 0.0)
    for silent_s in range(3, 3600):
        now[0] += 1.0
        watch.check({tp: 90}, {tp: 100}, silent_s + 0.5)
    now[0] += 3600.0
    watch.check({tp: 90}, {tp: 100}, 0.0)
    for _ in range(12):
        now[0] += 4.5
        watch.check({tp: 90}, {tp: 100}, 0.0)
    now[0] += 4.5
    with pytest.raises(NotThisLog):
        watch.check({tp: 90}, {tp: 100}, 0.0)


def test_an_outage_between_two_low_ends_is_no_evidence_that_the_log_is_another_one(
    now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    log, tp = MemoryLog(), TopicPartition(TOPICS.events, 0)
    log.ensure_topics(TOPICS.specs(PARTITIONS, WRITERS))
    writer = log.writer("w")
    writer.start(PATIENCE_S)
    writer.transact([NewRecord(*tp, b"k", b"v")])
    ids, true_ends, answers = topic_ids(log, FOLDED), log.ends, iter((0.0, 70.0))

    def ends(partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        silent_s = next(answers, None)
        now[0] += silent_s or 0.0
        return true_ends(partitions) if silent_s is None else dict.fromkeys(partitions, 0)

    monkeypatch.setattr(log_identity, "PAUSE_S", 0.0)
    monkeypatch.setattr(log, "ends", ends)
    judged = judge(log, {tp: Mark(1, ids[tp.topic], link_of(b"v"))}, ids, TOPICS)
    assert judged[tp].verdict == "same"


def test_a_partition_that_was_never_folded_fits_every_log() -> None:
    log = MemoryLog()
    log.ensure_topics(TOPICS.specs(PARTITIONS, WRITERS))
    marks = {TopicPartition(TOPICS.events, 0): Mark(0, bytes(16), b"")}
    assert judge(log, marks, topic_ids(log, FOLDED), TOPICS) == {}


# ---- another TOPIC_PREFIX -------------------------------------------------------------------------------------------


def under_another_prefix(databases: Databases, topics: Topics) -> Databases:
    return Databases(lambda name: databases.stores[int(name[1:])], topics, range(PARTITIONS), None)


@pytest.mark.parametrize("is_a_copy", [True, False])
def test_read_models_are_compared_with_topics_of_another_prefix_too(ledger: Ledger, is_a_copy: bool) -> None:
    """Mirrors often give a topic another name. Positions are then under the old one."""
    live(ledger)
    databases, other = fold(ledger), Topics("copy.")
    ledger.log.ensure_topics(other.specs(PARTITIONS, WRITERS))
    topics = ledger.log._state.topics
    for name, copy in ((TOPICS.events, other.events), (TOPICS.refusals, other.refusals)) if is_a_copy else ():
        for partition, target in zip(topics[name].partitions, topics[copy].partitions, strict=True):
            target.slots = [slot and (slot[0]._replace(topic=copy), slot[1]) for slot in partition.slots]
    there = under_another_prefix(databases, other)
    assert [mark.position for mark in there.marks().values()] == [mark.position for mark in databases.marks().values()]
    if not is_a_copy:
        with pytest.raises(NotThisLog, match=ADVICE):
            check_log(there, ledger.log)
        return
    check_log(there, ledger.log)
    again = under_another_prefix(databases, other)
    assert again.marks() == there.marks()
    assert again.log_ids() == topic_ids(ledger.log, (other.events, other.refusals))
    keys = [key for store in databases.stores.values() for key, _ in store.scan(b"\0") if b"order-" in key]
    assert all(b"copy." in key for key in keys)
