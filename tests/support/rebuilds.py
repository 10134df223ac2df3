"""Rebuilds beside live traffic: readers that lose no read, and the verb as a process."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ledger.kafka.settings import KafkaSettings
from ledger.topics import Topics
from tests.support import folds, gateway, loopback, processes
from tests.support.patience import PATIENCE_S

# Between two orders of one connection, and between two reads: traffic as fast as it can go takes the rebuild's CPU.
SESSION_PAUSE_S, READ_PAUSE_S = 0.1, 0.02


class Traffic(threading.Thread):
    """Places, cancels and reads back orders through the API until the `with` ends; another reader only reads."""

    def __init__(self, node: processes.LedgerNode, connections: int = 4, first: int = 0) -> None:
        super().__init__(daemon=True)
        self._url, self._connections, self._first = node.url, connections, first
        self._ending = threading.Event()
        self.gateway = gateway.Gateway(node.url, processes.TOKENS["gateway"], connections)
        self.failed: BaseException | None = None
        self.wrong_reads: list[str] = []
        self.reads = 0

    def run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as exc:  # __exit__ raises it in the test
            self.failed = exc

    async def _main(self) -> None:
        async with self.gateway, asyncio.TaskGroup() as tasks:
            for n in range(self._connections):
                tasks.create_task(self._sessions(n))
            tasks.create_task(self._read())

    async def _sessions(self, n: int) -> None:
        number = self._first + n
        while not self._ending.is_set():
            await self.gateway.session(number, f"c-{number % 50}")
            number += self._connections
            await asyncio.sleep(SESSION_PAUSE_S)

    async def _read(self) -> None:
        """Every read is answered, and no order is ever older than it was."""
        newest: dict[str, int] = {}
        headers = {"Authorization": f"Bearer {processes.TOKENS['reader']}"}
        async with loopback.async_client(base_url=self._url, headers=headers, timeout=PATIENCE_S) as client:
            while not self._ending.is_set():
                known = self.gateway.acknowledged[-200:]
                if not known:
                    await asyncio.sleep(0.05)
                    continue
                order = random.choice(known)
                answer = await client.get(f"/orders/{order.order_id}")
                self.reads += 1
                if answer.status_code != 200:
                    self.wrong_reads.append(f"{order.order_id}: {answer.status_code} {answer.text}")
                    continue
                version = max(order.version, newest.get(order.order_id, 0))
                if answer.json()["version"] < version:
                    self.wrong_reads.append(f"{order.order_id}: {version} was known, {answer.json()['version']} is read")
                newest[order.order_id] = answer.json()["version"]
                await asyncio.sleep(READ_PAUSE_S)

    def __enter__(self) -> Traffic:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self.join(PATIENCE_S)
        assert not self.is_alive(), "the traffic does not end"
        if self.failed is not None:
            raise self.failed

    def check(self) -> None:
        assert self.gateway.never == []
        assert self.wrong_reads == []
        assert self.gateway.unexpected("422") == [], self.gateway.seen


@contextmanager
def running(
    folder: Path, kafka: KafkaSettings, topics: Topics, **env: str
) -> Iterator[tuple[processes.LedgerNode, processes.Child]]:
    node = processes.LedgerNode(folder, kafka.bootstrap_servers, topics, env=env)
    try:
        node.child("commands").start()
        serve = node.child("serve")
        serve.start()
        node.wait_ready()
        yield node, serve
    finally:
        node.end()


def start_rebuild(node: processes.LedgerNode, *arguments: str) -> subprocess.Popen[str]:
    env = node.child("rebuild").env
    node.children.pop()
    return subprocess.Popen(
        [sys.executable, "-m", "api.cli", "rebuild", "--json", *arguments], env=env, text=True, stdout=-1, stderr=-1
    )


def rebuild(node: processes.LedgerNode, *arguments: str) -> dict[str, Any]:
    """The report of a rebuild that succeeds."""
    process = start_rebuild(node, *arguments)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, f"{out}\n{err}\n{node.tails()}"
    report: dict[str, Any] = json.loads(out)
    return report


def differences(node: processes.LedgerNode) -> list[str]:
    return folds.projection_differences(node.state_dir("one"), node.bootstrap, node.topics, node.partitions)
