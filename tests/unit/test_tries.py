"""How one outside call is tried, and what is never tried twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import pytest

from commands.reconciler.tries import TRIES, is_not_now, may_repeat, with_tries

NOT_NOW = "not now"
T = TypeVar("T")


class JumpingLoop(asyncio.SelectorEventLoop):
    """Its clock jumps to the next timer as soon as nothing else is left to do, so that minutes take no time."""

    ahead_s = 0.0

    def time(self) -> float:
        return super().time() + self.ahead_s

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            self.ahead_s += max(0.0, self._scheduled[0]._when - self.time())
        super()._run_once()


def run(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(main)


def soon(low: float, high: float) -> float:
    """No jitter, and hardly a pause."""
    return 0.001


class Service:
    """Gives these answers in turn: a text, or (seconds, text). Counts calls in progress and calls that were cut off."""

    def __init__(self, *answers: str | tuple[float, str]) -> None:
        self._answers = list(answers)
        self.calls = self.in_progress = self.cancelled = 0
        self.asked = asyncio.Event()

    async def once(self) -> str:
        answer = self._answers[min(self.calls, len(self._answers) - 1)]
        self.calls += 1
        self.in_progress += 1
        self.asked.set()
        try:
            pause_s, text = answer if isinstance(answer, tuple) else (0.0, answer)
            await asyncio.sleep(pause_s)
            return text
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.in_progress -= 1


def again_after(text: str) -> float | None:
    """`not now`, or `not now 3.5` with the pause that is asked for."""
    return float(text.removeprefix(NOT_NOW) or 0.0) if text.startswith(NOT_NOW) else None


def tried(service: Service, limit_s: float = 30.0, tries: int = TRIES) -> str:
    async def main() -> str:
        try:
            return await with_tries(service.once, again_after, limit_s, tries, soon)
        finally:
            assert service.in_progress == 0

    return run(main())


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_a_call_that_gets_not_now_is_made_again_until_it_is_answered(failures: int) -> None:
    service = Service(*[NOT_NOW] * failures, "done")
    assert tried(service) == "done"
    assert service.calls == failures + 1


def test_after_three_tries_the_last_answer_counts() -> None:
    service = Service(NOT_NOW)
    assert tried(service) == NOT_NOW
    assert service.calls == 3


def test_a_call_with_a_definite_answer_is_never_repeated() -> None:
    service = Service("refused", "done")
    assert tried(service) == "refused"
    assert service.calls == 1


def test_a_call_that_may_not_be_repeated_is_tried_once() -> None:
    service = Service(NOT_NOW, "done")
    assert tried(service, tries=1) == NOT_NOW
    assert service.calls == 1


def test_a_try_that_hangs_gets_another_one_beside_it_and_ends_when_that_one_is_answered() -> None:
    service = Service((600.0, "late"), "done")
    assert tried(service, limit_s=10.0) == "done"
    assert (service.calls, service.cancelled) == (2, 1)


def test_an_answer_that_comes_after_half_of_the_time_still_counts() -> None:
    """A service that is always that slow is not cut off at a share of the time: it works as it did without tries."""
    service = Service((9.0, "late"), (600.0, "never"), (600.0, "never"))
    assert tried(service, limit_s=10.0) == "late"
    assert service.calls == 3


def test_when_the_time_is_over_nothing_is_left_in_progress() -> None:
    service = Service((600.0, "never"))
    with pytest.raises(TimeoutError):
        tried(service, limit_s=10.0)
    assert service.calls == service.cancelled == 3


def test_a_pause_that_is_asked_for_is_kept_or_the_call_fails_immediately() -> None:
    async def main(service: Service, limit_s: float) -> tuple[str, float, float]:
        """The answer, the time that it took, and how much of that was waiting: a slow machine adds to the one only."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, JumpingLoop)
        began = loop.time()
        return await with_tries(service.once, again_after, limit_s, TRIES, soon), loop.time() - began, loop.ahead_s

    text, took_s, waited_s = run(main(Service(f"{NOT_NOW} 7", "done"), 60.0))
    assert text == "done"
    assert took_s >= 7
    assert waited_s < 8
    too_long = Service(f"{NOT_NOW} 61", "done")
    text, _, waited_s = run(main(too_long, 60.0))
    assert (text, too_long.calls) == (f"{NOT_NOW} 61", 1)
    assert waited_s < 1


def test_pauses_are_short_and_never_the_same_for_all() -> None:
    asked: list[tuple[float, float]] = []

    def noted(low: float, high: float) -> float:
        asked.append((low, high))
        return 0.0

    run(with_tries(Service(NOT_NOW).once, again_after, 30.0, TRIES, noted))
    assert all(0 < low < high <= 0.2 for low, high in asked)
    assert len(asked) == 3


def test_a_fault_of_the_product_and_a_cancelled_caller_leave_nothing_in_progress() -> None:
    hanging = Service((600.0, "never"))

    async def broken() -> str:
        raise RuntimeError("ours")

    async def main(once: Callable[[], Awaitable[str]]) -> None:
        await with_tries(once, again_after, 30.0, TRIES, soon)

    with pytest.raises(RuntimeError, match="ours"):
        run(main(broken))

    async def cancelled_caller() -> None:
        task = asyncio.create_task(main(hanging.once))
        await hanging.asked.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert hanging.in_progress == 0

    run(cancelled_caller())
    assert hanging.cancelled == 1


def test_only_reads_and_calls_with_a_key_may_be_repeated() -> None:
    assert may_repeat("GET", {})
    assert may_repeat("get", {})
    assert may_repeat("POST", {"idempotency-key": "pi:1"})
    assert may_repeat("DELETE", {"Idempotency-Key": "rel:1"})
    assert not may_repeat("POST", {})
    assert not may_repeat("PUT", {"Idempotency-Key": ""})


def test_which_statuses_say_not_now() -> None:
    assert [s for s in (200, 302, 400, 401, 402, 404, 409, 422, 429, 500, 502, 503, 504) if is_not_now(s)] == [
        *(409, 429, 500, 502, 503, 504)
    ]
