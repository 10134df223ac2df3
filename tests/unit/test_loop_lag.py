"""The loop measures its own lag: whatever blocks it shows, and nothing is lost in the histogram."""

from __future__ import annotations

import asyncio
import time

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from api.services import loop_lag
from api.services.loop_lag import BUCKETS_S, LoopLag


def samples(lag: LoopLag) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(lag)
    text = generate_latest(registry).decode()
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name.removeprefix("ledger_loop_lag_seconds"): float(value) for name, value in lines}


class Watched(LoopLag):
    """Announces every measurement."""

    def __init__(self) -> None:
        super().__init__()
        self.noted = asyncio.Queue[float]()

    def note(self, late_s: float) -> None:
        super().note(late_s)
        self.noted.put_nowait(late_s)


def test_a_loop_that_was_blocked_is_seen_to_be_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_lag, "EVERY_S", 0.01)

    async def main() -> None:
        lag = Watched()
        measuring = asyncio.create_task(lag.measure_for_ever())
        await lag.noted.get()
        before = samples(lag)
        asyncio.get_running_loop().call_soon(time.sleep, 0.3)
        await lag.noted.get()
        measuring.cancel()
        after = samples(lag)
        assert after["_sum"] - before["_sum"] > 0.25
        assert after['_bucket{le="0.25"}'] == before['_bucket{le="0.25"}'], "the measurement was later than that"

    asyncio.run(main())


def test_every_measurement_is_in_its_bucket_and_those_above() -> None:
    lag = LoopLag()
    for late_s in (0.0, 0.001, 0.02, 0.021, 99.0):
        lag.note(late_s)
    counted = samples(lag)
    assert (counted["_count"], counted['_bucket{le="+Inf"}']) == (5, 5)
    assert [counted[f'_bucket{{le="{edge}"}}'] for edge in (0.001, 0.01, 0.02, 0.05, 10.0)] == [2, 2, 3, 4, 4]
    assert counted["_sum"] == pytest.approx(99.042)
    assert 0.02 in BUCKETS_S, "what p99 must stay below"
