"""Reads everything that people are shown, for `shown_checker`: through one node's API, from a topic, from the outbox."""

from __future__ import annotations

import asyncio
import datetime
import email
import email.policy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx

from tests.support import loopback, shown_checker
from tests.support.checker import FileSchemas, Ledger, read_topic
from tests.support.processes import TOKENS
from tests.support.shown_checker import Mail, Shown, Wanted

STATUSES = ("pending", "paid", "processing", "shipped", "delivered", "cancelled")
PAGE = 100
AT_ONCE = 8


def read_shown(url: str, bootstrap: str, prefix: str, ledger: Ledger, outbox: Path) -> Shown:
    """`ledger` says which orders, customers and references there are to ask for."""
    shown = Shown(mails=read_mails(outbox))
    shown.contacts = shown_checker.contacts_of(read_topic(bootstrap, f"{prefix}order-contacts"), FileSchemas().decode)
    asyncio.run(_read(url, ledger, shown))
    return shown


def wanted_of(ledger: Ledger) -> list[Wanted]:
    """The lists to read: with each filter, alone and combined."""
    customers = sorted({order.customer_id for order in ledger.orders.values()})
    references = sorted({event.fields["placed"]["reference"] for event in ledger.events if event.fields["placed"]} - {None})
    return [
        *(Wanted(), Wanted(attention=True)),
        *(Wanted(customer_id=customer) for customer in customers),
        *(Wanted(status=status) for status in STATUSES),
        *(
            Wanted(customer, status, attention)
            for customer in customers[:2]
            for status in STATUSES
            for attention in (False, True)
        ),
        *(Wanted(reference=reference) for reference in references[:3]),
    ]


async def _read(url: str, ledger: Ledger, shown: Shown) -> None:
    headers, turn = {"Authorization": f"Bearer {TOKENS['admin']}"}, asyncio.Semaphore(AT_ONCE)
    async with loopback.async_client(base_url=url, headers=headers) as client:

        async def order(order_id: str) -> None:
            async with turn:
                answer = await client.get(f"/orders/{order_id}")
            assert answer.status_code == 200, f"{order_id}: {answer.status_code} {answer.text}"
            shown.orders[order_id] = answer.json()

        await asyncio.gather(*(order(order_id) for order_id in ledger.orders))
        for wanted in wanted_of(ledger):
            shown.lists[wanted] = await _list(client, wanted)
        days = sorted(event.fields["occurred_at"] for event in ledger.events)
        if days:
            first, last = (datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC).date() for at_ms in (days[0], days[-1]))
            answer = await client.get("/reports/daily", params={"from": first.isoformat(), "to": last.isoformat()})
            assert answer.status_code == 200, answer.text
            shown.daily = answer.json()["data"]


async def _list(client: httpx.AsyncClient, wanted: Wanted) -> list[dict[str, Any]]:
    """All rows, page by page."""
    filters = {name: value for name, value in wanted._asdict().items() if value}
    params: dict[str, Any] = filters | {"limit": PAGE} | ({"attention": "true"} if wanted.attention else {})
    rows: list[dict[str, Any]] = []
    while True:
        answer = await client.get("/orders", params=params)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        rows += page["data"]
        if page["next_cursor"] is None:
            return rows
        params["cursor"] = page["next_cursor"]


def read_mails(outbox: Path) -> list[Mail]:
    """The e-mails in the outbox; their files are named by order, version and channel."""
    files: Iterable[Path] = sorted(outbox.glob("*.eml")) if outbox.is_dir() else ()
    mails = []
    for file in files:
        order_id, version, _ = file.stem.rsplit("-", 2)
        message = email.message_from_bytes(file.read_bytes(), policy=email.policy.default)
        body = message.get_body(("plain",))
        mails.append(Mail(order_id, int(version), str(message["To"]), body.get_content() if body is not None else ""))
    return mails
