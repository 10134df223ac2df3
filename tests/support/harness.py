"""A whole ledger in one process for tests: any log, the real processor, the real API on loopback, and a small fold loop.

Every answer that goes through its clients is checked against the OpenAPI document (`described`).
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx
from fastapi import FastAPI
from pydantic import SecretStr

from api.app import build_app
from api.callers.auth import Principal, Token, Tokens, hash_token, new_token
from api.callers.oidc import Oidc
from api.callers.roles import Role
from api.connections import ConnectionLimits, Connections
from api.context import AppContext
from api.processes.companions import Companions
from api.processes.doors import build_payments
from api.settings import Env, Settings
from commands.processor.process import CommandsProcess
from ledger.log import EventLog, Record, TopicPartition
from ledger.log_clock import LogClock
from ledger.memory.store import MemoryStore
from ledger.topics import Topics
from projections.projector import Projector
from projections.queries import Queries
from tests.support import loopback
from tests.support.described import check_described
from tests.support.patience import PATIENCE_S
from tests.support.sandboxed import WEBHOOK_SECRET, RunningSandbox
from tests.support.serving import AdjustableStatus, FoldGate, Server

HASH_KEY = "0123456789abcdef0123456789abcdef"
ROLES: tuple[Role, ...] = ("gateway", "admin", "reader", "operator")
PARTITIONS = 4
ASKED_WITHOUT_PAUSE = 1_000_000  # requests per second: no test reaches a limit unless it sets one
OUTSIDE_TIMEOUT_MS = 1_500  # of a test: long for a loopback call, short for one that is never answered
_keys = itertools.count(1)
LONGEST_WAIT = "wait=10"
T = TypeVar("T")


class CommandClient(httpx.Client):
    """Sends a command again under its key as long as a slow machine has not decided it within the longest wait.

    Not if the request asks for another wait: then 202 is the answer that the test wants.
    """

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            answer = super().send(request, **options)
            again = answer.status_code == 202 and request.headers.get("Prefer") == LONGEST_WAIT
            if not again or "Idempotency-Key" not in request.headers or time.monotonic() > deadline:
                return answer


class Clock:
    """The clock of the reconciler, and of a log in memory that has it: this machine's, `ahead_ms` ahead.

    `jump_ms`: somebody has set the machine's clock, which the monotonic one does not notice.
    """

    def __init__(self) -> None:
        self.ahead_ms = self.jump_ms = 0
        self._stands_at_ms: int | None = None

    def __call__(self) -> int:
        return self.monotonic_ms() + self.jump_ms

    def monotonic_ms(self) -> int:
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
    """The parts of the ledger. `folding` pauses the fold; `stop_deciding` ends the processor."""

    url: str
    log: EventLog
    topics: Topics
    context: AppContext
    app: FastAPI
    tokens: dict[str, str]
    status: AdjustableStatus
    folding: FoldGate
    loop: asyncio.AbstractEventLoop
    stop_deciding: Callable[[], None]
    clients: list[httpx.Client] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)
    companions: Companions | None = None

    def client(self, role: str = "gateway", customer: str | None = "c-1", **headers: str) -> httpx.Client:
        """A client with this role's token; a gateway acts for `customer`. It waits for the decision of a command."""
        sent = {"Authorization": f"Bearer {self.tokens[role]}", "Prefer": LONGEST_WAIT} | headers
        if role == "gateway" and customer is not None:
            sent["Customer-Id"] = customer
        client = CommandClient(**loopback.HERE, base_url=self.url, headers=sent, event_hooks={"response": [self._check]})
        self.clients.append(client)
        return client

    def _check(self, response: httpx.Response) -> None:
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            response.read()
        check_described(self.app.openapi(), response)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs it on the event loop of the API and the fold; returns its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE_S)

    def count(self, topic: str) -> int:
        """Number of offsets used in `topic`, transaction markers included."""
        tps = [TopicPartition(topic, p) for p in range(self.log.partitions(topic))]
        return sum(self.log.ends(tps, "read_uncommitted", PATIENCE_S).values())

    def records(self, topic: str) -> list[Record]:
        """All committed records of `topic`."""
        tps = [TopicPartition(topic, p) for p in range(self.log.partitions(topic))]
        starts, ends = self.log.starts(tps, PATIENCE_S), self.log.ends(tps, timeout_s=PATIENCE_S)
        reader = self.log.reader("test-records", eof=True, headers=True)
        try:
            reader.assign(starts)
            records_read: list[Record] = []
            deadline = time.monotonic() + PATIENCE_S
            while {tp for tp in tps if starts[tp] < ends[tp]} - set(reader.reached_end()):
                assert time.monotonic() < deadline
                records_read += reader.poll(500, 0.2)
        finally:
            reader.close()
        return records_read


def key() -> dict[str, str]:
    """Headers of a command that nobody has sent."""
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
    """An order that costs nothing: it is paid as soon as its stock is reserved."""
    line = {"service": "product", "sku": "sample", "name": "Sample", "quantity": 1, "unit_price_minor": 0}
    return order_body(lines=[line], adjustments=[], total_minor=0) | changes


def _settings(
    topics: Topics,
    env: Env,
    log_level: Literal["INFO", "WARNING"],
    sandbox: RunningSandbox | None,
    payment_window_s: int,
    email_url: str | None,
    partitions: int,
) -> Settings:
    return Settings(
        _env_file=None,  # type: ignore[call-arg]
        app_env=env,
        topic_prefix=topics.prefix,
        partitions=partitions,
        writers=1,
        ledger_hash_key=SecretStr(HASH_KEY),
        log_level=log_level,
        payment_window_seconds=payment_window_s,
        payment_window_min_seconds=1,
        sandbox_url=sandbox.url if sandbox else None,
        payment_gateway_webhook_secrets=SecretStr(WEBHOOK_SECRET) if sandbox else None,
        outside_timeout_ms=OUTSIDE_TIMEOUT_MS,
        notify_email_url=SecretStr(email_url) if email_url else None,
        outbox_dir=sandbox.database.parent / "outbox" if sandbox else Path("outbox"),
        app_id="app",
        webhooks_allow_private=True,
        limit_gateway_per_second=ASKED_WITHOUT_PAUSE,
        limit_customer_per_second=ASKED_WITHOUT_PAUSE,
        limit_staff_per_second=ASKED_WITHOUT_PAUSE,
    )


def placed(client: httpx.Client, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """A new order, as `placeOrder` shows it."""
    answer = decided(client, "/orders", body or order_body())
    assert answer.status_code == 201, answer.text
    order: dict[str, Any] = answer.json()
    return order


def decided(client: httpx.Client, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    """The final answer to a POST, which is sent again under its key as long as a slow machine has no decision yet."""
    headers = key() | headers
    deadline = time.monotonic() + PATIENCE_S
    while True:
        answer = client.post(path, json=body, headers=headers)
        if answer.status_code not in (202, 503):
            return answer
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.1)


@contextmanager
def running_ledger(
    log: EventLog,
    topics: Topics,
    env: Env = "development",
    log_level: Literal["INFO", "WARNING"] = "WARNING",
    make_app: Callable[[AppContext], FastAPI] = build_app,
    sandbox: RunningSandbox | None = None,
    payment_window_s: int = 1800,
    email_url: str | None = None,
    limits: ConnectionLimits | None = None,
    clock: Clock | None = None,
    oidc: Oidc | None = None,
    partitions: int = PARTITIONS,
) -> Iterator[RunningLedger]:
    """Topics, processor, fold and API over `log` until the block ends; with a `sandbox`, the reconciler too.

    `clock` moves the pauses of the reconciler, and what it takes for the machine's time. Keys of `oidc` are fetched only when a
    test asks for it, or sends a token with an unknown one.
    """
    settings = _settings(topics, env, log_level, sandbox, payment_window_s, email_url, partitions)
    log.ensure_topics(topics.specs(settings.partitions, settings.writers), PATIENCE_S)
    clock = clock or Clock()
    # Tests of production's API run without the outside services, without which production refuses to start.
    outside = settings.model_copy(update={"app_env": "development"})
    companions = Companions(outside, log, lambda name: MemoryStore(), LogClock(clock, clock.monotonic_ms))
    process = CommandsProcess(
        log, lambda name: MemoryStore(), topics, settings.ledger_id, "one", companions.make, clock=companions.clock
    )
    stop_deciding = _start_deciding(process)
    projector = Projector.open(lambda name: MemoryStore(), topics, settings.partitions)
    sender = log.sender("test-serve")
    tokens: dict[str, str] = {role: new_token(role) for role in ROLES}
    context = AppContext(
        settings,
        log,
        sender,
        projector,
        Queries(projector),
        Tokens([Token(bytes.fromhex(hash_token(tokens[role])), Principal(role, role)) for role in ROLES]),
        HASH_KEY.encode(),
        status := AdjustableStatus(),
        build_payments(outside),
        oidc,
        connections=Connections(limits),
    )
    try:
        with _serving(context, make_app(context), status, tokens, stop_deciding) as running:
            running.clock, running.companions = clock, companions
            if sandbox is not None:
                sandbox.sandbox.webhooks.send_to(f"{running.url}/webhooks/stripe", WEBHOOK_SECRET)
            _wait_until_deciding(running)
            yield running
    finally:
        stop_deciding()
        companions.close()
        sender.close()


@contextmanager
def another_node(ledger: RunningLedger, folding: bool = True, projector: Projector | None = None) -> Iterator[RunningLedger]:
    """A second `serve` of the same ledger, with a fold of its own from the start of the log, paused unless `folding`."""
    first = ledger.context
    projector = projector or Projector.open(lambda name: MemoryStore(), ledger.topics, first.partitions)
    sender, status = ledger.log.sender("another-serve"), AdjustableStatus()
    context = AppContext(first.settings, ledger.log, sender, projector, Queries(projector), first.tokens, first.hash_key, status)
    try:
        with _serving(context, build_app(context), status, ledger.tokens, ledger.stop_deciding, folding) as node:
            yield node
    finally:
        sender.close()


@contextmanager
def deciding_again(ledger: RunningLedger) -> Iterator[None]:
    """Another processor, after the ledger's own was stopped; it folds from the start of the log."""
    process = CommandsProcess(ledger.log, lambda name: MemoryStore(), ledger.topics, f"{ledger.topics.prefix}app", "two")
    stop = _start_deciding(process)
    try:
        yield
    finally:
        stop()


def _start_deciding(process: CommandsProcess) -> Callable[[], None]:
    """Run `process` on a thread. Returns a function that ends it and may be called twice."""
    thread = threading.Thread(target=process.run, name="commands")
    thread.start()

    def stop() -> None:
        process.stop()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()

    return stop


@contextmanager
def _serving(
    context: AppContext,
    app: FastAPI,
    status: AdjustableStatus,
    tokens: dict[str, str],
    stop_deciding: Callable[[], None],
    folding: bool = True,
) -> Iterator[RunningLedger]:
    """The application and its fold, until the block ends."""
    server = Server(app, context, status, paused=not folding)
    url = server.start()
    running = RunningLedger(
        url, context.log, context.topics, context, app, tokens, status, server.folding, server.loop, stop_deciding
    )
    try:
        yield running
    finally:
        for client in running.clients:
            client.close()
        server.stop()
        context.close()


def _wait_until_deciding(running: RunningLedger) -> None:
    """Wait until the processor owns its partitions: place an order for a customer that no test uses."""
    placed(running.client(customer="warm-up"))
