"""What the reconciler did and still has to do, for metrics. Calls are counted on its loop; any thread may read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from commands.obligations import Kind
from commands.reconciler.pauses import Tries
from commands.reconciler.performing import CallReport
from ledger.histogram import Histogram

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class CallMeters:
    """Seconds of calls by (port, kind of obligation, answer): `done`, `refused`, or `none` if its result is unknown."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, str, str], Histogram] = {}

    def note(self, port: str, kind: Kind, report: CallReport, took_s: float) -> None:
        """Count one obligation that was tried."""
        answer = "done" if report.failed is None else "refused" if report.answered else "none"
        self.seconds.setdefault((port, kind.value, answer), Histogram(SECONDS)).note(took_s)


@dataclass(slots=True)
class Census:
    """Obligations by kind. `oldest_failing_ms`: for how long the oldest of them has been failing."""

    owed: Counter[str] = field(default_factory=Counter)
    calling: Counter[str] = field(default_factory=Counter)
    failing: Counter[str] = field(default_factory=Counter)
    stuck: Counter[str] = field(default_factory=Counter)
    oldest_failing_ms: dict[str, int] = field(default_factory=dict)


def census(tries: Iterable[Tries], now_ms: int) -> Census:
    """Count obligations. `now_ms` is of the clock that `tries` use."""
    result = Census()
    for one in tries:
        kind = one.kind.value if one.kind is not None else "unknown"
        result.owed[kind] += 1
        result.calling[kind] += one.calling
        if one.failed:
            result.failing[kind] += 1
            result.stuck[kind] += one.is_stuck(now_ms)
            result.oldest_failing_ms[kind] = max(result.oldest_failing_ms.get(kind, 0), now_ms - one.failing_since)
    return result
