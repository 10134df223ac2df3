"""Groups of an in-memory log: the assignment of writers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from ledger.errors import LogError
from ledger.log import TopicPartition
from ledger.memory.state import State

OnPartitions = Callable[[list[int]], None]


class Group:
    """The actual and the intended assignment of partitions, as in a coordinator with cooperative-sticky assignment."""

    def __init__(self, partitions: int) -> None:
        self.members: dict[str, MemoryLease] = {}
        self.committed: dict[TopicPartition, int] = {}
        self.holder: dict[int, MemoryLease | None] = dict.fromkeys(range(partitions))
        self.wanted: dict[int, MemoryLease | None] = dict.fromkeys(range(partitions))

    def fit(self, partitions: int) -> None:
        """Its topic has so many partitions now. They are assigned once the members that knew another number have left."""
        if partitions != len(self.holder) and not self.members:
            self.holder, self.wanted = dict.fromkeys(range(partitions)), dict.fromkeys(range(partitions))

    def join(self, lease: MemoryLease) -> None:
        """Add a member. A second one of the same name fences the first and gets its share immediately."""
        old = self.members.get(lease.instance)
        self.members[lease.instance] = lease
        if old is not None and old is not lease:
            old.fenced = True
            self._release(old)
        self._rebalance()

    def leave(self, lease: MemoryLease) -> None:
        if self.members.get(lease.instance) is lease:
            del self.members[lease.instance]
            self._release(lease)
            self._rebalance()

    def expire(self, instance: str) -> None:
        lease = self.members[instance]
        lease.lost = self.held(lease)
        self.leave(lease)

    def orphan(self, partition: int) -> None:
        holder, self.holder[partition], self.wanted[partition] = self.holder[partition], None, None
        if holder is not None:
            holder.lost = [partition]

    def held(self, lease: MemoryLease) -> list[int]:
        return [p for p, holder in self.holder.items() if holder is lease]

    def to_give_up(self, lease: MemoryLease) -> list[int]:
        return [p for p in self.held(lease) if self.wanted[p] is not lease]

    def to_take(self, lease: MemoryLease) -> list[int]:
        return [p for p, wanted in self.wanted.items() if wanted is lease and self.holder[p] is None]

    def unheld(self) -> list[int]:
        """Partitions that nobody holds or is about to take."""
        return [p for p, holder in self.holder.items() if holder is None and self.wanted[p] is None]

    def _release(self, lease: MemoryLease) -> None:
        for p in self.held(lease):
            self.holder[p] = None

    def _rebalance(self) -> None:
        """Assign equal shares; members keep what they hold, up to their share."""
        members = [self.members[name] for name in sorted(self.members)]
        if not members:
            self.wanted = dict.fromkeys(self.wanted)
            return
        share, more = divmod(len(self.holder), len(members))
        by_load = sorted(members, key=lambda m: -len(self.held(m)))
        room = {m: share + (i < more) for i, m in enumerate(by_load)}
        wanted: dict[int, MemoryLease | None] = dict.fromkeys(self.holder)
        for p, holder in self.holder.items():
            if holder is not None and room.get(holder):
                wanted[p] = holder
                room[holder] -= 1
        for p in [p for p, lease in wanted.items() if lease is None]:
            wanted[p] = next(m for m in by_load if room[m])
            room[wanted[p]] -= 1  # type: ignore[index]
        self.wanted = wanted


class MemoryLease:
    """`ledger.log.Lease` on a MemoryLog. Unlike in Kafka, the share of a closed member is free immediately."""

    def __init__(
        self,
        state: State,
        group: Group,
        instance: str,
        on_taken: OnPartitions,
        on_revoked: OnPartitions,
        on_lost: OnPartitions,
    ) -> None:
        self.instance = instance
        self.fenced = False
        self.lost: list[int] | None = None
        self._has_none = False  # and knows it
        self._state, self._group = state, group
        self._on_taken, self._on_revoked, self._on_lost = on_taken, on_revoked, on_lost
        group.join(self)

    def poll(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not self._talk() and (wait_s := deadline - time.monotonic()) > 0:
            with self._state.changed:
                if not self._news():
                    self._state.changed.wait(wait_s)

    def _news(self) -> bool:
        group = self._group
        if self._state.away_since is not None:
            return False
        return self.fenced or self.lost is not None or bool(group.to_give_up(self) or group.to_take(self))

    def _talk(self) -> bool:
        """One round of the group protocol; returns whether anything changed. Callbacks run without the lock: they may be slow."""
        with self._state.changed:
            if self._state.away_since is not None:
                return False
            if self.fenced:
                raise LogError(f"lease as {self.instance}: another process has this instance name")
            lost, self.lost = self.lost, None
            if lost is not None and self._group.members.get(self.instance) is not self:
                self._group.join(self)
            released = self._group.to_give_up(self)
        if lost:
            self._on_lost(lost)
        if released:
            self._give_up(released)
        with self._state.changed:
            taken = self._group.to_take(self)
            self._group.holder.update(dict.fromkeys(taken, self))
            has_none, knew_it = not self._group.held(self), self._has_none
            self._has_none = has_none
        if taken or (has_none and not knew_it):
            self._on_taken(taken)
        return bool(lost or released or taken)

    def _give_up(self, partitions: list[int]) -> None:
        try:
            self._on_revoked(partitions)
        finally:
            with self._state.changed:
                for p in partitions:
                    if self._group.holder[p] is self:
                        self._group.holder[p] = None
                self._state.changed.notify_all()

    def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        self._group.committed.update(positions)

    def rejoin(self) -> None:
        self.close()
        with self._state.changed:
            self._group.join(self)
            self._state.changed.notify_all()

    def close(self) -> None:
        with self._state.changed:
            held = self._group.held(self)
        try:
            if held and not self.fenced:
                self._on_revoked(held)
        finally:
            with self._state.changed:
                self._group.leave(self)
                self._state.changed.notify_all()
