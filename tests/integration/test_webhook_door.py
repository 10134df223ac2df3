"""One delivery over HTTP: what each answer means, what is bounded, and which addresses are reached."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from commands.webhooks.door import Attempt, WebhookDoor
from ledger.ports import free_port
from tests.support.patience import PATIENCE_S
from tests.support.webhook_receiver import MANNERS, OK, Receiver

HEADERS = {"webhook-id": "ord_a/1"}
NEVER_ANSWERED = ("silent", "drips")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    yield running
    running.close()


def posted(url: str, allow_private: bool = True, times: int = 1, timeout_s: float = PATIENCE_S) -> list[Attempt]:
    async def post() -> list[Attempt]:
        door = WebhookDoor(url, allow_private=allow_private, timeout_s=timeout_s)
        try:
            return [await door.post(b"{}", HEADERS, time.time()) for _ in range(times)]
        finally:
            await door.close()

    return asyncio.run(post())


EXPECTED = {
    OK: Attempt("delivered", 204),
    "500": Attempt("refused", 500),
    "404": Attempt("refused", 404),
    "redirect": Attempt("refused", 302),
    "busy": Attempt("refused", 429, "", 7200.0),
    "gone": Attempt("gone", 410),
}


@pytest.mark.parametrize("manner", [OK, "gone", *MANNERS])
def test_each_way_to_answer_has_one_meaning(receiver: Receiver, manner: str) -> None:
    receiver.manner = lambda got: manner
    timeout_s = 0.5 if manner in NEVER_ANSWERED else PATIENCE_S
    (attempt,) = posted(receiver.url, timeout_s=timeout_s)
    while not receiver.got:  # on a slow machine, the time is over before the request has arrived
        assert attempt.result == "timed_out"
        timeout_s *= 4
        (attempt,) = posted(receiver.url, timeout_s=timeout_s)
    if manner in EXPECTED:
        assert attempt == EXPECTED[manner]
    else:
        assert attempt.result == ("timed_out" if manner in NEVER_ANSWERED else "no_answer")
        assert attempt.status == 0
    assert {got.path for got in receiver.got} == {"/hook"}, "a redirect is not followed"


def test_a_connection_is_kept_for_the_next_delivery(receiver: Receiver) -> None:
    assert [attempt.result for attempt in posted(receiver.url, times=3)] == ["delivered"] * 3
    assert receiver.connections == 1


def test_nobody_listens() -> None:
    (attempt,) = posted(f"http://127.0.0.1:{free_port()}/")
    assert attempt.result == "no_answer"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "localhost."])
def test_an_address_inside_is_not_reached_however_it_is_written(receiver: Receiver, host: str) -> None:
    (attempt,) = posted(f"http://{host}:{receiver.port}/hook", allow_private=False)
    assert attempt.result in ("private_address", "no_answer")  # some resolvers do not take every spelling
    assert receiver.connections == 0
    if host in ("127.0.0.1", "localhost"):
        assert attempt == Attempt("private_address")


def test_a_name_that_changes_its_address_after_the_check_is_not_followed(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection goes to the address that was checked: the name is not resolved a second time."""
    asked: list[str] = []

    async def addresses(self: WebhookDoor, host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    monkeypatch.setattr(WebhookDoor, "_addresses", addresses)
    (attempt,) = posted(f"http://rebinding.invalid:{receiver.port}/hook", allow_private=False)
    assert attempt.result == "delivered", "no resolver of the system knows this name"
    assert asked == ["rebinding.invalid"]


def test_proxies_of_the_environment_are_not_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would resolve the name itself, and reach what it can."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{receiver.port}")
    (attempt,) = posted("http://nobody.invalid/hook", allow_private=False)
    assert attempt.result == "no_answer"
    assert receiver.connections == 0
