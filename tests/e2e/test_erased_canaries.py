"""After an erasure nothing of the person is left: not in any file of the data directory, topic, log line, metric or argument.

The broker deletes in its own time: a contact's bytes leave `order-contacts` when their segment is compacted, a day after the next
write to that partition (`max.compaction.lag.ms`). Here the topic is set to hurry, which changes nothing but the time. Files that
`up` keeps are for its owner alone.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import httpx
import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.log import TopicPartition
from ledger.topics import Topics
from tests.support import loopback
from tests.support.harness import decided, key, order_body
from tests.support.patience import PATIENCE_S
from tests.support.up_process import UpProcess

pytestmark = pytest.mark.kafka
TOPICS = Topics()


class Canaries:
    """A distinct text for each place that a client can write to; finds it wherever it was copied to.

    The texts have nothing in common: a compressed file writes repetitions only once.
    """

    def __init__(self) -> None:
        self.planted: dict[str, str] = {}

    def __call__(self, name: str) -> str:
        return self.planted.setdefault(name, "".join(secrets.choice(ascii_lowercase) for _ in range(16)))

    def phone(self) -> str:
        digits = f"{secrets.randbelow(10**8):08}"
        number = " ".join(digits[n : n + 2] for n in range(0, 8, 2))
        self.planted["phone"] = number
        return f"+49 151 {number}"

    def subtags(self) -> str:
        """Private use subtags of a language tag, of at most eight letters each."""
        letters = "".join(secrets.choice(ascii_lowercase) for _ in range(16))
        return self.planted.setdefault("locale", f"{letters[:8]}-{letters[8:]}")

    def address(self, name: str) -> dict[str, str]:
        parts = {part: self(f"{name} {part}") for part in ("line1", "line2", "city", "region")}
        return parts | {"postcode": self(f"{name} postcode"), "country": "DE"}

    def contact(self) -> dict[str, Any]:
        """A contact with every member."""
        return {
            "name": self("name"),
            "email": f"{self('email')}@example.org",
            "phone": self.phone(),
            "shipping_address": self.address("shipping"),
            "billing_address": self.address("billing"),
            "delivery_note": self("note"),
            "locale": f"de-x-{self.subtags()}",
        }

    def names_in(self, data: bytes) -> set[str]:
        return {name for name, text in self.planted.items() if text.encode() in data}

    def in_files(self, folder: Path) -> dict[str, list[str]]:
        """The files that hold each text, by its name."""
        places_by_name: dict[str, list[str]] = {}
        for path in folder.rglob("*"):
            try:
                names = self.names_in(content_of(path)) if path.is_file() else set()
            except FileNotFoundError:
                continue  # a segment or a table that is being replaced
            for name in names:
                places_by_name.setdefault(name, []).append(str(path.relative_to(folder)))
        return places_by_name


def content_of(path: Path) -> bytes:
    """The content of a file without its holes: each of Kafka's indexes is 10 MB of nothing."""
    if not hasattr(os, "SEEK_DATA"):
        return path.read_bytes()
    parts, at = [], 0
    with path.open("rb", 0) as file:
        while True:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError as exc:
                if exc.errno != errno.ENXIO:  # after the last byte
                    raise
                return b"".join(parts)
            end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            parts.append(os.pread(file.fileno(), end - at, at))
            at = end


@pytest.fixture
def up(tmp_path: Path) -> Iterator[UpProcess]:
    machine = UpProcess(tmp_path / "data")
    machine.start()
    yield machine
    if machine.running():
        machine.interrupt()


def client(up: UpProcess, role: str, **headers: str) -> httpx.Client:
    sent = {"Authorization": f"Bearer {up.token(role)}"} | headers
    return loopback.client(base_url=up.url, headers=sent, timeout=PATIENCE_S)


def until(holds: Callable[[], object], state: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, state()
        time.sleep(0.2)


def compact_soon(up: UpProcess) -> None:
    """Make the broker do in seconds what it does in days."""
    admin = AdminClient({"bootstrap.servers": up.bootstrap_servers})
    topic = {
        "segment.ms": "100",
        "max.compaction.lag.ms": "100",
        "min.cleanable.dirty.ratio": "0.001",
        "file.delete.delay.ms": "0",
    }
    for kind, name, settings in (
        (ConfigResource.Type.TOPIC, TOPICS.contacts, topic),
        (ConfigResource.Type.BROKER, "1", {"log.cleaner.backoff.ms": "200"}),
    ):
        entries = [ConfigEntry(n, v, incremental_operation=AlterConfigOpType.SET) for n, v in settings.items()]
        for future in admin.incremental_alter_configs([ConfigResource(kind, name, incremental_configs=entries)]).values():
            future.result(PATIENCE_S)


def everything_in(up: UpProcess, topic: str) -> bytes:
    log = KafkaLog(KafkaSettings(_env_file=None, bootstrap_servers=up.bootstrap_servers))
    tps = [TopicPartition(topic, p) for p in range(log.partitions(topic))]
    starts, ends = log.starts(tps, PATIENCE_S), log.ends(tps, "read_uncommitted", PATIENCE_S)
    reader, data = log.reader("canaries", isolation="read_uncommitted", eof=True, headers=True), b""
    try:
        reader.assign(starts)
        deadline = time.monotonic() + PATIENCE_S
        while {tp for tp in tps if starts[tp] < ends[tp]} - set(reader.reached_end()):
            assert time.monotonic() < deadline
            for record in reader.poll(500, 0.2):
                data += (record.key or b"") + b"\0" + (record.value or b"") + repr(record.headers).encode()
    finally:
        reader.close()
    return data


def test_personal_data_is_nowhere_after_an_erasure_and_a_clients_words_were_never_in_a_log(up: UpProcess) -> None:
    person, words = Canaries(), Canaries()
    headers = key() | {"Prefer": "wait=10"}
    with client(up, "gateway", **{"Customer-Id": "c-canary"}) as gateway:
        placed = decided(gateway, "/orders", order_body(contact=person.contact()), **headers)
        assert placed.status_code == 201, placed.text
        # Refused orders: their contact may be written nowhere.
        for wrong in ({"total_minor": 1}, {"currency": "XXX"}, {"unknown": 1}, {"lines": []}):
            refused = gateway.post("/orders", json=order_body(contact=words.contact()) | wrong, headers=key())
            assert refused.status_code == 422
        reused = decided(gateway, "/orders", order_body(contact=words.contact(), reference="another"), **headers)
        assert reused.json()["code"] == "idempotency-key-reused"
        for path in (f"/orders/{words('order')}", f"/{words('path')}", f"/commands/{words('command')}", "/orders"):
            sent = {"Request-Id": words("request id"), "Prefer": words("prefer"), "User-Agent": words("agent")}
            gateway.get(path, params={words("parameter"): words("value")}, headers=sent)
        gateway.post(f"/orders/{words('cancelled')}/cancel", headers={"Idempotency-Key": words("key")})
        gateway.post("/orders", content=f'{{"{words("member")}": "{words("text")}"'.encode(), headers=key())
    outbox = up.data / "outbox"
    until(lambda: any(outbox.glob("*.eml")), up.said)
    up.interrupt()  # this flushes memory to the files
    up.start()
    before = person.in_files(up.data)
    assert set(before) == set(person.planted), "otherwise the search would prove nothing"
    assert {place.split("/")[0] for places in before.values() for place in places} == {"broker", "outbox", "state"}
    assert words.in_files(up.data) == {}

    with client(up, "operator") as operator:
        answer = operator.post("/customers/c-canary/erasure", json={"force": True}, headers={"Prefer": "wait=10"})
        until(lambda: operator.get("/customers/c-canary/erasure").json()["done_at"], up.said)
        assert answer.status_code in (200, 202)

        def elsewhere() -> dict[str, list[str]]:
            places_by_name = person.in_files(up.data)
            return {
                n: others
                for n, places in places_by_name.items()
                if (others := [p for p in places if not p.startswith("broker/")])
            }

        until(lambda: not elsewhere(), elsewhere)
        compact_soon(up)

        def in_broker() -> dict[str, list[str]]:
            operator.post("/customers/c-nobody/erasure", json={})  # a record in every partition: their segments roll
            return person.in_files(up.data)

        until(lambda: not in_broker(), in_broker)
        metrics = operator.get("/metrics").text
    said = {topic: everything_in(up, topic) for topic in (TOPICS.commands, TOPICS.events, TOPICS.refusals, TOPICS.contacts)}
    said["metrics"] = metrics.encode()
    said["arguments"] = "\n".join(" ".join(process.cmdline()) for process in up.processes()).encode()
    for name, data in said.items():
        assert data, name
        assert person.names_in(data) | words.names_in(data) == set(), name
    assert placed.json()["order_id"].encode() in said[TOPICS.events], "the order itself is for ever"
    assert readable_by_others(up.data) == []
    assert up.interrupt() == 0
    assert person.in_files(up.data) | words.in_files(up.data) == {}


def readable_by_others(folder: Path) -> list[str]:
    """Everything in the folder that others than its owner can read, except what this test created."""
    return [
        f"{stat.filemode(path.stat().st_mode)} {path.relative_to(folder)}"
        for path in [folder, *folder.rglob("*")]
        if path.exists() and path.stat().st_mode & 0o077 and path != folder / "up.log"
    ]
