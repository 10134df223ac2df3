"""The drill: orders in every state are backed up, everything is wiped, restored, verified, then shipped and refunded.

Processes and verbs as an operator runs them. The provider and the stock services outlive the disaster, as in life.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from api.cli.backup.age import new_pair
from ledger.kafka.settings import KafkaSettings
from ledger.topics import Topics
from tests.support import checker, loopback
from tests.support.harness import key, order_body
from tests.support.patience import PATIENCE_S, until
from tests.support.processes import TOKENS, Child, LedgerNode
from tests.support.sandboxed import WEBHOOK_SECRET, RunningSandbox, running_sandbox

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(900)]
CANARY = "Canary Nightingale"
STATUSES = {"pending", "paid", "processing", "shipped", "delivered", "cancelled"}
IDENTITY, RECIPIENT = new_pair()


class DrilledShop:
    """A ledger on a broker, with the customers and the desk of a shop. `commands` and `serve` run between `start` and `stop`."""

    def __init__(self, folder: Path, kafka: KafkaSettings, topics: Topics, sandbox: RunningSandbox) -> None:
        env = {
            "SANDBOX_URL": sandbox.url,
            "PAYMENT_GATEWAY_WEBHOOK_SECRETS": WEBHOOK_SECRET,
            "OUTBOX_DIR": str(folder / "outbox"),
            "BACKUP_RECIPIENTS": RECIPIENT,
            "BACKUP_IDENTITY": IDENTITY,
            "NO_COLOR": "1",
            "COLUMNS": "200",
        }
        self.node = LedgerNode(folder, kafka.bootstrap_servers, topics, env=env)
        self.sandbox, self.running = sandbox, list[Child]()

    def start(self) -> None:
        self.running = [self.node.child("commands"), self.node.child("serve")]
        for child in self.running:
            child.start()
        self.node.wait_ready()

    def stop(self) -> None:
        assert [child.stop() for child in reversed(self.running)] == [0, 0], self.node.tails()

    def verb(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        env = self.node.child(arguments[0]).env
        self.node.children.pop()
        command = [sys.executable, "-m", "api.cli", *arguments]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert done.returncode == code, f"{arguments}: {done.stdout}\n{done.stderr}\n{self.node.tails()}"
        assert CANARY not in done.stdout + done.stderr
        return done

    def json_of(self, *arguments: str) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(self.verb(*arguments, "--json").stdout)
        return shown

    def ask(self, role: str, method: str, path: str, body: Any = None, customer: str = "c-1") -> dict[str, Any]:
        """The answer, once it is final: sent again under its key as a gateway does."""
        headers = {"Authorization": f"Bearer {TOKENS[role]}", "Prefer": "wait=10"} | key()
        if role == "gateway":
            headers["Customer-Id"] = customer
        with loopback.client(base_url=self.node.url, headers=headers, timeout=PATIENCE_S) as client:
            answers = []

            def is_final() -> bool:
                answers.append(client.request(method, path, json=body))
                return answers[-1].status_code not in (202, 503)

            until(is_final)
        assert answers[-1].is_success, answers[-1].text
        shown: dict[str, Any] = answers[-1].json()
        return shown

    def place(self, customer: str = "c-1") -> str:
        body = order_body()
        body["contact"] |= {"name": CANARY}
        order_id: str = self.ask("gateway", "POST", "/orders", body, customer)["order_id"]
        return order_id

    def read(self, order_id: str) -> dict[str, Any]:
        return self.ask("admin", "GET", f"/orders/{order_id}")

    def until(self, order_id: str, **axes: str) -> None:
        until(lambda: axes.items() <= (self.read(order_id)["axes"] | {"status": self.read(order_id)["status"]}).items())

    def pay(self, order_id: str) -> str:
        order = self.read(order_id)
        body = {"total_minor": order["total_minor"], "currency": order["currency"]}
        self.sandbox.pay(self.ask("gateway", "POST", f"/orders/{order_id}/payment", body))
        self.ask("gateway", "POST", f"/orders/{order_id}/payment", {"action": "confirm"})
        self.until(order_id, status="paid")
        return order_id

    def move(self, order_id: str, *statuses: str) -> str:
        for status in statuses:
            assert self.ask("admin", "PUT", f"/orders/{order_id}/status", {"status": status})["status"] == status
        return order_id

    def cancel(self, order_id: str) -> str:
        self.ask("admin", "POST", f"/orders/{order_id}/cancel", {"reason": "other"})
        return order_id

    def wipe(self) -> None:
        """Delete every topic, and the disks of both processes."""
        admin = AdminClient({"bootstrap.servers": self.node.bootstrap})
        names = [spec.name for spec in self.node.topics.specs(self.node.partitions, self.node.writers)]
        for future in admin.delete_topics(names, operation_timeout=PATIENCE_S).values():
            future.result(PATIENCE_S)
        until(lambda: not set(names) & set(admin.list_topics(timeout=PATIENCE_S).topics))
        shutil.rmtree(self.node.state_dir("one"))


@pytest.fixture
def shop(tmp_path: Path, kafka: KafkaSettings, topics: Topics) -> Iterator[DrilledShop]:
    with running_sandbox(tmp_path) as sandbox:
        shop = DrilledShop(tmp_path, kafka, topics, sandbox)
        yield shop
        shop.node.end()


def place_all(shop: DrilledShop) -> dict[str, str]:
    """An order in every status, by name."""
    orders = {
        "pending": shop.place(),
        "paid": shop.pay(shop.place()),
        "to be refunded": shop.pay(shop.place()),
        "processing": shop.move(shop.pay(shop.place()), "processing"),
        "shipped": shop.move(shop.pay(shop.place()), "processing", "shipped"),
        "delivered": shop.move(shop.pay(shop.place()), "processing", "shipped", "delivered"),
        "cancelled": shop.cancel(shop.place()),
        "refunded": shop.cancel(shop.pay(shop.place())),
    }
    shop.until(orders["pending"], stock="reserved")
    shop.until(orders["cancelled"], stock="released")
    shop.until(orders["refunded"], payment="refunded", stock="released")
    return orders


def continue_all(shop: DrilledShop, orders: dict[str, str], total_minor: int) -> None:
    """What remained to be done is done, once, as the provider's own journal says."""
    shop.pay(orders["pending"])
    shop.move(orders["paid"], "processing", "shipped", "delivered")
    shop.move(orders["processing"], "shipped")
    shop.move(orders["shipped"], "delivered")
    shop.cancel(orders["to be refunded"])
    shop.until(orders["to be refunded"], payment="refunded", stock="released")
    shop.ask("admin", "POST", f"/orders/{orders['delivered']}/refunds", {"amount_minor": 100, "reason": "goodwill"})
    until(lambda: shop.read(orders["delivered"])["refunded_minor"] == 100)
    effects = {name: shop.sandbox.effects(order_id) for name, order_id in orders.items()}
    captured = {name: [n for kind, n in some if kind == "captured"] for name, some in effects.items()}
    assert captured == {name: [] if name == "cancelled" else [total_minor] for name in orders}
    refunded = {name: [n for kind, n in some if kind == "refunded"] for name, some in effects.items()}
    assert {name: amounts for name, amounts in refunded.items() if amounts} == {
        "to be refunded": [total_minor],
        "delivered": [100],
        "refunded": [total_minor],  # before the disaster, and not again
    }


def test_a_wiped_ledger_comes_back_and_its_orders_continue(shop: DrilledShop, tmp_path: Path) -> None:
    folder, after = tmp_path / "backup", tmp_path / "after"
    shop.start()
    gone = shop.cancel(shop.place("c-gone"))
    shop.until(gone, stock="released")
    first = shop.json_of("backup", str(folder))
    assert (first["added"]["no"], first["added"]["all_contacts"], first["added"]["contacts"]) == (1, True, 1)
    shop.ask("operator", "POST", "/customers/c-gone/erasure")  # after the backup of the contact
    assert shop.read(gone)["contact"] is None
    orders = place_all(shop)
    shop.ask("admin", "POST", f"/orders/{orders['paid']}/notes", {"text": f"{CANARY} called"})
    second = shop.json_of("backup", str(folder))
    assert (second["added"]["no"], second["added"]["all_contacts"]) == (2, False)
    before = {name: shop.read(order_id) for name, order_id in orders.items()}
    assert {order["status"] for order in before.values()} == STATUSES
    shop.stop()

    shop.wipe()
    checked = shop.json_of("restore", str(folder), "--check")
    assert (checked["ok"], checked["restored"], checked["contacts"], checked["notes"]) == (True, False, len(orders), 1)
    restored = shop.json_of("restore", str(folder))
    assert restored == checked | {"restored": True}
    assert "not_empty" in shop.verb("restore", str(folder), code=1).stderr
    report = shop.json_of("verify", "--log-only", "--heads", str(folder / "000002" / "heads.json"))
    assert (report["ok"], report["events"], restored["events"]) == (True, second["events"], second["events"])

    shop.start()
    assert {name: shop.read(order_id) for name, order_id in orders.items()} == before
    assert shop.read(gone)["contact"] is None
    notes = shop.ask("admin", "GET", f"/orders/{orders['paid']}/notes")["data"]
    assert [note["text"] for note in notes] == [f"{CANARY} called"]
    continue_all(shop, orders, before["paid"]["total_minor"])
    report = shop.json_of("verify")
    assert (report["ok"], report["differences"]) == (True, 0)
    assert "other_ledger" in shop.verb("backup", str(folder), code=1).stderr  # its offsets are others: a new folder
    assert shop.json_of("backup", str(after))["added"]["no"] == 1
    shop.stop()
    ledger = checker.read_ledger(shop.node.bootstrap, shop.node.topics.prefix)
    gone_commands = [problem for problem in ledger.problems if ": answers command" in problem and "which is not" in problem]
    assert ledger.problems == gone_commands, checker.describe(ledger.problems)
    assert len(gone_commands) == restored["events"] + restored["refusals"]  # their commands are in no backup
    assert_nothing_personal(shop, folder, after)


def assert_nothing_personal(shop: DrilledShop, *folders: Path) -> None:
    """No name of a customer is readable in a backup or a log."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 15
    for path in (*files, *(child.log_file for child in shop.node.children)):
        assert CANARY.encode() not in path.read_bytes(), path
