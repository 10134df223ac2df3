"""The topics of the ledger: names, kinds, settings (ARCHITECTURE, The log). Pure data.

`order-commands`, `order-events` and `order-refusals` have the same number of partitions and the same partitioner, so that
the command, event and refusal of one order share a partition number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ledger.durations import DAY_MS

# Kafka 4 rejects a record whose time is more than an hour ahead of the broker's clock, and the time of an event is at least the
# log's time of its decision: one clock that was briefly wrong would stop the order, or the whole writer.
_ANY_TIME = {"message.timestamp.before.max.ms": str(2**63 - 1), "message.timestamp.after.max.ms": str(2**63 - 1)}

# A retry of a command within this time meets its first attempt in the log, and its outcome for twice as long.
COMMANDS_MS = 30 * DAY_MS
REFUSALS_MS = 60 * DAY_MS

# After this time, an erased or replaced contact is compacted away, once a newer segment exists.
CONTACT_COMPACTION_MS = DAY_MS
# How long Kafka keeps the tombstone of an erased contact: a reader that reads at least this often misses none.
CONTACT_TOMBSTONES_MS = 7 * DAY_MS

# How long the audit is kept. It names customers by pseudonym, so it is not kept for ever.
AUDIT_MS = 2 * 365 * DAY_MS

# How long the tries to deliver events to webhook endpoints are kept, for whoever looks into one.
DELIVERIES_MS = 30 * DAY_MS

# Every node writes a small record a minute to the control topic, and every start reads all of it.
CONTROL_COMPACTION_MS = DAY_MS

# A record of the ledger has a few hundred bytes; a command has at most a 64 KiB request. Brokers accept 1 MiB by default.
MAX_RECORD_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """The requirements for one topic. `settings` are broker-side topic configs, all checked at start."""

    name: str
    partitions: int
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Topics:
    """The eight topic names of one ledger. `prefix` separates ledgers on one cluster (each test uses a new one)."""

    prefix: str = ""

    @property
    def commands(self) -> str:
        return f"{self.prefix}order-commands"

    @property
    def events(self) -> str:
        return f"{self.prefix}order-events"

    @property
    def refusals(self) -> str:
        return f"{self.prefix}order-refusals"

    @property
    def contacts(self) -> str:
        return f"{self.prefix}order-contacts"

    @property
    def audit(self) -> str:
        return f"{self.prefix}order-audit"

    @property
    def writers(self) -> str:
        return f"{self.prefix}order-writers"

    @property
    def control(self) -> str:
        return f"{self.prefix}order-control"

    @property
    def deliveries(self) -> str:
        return f"{self.prefix}order-deliveries"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.specs(partitions=1, writers=1))

    def specs(self, partitions: int, writers: int) -> tuple[TopicSpec, ...]:
        """The required topics: order topics and contacts with `partitions`, writers with `writers`, the others with one."""
        ledger = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
        return (
            TopicSpec(
                self.commands,
                partitions,
                {
                    "cleanup.policy": "delete",
                    "retention.ms": str(COMMANDS_MS),
                    "message.timestamp.type": "LogAppendTime",
                },
            ),
            TopicSpec(self.events, partitions, {**ledger, "message.timestamp.type": "CreateTime", **_ANY_TIME}),
            TopicSpec(
                self.refusals,
                partitions,
                {
                    "cleanup.policy": "delete",
                    "retention.ms": str(REFUSALS_MS),
                    "message.timestamp.type": "CreateTime",
                    **_ANY_TIME,
                },
            ),
            TopicSpec(
                self.contacts,
                partitions,
                {
                    "cleanup.policy": "compact",
                    "max.compaction.lag.ms": str(CONTACT_COMPACTION_MS),
                    "min.compaction.lag.ms": "0",
                    "delete.retention.ms": str(CONTACT_TOMBSTONES_MS),
                    **_ANY_TIME,
                },
            ),
            _kept(self.audit, AUDIT_MS),
            TopicSpec(self.writers, writers, {"cleanup.policy": "delete"}),
            TopicSpec(
                self.control,
                1,
                {
                    "cleanup.policy": "compact",
                    "max.compaction.lag.ms": str(CONTROL_COMPACTION_MS),
                    "message.timestamp.type": "LogAppendTime",
                },
            ),
            _kept(self.deliveries, DELIVERIES_MS),
        )


def _kept(name: str, ms: int) -> TopicSpec:
    """A topic with one partition, whose records are kept for a time."""
    settings = {"cleanup.policy": "delete", "retention.ms": str(ms), "retention.bytes": "-1"}
    return TopicSpec(name, 1, {**settings, "message.timestamp.type": "LogAppendTime"})
