"""A broker killed again and again under load, while a processor and a serving process keep running."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from ledger.broker.node import EmbeddedBroker
from ledger.topics import Topics
from tests.support.patience import PATIENCE_S
from tests.support.processes import LedgerNode
from tests.support.proof import load_during, prove

pytestmark = [pytest.mark.kafka, pytest.mark.campaign, pytest.mark.timeout(1200)]
KILLS = 6


class Striker(threading.Thread):
    """SIGKILL after a random pause, and a new start after another pause; a failure is in `error`."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        super().__init__(name="striker", daemon=True)
        self._broker = broker
        self.kills = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        choice = random.Random(30)
        try:
            for _ in range(KILLS):
                time.sleep(choice.uniform(3.0, 8.0))
                os.kill(self._broker.pid, signal.SIGKILL)
                self._broker.wait(PATIENCE_S)
                self.kills += 1
                time.sleep(choice.uniform(0.0, 6.0))
                self._broker.start()
            time.sleep(5.0)
        except BaseException as exc:
            self.error = exc
            raise


def test_a_broker_killed_six_times_costs_time_and_nothing_else(tmp_path: Path, topics: Topics) -> None:
    broker = EmbeddedBroker(tmp_path / "broker", log_file=tmp_path / "broker.log")
    broker.start()
    node = LedgerNode(tmp_path, broker.bootstrap_servers, topics)
    try:
        children = [node.child("commands"), node.child("serve")]
        for child in children:
            child.start()
        node.wait_ready()
        pids = [child.pid for child in children]
        striker = Striker(broker)
        striker.start()
        gateway, orders = asyncio.run(load_during(node, striker.is_alive))
        assert striker.error is None
        assert striker.kills == KILLS
        assert [child.pid for child in children if child.ended() is None] == pids, node.tails()
        print(f"{KILLS} broker kills: {prove(node, gateway, orders)}")
    finally:
        node.end()
        broker.stop()
