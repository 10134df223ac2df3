"""Least privilege on Kafka: both processes run under the ACLs of OPERATIONS.md, which grant what is used and nothing else."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from api.callers.auth import hash_token, new_token
from api.callers.roles import ROLES
from commands.sandbox.catalogue import order_body
from ledger.broker.node import EmbeddedBroker
from ledger.errors import NotAllowed
from ledger.hanging import open_transactions
from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.log import TopicPartition as Place
from ledger.ports import free_port
from ledger.topics import Topics
from tests.support import acls, loopback
from tests.support.harness import HASH_KEY, decided, key, placed
from tests.support.patience import PATIENCE_S

pytestmark = [pytest.mark.kafka, pytest.mark.skipif(sys.platform == "win32", reason="the commands are for a shell")]

ROOT = Path(__file__).parents[2]
USERS = ("commands", "serve", "analytics", "auditor")
_SEEN = re.compile(
    r"Principal = User:(\w+) is (Allowed|Denied) operation = (\w+) from host = \S+ on resource = (\w+):LITERAL:(\S+) "
)
_KINDS = {"Topic": "TOPIC", "Group": "GROUP", "TransactionalId": "TRANSACTIONAL_ID", "Cluster": "CLUSTER"}


class Cluster:
    """A broker on which every user but its owner needs a right for everything; and the ledger's processes on it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        users = " ".join(f'user_{name}="{name}-secret"' for name in USERS)
        self.broker = EmbeddedBroker(
            folder / "broker",
            log_file=folder / "kafka.log",
            loggers={"kafka.authorizer.logger": "debug"},
            jit="quick",
            proxied_ports=(self.port, self.port),
            properties={
                "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:SASL_PLAINTEXT",
                "listener.name.proxied.sasl.enabled.mechanisms": "PLAIN",
                "listener.name.proxied.plain.sasl.jaas.config": (
                    f"org.apache.kafka.common.security.plain.PlainLoginModule required {users};"
                ),
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:ANONYMOUS",
            },
        )
        self.http, self.sandbox = free_port(), free_port()
        self.tokens = {role: new_token(role) for role in ROLES}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def client_config(self, user: str) -> dict[str, Any]:
        return {
            "bootstrap.servers": f"127.0.0.1:{self.port}",
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.username": user,
            "sasl.password": f"{user}-secret",
        }

    def allow(self, rights: list[acls.Acl]) -> None:
        admin = AdminClient({"bootstrap.servers": self.broker.bootstrap_servers})
        bindings = [
            AclBinding(
                getattr(ResourceType, right.resource),
                right.name,
                getattr(ResourcePatternType, right.pattern),
                f"User:{right.principal}",
                "*",
                getattr(AclOperation, right.operation),
                AclPermissionType.ALLOW,
            )
            for right in rights
        ]
        for future in admin.create_acls(bindings).values():
            future.result(PATIENCE_S)

    def start(self, name: str, *arguments: str) -> None:
        entries = [{"name": role, "role": role, "sha256": [hash_token(token)]} for role, token in self.tokens.items()]
        environment = os.environ | {
            "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{self.port}",
            "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            "KAFKA_SASL_MECHANISM": "PLAIN",
            "KAFKA_SASL_USERNAME": name,
            "KAFKA_SASL_PASSWORD": f"{name}-secret",
            "NODE_ID": "one",
            "WEBHOOKS_ALLOW_PRIVATE": "true",
            "STATE_DIR": str(self.folder / name),
            "OUTBOX_DIR": str(self.folder / "outbox"),
            "LEDGER_HASH_KEY": HASH_KEY,
            "LEDGER_TOKENS": json.dumps({"tokens": entries}),
            "PORT": str(self.http),
            "SANDBOX_URL": f"http://127.0.0.1:{self.sandbox}",
            "SANDBOX_WEBHOOK_URL": f"http://127.0.0.1:{self.http}/webhooks/stripe",
            "PAYMENT_GATEWAY_WEBHOOK_SECRETS": "whsec_of_the_sandbox",
            "PYTHONPATH": str(ROOT),
        }
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", "api.cli", name, *arguments], env=environment, cwd=self.folder, stdout=log, stderr=log
            )

    def stop(self, name: str) -> None:
        process = self._running.pop(name)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0, self.log(name)

    def end(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()
        self.broker.stop()

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text("utf-8", "replace")[-4000:]

    def client(self, role: str) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.tokens[role]}", "Prefer": "wait=10"}
        if role == "gateway":
            headers["Customer-Id"] = "c-1"
        return loopback.client(base_url=f"http://127.0.0.1:{self.http}", headers=headers, timeout=PATIENCE_S)

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                if condition():
                    return
            except httpx.TransportError:
                pass  # it is not listening yet
            for name, process in self._running.items():
                assert process.poll() is None, self.log(name)
            assert time.monotonic() < deadline, self.log("serve") + self.log("commands") + self.log("kafka")
            time.sleep(0.1)

    def asked(self) -> tuple[set[tuple[str, str, str, str]], set[tuple[str, str, str, str]]]:
        """(allowed, denied): the requests of each principal, as (principal, operation, resource, name)."""
        asked_for: dict[str, set[tuple[str, str, str, str]]] = {"Allowed": set(), "Denied": set()}
        for user, verdict, operation, kind, name in _SEEN.findall((self.folder / "kafka.log").read_text("utf-8", "replace")):
            if user in USERS and not name.startswith("__"):  # Kafka's own topics, which a list of all topics includes
                asked_for[verdict].add((user, operation, _KINDS[kind], name))
        return asked_for["Allowed"], asked_for["Denied"]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    running = Cluster(tmp_path)
    running.broker.start()
    try:
        yield running
    finally:
        running.end()


def pay(cluster: Cluster, gateway: httpx.Client, order: dict[str, Any]) -> None:
    body = {"total_minor": order["total_minor"], "currency": order["currency"]}
    opened = decided(gateway, f"/orders/{order['order_id']}/payment", body).json()
    card = {"payment_method_data[type]": "card", "payment_method_data[card][number]": "4242424242424242"}
    confirm = f"http://127.0.0.1:{cluster.sandbox}/v1/payment_intents/{opened['provider_ref']}/confirm"
    with loopback.client(headers={"Authorization": "Bearer pk_test_sandbox"}) as browser:
        assert browser.post(confirm, data={"client_secret": opened["client_secret"], **card}).status_code == 200
    cluster.until(lambda: bool(gateway.get(f"/orders/{order['order_id']}").json()["status"] == "paid"))


def use_everything(cluster: Cluster) -> None:
    """Place, pay, refuse and erase orders, and find them by their commands; then restart both processes."""
    for name in ("commands", "serve"):
        cluster.start(name)
        cluster.until(lambda: "order-writers" in topics_of(cluster))
    with cluster.client("gateway") as gateway, cluster.client("admin") as admin, cluster.client("operator") as operator:
        cluster.until(lambda: gateway.get("/ready").status_code == 200)
        url = f"http://127.0.0.1:{cluster.http}/live"  # answers a POST with 405
        assert admin.put("/webhook-endpoints/own", json={"url": url}).status_code == 201
        order, unpaid = (placed(gateway, order_body(number)) for number in (1, 2))
        shipped, refused = {"status": "shipped"}, key()
        cluster.until(lambda: admin.put(f"/orders/{unpaid['order_id']}/status", json=shipped, headers=refused).status_code == 409)
        pay(cluster, gateway, order)
        assert gateway.get("/commands/cmd_unknown?at=0-0").status_code == 404
        assert admin.get(f"/orders/{order['order_id']}").json()["contact"] is not None
        erasure = "/customers/c-1/erasure"
        assert operator.post(erasure, json={"force": True}).status_code in (200, 202)
        cluster.until(lambda: operator.get(erasure).json().get("done_at") is not None)
        assert operator.get(erasure).json()["contacts_deleted"] == 2
        cluster.until(lambda: bool(admin.get("/webhook-endpoints/own/deliveries").json()["data"]))
        for name in ("serve", "commands"):
            cluster.stop(name)
            cluster.start(name)
        cluster.until(lambda: gateway.get("/ready").status_code == 200)
        placed(gateway, order_body(3))


def topics_of(cluster: Cluster) -> set[str]:
    return set(AdminClient({"bootstrap.servers": cluster.broker.bootstrap_servers}).list_topics(timeout=PATIENCE_S).topics)


def test_both_processes_work_under_the_acls_of_the_page_and_use_each_of_them(cluster: Cluster, tmp_path: Path) -> None:
    rights = acls.granted(acls.commands(tmp_path))
    cluster.allow(rights)
    cluster.start("sandbox", "--port", str(cluster.sandbox), "--data-dir", str(tmp_path / "sandbox"))
    use_everything(cluster)
    assert read_as(cluster, "analytics", "order-events", "analytics") > 5
    assert read_as(cluster, "auditor", "order-audit", "order-ledger-unused") >= 2
    cluster.stop("serve")
    cluster.stop("commands")
    cluster.broker.stop()

    allowed, denied = cluster.asked()
    assert denied == set()
    idle = [right for right in rights if not any(is_used(right, one) for one in allowed)]
    assert idle == []


def is_used(right: acls.Acl, asked: tuple[str, str, str, str]) -> bool:
    """Whether an allowed request needed this right."""
    user, operation, resource, name = asked
    fits = name.startswith(right.name) if right.pattern == "PREFIXED" else name == right.name
    return (user, operation, resource) == (right.principal, right.operation, right.resource) and fits


def read_as(cluster: Cluster, user: str, topic: str, group: str) -> int:
    """Number of records of the topic that this user can read. Raises `PermissionError`."""
    commits = not group.endswith("-unused")  # like the product's own readers, which name a group only because they must
    settings = {"group.id": group, "enable.partition.eof": True, "enable.auto.commit": commits}
    consumer = Consumer(cluster.client_config(user) | settings)
    try:
        described = consumer.list_topics(topic, PATIENCE_S).topics[topic]
        if described.error is not None:
            raise PermissionError(described.error.str())
        partitions = described.partitions
        consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
        count, ended, deadline = 0, set(), time.monotonic() + PATIENCE_S
        while len(ended) < len(partitions):
            assert time.monotonic() < deadline
            message = consumer.poll(1.0)
            if message is None:
                continue
            if (error := message.error()) is None:
                count += 1
            elif error.code() == KafkaError._PARTITION_EOF:
                ended.add(message.partition())
            else:
                raise PermissionError(error.str())
        return count
    finally:
        consumer.close()


FORBIDDEN_WRITES = [
    ("serve", "order-events"),
    ("serve", "order-refusals"),
    ("serve", "order-deliveries"),
    ("commands", "order-contacts"),
    ("commands", "order-audit"),
    ("analytics", "order-commands"),
    ("auditor", "order-audit"),
]
FORBIDDEN_READS = [
    ("analytics", "order-contacts"),
    ("analytics", "order-audit"),
    ("analytics", "order-commands"),
    ("auditor", "order-contacts"),
    ("auditor", "order-events"),
    ("commands", "order-audit"),
    ("commands", "order-deliveries"),
    ("serve", "order-audit"),
]


def test_no_user_may_do_what_is_for_another(cluster: Cluster, tmp_path: Path) -> None:
    cluster.allow(acls.granted(acls.commands(tmp_path)))
    log = KafkaLog(KafkaSettings(_env_file=None, bootstrap_servers=cluster.broker.bootstrap_servers))
    log.ensure_topics(Topics().specs(1, 1), PATIENCE_S)
    for user, topic in FORBIDDEN_WRITES:
        errors: list[KafkaError | None] = []
        producer = Producer(cluster.client_config(user) | {"message.timeout.ms": int(PATIENCE_S * 1000)})
        producer.produce(topic, b"forged", partition=0, on_delivery=lambda error, _: errors.append(error))  # noqa: B023
        producer.flush(PATIENCE_S)
        assert [error and error.code() for error in errors] == [KafkaError.TOPIC_AUTHORIZATION_FAILED], (user, topic)
    for user, topic in FORBIDDEN_READS:
        with pytest.raises(PermissionError, match=r"authoriz|denied"):
            read_as(cluster, user, topic, "analytics" if user == "analytics" else "order-ledger-unused")


def test_who_may_not_describe_a_writer_does_not_take_its_live_transaction_for_one_that_hangs(
    cluster: Cluster, tmp_path: Path
) -> None:
    cluster.allow(acls.granted(acls.commands(tmp_path)))
    admin = KafkaLog(KafkaSettings(_env_file=None, bootstrap_servers=cluster.broker.bootstrap_servers))
    admin.ensure_topics(Topics().specs(1, 1))
    producer = Producer(cluster.client_config("commands") | {"transactional.id": "order-ledger-0"})
    producer.init_transactions(PATIENCE_S)
    producer.begin_transaction()
    producer.produce("order-events", b"live", partition=0)
    assert producer.flush(PATIENCE_S) == 0
    place = Place("order-events", 0)
    (live,) = open_transactions(log_of(cluster, "commands"), Topics(), "order-ledger", [place])
    assert (live.transactional_id, live.known) == ("order-ledger-0", True)
    with pytest.raises(NotAllowed, match=r"order-events/0 .*Describe on the transactional ids order-ledger-\*"):
        open_transactions(log_of(cluster, "serve"), Topics(), "order-ledger", [place])
    producer.abort_transaction(PATIENCE_S)


def log_of(cluster: Cluster, user: str) -> KafkaLog:
    config = cluster.client_config(user)
    return KafkaLog(
        KafkaSettings(
            _env_file=None,
            bootstrap_servers=config["bootstrap.servers"],
            security_protocol=config["security.protocol"],
            sasl_mechanism=config["sasl.mechanism"],
            sasl_username=user,
            sasl_password=config["sasl.password"],
        )
    )
