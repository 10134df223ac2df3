"""A program: the Faust app over a counting fold, with a small HTTP server. Its only argument is its settings as JSON."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog
from starlette.types import Receive, Scope, Send

from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.log import Record
from ledger.memory.log import MemoryLog
from ledger.memory.store import MemoryStore
from ledger.rocks_store import RocksStore
from projections.faust_app import FoldApp, build_app, run
from tests.support.counting_fold import Counter, memory_log, write
from tests.support.patience import until_async


def main(settings: dict[str, Any]) -> int:
    logging.basicConfig()
    # Not structlog's default: it shows an exception with rich, which takes the event loop seconds on a busy machine.
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.dev.ConsoleRenderer(colors=False)],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    scenario, folder = settings["scenario"], Path(settings["folder"])
    log: MemoryLog | KafkaLog
    if scenario == "kafka":
        log = KafkaLog(KafkaSettings(bootstrap_servers=settings["bootstrap"]))
        counter = Counter(RocksStore(folder / "rocks"), settings["topics"])
        chunks = itertools.count(1)

        def maybe_fail(_: Sequence[Record]) -> None:
            if next(chunks) == settings.get("fails_at"):
                raise ValueError("as requested")

        counter.before_write = maybe_fail
    else:
        log = memory_log()
        counter = Counter(MemoryStore())
    if scenario.startswith("fold-raises"):

        def refuse(records: Sequence[Record]) -> None:
            raise ValueError("five")

        counter.before_write = refuse
    app = build_app(
        app_id="test",
        log=log,
        folder=counter,
        state_dir=folder,
        check_s=0.5,
        still_limit_s=settings.get("still_limit_s", 15.0),
        stall_limit_s=settings.get("stall_limit_s", 4.0),
        exit_grace_s=1.0 if scenario.endswith("hangs") else 10.0,
    )

    def started(port: int) -> None:
        print(port, flush=True)
        if isinstance(log, MemoryLog) and scenario != "plain":
            if scenario == "reader-dies":
                write(log, range(10))
                threading.Timer(1.0, log.recreate, ["a"]).start()
            elif scenario == "loop-stalls":
                time.sleep(60)
            else:
                write(log, range(10))

    def stopping() -> None:
        if scenario.endswith("hangs"):
            time.sleep(60)

    asgi = Asgi(app, log, counter)
    port = settings.get("port", 0)
    return run(app, asgi, host="127.0.0.1", port=port, on_started=started, on_stopping=stopping, access_log=False)


class Asgi:
    """A small HTTP server."""

    def __init__(self, app: FoldApp, log: MemoryLog | KafkaLog, counter: Counter) -> None:
        self.app, self.log, self.counter = app, log, counter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for _ in range(2):
                await send({"type": (await receive())["type"] + ".complete"})
            return
        if scope["path"] == "/stream":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                await send({"type": "http.response.body", "body": b":\n", "more_body": True})
                await asyncio.sleep(0.1)
        body: Any
        answered = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
        if scope["path"] == "/topics":
            assert isinstance(self.log, MemoryLog)
            body = sorted(self.log._state.topics)
        elif scope["path"] == "/write-later":
            assert isinstance(self.log, MemoryLog)
            await send(answered)
            await asyncio.sleep(0.7)
            write(self.log, [1])
            await until_async(lambda: b"1" in self.counter.counts())
            await send({"type": "http.response.body", "body": json.dumps({"folded": True}).encode()})
            return
        else:
            status = self.app.status()
            body = {"folding": status.folding, "behind": status.behind, "connected": status.connected}
        await send(answered)
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
