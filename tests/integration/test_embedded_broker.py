"""The embedded broker on the real Java: what a start promises, and what is left after a kill of any process."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from ledger.broker.aot_cache import cache_file
from ledger.broker.jars import StartProgress, ensure_jars
from ledger.broker.java import java_path
from ledger.broker.node import EmbeddedBroker
from ledger.errors import BrokerError
from ledger.ports import free_port
from tests.support.patience import PATIENCE_S

pytestmark = pytest.mark.kafka

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    """A broker of this module's own, which its tests kill; it runs when a test begins. The odd path is part of the test."""
    node = EmbeddedBroker(tmp_path_factory.mktemp("a, b ü") / "data", jit="quick")
    node.start()
    yield node
    node.stop()


@pytest.fixture(scope="module")
def stopped_data(broker: EmbeddedBroker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A formatted data directory without a broker, to be copied: formatting takes a second."""
    folder = tmp_path_factory.mktemp("stopped") / "data"
    broker.stop()
    shutil.copytree(broker.data_dir / "log", folder / "log")
    broker.start()
    return folder


@pytest.fixture
def data(stopped_data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped_data, tmp_path / "data"))


def javas_of(data: Path) -> list[int]:
    return [p.pid for p in psutil.process_iter(["cmdline"]) if any(str(data) in word for word in p.info["cmdline"] or ())]


def wait_for(condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def new_topic(broker: EmbeddedBroker, **config: str) -> str:
    name = f"t-{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    admin.create_topics([NewTopic(name, 2, 1, config=config)])[name].result(PATIENCE_S)
    return name


def produce(broker: EmbeddedBroker, topic: str, value: bytes) -> None:
    """One acknowledged record, in partition 0."""
    errors: list[object] = []
    producer = Producer(
        {"bootstrap.servers": broker.bootstrap_servers, "acks": "all", "message.timeout.ms": int(PATIENCE_S * 1000)}
    )
    producer.produce(topic, value, partition=0, on_delivery=lambda error, _: errors.append(error))
    assert producer.flush(PATIENCE_S) == 0
    assert errors == [None]


def read(broker: EmbeddedBroker, topic: str, count: int) -> list[bytes | None]:
    config = {"bootstrap.servers": broker.bootstrap_servers, "group.id": "reader", "isolation.level": "read_committed"}
    consumer = Consumer(config)
    consumer.assign([TopicPartition(topic, 0, 0)])
    values = [message.value() for message in consumer.consume(count, PATIENCE_S)]
    consumer.close()
    return values


def test_when_start_returns_the_first_produce_is_acknowledged(broker: EmbeddedBroker) -> None:
    topic = new_topic(broker)
    produce(broker, topic, b"first")
    assert read(broker, topic, 1) == [b"first"]


def test_a_transaction_and_a_compacted_topic_work_on_the_small_settings(broker: EmbeddedBroker) -> None:
    topic = new_topic(broker, **{"cleanup.policy": "compact"})
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "transactional.id": topic, "compression.type": "zstd"})
    producer.init_transactions(PATIENCE_S)
    for value, commit in ((b"aborted", False), (b"committed", True)):
        producer.begin_transaction()
        producer.produce(topic, value, key=b"k", partition=0)
        producer.flush(PATIENCE_S)
        if commit:
            producer.commit_transaction(PATIENCE_S)
        else:
            producer.abort_transaction(PATIENCE_S)
    assert read(broker, topic, 1) == [b"committed"]


def test_a_killed_broker_starts_again_on_its_port_with_all_that_was_acknowledged(broker: EmbeddedBroker) -> None:
    topic = new_topic(broker)
    produce(broker, topic, b"before")
    address, pid = broker.bootstrap_servers, broker.pid
    os.kill(pid, signal.SIGKILL)
    assert broker.wait(PATIENCE_S) == -signal.SIGKILL
    assert broker.poll() == -signal.SIGKILL

    broker.start()
    assert broker.poll() is None
    assert broker.pid != pid
    assert broker.bootstrap_servers == address
    produce(broker, topic, b"after")
    assert read(broker, topic, 2) == [b"before", b"after"]


def test_a_second_owner_of_the_same_data_is_refused_and_harms_nothing(broker: EmbeddedBroker) -> None:
    with pytest.raises(BrokerError, match=f"process {os.getpid()} runs a broker") as caught:
        EmbeddedBroker(broker.data_dir).start()
    assert caught.value.code == "already_running"
    with pytest.raises(BrokerError, match=f"pid {broker.pid}") as caught:
        broker.start()
    assert caught.value.code == "already_running"
    produce(broker, new_topic(broker), b"still there")


def test_stop_ends_the_broker_in_order_and_the_remembered_port_is_left_to_the_process_that_took_it(
    broker: EmbeddedBroker,
) -> None:
    topic, data, address = new_topic(broker), broker.data_dir, broker.bootstrap_servers
    produce(broker, topic, b"kept")
    broker.stop()
    broker.stop()
    assert broker.poll() == 128 + signal.SIGTERM  # Java's word for an orderly end
    assert javas_of(data) == []
    with socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))):
        broker.start()
    assert broker.bootstrap_servers != address
    assert read(broker, topic, 1) == [b"kept"]


def test_a_fixed_port_that_is_taken_is_named(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BrokerError, match=f"port {port} ") as caught:
            EmbeddedBroker(data, port=port).start()
    assert caught.value.code == "port_taken"
    assert javas_of(data) == []


def test_too_little_disk_is_refused_before_kafka_writes_anything(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match="MB free") as caught:
        EmbeddedBroker(tmp_path / "data", min_free_mb=2**40).start()
    assert caught.value.code == "no_disk_space"
    assert {path.name for path in (tmp_path / "data").iterdir()} <= {"broker.lock", "broker.json"}


def test_a_start_that_fails_quotes_kafkas_reason_and_leaves_the_data_free(data: Path) -> None:
    broken = EmbeddedBroker(data, properties={"num.io.threads": "many"})
    with pytest.raises(BrokerError, match=r"many.*num\.io\.threads") as caught:
        broken.start()
    assert caught.value.code == "start_failed"
    assert javas_of(data) == []
    # The lock is free again: the next owner fails for its own reason.
    with pytest.raises(BrokerError, match="listener") as caught:
        EmbeddedBroker(data, properties={"listeners": "nonsense"}).start()
    assert caught.value.code == "start_failed"


@pytest.mark.parametrize("phase", ["format", "start"])
def test_a_start_can_be_stopped_while_java_works_and_repeated(phase: str, tmp_path: Path) -> None:
    phases: list[str] = []
    # with a setting of this run alone, no format is kept beside the jars
    own = {"test.run": uuid.uuid4().hex} if phase == "format" else {}
    node = EmbeddedBroker(tmp_path / "data", jit="quick", properties=own)
    with pytest.raises(BrokerError, match="stopped before Kafka was ready") as caught:
        node.start(progress=lambda step: phases.append(step.phase), stopping=lambda: phases[-1:] == [phase])
    assert caught.value.code == "not_running"
    assert javas_of(tmp_path / "data") == []
    with EmbeddedBroker(tmp_path / "data", jit="quick") as again:
        assert again.poll() is None


def test_an_interrupted_format_is_done_again(tmp_path: Path) -> None:
    half = tmp_path / "data" / "log.new"
    half.mkdir(parents=True)
    (half / "meta.properties").write_text("version=1\n")
    steps: list[StartProgress] = []
    fresh = EmbeddedBroker(tmp_path / "data", jit="quick")
    fresh.start(progress=steps.append)
    fresh.stop()
    assert [(step.phase, step.done) for step in steps] == [
        *(("verify", n) for n in range(1, 46)),
        *(("format", 0), ("format", 1), ("start", 0), ("start", 1)),
    ]
    assert not half.exists()


def test_a_log_directory_that_is_not_kafkas_is_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / "data" / "log"
    foreign.mkdir(parents=True)
    (foreign / "photo.jpg").write_bytes(b"precious")
    with pytest.raises(BrokerError, match="is not a Kafka log directory") as caught:
        EmbeddedBroker(tmp_path / "data").start()
    assert caught.value.code == "start_failed"
    assert (foreign / "photo.jpg").read_bytes() == b"precious"


OWNER = """
import sys, threading, time
from pathlib import Path
from ledger.broker.node import EmbeddedBroker
broker = EmbeddedBroker(Path(sys.argv[1]), jit="quick", die_with_parent=sys.argv[2] == "yes")
starter = threading.Thread(target=broker.start)
starter.start()
starter.join()
print(broker.pid, flush=True)
if sys.argv[3] == "exit":
    raise RuntimeError("the owner has a bug")
time.sleep(600)
"""


def run_owner(data: Path, *, die_with_parent: bool, then: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start a process that owns a broker on `data`. Returns it and the broker's pid."""
    command = [sys.executable, "-c", OWNER, str(data), "yes" if die_with_parent else "no", then]
    owner = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    owner.stdout.close()
    return owner, pid


def test_a_broker_whose_owner_was_killed_is_stopped_by_the_next_owner(data: Path) -> None:
    owner, orphan = run_owner(data, die_with_parent=False, then="sleep")
    heir = EmbeddedBroker(data, jit="quick")
    with pytest.raises(BrokerError, match=f"process {owner.pid} runs a broker") as caught:
        heir.start()
    assert caught.value.code == "already_running"

    owner.kill()
    owner.wait()
    assert psutil.pid_exists(orphan)
    heir.start()
    try:
        assert javas_of(data) == [heir.pid]
        assert heir.pid != orphan
        produce(heir, new_topic(heir), b"again")
    finally:
        heir.stop()


def test_with_die_with_parent_the_broker_ends_when_its_owner_is_killed(data: Path) -> None:
    """Also when a thread other than the main one started it (`OWNER`)."""
    owner, _ = run_owner(data, die_with_parent=True, then="sleep")
    assert len(javas_of(data)) == 2  # the owner's own command line names the data too
    owner.kill()
    owner.wait()
    wait_for(lambda: javas_of(data) == [])


def test_an_owner_that_ends_with_an_exception_leaves_no_broker(data: Path) -> None:
    owner, _ = run_owner(data, die_with_parent=False, then="exit")
    assert owner.wait(PATIENCE_S) == 1
    assert javas_of(data) == []


def test_a_cache_that_java_does_not_accept_is_dropped_with_one_line(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    for jar in ensure_jars():
        shutil.copy2(jar, cache)
    damaged = cache_file(java_path(), ensure_jars(cache))
    damaged.write_bytes(os.urandom(100_000))
    node = EmbeddedBroker(data, jit="quick", cache_dir=cache)
    node.start()
    try:
        produce(node, new_topic(node), b"all the same")
    finally:
        node.stop()
    assert not damaged.exists()
    (line,) = [record.getMessage() for record in caplog.records if record.name == "ledger.broker.aot_cache"]
    assert str(damaged) in line
    assert "bad magic number" in line


def test_clients_of_the_second_listener_reach_the_broker_only_through_the_proxy(data: Path) -> None:
    listen = free_port()
    with forwarder(listen) as (advertised, accepted):
        proxied = EmbeddedBroker(data, jit="quick", proxied_ports=(listen, advertised))
        proxied.start()
        try:
            cluster = AdminClient({"bootstrap.servers": f"127.0.0.1:{advertised}"}).list_topics(timeout=PATIENCE_S)
            direct = AdminClient({"bootstrap.servers": proxied.bootstrap_servers}).list_topics(timeout=PATIENCE_S)
        finally:
            proxied.stop()
    assert [broker.port for broker in cluster.brokers.values()] == [advertised]
    assert [f"127.0.0.1:{broker.port}" for broker in direct.brokers.values()] == [proxied.bootstrap_servers]
    assert accepted


@contextmanager
def forwarder(target: int) -> Iterator[tuple[int, list[socket.socket]]]:
    """A TCP proxy on loopback; yields its port and the connections it has accepted."""
    accepted: list[socket.socket] = []

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):  # one end has closed: this connection is over
            while chunk := source.recv(65536):
                sink.sendall(chunk)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with suppress(OSError):  # the listening socket was shut down: the test is over
            while True:
                client = server.accept()[0]
                broker = socket.create_connection(("127.0.0.1", target))
                accepted.extend((client, broker))
                for ends in ((client, broker), (broker, client)):
                    pumps.append(threading.Thread(target=pump, args=ends))
                    pumps[-1].start()

    pumps: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        acceptor = threading.Thread(target=accept)
        acceptor.start()
        yield server.getsockname()[1], accepted
        server.shutdown(socket.SHUT_RDWR)
        acceptor.join()
    for end in accepted:
        end.close()
    for thread in pumps:
        thread.join()
