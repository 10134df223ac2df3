"""What hot standbys have folded: nobody can read a database of a running process, and one that has stopped folds nothing more."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import partial

import httpx

from ledger.kafka.log import KafkaLog
from ledger.log import TopicPartition
from ledger.ports import free_port
from ledger.topics import Topics
from tests.support import loopback
from tests.support.checker import read_topic
from tests.support.patience import PATIENCE_S, until
from tests.support.processes import Child

_BEHIND = re.compile(r'^ledger_commands_standby_behind\{partition="(\d+)"\} (\S+)$', re.MULTILINE)


def with_metrics(child: Child) -> Child:
    """A `commands` that has not started yet, with metrics on a port that the test knows."""
    child.env["METRICS_PORT"] = str(free_port())
    return child


def wait_folded(children: Iterable[Child], bootstrap: str, log: KafkaLog, topics: Topics, partitions: int) -> None:
    """Wait until each of these `commands` (`with_metrics`) has folded all that it follows. Nothing may be decided any more."""
    left = _behind_the_last_records(bootstrap, log, topics, partitions)

    def has_folded(child: Child) -> bool:
        try:
            text = loopback.get(f"http://127.0.0.1:{child.env['METRICS_PORT']}/metrics").text
        except httpx.TransportError:
            return False  # it was restarted a moment ago
        behind = {int(partition): float(offsets) for partition, offsets in _BEHIND.findall(text)}
        return "ledger_commands_log_reachable 1.0" in text and all(behind[p] <= left[p] for p in behind)

    for child in children:
        until(partial(has_folded, child))


def _behind_the_last_records(bootstrap: str, log: KafkaLog, topics: Topics, partitions: int) -> Counter[int]:
    """By partition: offsets behind the last event and the last refusal, such as those of markers. No fold goes there."""
    left: Counter[int] = Counter()
    for topic in (topics.events, topics.refusals):
        next_offsets = {raw.partition: raw.offset + 1 for raw in read_topic(bootstrap, topic)}
        ends = log.ends([TopicPartition(topic, p) for p in range(partitions)], timeout_s=PATIENCE_S)
        left.update({tp.partition: end - next_offsets.get(tp.partition, 0) for tp, end in ends.items()})
    return left
