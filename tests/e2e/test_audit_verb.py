"""The audit of a running `up`: read by a verb, and complete after its `serve` was killed while Kafka was frozen."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import httpx
import pytest

from tests.support import loopback
from tests.support.gateway import Gateway
from tests.support.patience import PATIENCE_S
from tests.support.pausing import pause, resume
from tests.support.up_process import PROGRAM, UpProcess
from tests.support.verbs import lines, run

pytestmark = pytest.mark.kafka


def place(up: UpProcess, number: int, customer: str) -> str:
    async def placed() -> httpx.Response:
        async with Gateway(up.url, up.token("gateway")) as gateway:
            return await gateway.place(number, customer, f"{customer}-{number}")

    return str(asyncio.run(placed()).json()["order_id"])


def staff(up: UpProcess, role: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {up.token(role)}"}
    return loopback.client(base_url=up.url, headers=headers, timeout=PATIENCE_S)


def until(condition: Callable[[], Any], up: UpProcess) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (result := condition()):
        assert time.monotonic() < deadline, up.said()
        time.sleep(0.1)
    return result


def audit(up: UpProcess, *arguments: str) -> list[dict[str, Any]]:
    return lines(run(up, "audit", "--json", *arguments))


def test_a_verb_shows_who_saw_a_contact_and_who_erased_it(up: UpProcess) -> None:
    order = place(up, 1, "audited")
    with staff(up, "admin") as admin, staff(up, "operator") as operator:
        assert admin.get(f"/orders/{order}").json()["contact"] is not None
        erasure = "/customers/audited/erasure"
        assert operator.post(erasure, json={"force": True}).status_code in (200, 202)
        until(lambda: operator.get(erasure).json().get("done_at"), up)
        assert operator.get(erasure).json()["contacts_deleted"] == 1
    (read,) = until(lambda: audit(up, "--order", order), up)
    assert (read["actor"], read["action"], read["outcome"], read["customer_id"]) == (
        "admin:admin",
        "contact_read",
        "done",
        "audited",
    )
    assert abs(time.time() * 1000 - iso_ms(read["written_at"])) < 3_600_000
    of_erasures = ("--customer", "audited", "--action", "customer_erasure")
    until(lambda: len(audit(up, *of_erasures)) >= 2, up)
    erased = audit(up, *of_erasures)
    assert [(record["actor"], record["outcome"], record["count"]) for record in erased] == [
        ("operator:operator", "requested", None),
        ("serve", "done", 1),
    ]
    assert audit(up, "--customer", "audited", "--actor", "operator:operator", "--from", f"0-{erased[0]['offset']}") == erased[:1]
    assert audit(up, "--from", "now") == []
    table = run(up, "audit", "--order", order)
    assert [word in table for word in (order, "admin:admin", "contact_read", "audited")] == [True] * 4
    assert "takes one of contact_read" in refusal(up, "audit", "--action", "peeking")
    everything = run(up, "audit", "--json") + run(up, "audit")
    assert "@" not in everything, "no address of anybody"


def iso_ms(text: str) -> float:
    return datetime.fromisoformat(text).timestamp() * 1000


def refusal(up: UpProcess, *arguments: str) -> str:
    command = [PROGRAM, *arguments, "--data-dir", str(up.data)]
    environment = os.environ | {"COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=environment, check=False)
    assert done.returncode == 1
    return done.stderr


def test_reads_while_kafka_is_frozen_are_on_record_although_serve_was_killed(up: UpProcess) -> None:
    order = place(up, 2, "unseen")
    waiting = up.data / "state" / "audit.waiting"
    pause(up.pid("broker"))
    try:
        with staff(up, "admin") as admin:
            assert admin.get(f"/orders/{order}").json()["contact"] is not None
        until(lambda: waiting.exists() and waiting.read_text().endswith("\n"), up)
        (kept,) = [json.loads(line) for line in waiting.read_text().splitlines() if line]
        assert (kept["action"], kept["key"]) == ("contact_read", order)
        before = up.pid("serve")
        up.kill_one("serve")
        until(lambda: up.pid("serve") != before, up)
    finally:
        resume(up.pid("broker"))
    records = until(lambda: audit(up, "--order", order), up)
    assert {(record["actor"], record["action"]) for record in records} == {("admin:admin", "contact_read")}
    assert len({record["audit_id"] for record in records}) == 1
    until(lambda: not waiting.exists(), up)
