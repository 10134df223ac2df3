"""Finding orders by what a customer has in hand: number, reference, e-mail address."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ledger.audit import CONTACT_SEARCH, AuditRecord
from ledger.memory.log import MemoryLog
from ledger.schemas.codec import audit_codec
from ledger.topics import Topics
from tests.support.harness import RunningLedger, key, order_body, running_ledger
from tests.support.patience import until


@pytest.fixture
def ledger() -> Iterator[RunningLedger]:
    with running_ledger(MemoryLog(), Topics()) as running:
        yield running


def placed(ledger: RunningLedger, customer: str = "c-1", email: str = "ada@example.org", **changes: Any) -> dict[str, Any]:
    body = order_body(**changes)
    body["contact"] = {**body["contact"], "email": email}
    answer = ledger.client("gateway", customer).post("/orders", json=body, headers=key() | {"Prefer": "wait=10"})
    assert answer.status_code == 201, answer.text
    order: dict[str, Any] = answer.json()
    return order


def ids_of(ledger: RunningLedger, role: str = "admin", customer: str | None = None, **params: str) -> list[str]:
    answer = ledger.client(role, customer).get("/orders", params=params)
    assert answer.status_code == 200, answer.text
    return [row["order_id"] for row in answer.json()["data"]]


def searches(ledger: RunningLedger) -> list[AuditRecord]:
    records = (audit_codec().decode(record.value) for record in ledger.records(ledger.topics.audit))
    return [record for record in records if record.action == CONTACT_SEARCH]


def test_an_order_is_found_by_its_number_as_people_type_it_and_only_by_who_may_see_it(ledger: RunningLedger) -> None:
    order, other = placed(ledger), placed(ledger, "c-2")
    assert order["number"] != other["number"]
    for typed in (order["number"], order["number"].lower().replace("-", " ")):
        assert ids_of(ledger, number=typed) == [order["order_id"]]
        assert ids_of(ledger, "reader", number=typed) == [order["order_id"]]
        assert ids_of(ledger, "gateway", "c-1", number=typed) == [order["order_id"]]
        assert ids_of(ledger, "gateway", "c-2", number=typed) == []
    assert ids_of(ledger, number="AAAA-AAAA-A") == []
    refused = ledger.client("admin").get("/orders", params={"number": order["number"], "status": "pending"})
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (422, "excludes-others")


def test_orders_of_a_reference_are_listed_newest_first_page_by_page(ledger: RunningLedger) -> None:
    ids = [placed(ledger, f"c-{n % 2}", reference="cart-7")["order_id"] for n in range(6)]
    placed(ledger, "c-1", reference="cart-70")
    desk = ledger.client("admin")
    listed, params = [], {"reference": "cart-7", "limit": "2"}
    while True:
        page = desk.get("/orders", params=params).json()
        listed += [row["order_id"] for row in page["data"]]
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    assert listed == ids[::-1]
    assert ids_of(ledger, "gateway", "c-1", reference="cart-7") == ids[::-1][::2]
    assert ids_of(ledger, reference="cart-7", customer_id="c-0") == ids[::-1][1::2]
    refused = desk.get("/orders", params={"reference": "cart-7", "status": "paid"})
    assert refused.status_code == 422


def test_orders_of_an_address_are_listed_for_admins_and_no_longer_after_an_erasure(ledger: RunningLedger) -> None:
    mine = [placed(ledger, "c-1", email="Zoe@Example.org")["order_id"] for _ in range(3)]
    placed(ledger, "c-2", email="bob@example.org")
    assert ids_of(ledger, email="zoe@example.org") == mine[::-1]
    first = ledger.client("admin").get("/orders", params={"email": "zoe@example.org", "limit": "2"}).json()
    cursor = first["next_cursor"]
    assert [row["order_id"] for row in first["data"]] == mine[:0:-1]
    assert ids_of(ledger, email="zoe@example.org", cursor=cursor, limit="2") == mine[:1]
    for role in ("reader", "gateway"):
        refused = ledger.client(role, "c-1").get("/orders", params={"email": "zoe@example.org"})
        assert (refused.status_code, refused.json()["code"]) == (422, "unknown-field")
    assert ledger.client("admin").get("/orders", params={"email": "no address"}).status_code == 422
    until(lambda: len(searches(ledger)) >= 3)
    assert "zoe@" not in repr(searches(ledger)).lower()
    erased = ledger.client("operator").post("/customers/c-1/erasure", json={"force": True}, headers={"Prefer": "wait=10"})
    assert erased.status_code in (200, 202), erased.text
    until(lambda: ids_of(ledger, email="zoe@example.org") == [])
