"""The loop of one endpoint: reads the events of the partitions of this process, delivers them, stores how far it has come.

position    stored a few times a second, behind what was delivered (`queues`): a kill repeats what was delivered since
order       events of one order one after the other, up to `door.MAX_CONNECTIONS` orders at a time
a failure   lets its order wait; after three days the event is given up, and the order continues with the next one
an event    that cannot be read counts as failed, until a program can read it
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack

import structlog
from msgspec import Struct
from msgspec.structs import replace

from commands.notifier.resuming import resume_at
from commands.webhooks.door import MAX_CONNECTIONS, Attempt, WebhookDoor
from commands.webhooks.endpoints import Endpoint, Health
from commands.webhooks.queues import Delivery, Place, Queues, note_of, place_of
from commands.webhooks.signing import digest_of, headers, secret_of
from commands.webhooks.tries import Tried
from ledger import tracing
from ledger.clock import monotonic_ms, now_ms
from ledger.errors import ConfigError, DecodeError, Hole
from ledger.events import OrderEvent
from ledger.faults import in_short
from ledger.log import NOTE_AGAIN_S, Bookmark, EventLog, Reader, Record, TopicPartition
from ledger.log_identity import Mark
from ledger.schemas.codec import event_codec, link_of
from ledger.supervision import WorkerThread
from ledger.topics import Topics

POLL_S, CHUNK = 0.1, 200
WRITE_EVERY_S = 0.25
LAST_S = 1.0  # for what is under way at a stop

log = structlog.get_logger(__name__)

Compose = Callable[[OrderEvent, int, int], bytes]
"""(event, partition, offset) -> the body of the message."""


class WithEndpoints(Struct, frozen=True):
    """What all endpoints of a process share. `on_tried(endpoint, tried)` receives every try, on its thread."""

    log: EventLog
    topics: Topics
    hash_key: bytes
    group: str
    node: str
    compose: Compose
    allow_private: bool
    on_tried: Callable[[str, Tried], None]
    clock_ms: Callable[[], int] = now_ms
    monotonic_ms: Callable[[], int] = monotonic_ms


def group_of(shared: WithEndpoints, name: str) -> str:
    """Under which the log stores the position of an endpoint."""
    return f"{shared.group}-{name}"


class EndpointLoop:
    """Delivers to `endpoint`, whose name is `name`, on a thread of its own, until `stop`."""

    def __init__(
        self, shared: WithEndpoints, name: str, endpoint: Endpoint, owned: set[int], before: Health | None = None
    ) -> None:
        """`before`: what this node last published of the endpoint, so that a restart does not forget since when it fails."""
        self._shared, self.name, self.endpoint = shared, name, endpoint
        self._lock = threading.Lock()
        self._owned, self._changed, self._stopping = set(owned), threading.Event(), threading.Event()
        self._queues, self._codec = Queues(), event_codec()
        self._written: dict[int, tuple[int, Place]] = {}
        before = before or Health()
        self.health = Health(before.failing_since, before.succeeded_at, before.failed_at, before.error)
        self.is_gone = False
        self._thread = WorkerThread(
            "webhook endpoint", self._run, lambda exc: None, again=True, stopping=self._stopping, ends=True
        )

    # ---- from other threads

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def join(self, timeout_s: float) -> None:
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def own(self, partitions: set[int]) -> None:
        with self._lock:
            self._owned = set(partitions)
        self._changed.set()

    # ---- the thread

    def _run(self) -> None:
        secret = secret_of(self._shared.hash_key, self.name, self.endpoint.salt)
        if digest_of(secret) != self.endpoint.digest:
            self.health = replace(self.health, error="other_hash_key", failed_at=self._shared.clock_ms())
            raise ConfigError(f"webhook endpoint {self.name}: LEDGER_HASH_KEY is not that of `serve`, so nothing is signed")
        asyncio.run(self._work())

    async def _work(self) -> None:
        self._queues, self._written = Queues(), {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._fault: BaseException | None = None
        self._is_ending = False
        self._door = WebhookDoor(self.endpoint.url, allow_private=self._shared.allow_private)
        async with AsyncExitStack() as opened:
            bookmark = await asyncio.to_thread(self._shared.log.bookmark, group_of(self._shared, self.name))
            opened.push_async_callback(asyncio.to_thread, bookmark.close)
            reader = self._shared.log.reader(f"webhook-{self.name}", max_wait_ms=100, headers=tracing.tracer() is not None)
            opened.push_async_callback(asyncio.to_thread, reader.close)
            try:
                self._changed.set()
                await self._deliver_for_ever(bookmark, reader)
            finally:
                self._is_ending = True
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)
                await self._door.close()

    async def _deliver_for_ever(self, bookmark: Bookmark, reader: Reader) -> None:
        write_at, again_at = 0.0, time.monotonic() + NOTE_AGAIN_S
        while not self._stopping.is_set() and not self.is_gone:
            if self._fault is not None:
                raise self._fault
            if self._changed.is_set():
                self._changed.clear()
                await self._write(bookmark)  # of partitions that another process may take now
                await self._assign(bookmark, reader)
            records: list[Record] = []
            if self._queues.partitions() and self._queues.has_room():
                records = await asyncio.to_thread(reader.poll, CHUNK, POLL_S)
            else:
                await asyncio.sleep(POLL_S)
            self._take(records)
            self._dispatch()
            if (now := time.monotonic()) >= write_at:
                await self._write(bookmark, all_of_them=now > again_at)
                write_at = now + WRITE_EVERY_S
                if (waiting := self._queues.waiting()) != self.health.waiting:
                    self.health = replace(self.health, waiting=waiting)
                again_at = now + NOTE_AGAIN_S if now > again_at else again_at
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=LAST_S)
        await self._write(bookmark)

    # ---- positions

    async def _assign(self, bookmark: Bookmark, reader: Reader) -> None:
        """Deliver the events of the partitions that this process owns now. Only the log is asked in a thread."""
        with self._lock:
            wanted = set(self._owned)
        for partition in self._queues.partitions() - wanted:
            self._queues.end(partition)
            self._written.pop(partition, None)
        fresh = {p: TopicPartition(self._shared.topics.events, p) for p in sorted(wanted - self._queues.partitions())}
        if fresh:
            resumed = await asyncio.to_thread(self._resumed, bookmark, fresh)
            for p, (position, place) in resumed.items():
                self._written[p] = position, place
                self._queues.begin(p, position, place)
        positions = {TopicPartition(self._shared.topics.events, p): self._queues.position(p) for p in wanted}
        try:
            await asyncio.to_thread(reader.assign, positions)
        except Hole as exc:
            log.error("webhook position is not in the log", endpoint=self.name, why=str(exc))
            raise

    def _resumed(self, bookmark: Bookmark, fresh: Mapping[int, TopicPartition]) -> dict[int, tuple[int, Place]]:
        """By partition, the position in this log at which its deliveries continue, and its place."""
        log_id = self._shared.log.topic_id(self._shared.topics.events)
        known, notes = bookmark.read(fresh.values()), bookmark.notes(fresh.values())
        places: dict[int, tuple[int, Place]] = {}
        for p, tp in fresh.items():
            at, place = known[tp], place_of(notes[tp])
            if at is None or place is None or place.started_at != self.endpoint.started_at:  # new, or started elsewhere since
                at, place = (
                    self.endpoint.start.get(p, 0),
                    Place(bytes.fromhex(self.endpoint.log_id), b"", self.endpoint.started_at),
                )
            places[p] = at, place
        marks = {fresh[p]: Mark(at, place.log_id, place.link) for p, (at, place) in places.items()}
        marks = resume_at(self._shared.log, self._shared.topics, log_id, marks)
        starts = self._shared.log.starts(fresh.values())
        resumed: dict[int, tuple[int, Place]] = {}
        for p, tp in fresh.items():
            at, place = places[p]
            mark = marks[tp]
            is_same = mark.position == at
            if not is_same:
                log.error("webhook position is of another log", endpoint=self.name, partition=p, parked=len(place.parked))
            parked = place.parked if is_same else []
            resumed[p] = max(mark.position, starts[tp]), Place(log_id, mark.link, self.endpoint.started_at, parked)
        return resumed

    async def _write(self, bookmark: Bookmark, all_of_them: bool = False) -> None:
        news = {p: safe for p, safe in self._queues.places().items() if all_of_them or safe != self._written.get(p)}
        if not news:
            return
        topic = self._shared.topics.events
        positions = {TopicPartition(topic, p): at for p, (at, _) in news.items()}
        notes = {TopicPartition(topic, p): note_of(place) for p, (_, place) in news.items()}
        await asyncio.to_thread(bookmark.write, positions, notes)
        self._written |= news

    # ---- events

    def _take(self, records: Sequence[Record]) -> None:
        for record in records:
            if record.partition not in self._queues.partitions():
                continue
            event, link = None, b""
            try:
                event = self._codec.decode(record.value)
                link = event.prev_hash
            except DecodeError as exc:
                log.error("event cannot be read, its order waits", partition=record.partition, offset=record.offset, why=str(exc))
            order_id = (record.key or b"").decode("utf-8", "replace") if event is None else event.order_id
            value = b"" if event else record.value or b""
            trace = tracing.context_in(record.headers)
            delivery = Delivery(record.partition, record.offset, link, order_id, event, value, trace=trace)
            wanted = event is None or self.endpoint.wants(event.type, event.customer_id)
            self._queues.take(delivery, wanted, link_of(record.value or b""))

    def _dispatch(self) -> None:
        if self._stopping.is_set() or self.is_gone or self._is_ending:
            return
        for delivery in self._queues.due(self._shared.monotonic_ms(), MAX_CONNECTIONS - len(self._tasks)):
            task = asyncio.create_task(self._deliver(delivery))
            self._tasks.add(task)
            task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._fault = fault  # the loop ends with it, and starts again from the stored position
            return
        try:
            self._dispatch()
        except Exception as exc:  # asyncio would only log it, and what is busy would wait for ever
            self._fault = exc

    async def _deliver(self, delivery: Delivery) -> None:
        """One try, and what follows from it. Whatever goes wrong costs this delivery alone."""
        began, at = time.monotonic(), self._shared.clock_ms()
        try:
            with tracing.span("deliver webhook", "client", delivery.trace) as span:
                attempt = await self._attempt(delivery, at)
                span.note(ledger__order_id=delivery.order_id, ledger__result=attempt.result)
                if attempt.result not in ("delivered", "not_wanted"):
                    span.fail(attempt.result)
        except Exception as exc:
            log.error("webhook not sent", endpoint=self.name, order_id=delivery.order_id, why=in_short(exc))
            attempt = Attempt("no_answer", detail=type(exc).__name__)
        now, abandoned = self._shared.clock_ms(), False
        tries = delivery.tries + 1
        if attempt.result == "not_wanted":
            self._queues.done(delivery)
            return
        if attempt.result == "delivered":
            self._queues.done(delivery)
            self.health = replace(self.health, delivered=self.health.delivered + 1, succeeded_at=now, failing_since=0, error="")
        else:
            abandoned = self._queues.failed(delivery, now, self._shared.monotonic_ms(), int(attempt.pause_s * 1000))
            self.is_gone = self.is_gone or attempt.result == "gone"
            self.health = replace(
                self.health,
                failed=self.health.failed + 1,
                failed_at=now,
                failing_since=self.health.failing_since or now,
                error=attempt.result,
                abandoned=self.health.abandoned + abandoned,
            )
            if abandoned:
                log.error("webhook given up", endpoint=self.name, order_id=delivery.order_id, offset=delivery.offset, tries=tries)
        self.health = replace(self.health, waiting=self._queues.waiting())
        kind = delivery.event.type if delivery.event else ""
        tried = Tried(
            message_id=message_id(delivery),
            type=kind,
            order_id=delivery.order_id,
            partition=delivery.partition,
            offset=delivery.offset,
            at=at,
            took_ms=int((time.monotonic() - began) * 1000),
            attempt=tries,
            result=attempt.result,
            status=attempt.status,
            detail=attempt.detail,
            is_abandoned=abandoned,
            node=self._shared.node,
        )
        self._shared.on_tried(self.name, tried)

    async def _attempt(self, delivery: Delivery, at: int) -> Attempt:
        event = delivery.event
        if event is None:
            try:
                event = delivery.event = self._codec.decode(delivery.value)  # perhaps its schema is known now
            except DecodeError:
                return Attempt("unreadable")
            if not self.endpoint.wants(event.type, event.customer_id):
                return Attempt("not_wanted")
        body = self._shared.compose(event, delivery.partition, delivery.offset)
        secrets = [secret_of(self._shared.hash_key, self.name, salt) for salt in self.endpoint.salts(at)]
        signed = headers(secrets, message_id(delivery), at // 1000, body)
        return await self._door.post(body, {"Content-Type": "application/json", **signed}, at / 1000)


def message_id(delivery: Delivery) -> str:
    """The same for every try of an event, and for every replay: receivers ignore what they know."""
    if delivery.event is None:
        return f"{delivery.partition}-{delivery.offset}"
    return f"{delivery.order_id}/{delivery.event.version}"
