"""Consumer groups as their coordinators see them: members and committed offsets.

With kafka-python, because librdkafka aborts the whole process if a coordinator answers such a request after its time-out, which
happens while brokers come and go (its issues 4605 and 3663). A client lives for one request, with its own thread.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kafka import errors
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment
from kafka.structs import TopicPartition as KafkaTopicPartition

from ledger.kafka.admin import REQUEST_TIMEOUT_S
from ledger.kafka.lease import progress_group
from ledger.kafka.settings import KafkaSettings
from ledger.kafka.transactions import asking_admin
from ledger.log import TopicPartition

SETTLED = frozenset({"Stable", "Empty", "Dead"})


def progress(settings: KafkaSettings, group: str, wanted: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
    """The committed offsets of the group; 0 if there are none. See `EventLog.progress`."""
    tps, group = list(wanted), progress_group(group)
    with asking_admin(settings, f"reading the offsets of group {group}", REQUEST_TIMEOUT_S) as client:
        committed = client.list_group_offsets({group: [KafkaTopicPartition(*tp) for tp in tps]})[group]
    offsets = {TopicPartition(tp.topic, tp.partition): note.offset for tp, note in committed.items()}
    return {tp: max(0, offsets.get(tp, 0)) for tp in tps}


def unheld(settings: KafkaSettings, topic: str, group: str, timeout_s: float) -> list[int]:
    """Partitions of `topic` that no member of `group` holds, while the group is stable. See `EventLog.unheld`."""
    with asking_admin(settings, f"reading the assignment of {topic}", timeout_s) as client:
        (metadata,) = client.describe_topics([topic])
        if metadata["error_code"]:
            raise errors.for_code(metadata["error_code"])
        wanted = [one["partition_index"] for one in metadata["partitions"]]
        described = client._manager.run(_described, client, group)
    if described is None:
        return sorted(wanted)
    if described.group_state not in SETTLED:
        return []
    held = {partition for member in described.members for partition in _held(member.member_assignment, topic)}
    return sorted(set(wanted) - held)


async def _described(client: Any, group: str) -> Any:
    """The group as its coordinator describes it; None if it does not know it."""
    coordinator = (await client._find_coordinator_ids([group]))[group]
    answer = await client._manager.send(client._describe_groups_request([group]), node_id=coordinator)
    (described,) = answer.groups
    error = errors.for_code(described.error_code)
    if error is errors.GroupIdNotFoundError:
        return None
    if error is not errors.NoError:
        raise error
    return described


def _held(assignment: bytes, topic: str) -> set[int]:
    """Partitions of `topic` in the assignment of a member, which is empty during its first moments."""
    if not assignment:
        return set()
    return {tp.partition for tp in ConsumerProtocolAssignment.decode(assignment).partitions() if tp.topic == topic}
