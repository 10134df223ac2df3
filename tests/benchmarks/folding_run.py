"""One timed pass over `order-events` in a process of its own: `fold` with the product's agent, `bulk` as one process of a
rebuild does it, or `raw` with a bare loop.

`raw` is the least that any consumer in Python does: poll, decode Avro, count. `fold` is what `serve` runs: reader thread, Faust
agent, read models, RocksDB. Both are timed from their first record to the end of their last one, so neither start counts.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from api.processes.wiring import KafkaDoors, store_opener
from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.log import Record, TopicPartition
from ledger.schemas.codec import event_codec
from ledger.topics import Topics
from projections import faust_app
from projections.bulk import ignore_progress
from projections.projector import Projector
from projections.queries import Queries
from projections.rebuild_jobs import Share, fold_share
from tests.benchmarks.jobs import cpu_s


class TimedProjector:
    """The projector, which reads the clock before the first and after the last record."""

    def __init__(self, projector: Projector, events: int) -> None:
        self._projector, self._events = projector, events
        self._folded = 0
        self._began = self._cpu_began = 0.0
        self.took_s = self.cpu_s = 0.0

    def positions(self) -> Mapping[TopicPartition, int]:
        return self._projector.positions()

    def apply_chunk(self, records: Sequence[Record]) -> None:
        if not self._folded:
            self._began, self._cpu_began = time.perf_counter(), cpu_s([os.getpid()])[0]
        self._projector.apply_chunk(records)
        self._folded += len(records)
        if self._folded >= self._events and not self.took_s:
            self.took_s = time.perf_counter() - self._began
            self.cpu_s = cpu_s([os.getpid()])[0] - self._cpu_began
            os.kill(os.getpid(), signal.SIGTERM)


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    raise RuntimeError("nobody asks")


def fold(log: KafkaLog, topics: Topics, partitions: int, events: int, state: Path) -> dict[str, float]:
    projector = Projector.open(store_opener(state / "projections"), topics, partitions)
    timed = TimedProjector(projector, events)
    try:
        app = faust_app.build_app(app_id="benchmark-fold", log=log, folder=timed, state_dir=state)
        code = faust_app.run(app, _nothing, host="127.0.0.1", port=0, access_log=False, lifespan="off")
        counts = Queries(projector).counts()
    finally:
        projector.close()
    if code or projector.frozen_count:
        raise RuntimeError(f"the fold ended with {code}, {projector.frozen_count} orders frozen")
    return {"took_s": timed.took_s, "cpu_s": timed.cpu_s, "events": projector.folded_count, "orders": sum(counts.values())}


def bulk(
    kafka: KafkaSettings, log: KafkaLog, topics: Topics, partitions: int, group: int, groups: int, state: Path
) -> dict[str, float]:
    """The share of one process of a rebuild in `groups` processes, including its connection and the final write."""
    own = list(range(group, partitions, groups))
    until = log.ends([TopicPartition(topics.events, p) for p in own])
    began, cpu_began = time.time(), cpu_s([os.getpid()])[0]
    digests = fold_share(KafkaDoors(kafka, topics), Share(topics, state, own, until), ignore_progress)
    ended, used_s = time.time(), cpu_s([os.getpid()])[0] - cpu_began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    events = sum(digest.events for digest in digests.values())
    return {"began": began, "ended": ended, "took_s": ended - began, "cpu_s": used_s, "events": events, "peak_bytes": peak}


def raw(log: KafkaLog, topics: Topics, partitions: int, events: int) -> dict[str, float]:
    decode = event_codec().decode_fields
    orders: set[str] = set()
    reader = log.reader("benchmark-raw")
    count = 0
    try:
        reader.assign({TopicPartition(topics.events, p): 0 for p in range(partitions)})
        records: list[Record] = []
        while not records:
            records = reader.poll(1000, 10.0)
        began, cpu_began = time.perf_counter(), cpu_s([os.getpid()])[0]
        while True:
            for record in records:
                fields = decode(record.value)
                if fields["version"] == 1:
                    orders.add(fields["order_id"])
            count += len(records)
            if count >= events:
                break
            records = reader.poll(1000, 10.0)
            if not records:
                raise RuntimeError(f"the topic ends after {count} events")
        took_s, used_s = time.perf_counter() - began, cpu_s([os.getpid()])[0] - cpu_began
    finally:
        reader.close()
    return {"took_s": took_s, "cpu_s": used_s, "events": count, "orders": len(orders)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=("fold", "bulk", "raw"))
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--group", type=int, default=0)
    parser.add_argument("--groups", type=int, default=1)
    options = parser.parse_args()
    name = f"benchmark-{options.mode}"
    kafka = KafkaSettings(bootstrap_servers=options.bootstrap, security_protocol="PLAINTEXT", client_id=name)
    log = KafkaLog(kafka)
    topics = Topics(options.prefix)
    if options.mode == "fold":
        result = fold(log, topics, options.partitions, options.events, options.state)
    elif options.mode == "bulk":
        result = bulk(kafka, log, topics, options.partitions, options.group, options.groups, options.state)
    else:
        result = raw(log, topics, options.partitions, options.events)
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
