"""CPU of each `commands` process when 1, 2 or 4 of them share twelve writers: its own partitions and those of one writer more.

On the broker of the measured system, in ledgers of their own. Lives of orders are written to `order-commands` at a steady rate.
"""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import psutil

from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.topics import Topics
from tests.benchmarks.bench import Bench, Incorrect
from tests.benchmarks.rows import Row, at_most
from tests.benchmarks.spread import Spread
from tests.support import checker
from tests.support.processes import Child, LedgerNode
from tests.support.topic_load import TopicLoad, wait_answered

WRITERS = PARTITIONS = 12
NODES = (1, 2, 4)
PER_S = 300.0
WARM_UP, ORDERS = 300, 1_500
STANDBY = 1  # the default of STANDBY_WRITERS
TOLERANCE = 1.2
PATIENCE_S = 600.0


def measure(bench: Bench) -> list[Row]:
    """Rows of this benchmark."""
    rows, alone_s = [], 0.0
    for count in NODES:
        bench.report(f"deciding on {count} nodes")
        busiest_s, all_s = _cpu_s(bench, count)
        rows.append(Row("nodes", f"CPU of 1,000 orders, the busiest of {count}", "s", Spread.of([busiest_s])))
        rows.append(Row("nodes", "  all of them", "s", Spread.of([all_s])))
        if count == 1:
            alone_s = busiest_s
            continue
        share = (WRITERS / count + STANDBY) / WRITERS
        ratio = Spread.of([busiest_s / alone_s])
        rows.append(Row("nodes", f"  the busiest of {count} : one alone", "", ratio, at_most(round(share * TOLERANCE, 2))))
    return rows


def _cpu_s(bench: Bench, count: int) -> tuple[float, float]:
    """(of the busiest node, of all), seconds of CPU for 1,000 orders."""
    topics, folder = Topics(f"nodes-{count}."), bench.system.folder / f"nodes-{count}"
    folder.mkdir()
    log = KafkaLog(KafkaSettings(bootstrap_servers=bench.system.bootstrap_servers))
    log.ensure_topics(topics.specs(PARTITIONS, WRITERS))
    node = LedgerNode(folder, bench.system.bootstrap_servers, topics, WRITERS, PARTITIONS)
    with closing(_Ended(node)):
        children = [node.child("commands", f"node-{n}") for n in range(count)]
        for child in children:
            child.start()
        _wait_shared(log, topics, children, folder)
        _run(log, topics, orders=WARM_UP, first=0)
        wait_answered(bench.system.bootstrap_servers, topics.prefix, PATIENCE_S)
        before = [_used_s(child) for child in children]
        _run(log, topics, orders=ORDERS, first=WARM_UP)
        ledger = wait_answered(bench.system.bootstrap_servers, topics.prefix, PATIENCE_S)
        used_s = [_used_s(child) - at for child, at in zip(children, before, strict=True)]
        if ledger.problems or len(ledger.orders) != WARM_UP + ORDERS:
            raise Incorrect(checker.describe(ledger.problems) or f"{len(ledger.orders)} orders")
    return max(used_s) / ORDERS * 1000, sum(used_s) / ORDERS * 1000


class _Ended:
    def __init__(self, node: LedgerNode) -> None:
        self.close = node.end


def _run(log: KafkaLog, topics: Topics, orders: int, first: int) -> None:
    load = TopicLoad(log, topics, PARTITIONS, orders=orders, per_s=PER_S, seed=first, first=first)
    load.start()
    load.join(PATIENCE_S)
    if load.is_alive() or load.error is not None:
        raise Incorrect(f"the load did not end: {load.error}")


def _wait_shared(log: KafkaLog, topics: Topics, children: list[Child], folder: Path) -> None:
    """Wait until every writer is held, and each process has begun to decide for equally many."""
    deadline = time.monotonic() + PATIENCE_S
    wanted = WRITERS // len(children)
    while not all(child.log_file.read_text().count('"writer ready"') >= wanted for child in children) or log.unheld(
        topics.writers, f"{topics.prefix}ledger"
    ):
        if time.monotonic() > deadline:
            raise Incorrect(f"the writers were not shared in {PATIENCE_S:.0f} s, see {folder}")
        time.sleep(0.5)


def _used_s(child: Child) -> float:
    times = psutil.Process(child.pid).cpu_times()
    return float(times.user + times.system)
