"""The verb `demo`: runs the whole system in a temporary directory. Exits 0 only if everything was as promised.

main thread      `Up`: broker, sandbox, commands and serve, as `order-ledger up` runs them; signals
worker thread    the steps (`steps`) over HTTP, then the comparison with the independent consumer and the sandbox's journal
child process    `plain_consumer.py`, which imports nothing from the project and tails the topic from its first event
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from api.cli.demo import plain_consumer
from api.cli.demo.calls import PATIENCE_S
from api.cli.demo.inputs import SHOP_CURRENCIES, SHORT_WINDOW_S, USUAL_WINDOW_S
from api.cli.demo.screen import SUMS, StepProgress, show
from api.cli.demo.steps import Step, Steps
from api.cli.screens import BrokerProgress
from api.cli.terminal import Screen, write_json
from api.processes.signals import on_stop_signals, restore
from api.processes.up import Up
from ledger.broker.jars import JarCheck
from ledger.ports import free_port
from ledger.topics import Topics

# Makes the demo independent of the environment and of `.env`.
ENVIRONMENT = {
    "APP_ENV": "development",
    "TOPIC_PREFIX": "",
    "CURRENCIES": ",".join(SHOP_CURRENCIES),
    "PARTITIONS": "4",
    "WRITERS": "1",
    "PAYMENT_WINDOW_SECONDS": str(USUAL_WINDOW_S),
    "PAYMENT_WINDOW_MIN_SECONDS": str(SHORT_WINDOW_S),
    "PAYMENT_WINDOW_MAX_SECONDS": str(USUAL_WINDOW_S),
}


def run_demo(orders: int, keep: bool, as_json: bool, out: Screen, err: Screen, check: JarCheck | None = None) -> int:
    """Run it. Returns 0, 1 if something was not as promised, 130 if interrupted. Raises `BrokerError`, `ConfigError`."""
    folder = Path(tempfile.mkdtemp(prefix="order-ledger-demo-"))
    try:
        demo = Demo(folder, orders, err, check)
        interrupted = demo.run()
    except BaseException:
        if keep or any(folder.glob("log/*")):
            err.print(f"All files are kept in {folder}")
        else:  # nothing has begun
            shutil.rmtree(folder, ignore_errors=True)
        raise
    failed = not (demo.passed or interrupted)
    if not (keep or failed):
        shutil.rmtree(folder, ignore_errors=True)
    if as_json:
        write_json(demo.report())
    elif not interrupted:
        show(demo, out)
    if interrupted:
        err.print("Interrupted before anything was verified.")
    if keep or failed:
        err.print(f"All files are kept in {folder}")
    if demo.passed:
        demo.prepare_next_start()
    return 130 if interrupted else int(failed)


class Demo:
    """One run. `passed` is True once every step was as promised, `interrupted` once a signal ended it."""

    def __init__(self, folder: Path, orders: int, err: Screen, check: JarCheck | None) -> None:
        self.folder = folder
        self.began = time.monotonic()
        self.steps: Steps | None = None
        self.consumer: dict[str, Any] = {}
        self.error: str | None = None
        self.seconds: dict[str, float] = {}
        self.sums: dict[str, dict[str, int]] = {}
        self._orders, self._err = orders, err
        self._machine = Up(folder, free_port(), self._show_line, ENVIRONMENT, sandboxed=True, train=False, check=check)
        self._ended: list[str] = []
        self._worker: threading.Thread | None = None
        self._reader: subprocess.Popen[bytes] | None = None
        self._checked_at: float | None = None
        self._done = self._ending = self.interrupted = False

    @property
    def passed(self) -> bool:
        return self._done and self.error is None and not any(step.problems for step in self.all_steps())

    def prepare_next_start(self) -> None:
        """Create Java's cache in the background, if it does not exist: now that the demo is over, the machine is idle."""
        self._machine.broker.train_detached()

    def all_steps(self) -> list[Step]:
        return self.steps.steps if self.steps else []

    def run(self) -> bool:
        """Start everything, run all steps and checks, stop everything. Returns True if a signal ended it early."""

        def interrupt() -> None:
            self.interrupted = True
            self._machine.stop()

        before = on_stop_signals(interrupt)
        try:
            with BrokerProgress(self._err) as starting:

                def ready(info: dict[str, Any]) -> None:
                    starting.stop()
                    self.seconds["to start everything"] = time.monotonic() - self.began
                    self._worker = threading.Thread(target=self._work, args=(info,), name="demo")
                    self._worker.start()

                self._machine.run(ready, starting.update)
        finally:
            self._end_reader()
            if self._worker is not None:
                self._worker.join()
            restore(before)
        ended = time.monotonic()
        if self._checked_at is not None:
            self.seconds["to stop everything"] = ended - self._checked_at
        self.seconds["in all"] = ended - self.began
        return self.interrupted

    def _end_reader(self) -> None:
        """End the independent consumer, if it still runs: without a broker it would wait for its whole patience."""
        self._ending = True  # first: the worker may be about to start it
        if self._reader is not None:
            self._reader.kill()

    def _show_line(self, line: str) -> None:
        if "restarting it" in line:  # otherwise it is about a slow machine, which breaks no promise
            self._ended.append(line)
        self._err.print(line, style="yellow")

    def _work(self, info: dict[str, Any]) -> None:
        try:
            with StepProgress(self._err) as progress:
                self._do(info, progress)
            self._done = True
        except BaseException as exc:  # shown with the results, and reflected in the exit code
            self.error = f"{type(exc).__name__}: {exc}"
        finally:
            self._checked_at = time.monotonic()
            self._machine.stop()

    def _do(self, info: dict[str, Any], progress: StepProgress) -> None:
        topics = Topics(ENVIRONMENT["TOPIC_PREFIX"])
        with start_consumer(info, topics.events) as consumer:
            self._reader = consumer
            try:
                if self._ending:
                    raise RuntimeError("everything was stopped before the first step")
                self.steps = Steps(self._orders, info, progress.advance)
                began = time.monotonic()
                asyncio.run(self.steps.run())
                self.seconds["for all steps"] = time.monotonic() - began
                progress.advance("independent consumer", 0, 1)
                began = time.monotonic()
                printed, said = consumer.communicate(timeout=PATIENCE_S)  # closes its standard input: it reads to the end
                self.seconds["for the consumer to finish"] = time.monotonic() - began
            finally:
                consumer.kill()
        if consumer.returncode:
            raise RuntimeError(f"the independent consumer exited with code {consumer.returncode}: {said.decode()[-500:]}")
        self.consumer = json.loads(printed)
        self._compare()

    def _compare(self) -> None:
        """Compare the findings of the independent consumer with the answers of the API."""
        assert self.steps is not None
        totals = self.consumer
        step = Step("events read by an independent consumer", "versions 1..n, unbroken hash chain, one event per command")
        step.count = totals["events"]
        step.problems += totals["problems"]
        self.steps.steps.append(step)
        step = Step("orders compared with the API", "the topic alone gives the same orders, status and money")
        orders = totals["orders"]
        step.count = len(orders)
        step.expect(
            set(orders) == {order.order_id for order in self.steps.placed},
            "the topic does not have exactly the orders that were placed",
        )
        for order in self.steps.placed:
            seen = orders.get(order.order_id, {})
            captured = order.body["total_minor"] if order.life.paid else 0
            wanted = (order.life.status, order.customer, order.total_minor, captured)
            shown = tuple(seen.get(name) for name in ("status", "customer_id", "total_minor", "captured_minor"))
            step.expect(shown == wanted, f"{order.order_id}: {shown}, not {wanted}")
        self.steps.steps.append(step)
        self.steps.steps.append(self._compare_journal(orders))
        step = Step("processes that ended by themselves", "none")
        step.count = len(self._ended)
        step.problems += self._ended
        self.steps.steps.append(step)

    def _compare_journal(self, orders: dict[str, Any]) -> Step:
        """Compare the sandbox's journal with the topic: money and units of every order."""
        assert self.steps is not None
        step = Step("orders compared with the sandbox's journal", "captured, refunded, reserved: equal to the cent and the unit")
        outside = self.steps.outside["orders"]
        for order_id in sorted(orders.keys() | outside.keys()):
            step.count += 1
            inside = {name: orders.get(order_id, {}).get(name, 0) for name in SUMS}
            there = {name: outside.get(order_id, {}).get(name, 0) for name in SUMS}
            step.expect(inside == there, f"{order_id}: the ledger says {inside}, the journal {there}")
        self.sums = {
            "ledger": {name: sum(o.get(name, 0) for o in orders.values()) for name in SUMS},
            "journal": {name: sum(o[name] for o in outside.values()) for name in SUMS},
        }
        return step

    def latency_ms(self) -> dict[str, float]:
        """Percentiles of POST to 201, `CONNECTIONS` at a time."""
        return _percentiles_ms(self.steps.latencies_s if self.steps else [])

    def report(self) -> dict[str, Any]:
        """The results as JSON values."""
        return {
            "passed": self.passed,
            "error": self.error,
            "steps": [msgspec.to_builtins(step) | {"seconds": round(step.seconds, 3)} for step in self.all_steps()],
            "post_latency_ms": self.latency_ms(),
            "paid_after_ms": _percentiles_ms(self.steps.paid_after_s if self.steps else []),
            "sums": self.sums,
            "sent_again_after_202_or_503": self.steps.sent_again if self.steps else 0,
            "statuses": self.steps.statuses if self.steps else {},
            "events_by_type": self.consumer.get("by_type", {}),
            "decoder": self.consumer.get("decoder"),
            "seconds": {name: round(took_s, 1) for name, took_s in self.seconds.items()},
            "directory": str(self.folder) if self.folder.exists() else None,
        }


def _percentiles_ms(times_s: list[float]) -> dict[str, float]:
    if not times_s:
        return {}
    ordered, most = sorted(times_s), len(times_s) - 1
    return {f"p{share}": round(1000 * ordered[min(most, len(ordered) * share // 100)], 1) for share in (50, 99)}


def start_consumer(info: dict[str, Any], topic: str) -> subprocess.Popen[bytes]:
    """Start the independent consumer. The token is passed in its environment, never in its arguments."""
    arguments = [sys.executable, plain_consumer.__file__, info["bootstrap_servers"], topic, info["schema_registry_url"]]
    here = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}  # the registry is on this machine, whatever HTTP_PROXY says
    environment = os.environ | here | {"REGISTRY_TOKEN": info["tokens"]["reader"]}
    pipe = subprocess.PIPE
    return subprocess.Popen(arguments, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
