"""One node beside a log that is not the one from before: its processes and verbs, with its old state directories or without."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from typing import Any

import httpx
from confluent_kafka.admin import AdminClient

from tests.support import loopback
from tests.support.gateway import Gateway
from tests.support.patience import PATIENCE_S, until
from tests.support.processes import TOKENS, Child, LedgerNode

ADVICE = "order-ledger adopt-log"


def verb(node: LedgerNode, *arguments: str, code: int = 0, state: str = "one") -> subprocess.CompletedProcess[str]:
    env = node.child(arguments[0], state).env | {"NO_COLOR": "1", "COLUMNS": "200"}
    node.children.pop()
    command = [sys.executable, "-m", "api.cli", *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == code, f"{arguments}: {done.stdout}\n{done.stderr}\n{node.tails()}"
    return done


def run_beside(node: LedgerNode, numbers: range, state: str = "one") -> dict[str, dict[str, Any]]:
    """Start both processes, place these orders, wait until this is noted as current, and stop. The answers by order id."""
    commands, serve, began = node.child("commands", state), node.child("serve", state), time.time()
    commands.start()
    serve.start()
    node.wait_ready()
    answers = asyncio.run(place(node, numbers))
    notes = node.state_dir(state) / "projections"
    until(lambda: any(note.stat().st_mtime >= began for note in notes.glob("g*/current_at.json")))
    assert [serve.stop(), commands.stop()] == [0, 0], node.tails()
    return answers


async def place(node: LedgerNode, numbers: range) -> dict[str, dict[str, Any]]:
    async with Gateway(node.url, TOKENS["gateway"], connections=4) as gateway:
        answers = await asyncio.gather(*(gateway.place(number, "c-1") for number in numbers))
        assert gateway.never == []
    return {answer.json()["order_id"]: answer.json() | {"contact": None} for answer in answers}


def read(node: LedgerNode, order_id: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {TOKENS['gateway']}", "Customer-Id": "c-1"}
    with loopback.client(base_url=node.url, headers=headers, timeout=PATIENCE_S) as client:
        return client.get(f"/orders/{order_id}")


def delete_topics(node: LedgerNode) -> None:
    admin = AdminClient({"bootstrap.servers": node.bootstrap})
    names = [spec.name for spec in node.topics.specs(node.partitions, node.writers)]
    for future in admin.delete_topics(names, operation_timeout=PATIENCE_S).values():
        future.result(PATIENCE_S)
    until(lambda: not set(names) & set(admin.list_topics(timeout=PATIENCE_S).topics))


def ended(child: Child) -> int:
    until(lambda: child.ended() is not None)
    return child.ended() or 0


def assert_ends_refused(child: Child, node: LedgerNode) -> None:
    """The process ends with one line that says what to do."""
    child.start()
    assert ended(child) == 1, node.tails()
    last = child.log_file.read_text().splitlines()[-1]
    assert "error (not_this_log)" in last, last
    assert ADVICE in last
    assert "Traceback" not in child.log_file.read_text()
