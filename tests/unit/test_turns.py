"""Long work on an event loop lets others have their turn, and only one piece of it has a turn at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from ledger.turns import Steps, Turns, in_one_go


def counted(steps: int, seen: list[str], name: str = "") -> Steps[int]:
    for n in range(steps):
        seen.append(f"{name}{n}")
        yield
    return steps


def every_step_a_turn() -> Turns:
    return Turns(short_s=0.0, turn_s=1e-9)


def test_work_is_done_in_steps_and_others_have_their_turn_between_two() -> None:
    async def main() -> None:
        seen: list[str] = []
        work = asyncio.create_task(every_step_a_turn().run(counted(5, seen)))
        others = 0
        while not work.done():
            await asyncio.sleep(0)
            others += 1
        assert work.result()[0] == 5
        assert others >= 5
        assert seen == ["0", "1", "2", "3", "4"]

    asyncio.run(main())


def test_short_work_is_done_immediately_whoever_has_a_turn() -> None:
    async def main() -> None:
        turns, seen = Turns(short_s=60.0, turn_s=1e-9), list[str]()
        async with turns._lane:
            coroutine = turns.run(counted(3, seen))
            with pytest.raises(StopIteration) as ended:
                coroutine.send(None)  # no turn of the loop was needed
        assert ended.value.value[0] == 3

    asyncio.run(main())


def test_one_has_a_turn_at_a_time_in_the_order_of_asking() -> None:
    async def main() -> None:
        turns, seen = every_step_a_turn(), list[str]()
        await asyncio.gather(*(turns.run(counted(4, seen, name)) for name in "abc"))
        assert seen == [f"{name}{n}" for n in range(4) for name in "abc"]

    asyncio.run(main())


def test_however_many_work_a_round_of_the_loop_has_one_turn() -> None:
    async def main() -> None:
        turns, seen = every_step_a_turn(), list[str]()
        works = [asyncio.create_task(turns.run(counted(10, seen, str(n)))) for n in range(8)]
        most, before = 0, 0
        while not all(work.done() for work in works):
            await asyncio.sleep(0)
            most, before = max(most, len(seen) - before), len(seen)
        assert len(seen) == 80
        assert most == 1

    asyncio.run(main())


def test_work_that_many_begin_at_the_same_moment_waits_for_turns_however_short_it_is() -> None:
    async def main() -> None:
        turns, seen = Turns(), list[str]()
        works = [asyncio.create_task(turns.run(counted(1, seen, str(n)), wait_turn=True)) for n in range(8)]
        most, before = 0, 0
        while not all(work.done() for work in works):
            await asyncio.sleep(0)
            most, before = max(most, len(seen) - before), len(seen)
        assert (len(seen), most) == (8, 1)

    asyncio.run(main())


def test_nothing_is_awaited_after_the_last_step() -> None:
    """A caller that sees nothing new and then waits for news must not miss what comes between."""

    async def main() -> None:
        turns, done = every_step_a_turn(), list[str]()

        def last() -> Steps[None]:
            yield
            asyncio.get_running_loop().call_soon(done.append, "meanwhile")

        await turns.run(last(), wait_turn=True)
        done.append("returned")
        await asyncio.sleep(0)
        assert done == ["returned", "meanwhile"]

    asyncio.run(main())


def test_exceptions_of_steps_reach_the_caller_and_abandoned_work_is_closed() -> None:
    closed: list[str] = []

    def failing() -> Steps[None]:
        yield
        raise KeyError("of the work")

    def endless() -> Iterator[None]:
        try:
            while True:
                yield
        finally:
            closed.append("endless")

    async def main() -> None:
        turns = every_step_a_turn()
        with pytest.raises(KeyError, match="of the work"):
            await turns.run(failing())
        abandoned = asyncio.create_task(turns.run(endless()))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        abandoned.cancel()
        with pytest.raises(asyncio.CancelledError):
            await abandoned
        assert (await turns.run(counted(2, [])))[0] == 2, "the lane is free again"

    asyncio.run(main())
    assert closed == ["endless"]


def test_without_a_loop_it_is_done_in_one_go() -> None:
    seen: list[str] = []
    assert in_one_go(counted(3, seen)) == 3
    assert len(seen) == 3


def test_every_turn_is_reported_also_of_work_that_fails_or_is_abandoned() -> None:
    def failing() -> Steps[None]:
        yield
        raise ValueError

    def endless() -> Steps[None]:
        while True:
            yield

    async def main() -> None:
        turns, worked = every_step_a_turn(), list[float]()
        _, took_s = await turns.run(counted(3, []), worked=worked.append)
        assert sum(worked) == pytest.approx(took_s)
        assert len(worked) >= 3
        worked.clear()
        with pytest.raises(ValueError):
            await turns.run(failing(), worked=worked.append)
        assert worked
        worked.clear()
        abandoned = asyncio.create_task(turns.run(endless(), worked=worked.append))
        while not worked:  # noqa: ASYNC110  a turn is no event
            await asyncio.sleep(0)
        abandoned.cancel()
        await asyncio.gather(abandoned, return_exceptions=True)
        assert all(seconds > 0 for seconds in worked)

    asyncio.run(main())
