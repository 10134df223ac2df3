"""A whole ledger in one process for tests: any log, the real processor, the real API on loopback, and a small fold loop.

Every answer that goes through its clients is held against the OpenAPI document: the operation is described, the status is one
of its statuses, the body fits the schema of its media type.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx
import uvicorn
from fastapi import FastAPI
from jsonschema import Draft202012Validator
from pydantic import SecretStr

from api.app import build_app
from api.callers.auth import Principal, Token, Tokens, hash_token, new_token
from api.connections import ConnectionLimits, Connections
from api.context import AppContext
from api.processes.companions import Companions
from api.processes.doors import build_payments
from api.settings import Env, Settings
from commands.processor.process import CommandsProcess
from ledger.errors import LogUnavailable
from ledger.log import EventLog, Reader, Record, TopicPartition
from ledger.memory.log import MemoryLog
from ledger.memory.store import MemoryStore
from ledger.topics import Topics
from projections.projector import Projector
from projections.queries import Queries
from tests.support import loopback
from tests.support.patience import PATIENCE_S
from tests.support.sandboxed import WEBHOOK_SECRET, RunningSandbox

HASH_KEY = "0123456789abcdef0123456789abcdef"
ROLES = ("gateway", "admin", "reader", "operator")
OUTSIDE_TIMEOUT_MS = 1_500  # of a test: long for a loopback call, short for one that is never answered
_keys = itertools.count(1)
T = TypeVar("T")


@dataclass
class Status:
    """What the API asks of the fold; a test may set `connected`, otherwise it is as observed."""

    begun: bool = True
    folding: bool = True
    connected: bool = True
    connecting: bool = False
    caught_up: bool = True
    behind: int | None = 0
    staleness_ms: int | None = 0
    held_back_s: float = 0.0


class Clock:
    """The reconciler's: the machine's, moved on by `ahead_ms`."""

    def __init__(self) -> None:
        self.ahead_ms = 0
        self._stands_at_ms: int | None = None

    def __call__(self) -> int:
        return (time.time_ns() // 1_000_000 if self._stands_at_ms is None else self._stands_at_ms) + self.ahead_ms

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Only `ahead_ms` moves it until the block ends."""
        self._stands_at_ms = time.time_ns() // 1_000_000
        try:
            yield
        finally:
            self._stands_at_ms = None


@dataclass
class RunningLedger:
    """Where everything is. Clearing `folding` pauses the fold; `stop_deciding` ends the processor."""

    url: str
    log: EventLog
    topics: Topics
    context: AppContext
    app: FastAPI
    tokens: dict[str, str]
    status: Status
    folding: threading.Event
    loop: asyncio.AbstractEventLoop
    stop_deciding: Callable[[], None]
    clients: list[httpx.Client] = field(default_factory=list)
    clock: Clock = field(default_factory=lambda: Clock())
    companions: Companions | None = None

    def client(self, role: str = "gateway", customer: str | None = "c-1", **headers: str) -> httpx.Client:
        """A client with this role's token; a gateway acts for `customer`."""
        sent = {"Authorization": f"Bearer {self.tokens[role]}"} | headers
        if role == "gateway" and customer is not None:
            sent["Customer-Id"] = customer
        client = loopback.client(base_url=self.url, headers=sent, timeout=PATIENCE_S, event_hooks={"response": [self._check]})
        self.clients.append(client)
        return client

    def _check(self, response: httpx.Response) -> None:
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            response.read()
        check_described(self.app.openapi(), response)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Its result, run on the event loop of the API and the fold."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE_S)

    def count(self, topic: str) -> int:
        """How many offsets of `topic` are taken (transaction markers included)."""
        tps = [TopicPartition(topic, p) for p in range(self.log.partitions(topic))]
        return sum(self.log.ends(tps, "read_uncommitted").values())

    def records(self, topic: str) -> list[Record]:
        """All committed records of `topic`."""
        tps = [TopicPartition(topic, p) for p in range(self.log.partitions(topic))]
        starts, ends = self.log.starts(tps), self.log.ends(tps)
        reader = self.log.reader("test-records", eof=True, headers=True)
        try:
            reader.assign(starts)
            found: list[Record] = []
            deadline = time.monotonic() + PATIENCE_S
            while {tp for tp in tps if starts[tp] < ends[tp]} - set(reader.reached_end()):
                assert time.monotonic() < deadline
                found += reader.poll(500, 0.2)
        finally:
            reader.close()
        return found


def key() -> dict[str, str]:
    """Headers of a command nobody sent before."""
    return {"Idempotency-Key": f"key-{next(_keys)}"}


def order_body(**changes: Any) -> dict[str, Any]:
    """A valid body of `placeOrder`, with `changes`."""
    return {
        "currency": "EUR",
        "lines": [
            {"service": "product", "sku": "espresso-1kg", "name": "Espresso 1 kg", "quantity": 2, "unit_price_minor": 1200},
            {"service": "merch", "sku": "mug", "name": "Mug", "quantity": 1, "unit_price_minor": 900},
        ],
        "adjustments": [
            {"kind": "shipping", "label": "Parcel", "amount_minor": 400},
            {"kind": "discount", "label": "Welcome", "amount_minor": -300},
        ],
        "total_minor": 3400,
        "reference": "cart-1",
        "contact": {
            "name": "Ada Example",
            "email": "ada@example.org",
            "phone": "+44 113 496 0000",
            "shipping_address": {"line1": "1 Mill Lane", "city": "Leeds", "postcode": "LS1 1AA", "country": "GB"},
        },
    } | changes


def free_order_body(**changes: Any) -> dict[str, Any]:
    """An order that costs nothing: paid as soon as its stock is reserved."""
    line = {"service": "product", "sku": "sample", "name": "Sample", "quantity": 1, "unit_price_minor": 0}
    return order_body(lines=[line], adjustments=[], total_minor=0) | changes


@contextmanager
def running_ledger(
    log: EventLog,
    topics: Topics,
    partitions: int = 4,
    writers: int = 1,
    env: Env = "development",
    log_level: Literal["INFO", "WARNING"] = "WARNING",
    make_app: Callable[[AppContext], FastAPI] = build_app,
    sandbox: RunningSandbox | None = None,
    payment_window_s: int = 1800,
    email_url: str | None = None,
    limit_per_second: int = 1_000_000,
    limits: ConnectionLimits | None = None,
) -> Iterator[RunningLedger]:
    """Topics, processor, fold and API over `log`, until the block ends; with a `sandbox` also the reconciler."""
    settings = Settings(
        _env_file=None,
        app_env=env,
        topic_prefix=topics.prefix,
        partitions=partitions,
        writers=writers,
        ledger_hash_key=SecretStr(HASH_KEY),
        log_level=log_level,
        payment_window_seconds=payment_window_s,
        payment_window_min_seconds=1,
        sandbox_url=sandbox.url if sandbox else None,
        payment_gateway_webhook_secrets=SecretStr(WEBHOOK_SECRET) if sandbox else None,
        outside_timeout_ms=OUTSIDE_TIMEOUT_MS,
        notify_email_url=SecretStr(email_url) if email_url else None,
        outbox_dir=sandbox.database.parent / "outbox" if sandbox else Path("outbox"),
        app_id=f"{topics.prefix}app",
        limit_gateway_per_second=limit_per_second,
        limit_customer_per_second=limit_per_second,
        limit_staff_per_second=limit_per_second,
    )
    log.ensure_topics(topics.specs(partitions, writers))
    clock = Clock()
    # The rim of production is tested without a world outside, which production itself refuses to start without.
    outside = settings.model_copy(update={"app_env": "development"})
    companions = Companions(outside, log, lambda name: MemoryStore(), clock)
    process = CommandsProcess(log, lambda name: MemoryStore(), topics, f"{topics.prefix}app", "one", companions.make)
    deciding = threading.Thread(target=process.run, name="commands")
    deciding.start()
    projector = Projector.open(lambda name: MemoryStore(), topics, partitions)
    sender = log.sender("test-serve")
    tokens = {role: new_token(role) for role in ROLES}
    known = Tokens([Token(bytes.fromhex(hash_token(token)), Principal(role, role)) for role, token in tokens.items()])
    status = Status()
    context = AppContext(
        settings,
        log,
        sender,
        projector,
        Queries(projector),
        known,
        HASH_KEY.encode(),
        lambda: status,
        build_payments(outside),
        connections=Connections(limits),
    )
    app = make_app(context)
    server = Server(app, context, status)

    def stop_deciding() -> None:
        process.stop()
        deciding.join(PATIENCE_S)
        assert not deciding.is_alive()

    url = server.start()
    running = RunningLedger(url, log, topics, context, app, tokens, status, server.folding, server.loop, stop_deciding)
    running.clock, running.companions = clock, companions
    if sandbox is not None:
        sandbox.sandbox.webhooks.send_to(f"{url}/webhooks/stripe", WEBHOOK_SECRET)
    try:
        _wait_until_deciding(running)
        yield running
    finally:
        for client in running.clients:
            client.close()
        server.stop()
        context.close()
        stop_deciding()
        companions.close()
        sender.close()


@contextmanager
def another_node(ledger: RunningLedger, folding: bool = True, projector: Projector | None = None) -> Iterator[RunningLedger]:
    """A second `serve` of the same ledger, with a fold of its own, which begins with the log, paused unless `folding`."""
    first = ledger.context
    projector = projector or Projector.open(lambda name: MemoryStore(), ledger.topics, first.partitions)
    sender, status = ledger.log.sender("another-serve"), Status()
    context = AppContext(
        first.settings, ledger.log, sender, projector, Queries(projector), first.tokens, first.hash_key, lambda: status
    )
    app = build_app(context)
    server = Server(app, context, status)
    if not folding:
        server.folding.clear()
    url = server.start()
    node = RunningLedger(
        url, ledger.log, ledger.topics, context, app, ledger.tokens, status, server.folding, server.loop, ledger.stop_deciding
    )
    try:
        yield node
    finally:
        for client in node.clients:
            client.close()
        server.stop()
        context.close()
        sender.close()


@contextmanager
def deciding_again(ledger: RunningLedger) -> Iterator[None]:
    """Another processor, after the ledger's own was stopped; it begins with the log."""
    process = CommandsProcess(ledger.log, lambda name: MemoryStore(), ledger.topics, f"{ledger.topics.prefix}app", "two")
    thread = threading.Thread(target=process.run, name="commands")
    thread.start()
    try:
        yield
    finally:
        process.stop()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def _wait_until_deciding(running: RunningLedger) -> None:
    """Until the processor owns its partitions: an order of nobody who appears in a test is placed."""
    client = running.client(customer="warm-up")
    body, headers, deadline = order_body(), key() | {"Prefer": "wait=10"}, time.monotonic() + PATIENCE_S
    while (answer := client.post("/orders", json=body, headers=headers)).status_code != 201:
        assert time.monotonic() < deadline, answer.text


class Server:
    """uvicorn and the fold on one event loop in a thread of its own, as `serve` has them in its process."""

    def __init__(self, app: FastAPI, context: AppContext, status: Status) -> None:
        self.folding = threading.Event()
        self.folding.set()
        self._context, self._status = context, status
        config = uvicorn.Config(
            app,
            port=0,
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=5,
            proxy_headers=False,
            http=context.connections.protocol,  # type: ignore[arg-type]  # whatever makes a protocol will do
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="serve")
        self._failure: BaseException | None = None

    def start(self) -> str:
        self._thread.start()
        deadline = time.monotonic() + PATIENCE_S
        while not self._server.started:
            assert self._failure is None, self._failure
            assert time.monotonic() < deadline
            time.sleep(0.01)
        host, port = self._server.servers[0].sockets[0].getsockname()[:2]
        return f"http://{host}:{port}"

    def stop(self) -> None:
        self.folding.set()
        self._server.should_exit = True
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        if self._failure is not None:
            raise self._failure

    async def _main(self) -> None:
        context, self.loop = self._context, asyncio.get_running_loop()
        reader = context.log.reader("test-fold", eof=True, max_wait_ms=10)
        reader.assign(context.projector.positions())
        folding = asyncio.create_task(self._fold(reader))
        auditing = asyncio.create_task(context.audit.tend_for_ever())
        try:
            await self._server.serve()
        finally:
            context.end_streams()
            if context.payments is not None:
                await context.payments.close()
            folding.cancel()
            auditing.cancel()
            await asyncio.gather(folding, auditing, return_exceptions=True)
            await asyncio.to_thread(reader.close)

    async def _fold(self, reader: Reader) -> None:
        try:
            while True:
                records = await asyncio.to_thread(reader.poll, 500, 0.05)
                await asyncio.to_thread(self.folding.wait)
                self._context.projector.apply_chunk(records)
                away_s = reader.silent_s()
                if isinstance(self._context.log, MemoryLog):
                    self._status.connected, self._status.staleness_ms = away_s == 0, int(away_s * 1000)
        except LogUnavailable as exc:
            self._failure = exc
            raise


# ---- the OpenAPI document as a contract -----------------------------------------------------------------------------


def check_described(document: dict[str, Any], response: httpx.Response) -> None:
    """Raises `AssertionError` when an answer is not what the document says."""
    request = response.request
    for header in ("Request-Id", "Cache-Control", "X-Content-Type-Options"):
        assert header in response.headers, f"no {header}"
    template = template_of(document, request.url.path)
    if template is None:
        assert response.status_code in (200, 404), request.url.path  # 200: the docs page
        return
    head = request.method == "HEAD"
    operation = document["paths"][template].get("get" if head else request.method.lower())
    if operation is None:
        assert response.status_code == 405, (request.method, request.url.path, response.status_code)
        return
    where = f"{request.method} {template}"
    described = operation["responses"].get(str(response.status_code))
    assert described is not None, f"{where}: status {response.status_code} is not described: {response.text}"
    media = response.headers.get("content-type", "").split(";")[0]
    contents = described.get("content", {})
    if not contents:
        assert not media, f"{where}: {response.status_code} has no body"
        return
    assert media in contents, f"{where}: {media} is not among {list(contents)}"
    if head:
        assert media == "text/event-stream" or response.content == b"", f"{where}: an answer without a body has one"
        return
    if media.endswith("json"):
        validate(document, contents[media]["schema"], response.json(), where)
        if media == "application/problem+json":
            code = response.json()["code"]
            assert code in contents[media]["examples"], f"{where}: problem {code} is not described"


def validate(document: dict[str, Any], schema: dict[str, Any], value: Any, where: str) -> None:
    errors = [
        f"{'/'.join(map(str, e.path))}: {e.message}"
        for e in _validator(id(document), json.dumps(schema), document).iter_errors(value)
    ]
    assert not errors, f"{where}: {errors}\n{value}"


_documents: dict[int, dict[str, Any]] = {}


def _validator(number: int, schema: str, document: dict[str, Any]) -> Draft202012Validator:
    _documents[number] = document
    return _made(number, schema)


@functools.cache
def _made(number: int, schema: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads(schema) | {"components": _documents[number]["components"]})


def template_of(document: dict[str, Any], path: str) -> str | None:
    """The document's path that `path` is an instance of; a literal one wins."""
    if path in document["paths"]:
        return path
    for template in document["paths"]:
        if re.fullmatch(re.sub(r"\\\{[a-z_]+\\\}", "[^/]+", re.escape(template)), path):
            return str(template)
    return None
