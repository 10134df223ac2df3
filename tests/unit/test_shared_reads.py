"""One read at a time, and none that began before its caller asked."""

from __future__ import annotations

import asyncio

import pytest

from commands.reconciler.shared_reads import SharedReads


class World:
    """Something that changes; a read takes the value when it begins and returns it when `go` is set."""

    def __init__(self) -> None:
        self.state = 0
        self.calls = 0
        self.in_progress = self.most_in_progress = 0
        self.go = asyncio.Event()

    async def read(self, name: str) -> int:
        seen = self.state
        self.calls += 1
        self.in_progress += 1
        self.most_in_progress = max(self.most_in_progress, self.in_progress)
        await self.go.wait()
        self.in_progress -= 1
        if name == "broken":
            raise KeyError(name)
        return seen


def test_callers_during_a_read_share_the_next_one_and_see_what_was_true_when_they_asked() -> None:
    async def main() -> None:
        world = World()
        reads = SharedReads(world.read)
        first = asyncio.create_task(reads.read("a"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        world.state = 1
        later = [asyncio.create_task(reads.read("a")) for _ in range(5)]
        other = asyncio.create_task(reads.read("b"))
        await asyncio.sleep(0)
        world.go.set()
        assert await first == 0
        assert await asyncio.gather(*later) == [1] * 5
        assert await other == 1
        assert world.calls == 3
        assert reads.shared == 4
        world.state = 2
        assert await reads.read("a") == 2  # nothing is cached

    asyncio.run(main())


def test_callers_without_news_share_one_read_a_pause_unless_somebody_has_news() -> None:
    async def main() -> None:
        world = World()
        world.go.set()
        reads = SharedReads(world.read)
        assert await reads.read("a", pause_s=3600) == 0  # the first caller need not wait
        world.state = 1
        patient = [asyncio.create_task(reads.read("a", pause_s=3600)) for _ in range(30)]
        other = asyncio.create_task(reads.read("b", pause_s=3600))
        assert await other == 1
        assert not any(task.done() for task in patient)
        assert world.calls == 2
        world.state = 2
        assert await reads.read("a") == 2
        assert await asyncio.gather(*patient) == [2] * 30
        assert world.calls == 3
        assert await reads.read("a", pause_s=0.05) == 2  # the pause ends on its own

    asyncio.run(main())


def test_what_a_read_raises_reaches_every_caller_and_the_next_one_still_happens() -> None:
    async def main() -> None:
        world = World()
        world.go.set()
        reads = SharedReads(world.read)
        results = await asyncio.gather(*(reads.read("broken") for _ in range(4)), return_exceptions=True)
        assert [type(x) for x in results] == [KeyError] * 4
        assert world.calls == 1  # the read had not begun when the last of them asked
        with pytest.raises(KeyError):
            await reads.read("broken")

    asyncio.run(main())


def test_a_caller_that_gives_up_costs_the_others_nothing_and_closing_ends_them_all() -> None:
    async def main() -> None:
        world = World()
        reads = SharedReads(world.read)
        asking = [asyncio.create_task(reads.read("a")) for _ in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        asking[0].cancel()
        asking[1].cancel()
        world.go.set()
        assert await asking[2] == 0
        world.go.clear()
        left = asyncio.create_task(reads.read("a"))
        await asyncio.sleep(0)
        await reads.close()
        with pytest.raises(asyncio.CancelledError):
            await left

    asyncio.run(main())
