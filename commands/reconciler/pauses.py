"""When one obligation is tried again, and when a person is called. Milliseconds of the reconciler's clock."""

from __future__ import annotations

import random

from msgspec import Struct

from commands.obligations import HOUR_MS, MINUTE_MS, Kind
from commands.reconciler.performing import CallReport
from commands.reconciler.tries import LONGEST_ASKED_PAUSE_S

FIRST_PAUSE_MS, LONGEST_PAUSE_MS = 1_000, 5 * MINUTE_MS
WAITED_PAUSES_MS = (200, 500, 1_000, 2_000)  # the first pauses of what a customer waits for
WAITED_FOR = frozenset({Kind.RESERVE, Kind.CREATE_PAYMENT, Kind.LOOK_AT_PAYMENT, Kind.CAPTURE})
LONGEST_AFTER_LOOK_MS = 15_000
STUCK_TRIES, STUCK_MS, STUCK_PAUSE_MS = 20, HOUR_MS, 15 * MINUTE_MS
# What was reported changes the order within milliseconds; if it has not after this, the same is done again.
REPORTED_MS = 5_000
LOOK_PAUSES_MS = {
    Kind.LOOK_AT_PAYMENT: (MINUTE_MS, 10 * MINUTE_MS),
    Kind.LOOK_AT_REFUND: (HOUR_MS, 24 * HOUR_MS),
    Kind.LOOK_AT_DISPUTE: (24 * HOUR_MS, 24 * HOUR_MS),
}


class Tries(Struct):
    """What is remembered of one obligation."""

    next_at: int = 0
    quiet: int = 0  # answers in a row that brought nothing new
    failed: int = 0  # failures in a row
    blind: int = 0  # those of them in which not even a look was answered
    pauses: int = 0  # taken in a row since it began to fail, or since somebody asked
    failing_since: int = 0
    failed_at: int = 0
    calling: bool = False
    person_called: bool = False

    def fail(self, kind: Kind, now: int, report: CallReport | None = None) -> None:
        """It failed. `report` is what the port said, None when a fact could not be sent."""
        looked = report is not None and report.looked
        self.failing_since = self.failing_since if self.failed else now
        self.failed_at = now
        self.failed += 1
        self.blind += not looked
        pause = STUCK_PAUSE_MS if self.is_stuck(now) else pause_ms(kind, self.pauses, looked)
        self.pauses += 1
        asked_ms = round(1000 * min(report.after_s, LONGEST_ASKED_PAUSE_S)) if report is not None else 0
        self.next_at = now + max(asked_ms, round(pause * random.uniform(0.75, 1.25)))

    def report(self, now: int) -> None:
        """It was met, and the facts are on their way."""
        self.failed = self.blind = self.pauses = self.quiet = 0
        self.next_at = now + REPORTED_MS

    def nothing_new(self, kind: Kind, now: int) -> None:
        """A look that found what is known; or an own command that is not legal yet, for clocks differ."""
        self.failed = self.blind = self.pauses = 0
        first, longest = LOOK_PAUSES_MS.get(kind, (FIRST_PAUSE_MS, LONGEST_PAUSE_MS))
        self.next_at = now + round(min(first << min(self.quiet + 1, 20), longest) * random.uniform(1.0, 1.1))
        self.quiet += 1

    def ask(self) -> None:
        """A customer asked again: begin with the first pause if it fails."""
        if self.failed:
            self.pauses = 0
            self.next_at = min(self.next_at, self.failed_at + WAITED_PAUSES_MS[0])

    def is_stuck(self, now: int) -> bool:
        """Whether a person should look."""
        return self.blind > STUCK_TRIES or (self.failed > 0 and now - self.failing_since > STUCK_MS)


def pause_ms(kind: Kind, pauses: int, looked: bool) -> int:
    """The pause after a failure, when `pauses` were taken before it."""
    if kind not in WAITED_FOR:
        pause = FIRST_PAUSE_MS << min(pauses, 20)
    elif pauses < len(WAITED_PAUSES_MS):
        pause = WAITED_PAUSES_MS[pauses]
    else:
        pause = WAITED_PAUSES_MS[-1] << min(pauses + 1 - len(WAITED_PAUSES_MS), 20)
    return min(pause, LONGEST_AFTER_LOOK_MS if looked else LONGEST_PAUSE_MS)
