"""Commands over HTTP that are decided: placed, replayed, cancelled, moved along. In memory, and on Kafka."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from commands.messages import OrderCommand, RecordStock, command_codec
from ledger import events as e
from ledger.log import NewRecord
from ledger.schemas.codec import event_codec
from ledger.transitions import Operation
from tests.support.harness import RunningLedger, free_order_body, key, order_body, placed
from tests.support.patience import PATIENCE_S, until


def report(ledger: RunningLedger, order_id: str, **fields: Any) -> None:
    """Send an observed fact about the order, as the reconciler would."""
    command = OrderCommand(
        command_id=f"fct_{time.time_ns()}", order_id=order_id, fingerprint=bytes(16), actor="reconciler", **fields
    )
    partition, acked = ledger.context.partition_of(order_id), threading.Event()
    record = NewRecord(ledger.topics.commands, partition, order_id.encode(), command_codec().encode(command))
    ledger.context.sender.send(record, lambda _, error: acked.set() if error is None else None)
    assert acked.wait(PATIENCE_S)


def reserved(ledger: RunningLedger, order: dict[str, Any]) -> None:
    fact = RecordStock(e.STOCK_RESERVED, "product", "r-1")
    report(ledger, order["order_id"], operation=Operation.RECORD_STOCK, record_stock=fact)


def wait_for_status(client: httpx.Client, order_id: str, status: str) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE_S
    while (order := client.get(f"/orders/{order_id}").json())["status"] != status:
        assert time.monotonic() < deadline, order
        time.sleep(0.02)
    return dict(order)


# ---- placing --------------------------------------------------------------------------------------------------------


def test_a_placed_order_is_answered_whole_and_the_next_read_shows_it(ledger: RunningLedger) -> None:
    client = ledger.client()
    body = order_body()
    answer = client.post("/orders", json=body, headers=key())
    assert answer.status_code == 201
    order = answer.json()
    assert answer.headers["location"] == f"/orders/{order['order_id']}"
    assert answer.headers["etag"] == '"1"'
    assert answer.headers["ledger-outcome"] == "changed"
    assert "idempotency-replayed" not in answer.headers
    assert {name: order[name] for name in ("currency", "lines", "adjustments", "total_minor", "reference", "contact")} == body
    assert (order["status"], order["version"], order["customer_id"]) == ("pending", 1, "c-1")
    read = client.get(answer.headers["location"], headers={"Ledger-Position": answer.headers["ledger-position"]})
    assert read.json() == order


def test_a_retry_gets_the_first_answer_and_leaves_no_second_record(ledger: RunningLedger) -> None:
    client, headers = ledger.client(), key()
    first = client.post("/orders", json=order_body(), headers=headers)
    client.post(f"/orders/{first.json()['order_id']}/cancel", headers=key())
    commands, events = ledger.count(ledger.topics.commands), ledger.count(ledger.topics.events)
    again = client.post("/orders", json=dict(reversed(order_body().items())), headers=headers)
    assert (again.status_code, again.content) == (201, first.content), "as of the version that the command led to"
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    assert (ledger.count(ledger.topics.commands), ledger.count(ledger.topics.events)) == (commands, events)


def window_ms(order: dict[str, Any]) -> float:
    """Time to pay of an order as its answer shows it, in milliseconds."""
    placed_at, expires_at = (datetime.fromisoformat(order[name]) for name in ("placed_at", "expires_at"))
    return (expires_at - placed_at) / timedelta(milliseconds=1)


def test_an_order_may_bring_its_own_time_to_pay_and_otherwise_has_the_usual_one(ledger: RunningLedger) -> None:
    client = ledger.client()
    for asked, recorded_ms in ((1, 1_000), (7_200, 7_200_000), (86_399, 86_399_000), (None, 1_800_000)):
        order = placed(client, order_body(payment_window_seconds=asked))
        assert window_ms(order) == recorded_ms
        assert client.get(f"/orders/{order['order_id']}", params={"version": 1}).json()["expires_at"] == order["expires_at"]
    assert window_ms(placed(client)) == 1_800_000


@pytest.mark.parametrize("asked", [0, -1, 59, 601, 86_400, 2**53])
def test_a_time_to_pay_out_of_bounds_is_422_and_nothing_is_written(ledger: RunningLedger, asked: int) -> None:
    before = ledger.count(ledger.topics.commands) + ledger.count(ledger.topics.contacts)
    with bounds_of_windows(ledger, 60, 600):
        answer = ledger.client().post("/orders", json=order_body(payment_window_seconds=asked), headers=key())
    assert (answer.status_code, answer.json()["code"]) == (422, "payment-window-not-allowed")
    assert answer.json()["errors"] == [{"pointer": "/payment_window_seconds", "code": "payment-window-not-allowed"}]
    assert "60 to 600" in answer.json()["detail"]
    assert ledger.count(ledger.topics.commands) + ledger.count(ledger.topics.contacts) == before


@pytest.mark.parametrize("asked", ["600", 600.5, True, [600]])
def test_a_time_to_pay_that_is_no_integer_is_422(ledger: RunningLedger, asked: Any) -> None:
    answer = ledger.client().post("/orders", json=order_body(payment_window_seconds=asked), headers=key())
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-field")


def test_a_retry_gets_the_first_answer_although_its_time_to_pay_and_currency_are_no_longer_allowed(
    ledger: RunningLedger,
) -> None:
    client, headers, body = ledger.client(), key(), order_body(payment_window_seconds=7_200)
    first = client.post("/orders", json=body, headers=headers)
    assert first.status_code == 201
    commands = ledger.count(ledger.topics.commands)
    with bounds_of_windows(ledger, 60, 600):
        again = client.post("/orders", json=body, headers=headers)
        assert (again.status_code, again.content) == (201, first.content)
        assert again.headers["Idempotency-Replayed"] == "true"
        new = client.post("/orders", json=body, headers=key())
        assert new.json()["code"] == "payment-window-not-allowed"
    assert ledger.count(ledger.topics.commands) == commands
    for changed in (600, None):  # the key was used with another time to pay
        other = client.post("/orders", json=body | {"payment_window_seconds": changed}, headers=headers)
        assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")
    for impossible in (-1, 2**53, 10**30):  # no command can hold it
        other = client.post("/orders", json=body | {"payment_window_seconds": impossible}, headers=headers)
        assert (other.status_code, other.json()["code"]) == (422, "payment-window-not-allowed")
    assert ledger.count(ledger.topics.commands) == commands + 2
    currencies, ledger.context.currencies = ledger.context.currencies, frozenset({"CHF"})
    try:
        again = client.post("/orders", json=body, headers=headers)
        assert (again.status_code, again.content) == (201, first.content)
        assert client.post("/orders", json=body, headers=key()).json()["code"] == "currency-not-supported"
    finally:
        ledger.context.currencies = currencies


@contextmanager
def bounds_of_windows(ledger: RunningLedger, least_s: int, most_s: int) -> Iterator[None]:
    """The API with other PAYMENT_WINDOW_MIN_SECONDS and PAYMENT_WINDOW_MAX_SECONDS."""
    before, ledger.context.payment_window_bounds_s = ledger.context.payment_window_bounds_s, (least_s, most_s)
    try:
        yield
    finally:
        ledger.context.payment_window_bounds_s = before


def test_a_hundred_simultaneous_retries_place_one_order(ledger: RunningLedger) -> None:
    client, headers = ledger.client(), key()
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: client.post("/orders", json=order_body(), headers=headers), range(100)))
    assert {(a.status_code, a.content) for a in answers} == {(201, answers[0].content)}
    order_id = answers[0].json()["order_id"]
    events = [event_codec().decode(r.value) for r in ledger.records(ledger.topics.events)]
    assert [event.version for event in events if event.order_id == order_id] == [1]


def test_the_same_key_with_another_body_is_refused_and_stays_refused(ledger: RunningLedger) -> None:
    client, headers = ledger.client(), key()
    first = client.post("/orders", json=order_body(), headers=headers)
    other = order_body(reference="cart-2", contact=order_body()["contact"] | {"name": "Somebody Else"})
    contacts = ledger.count(ledger.topics.contacts)
    refused = client.post("/orders", json=other, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency-key-reused")
    again = client.post("/orders", json=other, headers=headers)
    assert (again.status_code, again.content, again.headers["idempotency-replayed"]) == (422, refused.content, "true")
    assert client.post("/orders", json=order_body(), headers=headers).content == first.content
    assert ledger.count(ledger.topics.contacts) == contacts, "no contact is written that no event names"


def test_a_key_belongs_to_one_principal_customer_and_operation(ledger: RunningLedger) -> None:
    headers = key()
    one, two = ledger.client(customer="c-1"), ledger.client(customer="c-2")
    first, second = (c.post("/orders", json=order_body(), headers=headers).json() for c in (one, two))
    assert first["order_id"] != second["order_id"]
    assert second["customer_id"] == "c-2"
    assert one.post(f"/orders/{first['order_id']}/cancel", headers=headers).json()["status"] == "cancelled"
    assert two.post(f"/orders/{second['order_id']}/cancel", headers=headers).json()["status"] == "cancelled"


def test_nothing_personal_and_nothing_secret_is_in_commands_events_or_refusals(ledger: RunningLedger) -> None:
    client = ledger.client()
    order = placed(client)
    client.post(f"/orders/{order['order_id']}/cancel", headers=key())
    client.post("/orders", json=order_body(reference="other"), headers=key())
    seen = b"".join(
        (r.key or b"") + (r.value or b"") + b"".join(v for _, v in r.headers)
        for topic in (ledger.topics.commands, ledger.topics.events, ledger.topics.refusals)
        for r in ledger.records(topic)
    )
    for secret in (b"Ada", b"ada@example.org", b"Mill Lane", b"496 0000", ledger.tokens["gateway"].encode()):
        assert secret not in seen
    contacts = b"".join(r.value or b"" for r in ledger.records(ledger.topics.contacts))
    assert b"ada@example.org" in contacts


def test_text_in_place_of_an_order_id_is_kept_nowhere(ledger: RunningLedger) -> None:
    before = [ledger.count(topic) for topic in (ledger.topics.commands, ledger.topics.refusals)]
    for name in ("Ada-Example", "ord_ada", "ord_" + "A" * 26, "ord_" + "a" * 27, "x" * 64):
        for client in (ledger.client(), ledger.client("admin")):
            answer = client.post(f"/orders/{name}/cancel", headers=key())
            assert (answer.status_code, answer.json()["code"]) == (404, "order-not-found")
    assert [ledger.count(topic) for topic in (ledger.topics.commands, ledger.topics.refusals)] == before


def test_the_trace_travels_with_the_command(ledger: RunningLedger) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    mine = "7f6c2d1e-8a3b-4c5d-9e0f-a1b2c3d4e5f6"
    answer = ledger.client().post("/orders", json=order_body(), headers=key() | {"traceparent": trace, "Request-Id": mine})
    assert (answer.headers["traceparent"], answer.headers["request-id"]) == (trace, mine)
    commands = [r for r in ledger.records(ledger.topics.commands) if r.key == answer.json()["order_id"].encode()]
    assert [dict(r.headers) for r in commands] == [{"traceparent": trace.encode()}]


def test_command_event_and_contact_share_the_partition_of_the_order(ledger: RunningLedger) -> None:
    order_id = placed(ledger.client())["order_id"]
    partition = ledger.log.partition_for(order_id.encode(), 4)
    for topic in (ledger.topics.commands, ledger.topics.events, ledger.topics.contacts):
        records = [r for r in ledger.records(topic) if (r.key or b"").split(b"/")[0] == order_id.encode()]
        assert [r.partition for r in records] == [partition], topic


def test_the_contact_is_read_immediately_even_if_its_topic_is_folded_late(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, contacts, late = ledger.client(), ledger.context.projector.contacts, []
    monkeypatch.setattr(contacts, "fold", lambda tp, records: late.append((tp, records)) or [])
    order = placed(client)
    assert client.get(f"/orders/{order['order_id']}").json() == order
    assert order["contact"] == order_body()["contact"]
    monkeypatch.undo()
    until(lambda: late)
    for tp, records in late:
        ledger.loop.call_soon_threadsafe(contacts.fold, tp, records)
    assert client.get(f"/orders/{order['order_id']}").json() == order


# ---- cancelling and moving along ------------------------------------------------------------------------------------


def test_a_customer_cancels_and_doing_it_again_changes_nothing(ledger: RunningLedger) -> None:
    client = ledger.client()
    path = f"/orders/{placed(client)['order_id']}/cancel"
    first, second = key(), key()
    cancelled = client.post(path, json={"reason": "other"}, headers=first)
    assert cancelled.status_code == 200
    assert (cancelled.json()["status"], cancelled.json()["cancel_reason"], cancelled.json()["version"]) == (
        "cancelled",
        "other",
        2,
    )
    again = client.post(path, headers=second)
    assert (again.status_code, again.headers["ledger-outcome"], again.headers["etag"]) == (200, "unchanged", '"2"')
    assert client.post(path, headers=second).content == again.content
    assert client.post(path, json={"reason": "other"}, headers=first).content == cancelled.content


def test_an_order_is_moved_along_by_staff_until_the_customer_is_too_late(ledger: RunningLedger) -> None:
    client, desk = ledger.client(), ledger.client("admin")
    order = placed(client, free_order_body())
    path = f"/orders/{order['order_id']}"
    early = desk.put(f"{path}/status", json={"status": "processing"}, headers=key())
    assert (early.status_code, early.json()["code"]) == (409, "stock-not-reserved")
    assert early.json()["current"] == {"version": 1, "status": "pending"}
    reserved(ledger, order)
    wait_for_status(client, order["order_id"], "paid")
    processing = desk.put(f"{path}/status", json={"status": "processing"}, headers=key())
    assert (processing.status_code, processing.json()["status"]) == (200, "processing")
    late = client.post(f"{path}/cancel", headers=key())
    assert (late.status_code, late.json()["code"]) == (409, "too-late-to-cancel")
    sent = key()
    body = {"status": "shipped", "carrier": "DHL", "tracking": "0034"}
    shipped = desk.put(f"{path}/status", json=body, headers=sent)
    (parcel,) = shipped.json()["shipments"]
    assert parcel == {
        "number": 1,
        "lines": [{name: line[name] for name in ("service", "sku", "quantity")} for line in order["lines"]],
        "carrier": "DHL",
        "tracking": "0034",
        "shipped_at": shipped.json()["shipped_at"],
        "delivered_at": None,
    }
    delivered = desk.put(f"{path}/status", json={"status": "delivered"}, headers=key())
    assert (delivered.json()["status"], delivered.headers["ledger-outcome"]) == ("delivered", "changed")
    assert desk.put(f"{path}/status", json=body, headers=sent).content == shipped.content
    same = desk.put(f"{path}/status", json={"status": "delivered"}, headers=key())
    assert (same.status_code, same.headers["ledger-outcome"]) == (200, "unchanged")
    refused = desk.put(f"{path}/status", json={"status": "cancelled", "reason": "fraud"}, headers=key())
    assert (refused.status_code, refused.json()["code"]) == (409, "too-late-to-cancel")


def test_if_match_is_obeyed_and_a_refusal_stays_a_refusal(ledger: RunningLedger) -> None:
    client = ledger.client()
    path = f"/orders/{placed(client)['order_id']}/cancel"
    headers = key()
    stale = client.post(path, headers=headers | {"If-Match": '"7"'})
    assert (stale.status_code, stale.json()["code"]) == (412, "version-conflict")
    assert stale.json()["current"] == {"version": 1, "status": "pending"}
    replayed = client.post(path, headers=headers | {"If-Match": '"1"'})
    assert (replayed.status_code, replayed.content) == (412, stale.content)
    assert client.post(path, headers=key() | {"If-Match": '"1"'}).status_code == 200


def test_another_customers_order_looks_like_a_missing_one(ledger: RunningLedger) -> None:
    order_id = placed(ledger.client(customer="c-1"))["order_id"]
    stranger = ledger.client(customer="c-2")
    nobodys = "ord_" + "a" * 26
    bodies = []
    for wanted in (order_id, nobodys):
        answers = [
            stranger.get(f"/orders/{wanted}"),
            stranger.get(f"/orders/{wanted}/events"),
            stranger.post(f"/orders/{wanted}/cancel", headers=key()),
        ]
        assert [a.status_code for a in answers] == [404, 404, 404]
        for answer in answers:
            problem = answer.json()
            problem.pop("command_id", None)
            problem["instance"] = problem["instance"].replace(wanted, "ID")
            assert wanted not in str(problem)
            bodies.append(problem)
    assert bodies[:3] == bodies[3:]
