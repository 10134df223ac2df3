"""How long the shop is down after a kill: measured, not judged. For a quiet machine:

    uv run pytest -m campaign tests/faults/test_recovery_times.py -n0 -s          RECOVERIES=10 of each kind, about 20 minutes

Each time is from the kill to the answer to an order that is sent right after it, under one key, until it is 201: decided,
committed, folded. Each kind ends with the proof that nothing was lost; a recovery that does not come fails.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from commands.sandbox.catalogue import order_body
from ledger.kafka.settings import KafkaSettings
from ledger.topics import Topics
from tests.support import checker, loopback
from tests.support.patience import PATIENCE_S
from tests.support.processes import TOKENS, Child, LedgerNode
from tests.support.up_process import UpProcess

pytestmark = [pytest.mark.kafka, pytest.mark.campaign, pytest.mark.timeout(7200)]

RECOVERIES = int(os.environ.get("RECOVERIES", "10"))
CALM_S = 11.0  # a child of `up` must have lived this long to be restarted immediately


class Shop:
    """A gateway's view of one `serve`: places one order after the other and remembers the acknowledged ones."""

    def __init__(self, url: str, token: str) -> None:
        self._url, self._token = url, token
        self._number = 0
        self.acknowledged: dict[str, str] = {}  # order id -> customer

    def place(self, read_too: bool = False) -> None:
        """Place an order, and read it, however long each takes. A fresh connection for each try."""
        self._number += 1
        customer = f"recovery-{self._number}"
        headers = {"Authorization": f"Bearer {self._token}", "Customer-Id": customer}
        keyed = headers | {"Idempotency-Key": f"recovery-{os.getpid()}-{self._number}", "Prefer": "wait=10"}
        answer = self._until(201, "POST", "/orders", keyed, order_body(self._number))
        self.acknowledged[answer.json()["order_id"]] = customer
        if read_too:
            read = self._until(200, "GET", answer.headers["Location"], headers, None)
            # Stock may have been reserved meanwhile: then the order has another version.
            assert read.json()["version"] > answer.json()["version"] or read.content == answer.content

    def ready(self) -> None:
        """Wait until `/ready` says ready, and not for stale reads only."""
        while "stale" in self._until(200, "GET", "/ready", {}, None).json():
            time.sleep(0.02)

    def _until(self, wanted: int, method: str, path: str, headers: dict[str, str], body: object) -> httpx.Response:
        deadline, last = time.monotonic() + PATIENCE_S, ""
        while time.monotonic() < deadline:
            try:
                answer = self._once(method, path, headers, body)
            except httpx.TransportError as exc:
                last = repr(exc)
            else:
                if answer.status_code == wanted:
                    return answer
                last = f"{answer.status_code} {answer.text}"
                assert answer.status_code in (202, 404, 503), last
            time.sleep(0.02)
        raise AssertionError(f"{method} {path} is not {wanted} after {PATIENCE_S} s: {last}")

    def _once(self, method: str, path: str, headers: dict[str, str], body: object) -> httpx.Response:
        with loopback.client(base_url=self._url, timeout=15.0) as client:
            return client.request(method, path, headers=headers, json=body)

    def prove(self, bootstrap: str, prefix: str = "") -> None:
        """Every acknowledged order is in the topic, once, and the topic keeps its promises."""
        ledger = checker.read_ledger(bootstrap, prefix)
        assert ledger.problems == [], checker.describe(ledger.problems)
        assert {order_id: ledger.orders[order_id].customer_id for order_id in self.acknowledged} == self.acknowledged


def measure(
    label: str, goal_s: float, strike: Callable[[], None], recovered: Callable[[], None], calm: Callable[[], None]
) -> None:
    """Strike and wait for the recovery, again and again; print the row."""
    took_s = []
    for _ in range(RECOVERIES):
        calm()
        began = time.monotonic()
        strike()
        recovered()
        took_s.append(time.monotonic() - began)
    ordered = sorted(took_s)
    p50, p95 = (ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.5, 0.95))
    verdict = "met" if p95 <= goal_s else "MISSED"
    shown = " ".join(f"{s:.1f}" for s in took_s)
    print(f"\n{label}: p50 {p50:.1f} s, p95 {p95:.1f} s (goal {goal_s:.0f} s, {verdict}; {shown})", flush=True)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpProcess]:
    machine = UpProcess(tmp_path_factory.mktemp("recovery") / "data")
    machine.start()
    yield machine
    if machine.running():
        machine.interrupt()


@pytest.fixture(scope="module")
def shop(up: UpProcess) -> Shop:
    return Shop(up.url, up.token("gateway"))


def is_calm(up: UpProcess, shop: Shop) -> None:
    """Every process runs, has run for a while, and orders are accepted."""
    shop.place()
    time.sleep(CALM_S)
    shop.place()
    assert up.running(), up.said()


def test_commands_are_killed(up: UpProcess, shop: Shop) -> None:
    measure("commands killed: next order decided", 4, lambda: up.kill_one("commands"), shop.place, lambda: is_calm(up, shop))
    shop.prove(up.bootstrap_servers)


def test_serve_is_killed(up: UpProcess, shop: Shop) -> None:
    measure("serve killed: ready again", 4, lambda: up.kill_one("serve"), shop.ready, lambda: is_calm(up, shop))
    shop.prove(up.bootstrap_servers)


def test_the_only_broker_is_killed(up: UpProcess, shop: Shop) -> None:
    label = "broker killed: next order decided and readable"
    measure(label, 10, lambda: up.kill_one("broker"), lambda: shop.place(read_too=True), lambda: is_calm(up, shop))
    shop.prove(up.bootstrap_servers)


def test_everything_is_killed(up: UpProcess, shop: Shop) -> None:
    def strike() -> None:
        for process in reversed(up.processes()):
            process.kill()
        assert up.process is not None
        up.process.wait()

    def recovered() -> None:
        up.start()
        shop.place()

    measure("everything killed, `up` started: next order placed", 15, strike, recovered, lambda: is_calm(up, shop))
    shop.prove(up.bootstrap_servers)


def test_commands_are_killed_beside_a_standby(tmp_path: Path, kafka: KafkaSettings, topics: Topics) -> None:
    node = LedgerNode(tmp_path, kafka.bootstrap_servers, topics)
    shop = Shop(node.url, TOKENS["gateway"])
    try:
        owners = [node.child("commands", "one"), node.child("commands", "two")]
        for child in (*owners, node.child("serve", "three")):
            child.start()
        node.wait_ready()

        def both_are_there() -> None:
            for child in owners:
                if child.ended() is not None:
                    child.start()
            shop.place()
            time.sleep(CALM_S)  # until the restarted one has joined and taken its writers
            shop.place()

        measure(
            "commands killed beside a standby, not started again: next order decided",
            6,
            lambda: owner_of(owners).kill(),
            shop.place,
            both_are_there,
        )
        shop.prove(node.bootstrap, topics.prefix)
    finally:
        node.end()


def owner_of(children: list[Child]) -> Child:
    """The process that became ready last: each logs that with the time."""

    def ready_at(child: Child) -> str:
        lines = [json.loads(line) for line in child.log_file.read_text().splitlines() if '"writer ready"' in line]
        return str(lines[-1]["timestamp"]) if lines else ""

    return max((child for child in children if child.ended() is None), key=ready_at)
