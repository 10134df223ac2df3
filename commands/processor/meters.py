"""What one writer did since its process started, for metrics. Written by its thread, read by any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ledger.errors import LedgerError
from ledger.histogram import Histogram

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
COMMANDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
ACCEPTED, REFUSED, REPEATED = "accepted", "refused", "repeated"


class WriterMeters:
    """`decided`: commands by outcome. `started_over`: by the code of the error. `taken_over_s`: from owning a writer to its first
    decision. `folded`: records of others, while it followed or took over.
    """

    def __init__(self) -> None:
        self.decided: Counter[str] = Counter()
        self.started_over: Counter[str] = Counter()
        self.batch_commands, self.transaction_s = Histogram(COMMANDS), Histogram(SECONDS)
        self.taken_over_s = Histogram(SECONDS)
        self.folded = 0

    def committed(self, commands: int, topics: Sequence[str], events: str) -> None:
        """A batch of so many commands is stored; `topics` are those of its new records, `events` that of events."""
        accepted = sum(topic == events for topic in topics)
        self.batch_commands.note(commands)
        self.decided[ACCEPTED] += accepted
        self.decided[REFUSED] += len(topics) - accepted
        self.decided[REPEATED] += commands - len(topics)

    def starts_over(self, exc: LedgerError) -> None:
        """Count what ended an incarnation."""
        self.started_over[exc.code] += 1
