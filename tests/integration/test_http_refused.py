"""Commands that are refused: by the API before anything is written, or by the processor. In memory, and on Kafka."""

from __future__ import annotations

from typing import Any

import pytest

from ledger.schemas.codec import refusal_codec
from tests.support.harness import RunningLedger, key, order_body, placed


def unwritten(ledger: RunningLedger) -> tuple[int, ...]:
    t = ledger.topics
    return tuple(ledger.count(topic) for topic in (t.commands, t.events, t.refusals, t.contacts))


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (order_body(total_minor=3401), "total-mismatch"),
        (order_body(currency="JPY"), "currency-not-supported"),
        (order_body(lines=[order_body()["lines"][0]] * 2, total_minor=4900), "duplicate-line"),
        (order_body(coupon="x"), "unknown-field"),
        (order_body(reference="a\nb"), "invalid-field"),
        (order_body(adjustments=[{"kind": "discount", "label": "x", "amount_minor": 1}], total_minor=3301), "invalid-field"),
        (order_body(adjustments=[{"kind": "tax", "label": "x", "amount_minor": -1}], total_minor=3299), "invalid-field"),
        ([], "invalid-field"),
        ("x", "invalid-field"),
        (None, "invalid-field"),
    ],
)
def test_an_order_that_is_wrong_in_itself_is_422_and_nothing_is_written(ledger: RunningLedger, body: Any, code: str) -> None:
    before = unwritten(ledger)
    answer = ledger.client().post("/orders", json=body, headers=key())
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert answer.json()["errors"]
    assert unwritten(ledger) == before


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 400, "idempotency-key-required"),
        ({"Idempotency-Key": ""}, 400, "idempotency-key-required"),
        ({"Idempotency-Key": "a b"}, 400, "idempotency-key-invalid"),
        ({"Idempotency-Key": "x" * 256}, 400, "idempotency-key-invalid"),
        ({"Idempotency-Key": "x", "If-Match": "7"}, 400, "invalid-if-match"),
        ({"Idempotency-Key": "x", "If-Match": 'W/"7"'}, 400, "invalid-if-match"),
        ({"Idempotency-Key": "x", "If-Match": '"7", "8"'}, 400, "invalid-if-match"),
        ({"Idempotency-Key": "x", "If-Match": '"99999999999"'}, 400, "invalid-if-match"),
        ({"Idempotency-Key": "x", "Content-Type": "text/plain"}, 415, "unsupported-media-type"),
        ({"Idempotency-Key": "x", "Content-Encoding": "gzip"}, 415, "unsupported-media-type"),
    ],
)
def test_a_command_whose_headers_are_wrong_is_refused_unwritten(
    ledger: RunningLedger, headers: dict[str, str], status: int, code: str
) -> None:
    client = ledger.client()
    order_id = placed(client)["order_id"]
    before = unwritten(ledger)
    sent = {"Content-Type": "application/json"} | headers
    answer = client.post(f"/orders/{order_id}/cancel", content=b"{}", headers=sent)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert unwritten(ledger) == before


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"status": "paid"}, "status-not-settable"),
        ({"status": "pending"}, "status-not-settable"),
        ({"status": "lost"}, "invalid-field"),
        ({}, "invalid-field"),
        ({"status": "delivered", "carrier": "DHL"}, "invalid-field"),
        ({"status": "shipped", "reason": "fraud"}, "invalid-field"),
        ({"status": "cancelled", "reason": "boredom"}, "invalid-field"),
        ({"status": "shipped", "carrier": "x" * 41}, "invalid-field"),
    ],
)
def test_a_status_nobody_can_set_is_refused_unwritten(ledger: RunningLedger, body: dict[str, str], code: str) -> None:
    order_id = placed(ledger.client())["order_id"]
    before = unwritten(ledger)
    answer = ledger.client("admin").put(f"/orders/{order_id}/status", json=body, headers=key())
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert unwritten(ledger) == before


def test_every_refusal_of_the_processor_is_recorded_once(ledger: RunningLedger) -> None:
    client, headers = ledger.client(), key()
    order_id = placed(client)["order_id"]
    for _ in range(3):
        assert client.post(f"/orders/{order_id}/cancel", headers=headers | {"If-Match": '"5"'}).status_code == 412
    refusals = [refusal_codec().decode(r.value) for r in ledger.records(ledger.topics.refusals)]
    assert [r.code for r in refusals if r.order_id == order_id] == ["version_conflict"]
