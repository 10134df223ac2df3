"""A TCP proxy in front of Kafka that delays, loses or repeats the replies of chosen requests, as a seed says.

It knows the framing of Kafka's protocol and nothing else of it: a request is its size, the key and version of its API, a
correlation id and the name of the client; a reply is its size and that id (https://kafka.apache.org/protocol). A broker whose
advertised listener is a port of the proxy is reached only through it: `proxied_ports` of `EmbeddedBroker`.

    with running_proxy({advertised: listening}) as proxy:
        proxy.obey(Rules(seed=7, of={Api.END_TXN: Rule(share=0.1)}))
"""

from __future__ import annotations

import asyncio
import random
import struct
import threading
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import NamedTuple

from tests.support.patience import PATIENCE_S

_SIZE = struct.Struct(">i")
_REQUEST = struct.Struct(">hhih")  # API, its version, correlation id, length of the client's name (-1: none)
_REPLY = struct.Struct(">i")  # correlation id
LATE_S = 5.0  # so long the broker may take for a request whose client is gone


class Api(IntEnum):
    """Keys of the APIs whose replies may be disturbed."""

    PRODUCE = 0
    FETCH = 1
    JOIN_GROUP = 11
    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS_TO_TXN = 24
    END_TXN = 26


class Fate(StrEnum):
    """What becomes of one request and its reply. The broker always does what it was asked."""

    PASS = "pass"
    DELAY = "delay"  # the reply comes late, and later ones of its connection behind it
    DROP = "drop"  # the reply never comes; the connection stays open
    DUPLICATE = "duplicate"  # the reply comes twice
    CUT = "cut"  # the connection ends instead
    LATE = "late"  # the connection ends, and only then does the request reach the broker: perhaps after its repetition


class Rule(NamedTuple):
    """The fates of one API: `share` of its requests have one of `fates`, each at most `most` times. Delays are drawn evenly."""

    share: float
    fates: tuple[Fate, ...] = (Fate.DELAY, Fate.DROP, Fate.DUPLICATE)
    delay_s: tuple[float, float] = (0.05, 0.5)
    most: int | None = None


@dataclass(frozen=True)
class Rules:
    """Which requests have which fate: a function of the seed, the API and the number of the request among those of its API.

    `client`: only requests of clients whose names begin so.
    """

    seed: int = 0
    of: Mapping[Api, Rule] = field(default_factory=dict)
    client: str = ""

    def draw(self, api: int, number: int, spent: Container[Fate] = ()) -> tuple[Fate, float]:
        """(fate, delay in s) of the request with this number, from 0; never a fate that is `spent`."""
        rule = next((rule for key, rule in self.of.items() if key == api), None)
        chance = random.Random(f"{self.seed} {api} {number}")
        if rule is None or chance.random() >= rule.share or not (left := [fate for fate in rule.fates if fate not in spent]):
            return Fate.PASS, 0.0
        return chance.choice(left), chance.uniform(*rule.delay_s)


@dataclass
class Tally:
    """What happened under some rules: requests by API, and disturbed ones by API and fate, as drawn and as done."""

    rules: Rules
    seen: Counter[int] = field(default_factory=Counter)
    drawn: Counter[tuple[int, Fate]] = field(default_factory=Counter)
    done: Counter[tuple[Api, Fate]] = field(default_factory=Counter)

    def is_complete(self) -> bool:
        """Whether each fate of each rule happened as often as it may. Never true for a rule without `most`."""
        return all(
            rule.most is not None and self.done[api, fate] >= rule.most
            for api, rule in self.rules.of.items()
            for fate in rule.fates
        )

    def pending(self) -> int:
        """How many requests have a fate that has not happened yet."""
        return sum(count for (_, fate), count in self.drawn.items() if fate is not Fate.PASS) - self.done.total()


class Asked(NamedTuple):
    """A request without a reply yet."""

    api: int
    fate: Fate
    delay_s: float
    tally: Tally

    def note(self) -> None:
        """Its fate has happened."""
        if self.fate is not Fate.PASS:
            self.tally.done[Api(self.api), self.fate] += 1

    def withdraw(self) -> None:
        """Its fate will not happen, because its connection has ended."""
        self.tally.drawn[self.api, self.fate] -= 1


class KafkaProxy:
    """Forwards each port of `targets` to another one, both on 127.0.0.1. Use it as an async context manager."""

    def __init__(self, targets: Mapping[int, int], rules: Rules | None = None) -> None:
        self.tally = Tally(rules or Rules())
        self._targets = dict(targets)
        self._servers: list[asyncio.Server] = []
        self._connections: set[asyncio.Task[None]] = set()
        self._bugs: list[BaseException] = []

    def obey(self, rules: Rules) -> None:
        """From now on; the tally starts over. May be called from any thread."""
        self.tally = Tally(rules)

    async def __aenter__(self) -> KafkaProxy:
        for port, target in self._targets.items():
            self._servers.append(await asyncio.start_server(self._accepting(target), "127.0.0.1", port))
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()
        while connections := list(self._connections):
            for connection in connections:
                connection.cancel()
            await asyncio.gather(*connections, return_exceptions=True)
        await asyncio.sleep(0)  # transports close in the next turn of the loop
        if self._bugs:
            raise self._bugs[0]

    def _accepting(self, target: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.get_running_loop().create_task(self._connection(target, reader, writer))
            self._connections.add(task)
            task.add_done_callback(self._ended)

        return accept

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._connections.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            self._bugs.append(exc)

    async def _connection(self, target: int, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """One connection of a client and its connection to the broker: both end together."""
        try:
            broker, to_broker = await asyncio.open_connection("127.0.0.1", target)
        except OSError:  # no broker: the client meets what it would meet without a proxy
            to_client.close()
            return
        waiting: dict[int, Asked] = {}
        pumps = [
            asyncio.create_task(self._requests(client, to_client, to_broker, waiting)),
            asyncio.create_task(self._replies(broker, to_client, waiting)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            if pumps[0].done() and any(asked.fate is Fate.LATE for asked in waiting.values()):
                await asyncio.wait(pumps[1:], timeout=LATE_S)
        finally:
            for asked in waiting.values():
                asked.withdraw()
            for pump in pumps:
                pump.cancel()
            for writer in (to_client, to_broker):
                writer.close()
            outcomes = await asyncio.gather(*pumps, return_exceptions=True)
            # Whatever else was raised than the end of a connection is a bug of the proxy.
            self._bugs += [one for one in outcomes if isinstance(one, Exception) and not isinstance(one, OSError)]

    async def _requests(
        self,
        client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        to_broker: asyncio.StreamWriter,
        waiting: dict[int, Asked],
    ) -> None:
        while (frame := await _frame(client)) is not None:
            api, _, correlation_id, length = _REQUEST.unpack_from(frame)
            asked = self._asked(api, frame[_REQUEST.size : _REQUEST.size + max(0, length)])
            waiting[correlation_id] = asked  # from here on, the end of the connection withdraws it
            if asked.fate is Fate.LATE:
                to_client.close()
                await asyncio.sleep(asked.delay_s)
            to_broker.write(_SIZE.pack(len(frame)) + frame)
            await to_broker.drain()
            if asked.fate is Fate.LATE:
                return

    async def _replies(self, broker: asyncio.StreamReader, to_client: asyncio.StreamWriter, waiting: dict[int, Asked]) -> None:
        while (frame := await _frame(broker)) is not None:
            number = _REPLY.unpack_from(frame)[0]
            asked = waiting[number]
            if asked.fate is Fate.DELAY:
                await asyncio.sleep(asked.delay_s)
            del waiting[number]
            asked.note()
            if asked.fate in (Fate.CUT, Fate.LATE):
                return
            copies = {Fate.DROP: 0, Fate.DUPLICATE: 2}.get(asked.fate, 1)
            if copies and not to_client.is_closing():
                to_client.write((_SIZE.pack(len(frame)) + frame) * copies)
                await to_client.drain()

    def _asked(self, api: int, client: bytes) -> Asked:
        tally = self.tally
        if not client.startswith(tally.rules.client.encode()):
            return Asked(api, Fate.PASS, 0.0, tally)
        most = next((rule.most for key, rule in tally.rules.of.items() if key == api), None)
        spent = [fate for fate in Fate if most is not None and tally.drawn[api, fate] >= most]
        fate, delay_s = tally.rules.draw(api, tally.seen[api], spent)
        tally.seen[api] += 1
        tally.drawn[api, fate] += 1
        return Asked(api, fate, delay_s, tally)


async def _frame(reader: asyncio.StreamReader) -> bytes | None:
    """The next request or reply without its size; None at the end of the connection, also in the middle of one."""
    try:
        (size,) = _SIZE.unpack(await reader.readexactly(_SIZE.size))
        return await reader.readexactly(size)
    except (asyncio.IncompleteReadError, OSError):
        return None


@contextmanager
def running_proxy(targets: Mapping[int, int], rules: Rules | None = None) -> Iterator[KafkaProxy]:
    """A proxy on an event loop in a thread, until the block ends."""
    proxy, ready = KafkaProxy(targets, rules), threading.Event()
    loop, failed = asyncio.new_event_loop(), list[BaseException]()
    ending = asyncio.Event()

    async def run() -> None:
        async with proxy:
            ready.set()
            await ending.wait()

    def work() -> None:
        try:
            loop.run_until_complete(run())
        except BaseException as exc:
            failed.append(exc)
        finally:
            ready.set()
            loop.close()

    thread = threading.Thread(target=work, name="kafka-proxy")
    thread.start()
    try:
        assert ready.wait(PATIENCE_S)
        if not failed:
            yield proxy
    finally:
        if not failed:
            loop.call_soon_threadsafe(ending.set)
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    if failed:
        raise failed[0]
