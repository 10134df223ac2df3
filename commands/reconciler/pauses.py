"""When an obligation is retried, and when attention is raised. Times are in ms of a clock that never jumps."""

from __future__ import annotations

from msgspec import Struct

from commands.obligations import Kind
from commands.reconciler.performing import CallReport
from commands.reconciler.tries import LONGEST_ASKED_PAUSE_S
from ledger.durations import HOUR_MS, MINUTE_MS
from ledger.jitter import between

FIRST_PAUSE_MS, LONGEST_PAUSE_MS = 1_000, 5 * MINUTE_MS
WAITED_PAUSES_MS = (200, 500, 1_000, 2_000)  # the first pauses for obligations that a customer waits for
WAITED_FOR = frozenset({Kind.RESERVE, Kind.CREATE_PAYMENT, Kind.LOOK_AT_PAYMENT, Kind.CAPTURE})
LONGEST_REACHABLE_MS = 15_000
STUCK_TRIES, STUCK_MS, STUCK_PAUSE_MS = 20, HOUR_MS, 15 * MINUTE_MS
# A report changes the order within milliseconds; if it has not after this time, the obligation is performed again.
REPORTED_MS = 5_000
CHECK_PAUSES_MS = {
    Kind.LOOK_AT_PAYMENT: (MINUTE_MS, 10 * MINUTE_MS),
    Kind.LOOK_AT_REFUND: (HOUR_MS, 24 * HOUR_MS),
    Kind.LOOK_AT_DISPUTE: (24 * HOUR_MS, 24 * HOUR_MS),
}


class Tries(Struct):
    """The memory of one obligation."""

    kind: Kind | None = None
    next_at: int = 0
    quiet: int = 0  # consecutive answers without news
    failed: int = 0  # consecutive failures
    blind: int = 0  # of these, failures in which not even a read was answered
    pauses: int = 0  # consecutive pauses since it began to fail, or since somebody asked
    failing_since: int = 0
    failed_at: int = 0
    calling: bool = False

    def fail(self, kind: Kind, now: int, report: CallReport | None = None) -> None:
        """Note a failure. `report`: the result of the port; None if a fact could not be sent."""
        reachable = report is not None and report.reachable
        self.failing_since = self.failing_since if self.failed else now
        self.failed_at = now
        self.failed += 1
        self.blind += not reachable
        pause = STUCK_PAUSE_MS if self.is_stuck(now) else pause_ms(kind, self.pauses, reachable)
        self.pauses += 1
        asked_ms = round(1000 * min(report.after_s, LONGEST_ASKED_PAUSE_S)) if report is not None else 0
        self.next_at = now + max(asked_ms, round(pause * between(0.75, 1.25)))

    def report(self, now: int) -> None:
        """Note that it was performed and the facts were sent."""
        self.failed = self.blind = self.pauses = self.quiet = 0
        self.next_at = now + REPORTED_MS

    def nothing_new(self, kind: Kind, now: int) -> None:
        """Note a read without news; or a command that is not legal yet."""
        self.failed = self.blind = self.pauses = 0
        first, longest = CHECK_PAUSES_MS.get(kind, (FIRST_PAUSE_MS, LONGEST_PAUSE_MS))
        self.next_at = now + round(min(first << min(self.quiet + 1, 20), longest) * between(1.0, 1.1))
        self.quiet += 1

    def ask(self) -> None:
        """A customer asked again: restart the back-off if it is failing."""
        if self.failed:
            self.pauses = 0
            self.next_at = min(self.next_at, self.failed_at + WAITED_PAUSES_MS[0])

    def is_stuck(self, now: int) -> bool:
        """Whether staff should look at it."""
        return self.blind > STUCK_TRIES or (self.failed > 0 and now - self.failing_since > STUCK_MS)


def pause_ms(kind: Kind, pauses: int, reachable: bool) -> int:
    """The pause after a failure, with `pauses` before it."""
    if kind not in WAITED_FOR:
        pause = FIRST_PAUSE_MS << min(pauses, 20)
    elif pauses < len(WAITED_PAUSES_MS):
        pause = WAITED_PAUSES_MS[pauses]
    else:
        pause = WAITED_PAUSES_MS[-1] << min(pauses + 1 - len(WAITED_PAUSES_MS), 20)
    return min(pause, LONGEST_REACHABLE_MS if reachable else LONGEST_PAUSE_MS)
