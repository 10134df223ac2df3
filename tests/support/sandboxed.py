"""The product's sandbox on a loopback port in a thread, with the customer's and the bank's side of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import uvicorn

from commands.sandbox import PUBLISHABLE_KEY, SECRET_KEY
from commands.sandbox.cards import VISA, confirm_form
from commands.sandbox.chaos import ChaosConfig
from commands.sandbox.server import Sandbox
from tests.support import loopback
from tests.support.patience import PATIENCE_S

WEBHOOK_SECRET = "whsec_of_the_tests"


class RunningSandbox:
    """`sandbox` is the real one; the methods do what a customer's browser, the bank and the dashboard do."""

    def __init__(self, sandbox: Sandbox, url: str, database: Path) -> None:
        self.sandbox, self.url, self.database = sandbox, url, database
        self.browser, self.dashboard = (
            loopback.client(base_url=url, headers={"Authorization": f"Bearer {key}"}, limits=loopback.EACH_ALONE)
            for key in (PUBLISHABLE_KEY, SECRET_KEY)
        )

    def pay(self, payment: dict[str, Any], card: str = VISA) -> str:
        """Confirm a payment (the body of `payOrder`) with a card, as Stripe.js does. Returns its status or the decline code."""
        form = confirm_form(payment["client_secret"], card)
        answer = self.browser.post(f"/v1/payment_intents/{payment['provider_ref']}/confirm", data=form).json()
        error = answer.get("error")
        return str(error.get("decline_code") or error["code"] if error else answer["status"])

    def authenticate(self, payment: dict[str, Any], outcome: str = "success") -> None:
        path = f"/sandbox/payments/{payment['provider_ref']}/authenticate"
        self.browser.post(path, data={"outcome": outcome}).raise_for_status()

    def by_staff(self, path: str, **form: str) -> dict[str, Any]:
        """POST `path` with the secret key, as staff or the bank would."""
        answer = self.dashboard.post(path, data=form)
        answer.raise_for_status()
        reply: dict[str, Any] = answer.json()
        return reply

    def chaos(self, **config: Any) -> None:
        self.sandbox.chaos.set(msgspec.convert(config, ChaosConfig))

    def calls(self, port: str, verb: str = "%") -> list[dict[str, Any]]:
        return self.sandbox.journal.rows("select * from calls where port = ? and verb like ? order by id", port, verb)

    def effects(self, order_id: str) -> list[tuple[str, int]]:
        """(kind, amount) of every effect for an order, in the order in which they happened."""
        rows = self.sandbox.journal.rows("select kind, amount from effects where order_id = ? order by id", order_id)
        return [(row["kind"], row["amount"]) for row in rows]

    def units(self, service: str, sku: str) -> int:
        return next(int(row["units"]) for row in self.sandbox.rooms.items(service) if row["sku"] == sku)


@contextmanager
def running_sandbox(folder: Path, grpc: bool = False) -> Iterator[RunningSandbox]:
    """Runs until the block ends. The articles of the tests' orders are in stock in plenty."""
    database = folder / "sandbox.db"
    sandbox = Sandbox(database, grpc_ports={"product": 0, "merch": 0} if grpc else None)
    for service, sku, price in (("product", "espresso-1kg", 1200), ("merch", "mug", 900), ("product", "sample", 0)):
        sandbox.rooms.put(service, sku, 1_000_000, price)
    server = uvicorn.Server(uvicorn.Config(sandbox.app, port=0, log_config=None, access_log=False, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, name="sandbox")
    thread.start()
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not server.started:
            assert time.monotonic() < deadline
            assert thread.is_alive()
            time.sleep(0.01)
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        running = RunningSandbox(sandbox, f"http://{host}:{port}", database)
        yield running
        running.browser.close()
        running.dashboard.close()
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
        sandbox.close()
