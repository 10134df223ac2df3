"""The audit over HTTP: who saw a contact, erased a customer, resolved attention; nothing else, and nothing personal."""

from __future__ import annotations

import threading
import time
from typing import Any

import httpx
import pytest

from api.services.audit import By
from commands.messages import OrderCommand, RaiseAttention
from ledger.audit import ATTENTION_RESOLUTION, CONTACT_READ, CUSTOMER_ERASURE, DONE, REFUSED, REQUESTED, AuditRecord
from ledger.errors import LogUnavailable
from ledger.log import NewRecord, OnAck, Sender
from ledger.schemas.codec import audit_codec
from ledger.transitions import Operation
from tests.support.harness import ROLES, RunningLedger, key, order_body
from tests.support.patience import PATIENCE_S, until


def records(ledger: RunningLedger) -> list[AuditRecord]:
    """All durable records, once none waits any more."""
    until(lambda: not ledger.context.audit.waiting)
    return [audit_codec().decode(record.value) for record in ledger.records(ledger.topics.audit)]


def since(ledger: RunningLedger, before: list[AuditRecord]) -> list[AuditRecord]:
    return records(ledger)[len(before) :]


def place(ledger: RunningLedger, customer: str) -> str:
    return str(ledger.client(customer=customer).post("/orders", json=order_body(), headers=key()).json()["order_id"])


def test_each_answer_in_which_staff_see_a_contact_is_recorded_with_who_and_when(ledger: RunningLedger) -> None:
    order, before, client = place(ledger, "ann"), records(ledger), ledger.client("admin")
    request_id = "0123456789abcdef0123456789abcdef"
    answer = client.get(f"/orders/{order}", headers={"Request-Id": request_id})
    assert answer.json()["contact"]["name"] == "Ada Example"
    (record,) = since(ledger, before)
    about = (record.actor, record.role, record.action, record.outcome, record.order_id, record.customer_id, record.request_id)
    assert about == ("admin:admin", "admin", CONTACT_READ, DONE, order, "ann", request_id)
    assert abs(record.occurred_at - time.time() * 1000) < PATIENCE_S * 1000
    assert (record.node, len(record.audit_id)) == (ledger.context.settings.node_id, 32)

    before = records(ledger)
    for path in (f"/orders/{order}?version=1", f"/orders/{order}"):
        assert client.get(path).json()["contact"] is not None
    answer = client.post(f"/orders/{order}/cancel", json={}, headers=key())
    assert answer.json()["contact"] is not None, "an answer to a command shows it too"
    assert [(record.action, record.order_id) for record in since(ledger, before)] == [(CONTACT_READ, order)] * 3


def test_answers_without_a_contact_are_not_recorded(ledger: RunningLedger) -> None:
    order, before = place(ledger, "bob"), records(ledger)
    own, admin = ledger.client(customer="bob"), ledger.client("admin")
    assert own.get(f"/orders/{order}").json()["contact"] is not None, "the customer's own"
    assert ledger.client("reader").get(f"/orders/{order}").json()["contact"] is None
    admin.get("/orders")
    admin.get(f"/orders/{order}/events")
    admin.get("/events")
    assert admin.head(f"/orders/{order}").content == b""
    etag = own.get(f"/orders/{order}").headers["etag"]
    assert admin.get(f"/orders/{order}", headers={"If-None-Match": etag}).status_code == 304
    assert admin.get("/orders/ord_nobody").status_code == 404
    assert since(ledger, before) == []


def test_an_erasure_is_recorded_when_it_is_requested_and_when_it_is_done(ledger: RunningLedger) -> None:
    place(ledger, "eve"), place(ledger, "eve")
    before, operator = records(ledger), ledger.client("operator")
    assert operator.post("/customers/eve/erasure").json()["code"] == "open-orders"
    answer = operator.post("/customers/eve/erasure", json={"force": True}, headers={"Prefer": "wait=10"})
    assert answer.json() == {"contacts_deleted": 2}
    refused, requested, done = since(ledger, before)
    assert {record.action for record in (refused, requested, done)} == {CUSTOMER_ERASURE}
    assert {record.customer_id for record in (refused, requested, done)} == {"eve"}
    assert (refused.actor, refused.outcome, refused.reason) == ("operator:operator", REFUSED, "open-orders")
    assert (requested.actor, requested.outcome, requested.request_id) == (
        "operator:operator",
        REQUESTED,
        answer.headers["request-id"],
    )
    assert (done.actor, done.role, done.outcome, done.count) == ("serve", "", DONE, 2)


class Gate:
    """The ledger's own sender; records of the audit wait in it until `let_through`."""

    def __init__(self, sender: Sender, topic: str) -> None:
        self._sender, self._topic = sender, topic
        self.open = threading.Event()
        self.held: list[tuple[NewRecord, OnAck]] = []

    def send(self, record: NewRecord, on_ack: OnAck) -> None:
        if record.topic == self._topic and not self.open.is_set():
            self.held.append((record, on_ack))
        else:
            self._sender.send(record, on_ack)

    def flush(self, timeout_s: float) -> int:
        return self._sender.flush(timeout_s)

    def close(self) -> None:
        self._sender.close()

    def let_through(self) -> None:
        self.open.set()
        for record, on_ack in self.held:
            self._sender.send(record, on_ack)

    def refuse(self) -> None:
        held, self.held = self.held, []
        for _, on_ack in held:
            on_ack(None, LogUnavailable("refused"))


@pytest.fixture
def gate(ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate(ledger.context.sender, ledger.topics.audit)
    monkeypatch.setattr(ledger.context.submissions, "_sender", gate)
    monkeypatch.setattr(ledger.context.audit, "_sender", gate)
    return gate


def ask_for_erasure(operator: httpx.Client, customer: str, gate: Gate) -> tuple[threading.Thread, list[httpx.Response]]:
    """Ask on a thread. On return the request's record waits in the gate; the answer will be added to the list."""
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(operator.post(f"/customers/{customer}/erasure", json={"force": True}, headers={"Prefer": "wait=10"}))

    asking = threading.Thread(target=ask)
    asking.start()
    until(lambda: gate.held)
    return asking, answers


def test_an_erasure_is_not_even_promised_before_it_is_on_record(ledger: RunningLedger, gate: Gate) -> None:
    order = place(ledger, "kim")
    operator = ledger.client("operator")
    asking, answers = ask_for_erasure(operator, "kim", gate)
    assert operator.get("/customers/kim/erasure").status_code == 404, "nothing is promised"
    assert ledger.client(customer="kim").get(f"/orders/{order}").json()["contact"] is not None
    assert answers == []
    gate.let_through()
    asking.join(PATIENCE_S)
    assert answers[0].json() == {"contacts_deleted": 1}


def test_without_its_record_an_erasure_is_refused_and_does_nothing(ledger: RunningLedger, gate: Gate) -> None:
    order = place(ledger, "leo")
    operator = ledger.client("operator")
    asking, answers = ask_for_erasure(operator, "leo", gate)
    gate.refuse()
    asking.join(PATIENCE_S)
    assert (answers[0].status_code, answers[0].json()["code"]) == (503, "ledger-unavailable")
    assert operator.get("/customers/leo/erasure").status_code == 404
    assert ledger.client(customer="leo").get(f"/orders/{order}").json()["contact"] is not None


def test_a_read_of_a_contact_does_not_wait_for_its_record(ledger: RunningLedger, gate: Gate) -> None:
    order, before = place(ledger, "moe"), len(ledger.records(ledger.topics.audit))
    assert ledger.client("admin").get(f"/orders/{order}").status_code == 200
    assert len(gate.held) == 1
    assert "\nledger_audit_waiting 1.0\n" in ledger.client("operator").get("/metrics").text
    gate.open.set()
    gate.refuse()  # the record is sent again
    assert [record.customer_id for record in records(ledger)[before:]] == ["moe"]


def raise_attention(ledger: RunningLedger, order: str) -> None:
    """Raise it as the reconciler would."""
    command = OrderCommand(
        command_id=f"cmd_raise_{order}",
        order_id=order,
        fingerprint=bytes(16),
        operation=Operation.RAISE_ATTENTION.value,
        actor="reconciler",
        raise_attention=RaiseAttention("refund_failed", "ref:1"),
    )

    async def send() -> Any:
        return await ledger.context.submissions.submit(command, PATIENCE_S)

    ledger.run(send())


@pytest.mark.parametrize("role", ["admin", "operator"])
def test_resolutions_of_attention_are_recorded_and_refused_ones_too(ledger: RunningLedger, role: str) -> None:
    order = place(ledger, "nan")
    raise_attention(ledger, order)
    before, client = records(ledger), ledger.client(role)
    body = {"code": "refund_failed", "obligation_key": "ref:1", "action": "retry", "ticket": "T-1"}
    assert client.post(f"/orders/{order}/attention", json=body, headers=key()).status_code == 200
    answer = client.post(f"/orders/{order}/attention", json=body, headers=key())
    assert (answer.status_code, answer.json()["code"]) == (409, "no-such-attention")
    resolutions = [record for record in since(ledger, before) if record.action == ATTENTION_RESOLUTION]
    assert [(r.actor, r.outcome, r.reason, r.order_id) for r in resolutions] == [
        (f"{role}:{role}", DONE, None, order),
        (f"{role}:{role}", REFUSED, "no-such-attention", order),
    ]
    reads = [record for record in since(ledger, before) if record.action == CONTACT_READ]
    assert len(reads) == (role == "admin"), "the answer showed an admin the contact"


def test_no_record_holds_anything_of_a_person(ledger: RunningLedger) -> None:
    order = place(ledger, "zoe")
    for role in ROLES:
        client = ledger.client(role, customer="zoe")
        client.get(f"/orders/{order}", headers={"Request-Id": "ada@example.org"})
    records(ledger)
    everything = b"".join((r.key or b"") + (r.value or b"") for r in ledger.records(ledger.topics.audit))
    for word in (b"Ada", b"example.org", b"Mill Lane", b"LS1 1AA", b"496 0000"):
        assert word not in everything


def test_records_are_counted(ledger: RunningLedger) -> None:
    def count() -> float:
        lines = ledger.client("operator").get("/metrics").text.splitlines()
        values = [line.split()[1] for line in lines if line.startswith('ledger_audit_records_total{action="contact_read"}')]
        return float(values[0]) if values else 0.0

    order = place(ledger, "una")
    records(ledger)
    before = count()
    ledger.client("admin").get(f"/orders/{order}")
    records(ledger)
    assert count() == before + 1


def test_an_ack_means_durable(ledger: RunningLedger) -> None:
    """`keep` returns after the record can be read."""
    audit, before = ledger.context.audit, len(ledger.records(ledger.topics.audit))

    async def keep() -> None:
        await audit.keep(By("operator:ops", "operator", "r" * 32), CUSTOMER_ERASURE, REQUESTED, customer_id="c-9")

    ledger.run(keep())
    assert len(ledger.records(ledger.topics.audit)) == before + 1
