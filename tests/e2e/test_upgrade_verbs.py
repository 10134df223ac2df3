"""The verbs of an upgrade, beside a running `up`."""

from __future__ import annotations

import json

import pytest

from ledger.levels import LEVEL
from tests.support.patience import until
from tests.support.up_process import UpProcess
from tests.support.verbs import doctor, run

pytestmark = pytest.mark.kafka


def test_the_running_programs_and_the_level_in_use_are_shown(up: UpProcess) -> None:
    def status() -> dict[str, object]:
        return dict(json.loads(run(up, "upgrade", "status", "--json")))

    def kinds() -> set[str]:
        nodes = status()["nodes"]
        assert isinstance(nodes, list)
        return {node["node"].partition("/")[0] for node in nodes}

    until(lambda: kinds() == {"commands", "serve"})
    shown = status()
    assert (shown["level"], shown["level_of_this_program"]) == (LEVEL, LEVEL)
    text = run(up, "upgrade", "status")
    assert f"Feature level {LEVEL} is in use" in text
    assert "Nothing is left to do." in text
    assert json.loads(run(up, "upgrade", "finish", "--json"))["level"] == LEVEL
    (versions,) = [finding for finding in doctor(up)["findings"] if finding["subject"] == "versions"]
    assert versions["verdict"] == "ok"
    assert f"feature level {LEVEL} is in use" in versions["found"]
