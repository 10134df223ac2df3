"""Every process of `up` may be killed at any moment, `up` itself too: it comes back, and nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import time
from collections.abc import Callable

import httpx
import psutil
import pytest

from commands.sandbox.catalogue import order_body
from tests.support import checker, loopback
from tests.support.gateway import Gateway
from tests.support.harness import decided
from tests.support.patience import PATIENCE_S, until
from tests.support.up_process import PROCESSES, UpProcess

pytestmark = pytest.mark.kafka


async def under_load(up: UpProcess, first: int, strike: Callable[[], None], after_s: float) -> Gateway:
    """Sessions of a gateway during `strike`, and for `after_s` after orders are accepted again."""
    token, numbers = up.token("gateway"), iter(range(first, first + 100_000))
    async with Gateway(up.url, token, connections=8, give_up_s=PATIENCE_S) as gateway:
        stop = asyncio.Event()

        async def customer(name: str) -> None:
            while not stop.is_set():
                await gateway.session(next(numbers), name)

        running = [asyncio.create_task(customer(f"outage-{first}-{n}")) for n in range(8)]
        await asyncio.sleep(1.0)
        await asyncio.to_thread(strike)
        struck = len(gateway.acknowledged)
        while len(gateway.acknowledged) < struck + 40:
            done, _ = await asyncio.wait(running, timeout=0.05)
            assert not done, done.pop().exception()
        await asyncio.sleep(after_s)
        stop.set()
        await asyncio.gather(*running)
    return gateway


def check_nothing_lost(up: UpProcess, gateway: Gateway, first: int) -> None:
    assert gateway.never == [], checker.describe(gateway.never) + up.said()
    ledger = checker.read_settled_ledger(up.bootstrap_servers)
    assert ledger.problems == [], checker.describe(ledger.problems) + up.said()
    events = {(e.fields["order_id"], e.fields["version"]): e.fields for e in ledger.events}
    for ack in gateway.acknowledged:
        event = events.get((ack.order_id, ack.version))
        assert event is not None, f"lost: {ack}"
        assert (event["customer_id"], event["status"], event["total_minor"]) == (ack.customer, ack.status, ack.total_minor)
    mine = [order for order in ledger.orders.values() if order.customer_id.startswith(f"outage-{first}-")]
    assert len(mine) == len({ack.order_id for ack in gateway.acknowledged})


def test_processor_and_serve_killed_under_load_come_back_and_nothing_is_lost(up: UpProcess) -> None:
    before = {name: up.pid(name) for name in ("commands", "serve")}

    def strike() -> None:
        for name in before:
            up.kill_one(name)
            time.sleep(1.0)

    gateway = asyncio.run(under_load(up, 100_000, strike, 0.5))
    check_nothing_lost(up, gateway, 100_000)
    assert all(up.pid(name) != pid for name, pid in before.items())


def test_a_killed_broker_comes_back_and_nothing_is_lost(up: UpProcess) -> None:
    before = up.pid("broker")
    gateway = asyncio.run(under_load(up, 200_000, lambda: up.kill_one("broker"), 0.5))
    check_nothing_lost(up, gateway, 200_000)
    assert up.pid("broker") != before
    assert up.running()


def java_of(up: UpProcess) -> psutil.Process | None:
    """The broker's process, also while it starts."""
    for process in up.processes()[1:]:
        try:
            if "kafka.Kafka" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                return process
        except psutil.NoSuchProcess:
            continue
    return None


def is_ready(up: UpProcess) -> bool:
    try:
        return loopback.get(f"{up.url}/ready").status_code == 200
    except httpx.TransportError:
        return False


def place(up: UpProcess, key: str) -> None:
    """Place an order, however long it takes until that is possible."""
    sent = {"Authorization": f"Bearer {up.token('gateway')}", "Customer-Id": "c-1", "Idempotency-Key": key, "Prefer": "wait=10"}
    deadline = time.monotonic() + PATIENCE_S
    with loopback.client(base_url=up.url, timeout=PATIENCE_S) as client:
        while (answer := client.post("/orders", json=order_body(3), headers=sent)).status_code != 201:
            assert answer.status_code in (202, 503), answer.text
            assert time.monotonic() < deadline, answer.text + up.said()
            assert up.running(), up.said()
            time.sleep(0.1)


def test_a_broker_killed_again_while_it_starts_comes_back(up: UpProcess) -> None:
    before = psutil.Process(up.pid("broker"))
    before.kill()
    before.wait(PATIENCE_S)
    deadline = time.monotonic() + PATIENCE_S
    while (starting := java_of(up)) is None or starting.pid == before.pid:
        assert time.monotonic() < deadline, up.said()
        assert up.running(), up.said()
        time.sleep(0.01)
    starting.kill()
    place(up, "after-two-kills")
    assert up.running()


def test_a_broker_that_comes_back_on_another_port_is_named_by_up(up: UpProcess) -> None:
    before, port = up.bootstrap_servers, int(up.bootstrap_servers.rpartition(":")[2])
    assert up.process is not None
    itself, broker = psutil.Process(up.process.pid), psutil.Process(up.pid("broker"))
    other = socket.socket()

    def is_taken() -> bool:
        try:
            other.bind(("127.0.0.1", port))
        except OSError:  # the broker is still ending
            return False
        other.listen()
        return True

    with other:
        itself.suspend()  # so that it restarts the broker only when the port is taken
        try:
            broker.kill()
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # its connections may still be ending
            until(is_taken)
        finally:
            itself.resume()
        until(lambda: up.bootstrap_servers != before or not up.running())
        until(lambda: is_ready(up) or not up.running())  # its clients are started again
        place(up, "on-another-port")
    assert up.running(), up.said()


def test_a_broker_killed_while_serve_starts_delays_the_start(up: UpProcess) -> None:
    up.interrupt()
    killed: list[int] = []

    def kill_the_broker() -> None:
        """Kill it as soon as it is ready, which is before `serve` is."""
        file, deadline = up.data / "run" / "broker.pid", time.monotonic() + PATIENCE_S
        while not (file.exists() and file.read_text().strip()) and time.monotonic() < deadline:
            time.sleep(0.005)
        killed.append(up.pid("broker"))
        up.kill_one("broker")

    killer = threading.Thread(target=kill_the_broker)
    killer.start()
    up.start()
    killer.join(PATIENCE_S)
    place(up, "after-a-start-with-a-kill")
    assert killed
    assert up.pid("broker") != killed[0]


def test_a_killed_up_leaves_a_directory_from_which_the_next_one_resumes(up: UpProcess) -> None:
    token = up.token("gateway")
    sent = {"Authorization": f"Bearer {token}", "Customer-Id": "survivor", "Idempotency-Key": "before-the-kill"}
    with loopback.client(base_url=up.url, timeout=PATIENCE_S) as client:
        placed = decided(client, "/orders", order_body(7), **sent)
        assert placed.status_code == 201
        processes = up.processes()
        assert up.process is not None
        up.process.kill()
        up.process.wait()
        up.start()
        again = client.post("/orders", json=order_body(7), headers=sent)
        assert (again.status_code, again.content) == (201, placed.content)
        assert again.headers["Idempotency-Replayed"] == "true"
        read = client.get(placed.headers["Location"], params={"version": 1}, headers=sent)
        assert read.content == placed.content
    assert [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
    assert checker.read_settled_ledger(up.bootstrap_servers).problems == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_ends_everything_soon_and_leaves_no_process(up: UpProcess, number: signal.Signals) -> None:
    processes = up.processes()
    assert len(processes) >= 1 + len(PROCESSES)
    began = time.monotonic()
    code = up.interrupt(number=number)
    took_s = time.monotonic() - began
    assert code == 0, up.said()
    assert [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
    assert [path.name for path in (up.data / "run").iterdir() if path.suffix in (".pid", ".json")] == []
    assert took_s < 60, f"{took_s:.1f} s"
    print(f"{number.name}: everything ended in {took_s:.1f} s")
    for name in ("commands", "serve"):
        assert "Fatal Python error" not in (up.data / "log" / f"{name}.log").read_text("utf-8", "replace")
