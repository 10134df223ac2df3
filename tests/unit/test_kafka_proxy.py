"""The proxy itself, between a client and a server that speak nothing but the framing of Kafka's protocol."""

from __future__ import annotations

import asyncio
import struct
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from ledger.ports import free_port
from tests.support.kafka_proxy import Api, Fate, KafkaProxy, Rule, Rules, running_proxy
from tests.support.patience import PATIENCE_S, until_async

METADATA = 3  # an API whose replies are never disturbed
SILENT = Api.JOIN_GROUP  # one that may wait long for its reply


class Broker:
    """Answers each request with its correlation id and `reply`; `asked` are the correlation ids that arrived.

    Requests of the API `silent` get no reply.
    """

    def __init__(self, reply: bytes = b"reply") -> None:
        self.asked: list[int] = []
        self.silent: int | None = None
        self._reply = reply

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while header := await reader.read(4):
                (size,) = struct.unpack(">i", header)
                api, _, correlation_id = struct.unpack_from(">hhi", await reader.readexactly(size))
                self.asked.append(correlation_id)
                if api == self.silent:
                    continue
                answer = struct.pack(">i", correlation_id) + self._reply
                writer.write(struct.pack(">i", len(answer)) + answer)
        finally:
            writer.close()


class Client:
    """One connection: `ask` sends a request, `answers` reads whatever comes until `count` replies or the end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.number = 0

    def ask(self, api: int, name: str = "client", body: bytes = b"body") -> int:
        self.number += 1
        request = struct.pack(">hhih", api, 9, self.number, len(name)) + name.encode() + body
        self._writer.write(struct.pack(">i", len(request)) + request)
        return self.number

    async def answers(self, count: int) -> list[int]:
        """Correlation ids, at most `count`; fewer if the connection ends."""
        read = []
        while len(read) < count:
            try:
                (size,) = struct.unpack(">i", await self._reader.readexactly(4))
            except asyncio.IncompleteReadError:
                break
            answer = await self._reader.readexactly(size)
            read.append(int.from_bytes(answer[:4], "big"))
        return read

    def close(self) -> None:
        self._writer.close()


def through_a_proxy(
    story: Callable[[KafkaProxy, Broker, Callable[[], Coroutine[Any, Any, Client]]], Coroutine[Any, Any, None]],
    rules: Rules,
    broker: Broker | None = None,
) -> None:
    """Run `story(proxy, broker, connect)`."""
    broker = broker or Broker()

    async def run() -> None:
        server = await asyncio.start_server(broker.serve, "127.0.0.1", 0)
        target, port, clients = server.sockets[0].getsockname()[1], free_port(), list[Client]()

        async def connect() -> Client:
            clients.append(Client(*await asyncio.open_connection("127.0.0.1", port)))
            return clients[-1]

        try:
            async with KafkaProxy({port: target}, rules) as proxy:
                await asyncio.wait_for(story(proxy, broker, connect), PATIENCE_S)
                for client in clients:
                    client.close()
        finally:
            server.close()
            await asyncio.sleep(0)

    asyncio.run(run())


def always(fate: Fate, delay_s: float = 0.2, api: Api = Api.END_TXN, **more: Any) -> Rules:
    return Rules(of={api: Rule(1.0, (fate,), (delay_s, delay_s), **more)})


def test_everything_passes_unchanged_in_order_whatever_its_size() -> None:
    async def story(proxy: KafkaProxy, broker: Broker, connect: Any) -> None:
        client = await connect()
        sent = [client.ask(api, body=bytes(200_000)) for api in (Api.FETCH, METADATA, Api.PRODUCE, METADATA)]
        assert await client.answers(4) == sent == broker.asked
        assert proxy.tally.seen == Counter({Api.FETCH: 1, METADATA: 2, Api.PRODUCE: 1})
        assert proxy.tally.done == Counter()

    through_a_proxy(story, always(Fate.DROP), Broker(reply=bytes(300_000)))


def test_a_dropped_reply_never_comes_and_the_next_one_does() -> None:
    async def story(proxy: KafkaProxy, broker: Broker, connect: Any) -> None:
        client = await connect()
        client.ask(Api.END_TXN)
        later = client.ask(METADATA)
        assert await client.answers(1) == [later]
        assert broker.asked == [1, 2], "the broker did what it was asked"
        assert proxy.tally.done == Counter({(Api.END_TXN, Fate.DROP): 1})

    through_a_proxy(story, always(Fate.DROP))


def test_a_reply_comes_twice() -> None:
    async def story(proxy: KafkaProxy, broker: Broker, connect: Any) -> None:
        client = await connect()
        client.ask(Api.END_TXN)
        client.ask(METADATA)
        assert await client.answers(3) == [1, 1, 2]
        assert broker.asked == [1, 2]

    through_a_proxy(story, always(Fate.DUPLICATE))


def test_a_delayed_reply_holds_back_those_behind_it_and_no_other_connection() -> None:
    async def story(proxy: KafkaProxy, broker: Broker, connect: Any) -> None:
        slow, quick = await connect(), await connect()
        slow.ask(Api.END_TXN)
        slow.ask(METADATA)
        began = time.monotonic()
        await until_async(lambda: broker.asked == [1, 2])
        quick.ask(METADATA)
        assert await quick.answers(1) == [1]
        assert await slow.answers(2) == [1, 2]
        assert time.monotonic() - began >= 0.2

    through_a_proxy(story, always(Fate.DELAY))


def test_a_connection_is_cut_instead_of_a_reply_and_the_next_one_works() -> None:
    async def story(proxy: KafkaProxy, broker: Broker, connect: Any) -> None:
        client = await connect()
        client.ask(Api.END_TXN)
        assert await client.answers(1) == []
        assert broker.asked == [1]
        again = await connect()
        again.ask(Api.END_TXN)
        assert await again.answers(1) == [1], "at most one of this kind"

    through_a_proxy(story, always(Fate.CUT, most=1))


def test_a_late_request_arrives_after_its_connection_has_ended_and_after_its_repetition() -> None:
    async def story(proxy: KafkaProxy, broker: Broker, connect: Any) -> None:
        client = await connect()
        for _ in range(2):
            client.ask(METADATA)
        late = client.ask(Api.END_TXN)
        assert await client.answers(3) in ([1, 2], [1], []), "the connection ends"
        again = await connect()
        again.number = 10
        repeated = again.ask(Api.END_TXN)
        assert await again.answers(1) == [repeated]
        await until_async(lambda: late in broker.asked)
        assert broker.asked == [1, 2, repeated, late]
        await until_async(lambda: proxy.tally.done == Counter({(Api.END_TXN, Fate.LATE): 1}))

    through_a_proxy(story, always(Fate.LATE, delay_s=3.0, most=1))


def test_a_fate_that_cannot_happen_any_more_happens_to_a_later_request() -> None:
    async def story(proxy: KafkaProxy, broker: Broker, connect: Any) -> None:
        silent = await connect()
        silent.ask(SILENT)
        await until_async(lambda: broker.asked == [1])
        silent.close()
        await until_async(lambda: proxy.tally.drawn[SILENT, Fate.DUPLICATE] == 0)
        broker.silent = None
        client = await connect()
        client.ask(SILENT)
        assert await client.answers(2) == [1, 1]

    broker = Broker()
    broker.silent = SILENT
    through_a_proxy(story, always(Fate.DUPLICATE, api=SILENT, most=1), broker)


def test_each_fate_happens_as_often_as_it_may_and_then_everything_passes() -> None:
    async def story(proxy: KafkaProxy, broker: Broker, connect: Any) -> None:
        client = await connect()
        assert not proxy.tally.is_complete()
        for _ in range(10):
            client.ask(Api.END_TXN)
        assert len(await client.answers(10)) == 10, "two are lost, two come twice"
        assert proxy.tally.done == Counter({(Api.END_TXN, fate): 2 for fate in (Fate.DELAY, Fate.DROP, Fate.DUPLICATE)})
        assert proxy.tally.is_complete()
        proxy.obey(proxy.tally.rules)
        assert (proxy.tally.done, proxy.tally.is_complete()) == (Counter(), False)

    through_a_proxy(story, Rules(of={Api.END_TXN: Rule(1.0, delay_s=(0.0, 0.0), most=2)}))


def test_only_requests_of_the_named_clients_are_disturbed() -> None:
    async def story(proxy: KafkaProxy, broker: Broker, connect: Any) -> None:
        client = await connect()
        client.ask(Api.END_TXN, "reader-1")
        client.ask(Api.END_TXN, "writer-1")
        client.ask(Api.END_TXN, "reader-2")
        assert await client.answers(2) == [1, 3]

    through_a_proxy(story, Rules(of={Api.END_TXN: Rule(1.0, (Fate.DROP,))}, client="writer"))


def test_without_a_broker_a_connection_ends() -> None:
    async def run() -> None:
        port = free_port()
        async with KafkaProxy({port: free_port()}):
            client = Client(*await asyncio.open_connection("127.0.0.1", port))
            assert await client.answers(1) == []
            client.close()

    asyncio.run(run())


def test_a_reply_to_nothing_is_an_error_of_the_rig() -> None:
    async def story(proxy: KafkaProxy, broker: Broker, connect: Any) -> None:
        client = await connect()
        client.ask(METADATA)
        assert await client.answers(1) == []

    class Confused(Broker):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(4)
            writer.write(struct.pack(">ii", 4, 99))
            writer.close()

    with pytest.raises(KeyError, match="99"):
        through_a_proxy(story, Rules(), Confused())


def test_the_seed_alone_decides_the_fate_of_each_request() -> None:
    def fates(seed: int, api: Api) -> list[tuple[Fate, float]]:
        rules = Rules(seed, {Api.END_TXN: Rule(0.3), Api.FETCH: Rule(0.3)})
        return [rules.draw(api, number) for number in range(1000)]

    drawn = fates(1, Api.END_TXN)
    assert drawn == fates(1, Api.END_TXN)
    assert drawn != fates(2, Api.END_TXN)
    assert drawn != fates(1, Api.FETCH)
    assert {fate for fate, _ in fates(1, Api.PRODUCE)} == {Fate.PASS}
    counts = Counter(fate for fate, _ in drawn)
    assert counts.keys() == {Fate.PASS, Fate.DELAY, Fate.DROP, Fate.DUPLICATE}
    assert 600 < counts[Fate.PASS] < 800
    assert all(0.05 <= delay_s <= 0.5 for fate, delay_s in drawn if fate is not Fate.PASS)


def test_it_runs_in_a_thread_beside_a_test() -> None:
    async def ask(port: int) -> list[int]:
        client = Client(*await asyncio.open_connection("127.0.0.1", port))
        client.ask(METADATA)
        answers = await client.answers(1)
        client.close()
        return answers

    broker_port, port = free_port(), free_port()

    async def serve_and_ask() -> list[int]:
        server = await asyncio.start_server(Broker().serve, "127.0.0.1", broker_port)
        answers = await ask(port)
        server.close()
        await asyncio.sleep(0)
        return answers

    with running_proxy({port: broker_port}) as proxy:
        assert asyncio.run(serve_and_ask()) == [1]
    assert proxy.tally.seen == Counter({METADATA: 1})


def test_a_port_that_is_taken_fails_the_block() -> None:
    port = free_port()
    with running_proxy({port: free_port()}), pytest.raises(OSError, match="address already in use"), running_proxy({port: 1}):
        raise AssertionError("it started")
