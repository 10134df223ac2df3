"""One look at a time, and none that began before its asker."""

from __future__ import annotations

import asyncio

import pytest

from commands.reconciler.shared_reads import SharedReads


class World:
    """Something that changes; a look takes its reading when it begins and gives it when it is let go."""

    def __init__(self) -> None:
        self.state = 0
        self.looks = 0
        self.at_once = self.most_at_once = 0
        self.go = asyncio.Event()

    async def look(self, name: str) -> int:
        seen = self.state
        self.looks += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await self.go.wait()
        self.at_once -= 1
        if name == "broken":
            raise KeyError(name)
        return seen


def test_whoever_asks_meanwhile_shares_the_next_look_and_sees_what_was_true_when_he_asked() -> None:
    async def main() -> None:
        world = World()
        reads = SharedReads(world.look)
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
        assert world.looks == 3
        assert reads.shared == 4
        world.state = 2
        assert await reads.read("a") == 2  # nothing is kept

    asyncio.run(main())


def test_askers_without_news_share_one_look_a_pause_unless_somebody_has_news() -> None:
    async def main() -> None:
        world = World()
        world.go.set()
        reads = SharedReads(world.look)
        assert await reads.read("a", pause_s=3600) == 0  # the first one need not wait
        world.state = 1
        patient = [asyncio.create_task(reads.read("a", pause_s=3600)) for _ in range(30)]
        other = asyncio.create_task(reads.read("b", pause_s=3600))
        assert await other == 1
        assert not any(task.done() for task in patient)
        assert world.looks == 2
        world.state = 2
        assert await reads.read("a") == 2
        assert await asyncio.gather(*patient) == [2] * 30
        assert world.looks == 3
        assert await reads.read("a", pause_s=0.05) == 2  # the pause ends by itself

    asyncio.run(main())


def test_what_a_look_raises_reaches_everyone_and_the_next_one_is_made_all_the_same() -> None:
    async def main() -> None:
        world = World()
        world.go.set()
        reads = SharedReads(world.look)
        found = await asyncio.gather(*(reads.read("broken") for _ in range(4)), return_exceptions=True)
        assert [type(x) for x in found] == [KeyError] * 4
        assert world.looks == 1  # it had not begun when the last of them asked
        with pytest.raises(KeyError):
            await reads.read("broken")

    asyncio.run(main())


def test_one_who_gives_up_takes_nothing_from_the_others_and_closing_ends_them_all() -> None:
    async def main() -> None:
        world = World()
        reads = SharedReads(world.look)
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
