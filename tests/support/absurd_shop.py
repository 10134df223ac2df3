"""A whole ledger in one process, in a world that answers anything, for commands that make no sense.

The product is real: the log in memory, the `commands` process with its writer, reconciler and notifier on threads of their
own, the read models in RocksDB, the application, called in process. Time is a number that `feed` advances.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlencode

import httpx
from pydantic import SecretStr
from starlette.types import Message

from api.app import build_app
from api.callers.auth import Principal, Token, Tokens, hash_token
from api.callers.roles import Role
from api.context import AppContext
from api.problems import PROBLEMS
from api.settings import Settings
from commands.notifier.composing import Composer
from commands.notifier.composing import Shop as OurShop
from commands.notifier.email_door import EmlDoor
from commands.notifier.loop import Notifier
from commands.notifier.message_port import MessageDoor
from commands.notifier.notices import EMAIL, SMS
from commands.processor.order_book import OrderBook
from commands.processor.process import EXIT_FAILED, Books, CommandsProcess, Companion, Fatal
from commands.reconciler.loop import Reconciler
from commands.reconciler.performing import Ports
from ledger.log import NewRecord, Record, TopicPartition
from ledger.log_clock import LogClock
from ledger.memory.log import MemoryLog
from ledger.memory.store import MemoryStore
from ledger.rocks_store import RocksStore
from ledger.schemas.codec import event_codec, refusal_codec
from ledger.schemas.versions import schema_versions
from ledger.topics import Topics
from ledger.transitions import Code, Status
from projections.databases import Databases
from projections.projector import Projector
from projections.queries import Queries
from projections.read_models import decode_order
from tests.support.absurd_world import TextMessages, World
from tests.support.described import check_described
from tests.support.harness import HASH_KEY
from tests.support.order_commands import PLACED_AT
from tests.support.patience import PATIENCE_S
from tests.support.serving import AdjustableStatus

PARTITIONS = 4
ROLES: tuple[Role, ...] = ("gateway", "admin", "reader")
JUDGED_IN_FULL = 20  # one answer in so many is checked against its schema, which takes longer than the answer itself


class Clock:
    def __init__(self) -> None:
        self.now_ms = PLACED_AT + 1

    def __call__(self) -> int:
        return self.now_ms


class AbsurdShop:
    """Use as a context manager. `feed` sends commands and returns when all of them are decided, folded and read."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._chance = random.Random(seed)
        self._clock, self.topics = Clock(), Topics()
        self.log = MemoryLog(self._clock)
        self.log.ensure_topics(self.topics.specs(PARTITIONS, 1))
        self._folder = folder
        self._worlds = {name: World(name, self._chance) for name in ("stripe", "product", "merch")}
        self._doors: dict[str, MessageDoor] = {EMAIL: EmlDoor(folder / "outbox", "Shop <shop@example.org>"), SMS: TextMessages()}
        self._counts: Counter[str] = Counter()
        self._reads: Counter[str] = Counter()
        self._fed = 0
        self._ended: list[int] = []
        self._fatal: list[BaseException] = []
        self._process = CommandsProcess(self.log, self._open, self.topics, "app", "one", self._companions)
        self._thread = threading.Thread(target=self._run, name="commands")

    def _run(self) -> None:
        try:
            self._ended.append(self._process.run())
        except BaseException as exc:  # reported by whoever waits for a command
            self._fatal.append(exc)
            self._ended.append(EXIT_FAILED)

    def _open(self, name: str) -> RocksStore:
        return RocksStore(self._folder / name)

    def _open_of_notifier(self, name: str) -> RocksStore:
        return self._open(f"notifier-{name}")

    def _partition_of(self, order_id: str) -> int:
        return self.log.partition_for(order_id.encode(), PARTITIONS)

    def _companions(self, books: Books, on_fatal: Fatal, partitions: int) -> Sequence[Companion]:
        def failed(exc: BaseException) -> None:
            self._fatal.append(exc)
            on_fatal(exc)

        def ports() -> Ports:
            return Ports(self._worlds["stripe"], {name: self._worlds[name] for name in ("product", "merch")})

        self._reports, clock = self.log.sender("reconciler"), LogClock(self._clock, self._clock)
        self.reconciler = Reconciler(ports, books, self._partition_of, self._reports, self.topics, failed, clock)
        self.notifier = Notifier(
            self.log,
            self.topics,
            books,
            self._open_of_notifier,
            self._doors,
            Composer(OurShop("Shop")),
            "notifier",
            failed,
            clock=clock,
        )
        return [self.reconciler, self.notifier]

    def __enter__(self) -> AbsurdShop:
        self._thread.start()
        self._projector = Projector.open(lambda name: self._open(f"read-{name}"), self.topics, PARTITIONS)
        self._queries = Queries(self._projector)
        self._context = AppContext(
            Settings(
                _env_file=None,  # type: ignore[call-arg]
                partitions=PARTITIONS,
                ledger_hash_key=SecretStr(HASH_KEY),
                log_level="WARNING",
            ),
            self.log,
            self.log.sender("serve"),
            self._projector,
            self._queries,
            Tokens([Token(bytes.fromhex(hash_token(role)), Principal(role, role)) for role in ROLES]),
            HASH_KEY.encode(),
            AdjustableStatus(),
            self._worlds["stripe"],
        )
        self._app = build_app(self._context)
        self._document = self._app.openapi()
        self._routes = [path for path, methods in self._document["paths"].items() if "get" in methods]
        self._about_orders = itertools.cycle(route for route in self._routes if "{order_id}" in route)
        self._others = itertools.cycle(route for route in self._routes if "{order_id}" not in route)
        self._runner = asyncio.Runner()
        self._writer = self.log.writer("absurd")
        self._writer.start(PATIENCE_S)
        self._reader = self.log.reader("fold")
        self._reader.assign(self._projector.positions())
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop()
        self._thread.join(PATIENCE_S)
        for thing in (
            self._writer,
            self._reader,
            self._context,
            self._context.sender,
            self._reports,
            self._runner,
            self._projector,
        ):
            thing.close()

    # ---- deciding and folding

    def feed(self, records: Sequence[NewRecord], last: Sequence[str]) -> None:
        """`last`: per partition the id of the last command of `records`, a valid one: once it is decided, all are."""
        self._clock.now_ms += self._chance.choices((1, 1_000, 10_000, 60_000, 7_200_000), (40, 30, 20, 9, 1))[0]
        self._writer.transact(records)
        self._fed += sum(record.topic == self.topics.commands for record in records)
        changed: set[str] = set()
        deadline = time.monotonic() + PATIENCE_S
        while not all(self._queries.outcome(p, command_id) for p, command_id in enumerate(last)):
            assert not self._ended, self._fatal
            assert time.monotonic() < deadline, "commands are not decided any more"
            changed |= self._fold(0.05)
        assert self._projector.frozen_count == 0
        self.reconciler.clock_moved()
        self._runner.run(self._read(sorted(changed)))

    def _fold(self, timeout_s: float) -> set[str]:
        """Fold what has arrived. Returns the ids of the changed orders."""
        records = self._reader.poll(1_000, timeout_s)
        self._projector.apply_chunk(records)
        self._count(records)
        return {(record.key or b"").decode() for record in records if record.topic == self.topics.events}

    def _count(self, records: Sequence[Record]) -> None:
        for record in records:
            if record.topic == self.topics.events:
                self._counts[f"event {event_codec().decode(record.value).type}"] += 1
            elif record.topic == self.topics.refusals:
                refusal = refusal_codec().decode(record.value)
                raised = refusal.code == Code.COULD_NOT_DECIDE and refusal.detail.isidentifier()
                self._counts[f"refused {refusal.code}{f' {refusal.detail}' if raised else ''}"] += 1

    def quiet_down(self) -> None:
        """Waits until customers are notified of every event, and ends the process. Then all folds must be equal: the writer's,
        the read models', and one from scratch."""
        tps = [TopicPartition(self.topics.events, p) for p in range(PARTITIONS)]
        bookmark, deadline = self.log.bookmark("notifier"), time.monotonic() + PATIENCE_S
        while any(end - (bookmark.read([tp])[tp] or 0) > 1 for tp, end in self.log.ends(tps).items()):  # 1: a marker
            assert time.monotonic() < deadline, (bookmark.read(tps), self.log.ends(tps))
            assert self.notifier.restarts == 0
            assert not self._ended, self._fatal
            time.sleep(0.05)
        assert self.notifier.restarts == 0
        self._process.stop()
        self._thread.join(PATIENCE_S)
        assert self._ended == [0], self._fatal
        while self._fold(0):
            pass
        store = self._open("writer-0")
        book = OrderBook(store)
        for partition in range(PARTITIONS):
            for _, row in self._projector.store(partition).scan(b"o/"):
                order = decode_order(row)
                assert book.order(partition, order.order_id) == order
        store.close()
        again = Databases(lambda name: MemoryStore(), self.topics, range(PARTITIONS), None)
        reader = self.log.reader("again")
        reader.assign(again.positions())
        while records := reader.poll(1_000, 0):
            for tp in {TopicPartition(record.topic, record.partition) for record in records}:
                again.write_chunk(tp, [record for record in records if (record.topic, record.partition) == tp])
        assert again.digests() == self._projector.databases.digests()

    # ---- reading

    async def _read(self, changed: Sequence[str]) -> None:
        """Reads each changed order once, and a few things that are not about one order; takes all routes in turn."""
        for order_id in changed:
            await self._get(next(self._about_orders), order_id)
        for order_id in changed[:5]:
            await self._get(next(self._others), order_id)

    async def _get(self, route: str, order_id: str) -> None:
        chance, schema = self._chance, self._chance.choice(schema_versions())
        names = {
            "order_id": order_id,
            "command_id": f"cmd_{chance.randrange(self._fed)}",
            "customer_id": "c-1",
            "slug": chance.choice(list(PROBLEMS)),
            "id": str(schema.id),
            "name": "none",
            "subject": schema.subject(""),
            "version": chance.choice(("latest", "1", "7")),
        }
        query: dict[str, object] = {}
        match route:
            case "/orders":
                query = {"limit": chance.choice((1, 20, 100)), "status": chance.choice(list(Status)).value}
                query |= chance.choice([{}, {}, {"attention": "true"}, {"placed_to": "2030-01-01T00:00:00Z"}])
            case "/orders/{order_id}":
                query = chance.choice([{}, {}, {"version": chance.randint(1, 9)}, {"at": "2023-11-14T22:20:00Z"}])
            case "/orders/{order_id}/events":
                query = {"after": chance.choice((0, 1, 2**31 - 1)), "limit": chance.choice((1, 100, 200))}
            case "/events":
                query = {"limit": chance.choice((1, 100, 500)), "start": chance.choice(("beginning", "end"))}
                query |= chance.choice([{}, {"type": "OrderPlaced,OrderCancelled"}])
            case "/reports/daily":
                query = {"from": "2023-11-01", "to": "2024-10-31"}
            case "/commands/{command_id}" if chance.random() < 0.5:
                query = {"at": f"{chance.randrange(PARTITIONS)}-{chance.randrange(self._fed)}"}
        await self._ask(route, route.format(**names), urlencode(query), chance.choice(ROLES))

    async def _ask(self, route: str, path: str, query: str, role: str) -> None:
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(b"authorization", b"Bearer " + role.encode()), (b"customer-id", b"c-1")],
            "server": ("127.0.0.1", 80),
            "client": ("127.0.0.1", 1),
        }
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        start, body = sent[0], b"".join(message.get("body", b"") for message in sent[1:])
        status = start["status"]
        self._reads[route] += 1
        self._counts[f"GET answered {status}"] += 1
        assert str(status) in self._document["paths"][route]["get"]["responses"], (status, path, query, body)
        assert status < 500 or (status == 503 and b"provider-unavailable" in body), (status, path, query, body)
        if self._reads.total() % JUDGED_IN_FULL == 0 or self._reads[route] < JUDGED_IN_FULL:
            request = httpx.Request("GET", f"http://127.0.0.1{path}")
            answer = httpx.Response(status, headers=start["headers"], content=body, request=request)
            check_described(self._document, answer)

    # ---- what happened

    def counts(self) -> Counter[str]:
        """Counts of everything that has happened."""
        counts = self._counts + Counter({"commands fed": self._fed, "GETs": self._reads.total()})
        for world in self._worlds.values():
            counts.update({f"world: {name}": n for name, n in world.asked.items()})
        counts.update({f"reconciler: {name}": n for name, n in self.reconciler.done.items()})
        counts.update(self.notifier.counts())
        counts["notifier restarts"] = self.notifier.restarts
        return counts

    def unread(self) -> set[str]:
        """Routes that were not called yet."""
        return set(self._routes) - set(self._reads)
