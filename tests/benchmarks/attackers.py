"""A crowd of bad clients in a process of its own: silent connections, endless headers, slow bodies, lists that cost.

Arguments are `Attack` as JSON. Each client connects again when it is cut off. At the end of standard input, counts of what they
did are printed as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import Counter

import msgspec
from msgspec import Struct

from api.connections import raise_file_limit

AGAIN_S = 0.5  # after being cut off
TRICKLE_S = 1.0


class Attack(Struct, frozen=True, kw_only=True):
    """How many of each; `lists` are whole requests, each sent over and over by `readers` clients."""

    port: int
    silent: int
    headers: int
    bodies: int
    readers: int
    lists: tuple[str, ...]
    post: str  # the header of a post whose body comes a byte at a time


class Crowd:
    def __init__(self, attack: Attack) -> None:
        self._attack = attack
        self.did: Counter[str] = Counter()

    async def run(self, over: asyncio.Event) -> None:
        attack = self._attack
        clients = [self._again("silent", self._wait) for _ in range(attack.silent)]
        clients += [self._again("endless header", self._endless) for _ in range(attack.headers)]
        clients += [self._again("slow body", self._trickle) for _ in range(attack.bodies)]
        clients += [self._again("list", self._read, wanted) for wanted in attack.lists for _ in range(attack.readers)]
        tasks = [asyncio.create_task(client) for client in clients]
        await over.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _again(self, name: str, act: object, *more: str) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._attack.port)
            except OSError:
                self.did[f"{name}: not let in"] += 1
                await asyncio.sleep(AGAIN_S)
                continue
            self.did[name] += 1
            try:
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    await act(reader, writer, *more)  # type: ignore[operator]
            finally:
                writer.transport.abort()
            await asyncio.sleep(AGAIN_S)

    @staticmethod
    async def _wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    @staticmethod
    async def _endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET /live HTTP/1.1\r\nHost: x\r\nX: ")
        while not reader.at_eof():
            writer.write(b"x" * 16_384)
            await writer.drain()
            await asyncio.sleep(0.01)

    async def _trickle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._attack.post.encode())
        while not reader.at_eof():
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(TRICKLE_S)

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wanted: str) -> None:
        while True:
            writer.write(wanted.encode())
            head = await reader.readuntil(b"\r\n\r\n")
            self.did["list: " + head[9:12].decode()] += 1
            length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(length)


async def main() -> None:
    raise_file_limit()
    crowd, over = Crowd(msgspec.json.decode(sys.argv[1].encode(), type=Attack)), asyncio.Event()
    loop = asyncio.get_running_loop()

    def at_end() -> None:
        if not sys.stdin.buffer.read1(4096):
            over.set()

    loop.add_reader(sys.stdin.fileno(), at_end)
    await crowd.run(over)
    loop.remove_reader(sys.stdin.fileno())
    print(msgspec.json.encode(dict(crowd.did)).decode())


if __name__ == "__main__":
    asyncio.run(main())
