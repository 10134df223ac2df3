"""The lease: a membership in the group over the empty writers topic. Transactional ids decide who may write, not this."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaTopicPartition

from ledger.errors import LogError
from ledger.kafka.connection import ClientLog, client_config, from_exception, is_fatal, log
from ledger.kafka.settings import KafkaSettings
from ledger.log import NOTE_AGAIN_S, TopicPartition

LOST_AGAIN_S = JOIN_AGAIN_S = 1.0
# For so long after the own session expired, being fenced is attributed to this process itself.
OWN_GHOST_S = 30.0

OnPartitions = Callable[[list[int]], None]


def progress_group(group: str) -> str:
    """The group under which progress is noted. It has no members.

    If a static member commits while it is joining, the answer is `FENCED_INSTANCE_ID`, which librdkafka takes for the end of the
    membership (seen on Kafka 4.4).
    """
    return f"{group}-progress"


def lease_config(settings: KafkaSettings, group: str, instance: str) -> dict[str, object]:
    """Static membership: a process that restarts under its name gets its writers back without waiting for the time-out."""
    return client_config(settings, instance) | {
        "reconnect.backoff.ms": 100,  # not urgent: heartbeats are 0.3 s apart
        "group.id": group,
        "group.instance.id": instance,
        "session.timeout.ms": 6_000,
        # A standby learns with its next heartbeat that the owner's session has expired, 6 s after the owner's last heartbeat.
        "heartbeat.interval.ms": 300,
        "max.poll.interval.ms": 30_000,
        # Eager on purpose. With cooperative-sticky, a process that dies between revocation and rejoining, and returns as the
        # same static member, triggers no rebalance: what it released is never assigned again. With eager, everybody releases
        # everything at each rebalance, and the group is stable only when everything is assigned again.
        "partition.assignment.strategy": "range",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "latest",
    }


class LeaseLog(ClientLog):
    """Also notes when the session expired without an answer of the coordinator (`time.monotonic`, s)."""

    session_ended_at = float("-inf")

    def _note(self, line: str) -> None:
        super()._note(line)
        if line.startswith("SESSTMOUT"):
            self.session_ended_at = time.monotonic()


class KafkaLease:
    """`ledger.log.Lease` on a Kafka consumer group. For one thread; callbacks run inside `poll` and `close`.

    A static member whose session expired rejoins by itself. A request of its old membership may arrive after that, or the broker
    returns with the older of the two in its log: then the coordinator reports another process with the same name, and the client
    never works again (seen on Kafka 4.4 when a broker was down for about as long as a session). So shortly after an expired
    session, a new client takes the name back; at any other time, another process really has it.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        group: str,
        instance: str,
        on_taken: OnPartitions,
        on_revoked: OnPartitions,
        on_lost: OnPartitions,
    ) -> None:
        self._settings, self._topic, self._group_id, self._instance = settings, topic, group, instance
        self._on_taken, self._on_revoked, self._on_lost = on_taken, on_revoked, on_lost
        self._label = f"lease {group} as {instance}"
        self._log = LeaseLog(f"lease-{instance}")
        self._fatal: KafkaError | None = None
        self._raised: BaseException | None = None
        self._noted: dict[TopicPartition, int] = {}
        self._note_again_at = time.monotonic() + NOTE_AGAIN_S
        self._member, self._rejoined, self._join_at = instance, 0, 0.0
        try:
            self._progress = self._progress_consumer(settings, group, instance)
            self._group: Consumer | None = self._join(instance)
        except KafkaException as exc:
            raise from_exception(exc, self._label) from exc

    def _join(self, instance: str) -> Consumer:
        consumer = Consumer(lease_config(self._settings, self._group_id, instance) | {"error_cb": self._error}, logger=self._log)

        def taken(_: Consumer, partitions: list[KafkaTopicPartition]) -> None:
            consumer.assign(partitions)
            consumer.pause(partitions)  # this consumer only keeps the assignment
            self._call(self._on_taken, partitions, none_too=True)

        def released(notify: OnPartitions) -> Callable[[Consumer, list[KafkaTopicPartition]], None]:
            def callback(_: Consumer, partitions: list[KafkaTopicPartition]) -> None:
                self._call(notify, partitions)
                consumer.unassign()

            return callback

        consumer.subscribe([self._topic], on_assign=taken, on_revoke=released(self._on_revoked), on_lost=released(self._on_lost))
        return consumer

    def rejoin(self) -> None:
        self._rejoined += 1
        self._member = f"{self._instance}.{self._rejoined}"
        self._leave()
        self._join_again()

    def _leave(self) -> None:
        old, self._group = self._group, None
        try:
            if old is not None:
                old.close()  # releases everything, inside this call
        except (KafkaException, SystemError, RuntimeError) as exc:
            log.warning("%s: leaving: %s", self._label, exc)  # the session expires by itself
        self._fatal = None

    def _join_again(self) -> None:
        """Rejoin with a new client, or later if that fails now: a lease without a group holds nothing and is harmless."""
        self._join_at = time.monotonic() + JOIN_AGAIN_S
        try:
            self._group = self._join(self._member)
        except (KafkaException, SystemError) as exc:
            log.warning("%s", from_exception(exc, f"{self._label}: rejoining"))

    def _is_own_ghost(self) -> bool:
        """Whether the own session expired recently. True at most once per expiry."""
        ended_at, self._log.session_ended_at = self._log.session_ended_at, float("-inf")
        return time.monotonic() - ended_at < OWN_GHOST_S

    def _progress_consumer(self, settings: KafkaSettings, group: str, instance: str) -> Consumer:
        config = client_config(settings, f"progress-{instance}") | {
            "reconnect.backoff.ms": 1000,
            "reconnect.backoff.max.ms": 1000,
            "group.id": progress_group(group),
            "enable.auto.commit": False,
            "error_cb": ClientLog(f"progress-{instance}").error,
            "on_commit": self._committed,
        }
        return Consumer(config, logger=ClientLog(f"progress-{instance}"))

    def _call(self, callback: OnPartitions, partitions: list[KafkaTopicPartition], none_too: bool = False) -> None:
        """Keep an exception of `callback` for `poll`: the rebalance must be completed anyway."""
        try:
            if partitions or none_too:
                callback([tp.partition for tp in partitions])
        except BaseException as exc:
            self._raised = self._raised or exc

    def _error(self, error: KafkaError) -> None:
        self._log.error(error)
        if is_fatal(error):
            self._fatal = error

    def poll(self, timeout_s: float) -> None:
        try:
            self._progress.poll(0)  # answers to commits
            if self._noted and time.monotonic() > self._note_again_at:
                self.commit(dict(self._noted))
            if self._group is None:
                time.sleep(timeout_s)
                if time.monotonic() > self._join_at:
                    self._join_again()
                return
            message = self._group.poll(timeout_s)
        except (KafkaException, SystemError) as exc:
            raise from_exception(exc, self._label) from exc
        if self._raised is not None:
            raised, self._raised = self._raised, None
            raise raised
        error = message.error() if message is not None else None
        if error is not None and is_fatal(error):
            self._fatal = error
        elif error is not None:
            log.info("%s: %s", self._label, error)  # the coordinator will return by itself
        if self._fatal is not None and self._is_own_ghost():
            log.warning("%s: %s, after its own session expired: rejoining", self._label, self._fatal.str())
            self._leave()
            self._join_again()
        elif self._fatal is not None:
            # the code of a fatal error is lost on its way here, but not its text; fencing is the only one seen
            raise LogError(f"{self._label}: {self._fatal.str()} (does another process have this instance name?)")

    def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        self._noted.update(positions)
        self._note_again_at = time.monotonic() + NOTE_AGAIN_S
        try:
            self._progress.commit(offsets=[KafkaTopicPartition(t, p, offset) for (t, p), offset in positions.items()])
        except (KafkaException, SystemError) as exc:
            log.info("%s", from_exception(exc, f"{self._label}: noting {dict(positions)}"))

    def _committed(self, error: KafkaError | None, partitions: list[KafkaTopicPartition]) -> None:
        """The answer to a commit. If one is lost, the displayed lag grows until the next commit in a second."""
        for tp in partitions:
            problem = tp.error or error
            if problem is not None:
                log.info("%s: noting %s/%s: %s", self._label, tp.topic, tp.partition, problem)
            # A commit that had to be retried may land after a later one.
            if problem is not None or tp.offset != self._noted.get(TopicPartition(tp.topic, tp.partition)):
                self._note_again_at = min(self._note_again_at, time.monotonic() + LOST_AGAIN_S)

    def close(self) -> None:
        """Stop without leaving the group, as a static member.

        The same instance gets its writers back immediately, other processes after the session time-out of 6 s.
        """
        self._progress.close()
        if self._group is not None:
            self._group.close()
        del self._progress, self._group  # they reference this lease's callbacks: a cycle that would keep their thread-local keys
        if self._raised is not None:
            raised, self._raised = self._raised, None
            raise raised
