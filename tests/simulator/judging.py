"""What must hold when a run has settled. Most of it is judged by `tests.support.checker` and `world_checker`, which know no rule
of the product; the rest compares what was done under faults with the same done in peace.

    topics      every promise of `checker`; epochs never fall; what was acknowledged is there
    decisions   a desk that is given the same commands one after the other, in peace, comes to the same
    stores      every node's rows are those of a fold of the log from its start
    readers     no answer that somebody saw has changed
    world       nothing happened twice, nothing is kept, nothing is missing (`world_checker`)
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from commands.processor.desk import Desk
from ledger.envelope import Written
from ledger.log import TopicPartition
from ledger.memory.store import MemoryStore
from ledger.outcomes import decode_outcome, outcome_key
from ledger.store import Store
from projections.databases import Databases
from tests.support import checker, world_checker
from tests.support.desk_line import UNDECODABLE

if TYPE_CHECKING:
    from tests.simulator.simulation import Simulation

# Where an abort took confirmed records, and later outcomes of the partition are in the log, the commands of the former stay
# without an answer: reading resumes behind them. Such runs only have to settle, until that is mended; then this is True.
ABORTED_CONFIRMED = False
FORGOTTEN = (b"c/", b"x/", b"u/")  # rows that a node does not have if it folds the log after refusals have expired
NOT_OF_THE_LOG = (b"\0", b"meta", b"version")
_HERE_ONLY = ("prev_hash", "batch_first", "writer_epoch")  # of how it was decided, not of what

schemas = cache(checker.FileSchemas)


def judge(run: Simulation) -> list[str]:
    """Everything that is wrong."""
    if run.log.state.seen["confirmed records aborted"] and not ABORTED_CONFIRMED:
        return []
    ledger = _ledger(run)
    frozen = {order for orders in run.bad.values() for order in orders.values()}
    return [
        *(p for p in checker.check(ledger).problems if not _expected(run, p)),
        *_epochs(ledger),
        *_acknowledged(run, ledger),
        *_frozen(run, ledger),
        *_decisions(run, ledger),
        *_stores(run),
        *_readers(run),
        *_contacts(run),
        *run.universe.problems,
        *_world(run, ledger, frozen),
    ]


def _ledger(run: Simulation) -> checker.Ledger:
    def read(topic: str) -> list[checker.Decoded]:
        decoded = []
        for p in range(run.plan.partitions):
            for record in run.log.state.committed(TopicPartition(topic, p)):
                raw = checker.Raw(p, record.offset, record.timestamp_ms, record.key, record.value)
                if record.value == UNDECODABLE:
                    continue
                decoded.append(checker._command(raw, schemas()) if topic == topics.commands else _decoded(raw))
        return decoded

    topics = run.plant.topics
    return checker.Ledger(read(topics.events), read(topics.refusals), read(topics.commands))


def _decoded(raw: checker.Raw) -> checker.Decoded:
    return checker.Decoded(raw, schemas().decode(raw.value))


def _expected(run: Simulation, problem: str) -> bool:
    """The chain continues after a bad event, which `checker` is not shown."""
    for tp, offsets in run.bad.items():
        records = [r.offset for r in run.log.state.committed(tp)]
        for offset in offsets:
            after = next((n for n in records if n > offset and n not in offsets), None)
            if problem == f"chain broken at {tp.partition}-{after}":
                return True
    return False


def _epochs(ledger: checker.Ledger) -> Iterator[str]:
    """Nothing of an older holder of a writer comes after the newer one."""
    for answers in (ledger.events, ledger.refusals):
        last: dict[int, int] = {}
        for answer in answers:
            epoch = answer.fields["writer_epoch"]
            if epoch < last.get(answer.raw.partition, 0):
                yield f"{answer.raw.partition}-{answer.raw.offset}: epoch {epoch} after {last[answer.raw.partition]}"
            last[answer.raw.partition] = epoch


def _acknowledged(run: Simulation, ledger: checker.Ledger) -> Iterator[str]:
    there = {(c.raw.partition, c.raw.offset) for c in ledger.commands}
    yield from (f"acknowledged command {tp} {at} is gone" for tp, at in run.acked if (tp.partition, at) not in there)


def _frozen(run: Simulation, ledger: checker.Ledger) -> Iterator[str]:
    """A frozen order has no event after the one that could not be read."""
    for tp, offsets in run.bad.items():
        for event in ledger.events:
            for offset, order in offsets.items():
                if (event.raw.partition, event.fields["order_id"]) == (tp.partition, order) and event.raw.offset > offset:
                    yield f"{order} is frozen at {offset}, and has an event at {event.raw.offset}"


def _decisions(run: Simulation, ledger: checker.Ledger) -> Iterator[str]:
    """Which event or refusal each command led to, under faults and in peace, unless an order froze or a record was rejected.

    Nor where a marker was lost: half a batch that hangs is committed, and the other half is decided after it.
    """
    topics, seen = run.plant.topics, run.log.state.seen
    for p in range(run.plan.partitions):
        if TopicPartition(topics.events, p) in run.bad or seen["records rejected"] or seen["markers lost"]:
            continue
        really = {
            a.fields["command_offset"]: _essence(a.fields) for a in (*ledger.events, *ledger.refusals) if a.raw.partition == p
        }
        desk = Desk(MemoryStore(), p, run.plan.partitions, topics, run.log.topic_id(topics.commands))
        for command in run.log.state.committed(TopicPartition(topics.commands, p)):
            new = desk.deal(command, Written(desk.meta.command_log, command.offset, 1))
            wanted = None if new is None else _essence(schemas().decode(new.value))
            if really.get(command.offset) != wanted:
                yield f"command {p}-{command.offset} led to {really.get(command.offset)}, in peace to {wanted}"
                return


def _essence(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in _HERE_ONLY}


def _stores(run: Simulation) -> Iterator[str]:
    topics, state = run.plant.topics, run.log.state
    read_models = Databases(lambda name: MemoryStore(), topics, range(run.plan.partitions), None)
    for p in range(run.plan.partitions):
        events, refusals = (state.committed(TopicPartition(topic, p)) for topic in (topics.events, topics.refusals))
        expired = bool(state.archive.get(TopicPartition(topics.refusals, p)))
        for topic, records in ((topics.events, events), (topics.refusals, refusals)):
            read_models.write_chunk(TopicPartition(topic, p), records)
        for serve in run.serves:
            assert serve.projector is not None
            if serve.projector.databases.digest(p) != read_models.digest(p):
                yield f"{serve.name} has another digest of partition {p} than a fold of the log"
            yield from _compare(serve.name, p, serve.projector.store(p), read_models.stores[p], b"", expired)
        desk = Desk(store := MemoryStore(), p, run.plan.partitions, topics, run.log.topic_id(topics.commands))
        for record in (*events, *refusals):
            desk.fold(record)
        store.write(desk.rows())
        for node in run.nodes:
            yield from _compare(node.name, p, node.stores[p % run.plan.writers], store, b"%d/" % p, expired)


def _compare(name: str, partition: int, store: Store, folded: Store, prefix: bytes, expired: bool) -> Iterator[str]:
    """Rows of `store`, and of a fold of the whole log."""

    def rows(of: Store) -> dict[bytes, bytes]:
        cut = ((key[len(prefix) :], value) for key, value in of.scan(prefix))
        return {k: v for k, v in cut if not k.startswith(NOT_OF_THE_LOG) and not (expired and k.startswith(FORGOTTEN))}

    here, there = rows(store), rows(folded)
    if here != there:
        keys = sorted(key for key in here.keys() | there.keys() if here.get(key) != there.get(key))
        yield f"{name}, partition {partition}: {len(keys)} rows are not those of a fold of the log: {keys[:3]}"


def _readers(run: Simulation) -> Iterator[str]:
    """Whatever a reader saw of a command, it sees in the end."""
    for serve in run.serves:
        assert serve.projector is not None
        for command_id, outcome in run.seen:
            rows = [row for store in serve.projector.stores if (row := store.get(outcome_key(command_id))) is not None]
            if [decode_outcome(row) for row in rows] != [outcome] and not any(run.log.state.archive.values()):
                yield f"{serve.name} showed {outcome} for {command_id}, which has changed"


def _contacts(run: Simulation) -> Iterator[str]:
    for serve in run.serves:
        assert serve.projector is not None
        for key, value in run.contacts.items():
            contact = serve.projector.contact(key)
            wanted = None if value is None else serve.projector.contacts._codec.decode(value)
            if contact != wanted:
                yield f"{serve.name} has the contact {contact} of {key!r}, not {wanted}"


def _world(run: Simulation, ledger: checker.Ledger, frozen: set[str]) -> Iterator[str]:
    stock = {(service, f"{service}-1"): run.universe.units for service in ("product", "merch")}
    wrong = world_checker.judge(ledger, run.universe.world(), stock)
    wrong += [line for line in world_checker.unresolved(ledger) if ": pending, 0 flags" in line]
    yield from (line for line in wrong if line.split(":")[0] not in frozen)
