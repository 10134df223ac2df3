"""The short form of a campaign of faults: each kind once, over all processes of a ledger, from one seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.rig import running_rig
from tests.support.rig_campaign import campaign

pytestmark = pytest.mark.kafka


@pytest.mark.timeout(900)
def test_a_ledger_that_meets_every_kind_of_fault_breaks_no_promise(tmp_path: Path) -> None:
    with running_rig(tmp_path) as rig:
        report = campaign(rig, seed=1, seconds=12.0, every_s=1.0, lasts_s=(0.5, 1.5), per_s=6.0, say=print)
        print("\n".join(report.lines()))
        assert report.breaks == [], rig.node.tails()
        assert report.faults.keys() == {str(kind) for kind in rig.site().possible()}
        assert report.figures["disks_filled"] == report.faults["full disk"]
        assert report.figures["acknowledged"]
