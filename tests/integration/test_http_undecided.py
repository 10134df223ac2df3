"""Commands over HTTP whose outcome is not known yet, and where to ask for it. In memory, and on Kafka."""

from __future__ import annotations

import time
from typing import Any

import pytest

from api import call
from api import replies as outcomes
from ledger.log import Reader
from tests.support.harness import RunningLedger, decided, key, order_body, placed
from tests.support.patience import PATIENCE_S

pytestmark = pytest.mark.usefixtures("acks_without_hurry")


def test_respond_async_answers_when_the_command_is_durable_and_names_its_location(ledger: RunningLedger) -> None:
    client, headers = ledger.client(), key()
    with ledger.folding.paused():
        answer = client.post("/orders", json=order_body(), headers=headers | {"Prefer": "respond-async"})
        assert (answer.status_code, answer.headers["preference-applied"]) == (202, "respond-async")
        place = answer.headers["location"]
        assert place.startswith(f"/commands/{answer.json()['command_id']}?at=")
        pending = client.get(place)
        assert (pending.status_code, pending.json()) == (200, answer.json())
        assert ledger.client(customer="c-2").get(place).json()["code"] == "command-unknown"
        assert ledger.client("admin").get(place).json()["code"] == "command-unknown"
        assert client.get(place.split("?")[0]).json()["code"] == "command-unknown"
        partition, offset = place.split("at=")[1].split("-")
        for other in (f"{partition}-{int(offset) + 1000}", f"{(int(partition) + 1) % 4}-0"):
            assert client.get(f"{place.split('?')[0]}?at={other}").json()["code"] == "command-unknown"
    deadline = time.monotonic() + PATIENCE_S
    while (state := client.get(place).json())["state"] == "pending":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert state == answer.json() | {"state": "accepted", "version": 1}
    assert client.get(place.split("?")[0]).json() == state
    replay = client.post("/orders", json=order_body(), headers=headers)
    assert (replay.status_code, replay.headers["idempotency-replayed"]) == (201, "true")


@pytest.mark.parametrize(
    ("prefer", "applied"), [("wait=0", "wait=0"), ("wait=1", "wait=1"), ("respond-async, wait=1", "respond-async, wait=1")]
)
def test_a_command_that_is_not_decided_in_time_is_202(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch, prefer: str, applied: str
) -> None:
    for module, name in ((outcomes, "DEFAULT_WAIT_S"), (call, "MAX_WAIT_S")):
        monkeypatch.setattr(module, name, 2 * PATIENCE_S)  # any wait other than the requested one would take this long
    client, headers = ledger.client(), key()
    with ledger.folding.paused():
        began = time.monotonic()
        answer = client.post("/orders", json=order_body(), headers=headers | {"Prefer": prefer})
        assert (answer.status_code, answer.headers["preference-applied"]) == (202, applied)
        assert int(prefer[-1]) - 0.05 < time.monotonic() - began < PATIENCE_S
    assert decided(client, "/orders", order_body(), **headers).status_code == 201


def test_a_wait_that_is_too_long_is_cut_as_the_answer_says_and_nonsense_is_ignored(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = ledger.client()
    answer = client.post("/orders", json=order_body(), headers=key() | {"Prefer": "handling=lenient, wait=99"})
    assert answer.headers["preference-applied"] == "wait=10"
    monkeypatch.setattr(outcomes, "DEFAULT_WAIT_S", PATIENCE_S)
    answer = client.post("/orders", json=order_body(), headers=key() | {"Prefer": "wait=soon, nothing"})
    assert (answer.status_code, "preference-applied" in answer.headers) == (201, False)


def test_the_outcome_of_a_command_of_staff_is_shown_to_its_sender(ledger: RunningLedger) -> None:
    client, admin = ledger.client(), ledger.client("admin")
    order_id = placed(client)["order_id"]
    place = admin.post(f"/orders/{order_id}/cancel", headers=key() | {"Prefer": "respond-async"}).headers["location"]
    deadline = time.monotonic() + PATIENCE_S
    while (state := admin.get(place).json())["state"] == "pending":
        assert time.monotonic() < deadline
    assert (state["state"], state["version"]) == ("accepted", 2)
    assert admin.get(place.split("?")[0]).json() == state
    for other in (client, ledger.client("operator"), ledger.client("reader")):
        assert other.get(place).json()["code"] == "command-unknown"


def test_look_ups_of_another_nodes_commands_share_one_reader(ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    client, readers, open_reader = ledger.client(), list[str](), ledger.log.reader

    def counted(name: str, **how: Any) -> Reader:
        readers.append(name)
        return open_reader(name, **how)

    monkeypatch.setattr(ledger.log, "reader", counted)
    with ledger.folding.paused():
        places = [
            client.post("/orders", json=order_body(), headers=key() | {"Prefer": "respond-async"}).headers["location"]
            for _ in range(12)
        ]
        ledger.context.look_ups.forget()  # as on a node that sent none of them
        for place in places:
            assert client.get(place).json()["state"] == "pending"
        assert readers.count("command-look-up") <= 1  # none, if an earlier test opened it


def test_a_refused_command_is_shown_as_refused_with_its_problem(ledger: RunningLedger) -> None:
    client = ledger.client()
    order_id = placed(client)["order_id"]
    headers = key() | {"If-Match": '"9"', "Prefer": "respond-async"}
    place = client.post(f"/orders/{order_id}/cancel", headers=headers).headers["location"]
    deadline = time.monotonic() + PATIENCE_S
    while (state := client.get(place).json())["state"] == "pending":
        assert time.monotonic() < deadline
    assert (state["state"], state["version"], state["problem"]["code"]) == ("refused", None, "version-conflict")
    assert state["problem"]["instance"] == place.split("?")[0]


def test_the_location_of_a_reused_key_shows_the_refusal_and_not_the_first_command(ledger: RunningLedger) -> None:
    client, headers = ledger.client(), key()
    assert decided(client, "/orders", order_body(), **headers).status_code == 201
    place = client.post("/orders", json=order_body(reference="x"), headers=headers | {"Prefer": "wait=0"}).headers["location"]
    deadline = time.monotonic() + PATIENCE_S
    while (state := client.get(place).json())["state"] == "pending":
        assert time.monotonic() < deadline
    assert (state["state"], state["problem"]["code"]) == ("refused", "idempotency-key-reused")
