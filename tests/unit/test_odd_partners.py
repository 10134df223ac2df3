"""Answers and messages of partners that keep no promise: each is read as facts that fit the ledger, a no, or nothing.

The doors are the real ones, over HTTP and gRPC on loopback; they meet what orders owe, in every state that can be reached.
Nothing raises, whatever the answer: an exception would be a fault of the product. The campaign is the same, 200 times as long:

    uv run pytest -m campaign tests/unit/test_odd_partners.py -s
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from functools import cache
from typing import Any

import httpx
import pytest
import structlog
from pydantic import SecretStr

from api.app import build_app
from api.callers.auth import Tokens
from api.context import AppContext
from api.routes import webhooks
from api.settings import Settings
from commands.decide import decide
from commands.messages import OrderCommand, command_codec
from commands.obligations import Kind, Obligation, obligations
from commands.processor.desk import Desk
from commands.reconciler.answers import Done, Unknown, command_of
from commands.reconciler.payment_port import PaymentView, ProviderUnavailable, Sighting
from commands.reconciler.performing import CallReport, Ports, perform
from commands.reconciler.stock_grpc import GrpcStock
from commands.reconciler.stock_http import HttpStock
from commands.reconciler.stripe_gateway import StripeGateway
from commands.reconciler.stripe_webhook import sign
from ledger.envelope import Written
from ledger.events import Line, OrderEvent
from ledger.evolve import evolve
from ledger.log import Record, TopicPartition
from ledger.memory.log import MemoryLog
from ledger.memory.store import MemoryStore
from ledger.order import Order
from ledger.topics import Topics
from projections.projector import Projector
from projections.queries import Queries
from tests.support.described import check_described
from tests.support.harness import HASH_KEY
from tests.support.odd_partners import BODIES, MARK, OddServer, odd_stock_over_grpc
from tests.support.order_commands import PLACED_AT, at_ms, order_command
from tests.support.order_model import Command
from tests.support.order_space import Reached, reachable
from tests.support.serving import AdjustableStatus
from tests.support.stripe_objects import CHARGE, DISPUTE, INTENT, REFUND, SECRET, mutated

AT_ONCE = 40
TIMEOUT_MS = 5_000  # of calls that are answered immediately or never


@pytest.fixture
def leaking_lines() -> Iterator[list[str]]:
    """Log lines that repeat something that no line may; the others are dropped."""
    lines: list[str] = []

    def judge(logger: Any, method: str, line: Any) -> Any:
        if MARK in str(line) or line.get("exc_info"):
            lines.append(str(line))
        raise structlog.DropEvent

    structlog.configure(processors=[judge])
    yield lines
    structlog.reset_defaults()


@cache
def owed() -> dict[Kind, list[tuple[Order, Obligation]]]:
    """The obligations that need a call, by kind, in every state that can be reached."""
    obligations_by_kind: dict[Kind, list[tuple[Order, Obligation]]] = {}
    for reached in reachable().values():
        for obligation in obligations(reached.order):
            if obligation.kind not in (Kind.CALL_PERSON, Kind.EXPIRE, Kind.CANCEL):
                obligations_by_kind.setdefault(obligation.kind, []).append((reached.order, obligation))
    return obligations_by_kind


def check(order: Order, commands: tuple[OrderCommand, ...]) -> None:
    """Each command fits a record and leads to an event, and the obligations of the order after it can be derived."""
    for command in commands:
        assert command_codec().decode(command_codec().encode(command)) == command
        event = decide(command, order, PLACED_AT + 1)
        assert isinstance(event, OrderEvent)
        order = evolve(order, event)
        obligations(order)


async def often(times: int, once: Callable[[], Awaitable[None]]) -> None:
    """Call `once` that often, `AT_ONCE` at a time, so that pauses and slow answers of some do not hold up the others."""
    left = iter(range(times))

    async def work() -> None:
        for _ in left:
            await once()

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))


async def meet(times: int, seed: int) -> Counter[str]:
    """Try to meet this many obligations."""
    chance, counts = random.Random(seed), Counter[str]()
    kinds = sorted(owed())
    async with OddServer(random.Random(seed + 1)) as server:
        payments = StripeGateway("sk_test_odd", api_base=server.url, timeout_ms=TIMEOUT_MS)
        ports = Ports(payments, {name: HttpStock(name, server.url, TIMEOUT_MS) for name in ("product", "merch")})

        async def once() -> None:
            order, obligation = chance.choice(owed()[chance.choice(kinds)])
            report = await perform(obligation, order, ports, PLACED_AT + chance.choice((1, 10**9)))
            assert isinstance(report, CallReport)
            assert MARK not in str(report.failed)
            check(order, report.commands)
            said = "failed" if report.failed else "facts" if report.commands else "nothing new"
            counts[f"{obligation.kind}: {said}"] += 1

        await often(times, once)
        for port in (payments, *ports.stock.values()):
            await port.close()
    return counts + Counter({f"server: {kind}": n for kind, n in server.answered.items()})


async def read(times: int, seed: int) -> Counter[str]:
    """Ask the provider what requests of the API and the daily sweep ask it."""
    chance, counts = random.Random(seed), Counter[str]()
    async with OddServer(random.Random(seed + 1)) as server:
        payments = StripeGateway("sk_test_odd", api_base=server.url, timeout_ms=TIMEOUT_MS)
        words: set[str] = set()

        async def once() -> None:
            try:
                match chance.choice(("view", "sighting", "recent")):
                    case "view":
                        assert isinstance(await payments.view("pi_1"), PaymentView)
                    case "sighting":
                        assert isinstance(await payments.sighting("pi_1"), Sighting)
                    case "recent":
                        async for sighting in payments.recent(PLACED_AT):
                            assert isinstance(sighting, Sighting)
                counts["answered"] += 1
            except (ProviderUnavailable, KeyError) as exc:
                counts[type(exc).__name__] += 1
                words.add(str(exc))

        await often(times, once)
        await payments.close()
    assert MARK not in str(words)
    return counts


async def ask_over_grpc(times: int, seed: int) -> Counter[str]:
    counts: Counter[str] = Counter()
    lines = [Line("merch", "mug", "Mug", 1, 900)]
    async with odd_stock_over_grpc(random.Random(seed)) as target:
        stock = GrpcStock("merch", target, TIMEOUT_MS)

        async def once() -> None:
            answer = await (stock.reserve("ord_1", "EUR", lines, "k") if len(counts) % 2 else stock.release("ord_1", "k"))
            assert isinstance(answer, Done | Unknown)
            for fact in answer.facts if isinstance(answer, Done) else ():
                command = command_of(fact, "ord_1", "cmd_1", "merch-service")
                assert command_codec().decode(command_codec().encode(command)) == command
            counts[type(answer).__name__] += 1

        await often(times, once)
        await stock.close()
    return counts


async def hear(times: int, seed: int) -> Counter[str]:
    """Send messages of the provider to the webhook, about an order in some state that this node has folded."""
    chance, counts = random.Random(seed), Counter[str]()
    topics, log = Topics(), MemoryLog()
    log.ensure_topics(topics.specs(1, 1))
    projector = Projector.open(lambda name: MemoryStore(), topics, 1)
    projector.apply_chunk(story(chance.choice([r for r in reachable().values() if r.order.attempts]), topics))
    async with OddServer(random.Random(seed + 1)) as server:
        payments = StripeGateway("sk_test_odd", webhook_secrets=(SECRET,), api_base=server.url, timeout_ms=TIMEOUT_MS)
        settings = Settings(_env_file=None, ledger_hash_key=SecretStr(HASH_KEY), log_level="WARNING")
        sender = log.sender("serve")
        queries = Queries(projector)
        context = AppContext(
            settings, log, sender, projector, queries, Tokens([]), HASH_KEY.encode(), AdjustableStatus(), payments
        )
        app = build_app(context)
        document = app.openapi()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:

            async def once() -> None:
                body = message(chance)
                genuine = sign(body, SECRET if chance.random() < 0.97 else "whsec_other", int(time.time()))
                answer = await client.post("/webhooks/stripe", content=body, headers={"Stripe-Signature": genuine})
                counts[f"{answer.status_code} {answer.json().get('code', '')}"] += 1
                if len(counts) < 10 or counts.total() % 20 == 0:
                    check_described(document, answer)
                assert answer.status_code in (200, 400, 413) or answer.json()["code"] == "provider-unavailable", answer.text

            await often(times, once)
        await payments.close()
        context.close()
        sender.close()
    for record in sent(log, topics):
        command = command_codec().decode(record.value)
        assert (command.order_id.encode(), command.actor) == (record.key, "stripe")
        counts["commands"] += 1
    return counts + Counter({f"webhook: {name}": n for name, n in context.metrics.webhooks.items()})


def message(chance: random.Random) -> bytes:
    """An event about an object, with something wrong in the object, in the event, in its bytes, or nowhere."""
    thing, ref = chance.choice((CHARGE, INTENT, REFUND, DISPUTE)), f"pi_{chance.getrandbits(64)}"  # reads of one are shared
    thing = thing | {"id" if thing is INTENT else "payment_intent": ref}
    kind = chance.choice(
        ("payment_intent.succeeded", "charge.refunded", "refund.updated", "charge.dispute.created", "a.new.kind")
    )
    about = thing if chance.random() < 0.2 else mutated(thing, chance)
    event = {"id": f"evt_{chance.getrandbits(64)}", "object": "event", "type": kind, "livemode": False, "data": {"object": about}}
    event = mutated(event, chance) if chance.random() < 0.2 else event
    raw = bytearray(json.dumps(event | {"about": MARK}).encode())
    match chance.choices(("whole", "bytes", "body"), (85, 12, 3))[0]:
        case "bytes":
            for _ in range(chance.randint(1, 3)):
                raw[chance.randrange(len(raw))] = chance.randrange(256)
        case "body":
            return chance.choice(BODIES)
    return bytes(raw)


def story(reached: Reached, topics: Topics) -> list[Record]:
    """The records of `order-events` that lead to `reached`."""
    steps: list[Command] = []
    at = reached
    while at.parent is not None:
        steps.insert(0, at.command)
        at = at.parent
    steps.insert(0, at.command)
    desk, records = Desk(MemoryStore(), 0, 1, topics, bytes(16)), []
    for offset, step in enumerate(steps):
        value = command_codec().encode(order_command(step, command_id=f"cmd_{offset}"))
        record = Record(topics.commands, 0, offset, at_ms(step) if offset else PLACED_AT, b"ord_1", value)
        new = desk.deal(record, Written(bytes(16), offset, 1))
        assert new is not None
        assert new.topic == topics.events
        records.append(Record(new.topic, 0, offset, new.timestamp_ms, new.key, new.value))
    return records


def sent(log: MemoryLog, topics: Topics) -> list[Record]:
    reader = log.reader("sent")
    reader.assign({TopicPartition(topics.commands, 0): 0})
    records: list[Record] = []
    while more := reader.poll(10_000, 0):
        records += more
    return records


def merged(times: int, seed: int) -> Counter[str]:
    """All of the above, each in its share."""
    counts = asyncio.run(meet(times, seed)) + asyncio.run(read(times // 4, seed)) + asyncio.run(ask_over_grpc(times // 4, seed))
    for state in range(5):
        counts += asyncio.run(hear(times // 5, seed + state))
    return counts


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody folds here, so do not wait for the results of the ledger's own acts."""
    monkeypatch.setattr(webhooks, "OWN_ACT_S", 0.0)


def test_whatever_partners_say_is_facts_or_nothing(leaking_lines: list[str]) -> None:
    counts = merged(1_500, 1)
    assert {kind for kind in owed() if not counts[f"{kind}: failed"]} == set()
    assert sum(n for name, n in counts.items() if name.endswith(": facts")) > 100
    assert counts["commands"] > 20
    assert leaking_lines == []


@pytest.mark.campaign
@pytest.mark.timeout(7200)
def test_hundreds_of_thousands_of_answers_and_messages_are_facts_or_nothing(leaking_lines: list[str]) -> None:
    counts: Counter[str] = Counter()
    for seed in range(100, 110):
        counts += merged(30_000, seed)
        print(seed, dict(sorted(counts.items())), flush=True)
    assert leaking_lines == []
