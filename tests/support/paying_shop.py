"""A shop whose orders are paid at the sandbox: a ledger, its reconciler and the provider in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from commands.reconciler.loop import Reconciler
from tests.support.harness import RunningLedger, decided, key, order_body, placed
from tests.support.patience import PATIENCE_S, until
from tests.support.sandboxed import RunningSandbox


def body_of(answer: httpx.Response) -> dict[str, Any]:
    """The body of a 201."""
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


def payment_of(order: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Path and body of a request for a payment of the whole order."""
    body = {"total_minor": order["total_minor"], "currency": order["currency"]}
    return f"/orders/{order['order_id']}/payment", body


class Shop:
    """A customer and staff of one running ledger with its sandbox."""

    def __init__(self, ledger: RunningLedger, sandbox: RunningSandbox) -> None:
        self.ledger, self.sandbox = ledger, sandbox
        self.customer, self.admin = ledger.client(), ledger.client("admin")

    def place(self, **changes: Any) -> dict[str, Any]:
        return placed(self.customer, order_body(**changes))

    def initiate(self, order: dict[str, Any], **headers: str) -> httpx.Response:
        path, body = payment_of(order)
        return self.customer.post(path, json=body, headers=key() | headers)

    def open_payment(self, order: dict[str, Any]) -> dict[str, Any]:
        return body_of(decided(self.customer, *payment_of(order)))

    @property
    def reconciler(self) -> Reconciler:
        companions = self.ledger.companions
        assert companions is not None
        assert companions.reconciler is not None
        return companions.reconciler

    @contextmanager
    def unreconciled(self) -> Iterator[None]:
        """The reconciler does nothing until the block ends, and nothing that it began is under way.

        Its clock may be ahead, because an earlier test moved it: then it looks at a payment as soon as that is open.
        """
        reconciler = self.reconciler
        owned = sorted(reconciler._owned)
        reconciler.disown(owned)
        try:
            until(lambda: not sum(reconciler._backlog._running.values()))
            yield
        finally:
            reconciler.own(owned)

    def cancel(self, order: dict[str, Any]) -> httpx.Response:
        return self.customer.post(f"/orders/{order['order_id']}/cancel", json={}, headers=key())

    def read(self, order: dict[str, Any]) -> dict[str, Any]:
        body: dict[str, Any] = self.admin.get(f"/orders/{order['order_id']}").json()
        return body

    def until(
        self, order: dict[str, Any], wanted: Callable[[dict[str, Any]], bool], timeout_s: float = PATIENCE_S, step_ms: int = 0
    ) -> dict[str, Any]:
        """The order once `wanted` is true of it. With `step_ms`, the clock advances by that much after each read: for pauses that
        began after its last jump, because a call failed or brought nothing new."""
        deadline = time.monotonic() + timeout_s
        while not wanted(now := self.read(order)):
            assert time.monotonic() < deadline, (now, self.types(order))
            if step_ms:
                self.later(step_ms)
            time.sleep(0.02)
        return now

    def until_messages_delivered(self) -> None:
        """Wait until the sandbox has no message left to send."""
        until(lambda: not self.sandbox.sandbox.journal.rows("select id from messages"))

    def until_status(self, order: dict[str, Any], status: str) -> dict[str, Any]:
        return self.until(order, lambda o: o["status"] == status)

    def until_axes(self, order: dict[str, Any], step_ms: int = 0, **axes: str) -> dict[str, Any]:
        return self.until(order, lambda o: axes.items() <= o["axes"].items(), step_ms=step_ms)

    def types(self, order: dict[str, Any]) -> list[str]:
        rows = self.admin.get(f"/orders/{order['order_id']}/events").json()["data"]
        return [row["type"] for row in rows]

    def failed(self, kind: str) -> int:
        """How many tries of this kind of obligation have failed."""
        return self.reconciler.done[f"{kind} failed"]

    def later(self, ms: int) -> None:
        """Advance the clock: what was to be done then is due now."""
        self.ledger.clock.ahead_ms += ms
        self.reconciler.clock_moved()
