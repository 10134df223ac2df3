"""The log's clock, as this process knows it. Decisions use the time at which the log appended their command; so must due times.

Each partition has the clock of its leader. Brokers may be an hour apart, and a new leader may be ahead or behind. What a process
knows is the time in the acknowledgement of a command that it sent, and how long ago that was. Between acknowledgements two clocks
tell how time passes: the monotonic one, which does not run while the machine is suspended, and the machine's, which people and
programs set. If they disagree, the log's time is between the two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ledger.clock import monotonic_ms, now_ms
from ledger.durations import MINUTE_MS

CERTAIN_MS = 1_000  # by how much the two clocks may disagree: more than any slew, less than any step that matters
FRESH_MS = MINUTE_MS  # later, the partition may have another leader


class Measure(NamedTuple):
    """The log's time and those of this machine at one moment, ms."""

    log_ms: int
    machine_ms: int
    monotonic_ms: int


class LogClock:
    """Safe for several threads. `machine_ms` is the machine's clock (ms since the epoch), `monotonic_ms` never jumps."""

    def __init__(self, machine_ms: Callable[[], int] = now_ms, monotonic_ms: Callable[[], int] = monotonic_ms) -> None:
        self.machine_ms, self.monotonic_ms = machine_ms, monotonic_ms
        self._measures: dict[int, Measure] = {}
        self._newest: Measure | None = None

    def appended(self, timestamp_ms: int, partition: int | None = None) -> None:
        """Call this when the log acknowledges a record that it appended at `timestamp_ms`.

        `partition`: of `order-commands`; None: of another topic, which is only used for partitions that are not measured yet.
        """
        if timestamp_ms <= 0:
            return  # the log gave none
        measure = Measure(timestamp_ms, self.machine_ms(), self.monotonic_ms())
        self._newest = measure
        if partition is not None:
            self._measures[partition] = measure

    def bounds_ms(self, partition: int) -> tuple[int, int]:
        """Earliest and latest time that it may be for the log, ms since the epoch. Before any measure: the machine's time."""
        machine_ms = self.machine_ms()
        measure = self._measures.get(partition) or self._newest
        if measure is None:
            return machine_ms, machine_ms
        passed_ms = self.monotonic_ms() - measure.monotonic_ms
        by_both = measure.log_ms + passed_ms, measure.log_ms + machine_ms - measure.machine_ms
        return min(by_both), max(by_both)

    def earliest_ms(self, partition: int) -> int:
        """For what must not happen too early."""
        return self.bounds_ms(partition)[0]

    def latest_ms(self, partition: int) -> int:
        """For what may be tried too early, but not too late."""
        return self.bounds_ms(partition)[1]

    def is_certain(self, partition: int) -> bool:
        """Whether the partition was measured within a minute, and no clock was set since."""
        measure = self._measures.get(partition)
        if measure is None or self.monotonic_ms() - measure.monotonic_ms > FRESH_MS:
            return False
        earliest_ms, latest_ms = self.bounds_ms(partition)
        return latest_ms - earliest_ms <= CERTAIN_MS

    def machine_ahead_ms(self, partition: int) -> int:
        """By how much the machine's clock may be ahead of the log's; 0 if it is behind, or nothing is measured."""
        return max(0, self.machine_ms() - self.earliest_ms(partition))

    def skews_ms(self) -> dict[int, int]:
        """By measured partition, how far the log's clock is ahead of the machine's; negative: behind."""
        machine_ms, monotonic_ms = self.machine_ms(), self.monotonic_ms()
        return {
            partition: measure.log_ms + monotonic_ms - measure.monotonic_ms - machine_ms
            for partition, measure in sorted(self._measures.copy().items())
        }
