"""A ledger with orders of several customers, some of them frozen: for tests of who sees what."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from commands.idempotency import fresh_command_id, order_id_of
from commands.messages import OrderCommand, RaiseAttention
from ledger.log import NewRecord
from ledger.memory.log import MemoryLog
from ledger.outcomes import Outcome
from ledger.schemas.codec import event_codec
from ledger.topics import Topics
from ledger.transitions import Operation
from tests.support.harness import RunningLedger, decided, deciding_again, key, order_body, placed, running_ledger
from tests.support.patience import PATIENCE_S
from tests.support.sandboxed import running_sandbox

OWN, OTHERS, MISSING = "own", "another customer's", "missing"
FROZEN_OWN, FROZEN_OTHERS, FROZEN_UNKNOWN = "own and frozen", "another customer's and frozen", "frozen, of an unknown owner"
CUSTOMERS = {OWN: "c-1", FROZEN_OWN: "c-1", OTHERS: "c-2", FROZEN_OTHERS: "c-2"}
OWNERS = (OWN, OTHERS, MISSING, FROZEN_OWN, FROZEN_OTHERS, FROZEN_UNKNOWN)


def raise_attention(ledger: RunningLedger, order_id: str, flag: str) -> None:
    """The order needs a person, as the reconciler says it; `flag` is the key of the flag. Returns when it is decided."""
    command = OrderCommand(
        command_id=fresh_command_id(),
        order_id=order_id,
        fingerprint=bytes(16),
        operation=Operation.RAISE_ATTENTION.value,
        actor="reconciler",
        raise_attention=RaiseAttention("stuck", flag),
    )
    assert isinstance(ledger.run(ledger.context.submissions.submit(command, PATIENCE_S)), Outcome)


class World:
    """One ledger with everybody's orders; `ids` and `commands` (that placed them) by owner."""

    def __init__(self, ledger: RunningLedger) -> None:
        self.ledger = ledger
        self.ids, self.commands = {MISSING: order_id_of("cmd_none"), FROZEN_UNKNOWN: order_id_of("cmd_unknown")}, {}
        for owner in CUSTOMERS:
            self.ids[owner] = self.place(owner)
            events = [event_codec().decode(r.value) for r in ledger.records(ledger.topics.events)]
            self.commands[owner] = next(event.command_id for event in events if event.order_id == self.ids[owner])

    def mark(self, owner: str) -> str:
        return f"mark-{OWNERS.index(owner)}"

    def body(self, owner: str) -> dict[str, Any]:
        """Every part of the contact carries the owner's mark, by which a text is searched."""
        mark = self.mark(owner)
        address = {"line1": f"{mark} Lane", "city": f"{mark} City", "postcode": mark, "country": "GB"}
        texts = {"name": mark, "email": f"{mark}@example.org", "delivery_note": mark, "locale": f"en-x-{mark}"}
        return order_body(reference=f"reference-{OWNERS.index(owner)}", contact={**texts, "shipping_address": address})

    def place(self, owner: str) -> str:
        return str(placed(self.client("gateway", owner), self.body(owner))["order_id"])

    def client(self, role: str, owner: str = OWN) -> httpx.Client:
        return self.ledger.client(role, CUSTOMERS[owner])

    def open_payment(self, owner: str) -> None:
        body = {"total_minor": order_body()["total_minor"], "currency": "EUR"}
        answer = decided(self.client("gateway", owner), f"/orders/{self.ids[owner]}/payment", body)
        assert answer.status_code == 201, answer.text

    def freeze(self) -> None:
        """Write records that are not events where the processor would write; it is stopped."""
        projector, writer = self.ledger.context.projector, self.ledger.log.writer("intruder")
        writer.start(PATIENCE_S)
        for owner in (FROZEN_OWN, FROZEN_OTHERS, FROZEN_UNKNOWN):
            order_id = self.ids[owner]
            partition = self.ledger.context.partition_of(order_id)
            (end,) = writer.transact([NewRecord(self.ledger.topics.events, partition, order_id.encode(), b"junk")]).values()
            deadline = time.monotonic() + PATIENCE_S
            while projector.position(partition) < end:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        writer.close()

    def flagged(self, owner: str) -> tuple[str, str]:
        """A new order that needs a person: its id, and the key of the flag."""
        order_id, flag = self.place(owner), f"att:{next_number()}"
        raise_attention(self.ledger, order_id, flag)
        return order_id, flag


def next_number() -> str:
    return key()["Idempotency-Key"]


@contextmanager
def everybodys_orders(folder: Path) -> Iterator[World]:
    """A world with an open payment of every customer, and frozen orders; the processor decides."""
    with (
        running_sandbox(folder) as sandbox,
        running_ledger(MemoryLog(), Topics("visibility."), sandbox=sandbox, env="production") as ledger,
    ):
        world = World(ledger)
        for owner in CUSTOMERS:
            world.open_payment(owner)
        ledger.stop_deciding()
        world.freeze()
        with deciding_again(ledger):
            world.place(OWN)
            yield world
