"""What a node keeps beside a log, and what the verbs do about it: `inspect`, `adopt-log`, `accept-gap`."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from api.cli.acts import ActOptions, Acts, actor
from api.cli.adopt_log import accept, forget, forget_partitions, give_up
from api.cli.inspection import as_json, inspect_node
from api.cli.positions import Node
from api.cli.terminal import Screen, Terminal
from commands.messages import OrderCommand
from commands.processor.desk import Desk
from commands.processor.desk_rows import clear
from commands.processor.process import CommandsProcess
from ledger.audit import DONE, LOG_ADOPTION, REQUESTED
from ledger.errors import ConfigError, Gap, LedgerError, NotThisLog
from ledger.log import NewRecord, TopicPartition
from ledger.progress import Claim, record_of
from ledger.rocks_store import RocksStore
from ledger.schemas.codec import audit_codec
from ledger.store import Store
from projections.opening import open_caught_up, projections_of
from tests.support.changed_logs import mirrored, read_all, recreate_all, restored, send, write_again
from tests.support.one_log import PARTITIONS, TOPICS, WRITERS, Ledger, Running, cancel, place
from tests.support.patience import PATIENCE_S

GROUP = "app-notifier"


def opener(folder: Path) -> Callable[[str], Store]:
    return lambda name: RocksStore(folder / name)


class Shop(Ledger):
    """A ledger whose `commands` keeps its stores on the disk of one node, and its `serve`."""

    def __init__(self, state_dir: Path) -> None:
        super().__init__()
        self.state_dir, self.generations = state_dir, projections_of(state_dir)

    def start(self, instance: str = "one") -> Running:
        process = CommandsProcess(self.log, opener(self.state_dir / "commands"), TOPICS, "app", instance)

        def run() -> None:
            try:
                running.codes.append(process.run())
            except LedgerError as exc:
                running.refused.append(exc)

        running = Running(process, threading.Thread(target=run, daemon=True))
        self.running.append(running)
        running.thread.start()
        return running

    def serve(self) -> None:
        """Start, fold everything, stop. Raises what ends a start."""
        progress = self.generations.root / "folding.json"
        opened = open_caught_up(self.generations, TOPICS, self.log, PARTITIONS, threading.Event(), progress)
        assert opened is not None
        opened.databases.close()

    def work(self, *keys: str) -> None:
        running = self.start()
        send(self, [place(key) for key in keys])
        self.stop(running)
        self.serve()

    def node(self) -> Node:
        return Node(self.log, TOPICS, self.generations, self.state_dir, opener)

    def verdicts(self) -> dict[str, str | None]:
        return {holder.name: holder.verdict for holder in self.node().holders(GROUP)}

    def rows(self) -> dict[str, dict[bytes, bytes]]:
        """All rows of all databases, by folder."""
        by_folder = {}
        for path in sorted(self.state_dir.glob("**/CURRENT")):
            with closing(RocksStore(path.parent)) as store:
                by_folder[str(path.parent)] = dict(store.scan(b""))
        return by_folder

    def inspect(self) -> tuple[int, str]:
        """Exit code and output of `inspect`."""
        out = io.StringIO()
        screen = Screen(file=out, width=200)
        return inspect_node(self.node(), GROUP, Terminal(screen, screen, False)), out.getvalue()

    def give_up(self) -> int:
        """Exit code of `accept-gap`."""
        screen, options = Screen(file=io.StringIO()), ActOptions(why="the cluster was lost", yes=True)
        return give_up(self.node(), self.settings(), options, Terminal(screen, screen, False), lambda _: False)

    def partition_of(self, command: OrderCommand) -> int:
        return self.log.partition_for(command.order_id.encode(), PARTITIONS)

    def desks(self, writer: int) -> list[Desk]:
        with closing(self.node().open_writer(writer)) as store:
            return self.node().desks(writer, store)

    def write(self, record: NewRecord) -> None:
        self.sender.send(record, lambda acked, error: None)
        assert self.sender.flush(PATIENCE_S) == 0

    def settings(self) -> Any:
        return SimpleNamespace(state_dir=self.state_dir, topics=TOPICS, node_id="one")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    for module in ("ledger.log_identity", "commands.processor.fold_check"):
        monkeypatch.setattr(f"{module}.AHEAD_S", 0.3)
    shop = Shop(tmp_path)
    yield shop
    for running in list(shop.running):
        shop.stop(running)


KEYS = [f"k{n}" for n in range(16)]
COMPARED = ("read models g000001", "orders of writer-0", "orders of writer-1")
EVERYTHING = (*COMPARED, "contacts of g000001", "messages sent")


def test_the_same_log_a_copy_a_restored_and_an_empty_one(shop: Shop) -> None:
    shop.work(*KEYS[:8])
    shop.work(*KEYS[8:])  # in other transactions: a restored log has fewer of them
    assert shop.verdicts() == dict.fromkeys(EVERYTHING, "same")
    mirrored(shop)
    verdicts = shop.verdicts()
    assert {verdicts[name] for name in COMPARED} == {"mirrored"}
    restored(shop)
    assert shop.verdicts()["read models g000001"] == "moved"
    recreate_all(shop.log)
    verdicts = shop.verdicts()
    assert {verdicts[name] for name in COMPARED} == {"other"}


def test_looking_changes_nothing(shop: Shop) -> None:
    shop.work(*KEYS)
    recreate_all(shop.log)
    before = shop.rows()
    node = shop.node()
    node.holders(GROUP)
    node.missing_commands()
    assert shop.rows() == before


def test_what_a_process_has_open_is_not_compared(shop: Shop) -> None:
    shop.work(*KEYS)
    running = shop.start()
    shop.wait_for(lambda: running.process.ready_writers == [0, 1])
    holders = {holder.name: holder for holder in shop.node().holders(GROUP)}
    assert (holders["orders of writer-0"].verdict, holders["orders of writer-0"].in_use) == (None, True)
    assert "`commands` is running" in holders["orders of writer-0"].why


def test_a_node_that_adopted_a_log_knows_that_log_and_nothing_else(shop: Shop) -> None:
    shop.work(*KEYS)
    (shop.state_dir / "commands" / "contacts").mkdir()
    recreate_all(shop.log)
    fresh = Shop(shop.state_dir / "fresh")
    fresh.log, fresh.sender = shop.log, shop.log.sender("fresh")
    fresh.work("new1", "new2")
    with pytest.raises(NotThisLog):
        shop.serve()
    node = shop.node()
    other = [holder for holder in node.holders(GROUP) if holder.verdict == "other"]
    forget(node, shop.generations, shop.settings(), other)
    assert set(shop.verdicts().values()) == {"same"}
    assert not (shop.state_dir / "commands" / "contacts").exists()
    assert shop.generations.current() == "g000002"
    assert not shop.generations.folder("g000001").exists()
    shop.work("new3", KEYS[0])
    assert {event.order_id for event in shop.events()} == {place(key).order_id for key in ("new1", "new2", "new3", KEYS[0])}


@pytest.mark.parametrize("change", [mirrored, restored])
def test_a_copy_and_a_restored_log_need_no_adoption(shop: Shop, change: Callable[[Ledger], None]) -> None:
    shop.work(*KEYS)
    change(shop)
    shop.work("more")  # one partition: the others note the new ids, too
    assert set(shop.verdicts().values()) == {"same"}
    assert len(shop.events()) == len(KEYS) + 1


def test_each_partition_of_a_writer_is_judged_by_itself(shop: Shop) -> None:
    """One was restored without its last refusal, which another one with events does not excuse."""
    placed = [place(f"n{n}") for n in range(64)]
    first, second = ([c for c in placed if shop.partition_of(c) == p][:3] for p in (0, 2))
    for number in range(3):
        running = shop.start()
        send(shop, [cancel(first[number], "unknown"), second[number]])
        shop.stop(running)
    records = read_all(shop)
    assert {record.partition for record in records if record.topic == TOPICS.events} == {2}
    recreate_all(shop.log)
    write_again(shop.log, [r for r in records if r != [x for x in records if x.partition == 0][-1]])
    running = shop.start()
    running.thread.join(PATIENCE_S)
    assert [exc.code for exc in running.refused] == ["not_this_log"]
    shop.stop(running)
    node = shop.node()
    other = [holder for holder in node.holders(GROUP) if holder.verdict == "other"]
    assert [holder.name for holder in other] == ["orders of writer-0"]
    forget(node, shop.generations, shop.settings(), other)
    running = shop.start()
    send(shop, [place("after")])
    assert running.refused == []


def test_adopting_a_log_waits_once_for_its_ends(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the two records of the audit nothing is left to wait for, and the lines of the verb are long since printed."""
    shop.work(*KEYS)
    ends, asked = shop.log.ends, list[int]()
    for p in (0, 1):
        tp = TopicPartition(TOPICS.events, p)
        shop.log.lose_end(tp, ends([tp])[tp] - 3)

    def counted(*arguments: Any, **named: Any) -> dict[TopicPartition, int]:
        asked.append(1)
        return ends(*arguments, **named)

    monkeypatch.setattr("ledger.log_identity.AHEAD_S", 5.0)
    monkeypatch.setattr(shop.log, "ends", counted)
    forget_partitions(shop.node(), TOPICS)
    assert len(asked) == PARTITIONS
    assert [desk.meta.events for writer in range(WRITERS) for desk in shop.desks(writer) if desk.partition in (0, 1)] == [0, 0]


def lose_commands(shop: Shop, partitions: Sequence[int] = range(PARTITIONS)) -> int:
    """Commands are sent while nobody decides, and then deleted. Returns their number."""
    tps = [TopicPartition(TOPICS.commands, p) for p in partitions]
    before = shop.log.ends(tps)
    for n in range(40):
        if shop.partition_of(lost := place(f"lost{n}")) in partitions:
            shop.send(lost)
    ends = shop.log.ends(tps)
    for tp, end in ends.items():
        shop.log.truncate(tp, end)
    return sum(ends.values()) - sum(before.values())


def test_commands_that_are_gone_are_given_up_once_and_the_rest_continues(shop: Shop) -> None:
    shop.work(*KEYS)
    lost = lose_commands(shop)
    running = shop.start()
    running.thread.join(PATIENCE_S)
    assert isinstance(running.process._fatal, Gap)
    shop.stop(running)
    node = shop.node()
    assert node.unfolded() == []
    missing = node.missing_commands()
    assert sum(gap.last - gap.first + 1 for gap in missing) == lost
    accept(shop.log, TOPICS, missing)
    assert shop.node().missing_commands() == []
    shop.work("after1", "after2")
    assert {e.order_id for e in shop.events()} == {place(key).order_id for key in [*KEYS, "after1", "after2"]}
    assert shop.verdicts()["orders of writer-0"] == "same"


def expire_commands(shop: Shop) -> None:
    """As retention does after 30 days."""
    tps = [TopicPartition(TOPICS.commands, p) for p in range(PARTITIONS)]
    for tp, end in shop.log.ends(tps).items():
        shop.log.truncate(tp, end)


def test_decided_commands_are_not_missing_because_a_writer_was_not_followed_here(shop: Shop) -> None:
    shop.work(*KEYS)
    with closing(shop.node().open_writer(1)) as store:
        for p in (1, 3):
            clear(store, p)
    expire_commands(shop)
    node = shop.node()
    assert (node.missing_commands(), node.unfolded()) == ([], [1, 3])
    code, said = shop.inspect()
    assert code == 0
    assert "partitions 1, 3: not folded here" in said


def test_rows_of_another_version_stay_and_say_nothing_about_commands(shop: Shop) -> None:
    """After an upgrade, the fold of the program before is there until `commands` starts."""
    shop.work(*KEYS)
    for writer in range(WRITERS):
        with closing(shop.node().open_writer(writer)) as store:
            store.write({key: b"0" for key, _ in store.scan(b"") if key.endswith(b"/version")})
    expire_commands(shop)
    before = shop.rows()
    code, said = shop.inspect()
    assert shop.rows() == before
    assert (code, shop.node().missing_commands(), shop.node().unfolded()) == (0, [], list(range(PARTITIONS)))
    assert "of another version" in said


def test_a_claim_of_another_node_counts_from_the_last_marker_on(shop: Shop) -> None:
    """The other node folded to the end, this one to the last record before it. Then only retries came, and all of it expired."""
    shop.work(*KEYS)
    log_id = shop.log.topic_id(TOPICS.commands).hex()
    for key in KEYS:
        shop.send(place(key))
    tps = [TopicPartition(TOPICS.commands, p) for p in range(PARTITIONS)]
    events = shop.log.ends([TopicPartition(TOPICS.events, p) for p in range(PARTITIONS)])
    folded = [desk.meta.events for writer in range(WRITERS) for desk in shop.desks(writer)]
    assert sum(folded) < sum(events.values()), "every fold is behind its last marker"
    for tp, end in shop.log.ends(tps).items():
        claim = Claim(tp.partition, log_id, end, events[TopicPartition(TOPICS.events, tp.partition)], "two")
        shop.write(record_of(TOPICS, claim))
    expire_commands(shop)
    node = shop.node()
    assert (node.missing_commands(), node.unfolded()) == ([], [])


def test_a_gap_is_accepted_on_a_node_that_does_not_fold_every_writer(shop: Shop) -> None:
    """It has a store for each writer, but keeps up only with its own and its standby ones."""
    shop.work(*KEYS)
    lost = lose_commands(shop, [0])
    running = shop.start()
    running.thread.join(PATIENCE_S)
    assert isinstance(running.process._fatal, Gap)
    shop.stop(running)
    with closing(shop.node().open_writer(1)) as store:
        clear(store, 3)
    assert shop.give_up() == 0
    assert shop.node().missing_commands() == []
    with pytest.raises(ConfigError, match="partitions 3 are not folded here"):
        shop.give_up()
    shop.work("after1", "after2")
    assert len(shop.events()) == len(KEYS) + 2
    assert lost > 0


def test_a_gap_is_not_known_before_the_log_is_folded(shop: Shop) -> None:
    shop.work(*KEYS)
    elsewhere = Shop(shop.state_dir / "elsewhere")
    elsewhere.log, elsewhere.sender = shop.log, shop.log.sender("elsewhere")
    running = elsewhere.start()
    send(elsewhere, [cancel(place(key), "later") for key in KEYS])
    elsewhere.stop(running)
    assert shop.node().unfolded() != []


def test_the_audit_has_who_when_and_why_before_and_after(shop: Shop) -> None:
    acts = Acts(shop.log, shop.settings(), LOG_ADOPTION, "the cluster was lost")
    acts.record(REQUESTED)
    acts.record(DONE, count=3)
    tp = TopicPartition(TOPICS.audit, 0)
    reader = shop.log.reader("audit", eof=True)
    reader.assign({tp: 0})
    records = [audit_codec().decode(record.value) for record in reader.poll(10, PATIENCE_S)]
    reader.close()
    assert [(r.actor, r.node, r.action, r.outcome, r.why, r.count) for r in records] == [
        (actor(), "one", "log_adoption", "requested", "the cluster was lost", None),
        (actor(), "one", "log_adoption", "done", "the cluster was lost", 3),
    ]
    assert records[0].audit_id != records[1].audit_id


def test_what_was_found_is_json(shop: Shop) -> None:
    shop.work(*KEYS)
    recreate_all(shop.log)
    node = shop.node()
    members = as_json(node, node.holders(GROUP), node.missing_commands())
    models = next(holder for holder in members["holders"] if holder["name"] == "read models g000001")
    assert models["log"] == "other"
    events = [place for place in models["positions"] if place["topic"] == TOPICS.events]
    assert {(place["log"], place["found_at"]) for place in events} == {("other", None)}
    assert all(place["topic_id"] != members["topic_ids"][TOPICS.events] for place in events)
    assert all(len(bytes.fromhex(place["link"])) == 32 for place in events)
    assert members["missing_commands"] == []
