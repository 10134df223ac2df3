"""What the rig says about memory and files, from samples of which the answer is known."""

from __future__ import annotations

import os
import time

import pytest

from tests.support import rig_usage
from tests.support.patience import PATIENCE_S
from tests.support.rig_usage import Sample, Usage, growth


def test_growth_is_that_between_a_warm_process_and_the_end() -> None:
    samples = [Sample(at, "serve", 100.0 + at / 10, 50) for at in range(0, 3601, 5)]
    figures = growth(samples, 3600.0)["serve"]
    assert (figures["mb_warm"], figures["mb_end"]) == pytest.approx((235, 445), abs=1)
    assert figures["growth_percent"] == pytest.approx(89.4, abs=0.5)
    assert figures["files_warm"] == figures["files_end"] == 50


def test_a_process_that_starts_again_small_hides_no_growth_and_makes_none() -> None:
    samples = [Sample(at, "commands", 10.0 if at % 300 == 0 else 100.0, 40 if at < 3000 else 60) for at in range(0, 3600, 5)]
    figures = growth(samples, 3600.0)["commands"]
    assert figures["growth_percent"] == 0
    assert (figures["files_warm"], figures["files_end"]) == (40, 60)


def test_a_run_that_is_too_short_says_nothing() -> None:
    assert growth([Sample(1.0, "serve", 1.0, 1)], 12.0) == {}


def test_samples_are_of_the_processes_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig_usage, "EVERY_S", 0.01)
    usage = Usage(lambda: {os.getpid(): "test", 2**22 + 1: "gone"})
    usage.start()
    try:
        deadline = time.monotonic() + PATIENCE_S
        while len(usage.samples) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        usage.stop()
    assert {sample.kind for sample in usage.samples} == {"test"}
    assert all(sample.mb > 1 and sample.files > 2 for sample in usage.samples)
