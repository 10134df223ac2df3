"""Progress bars while processes start or the log is read, and the panel that `up` shows when it is ready."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from rich.panel import Panel
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from api.cli.terminal import Screen
from ledger.broker.fetching import StartProgress

_WORDS = {
    "download": "Downloading Kafka",
    "verify": "Checking Kafka's jars",
    "format": "Creating the data directory",
    "start": "Starting Kafka",
}


class BrokerProgress:
    """Progress bar for the start of the embedded broker; silent if standard error is not a terminal."""

    def __init__(self, console: Screen) -> None:
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[amount]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> BrokerProgress:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def update(self, progress: StartProgress) -> None:
        """Show one step of the broker's start."""
        amount = f"{progress.done}/{progress.total} {progress.unit}" if progress.total else ""
        if self._task is None:
            self._task = self._bar.add_task("", amount="")
        self._bar.update(
            self._task,
            description=_WORDS.get(progress.phase, progress.phase),
            completed=progress.done,
            total=progress.total or None,
            amount=amount,
        )

    def stop(self) -> None:
        self._bar.stop()


class LogProgress:
    """Progress bar with share of the log, events per second, bytes read and time left. Goes to standard error, for `--json`."""

    def __init__(self, err: Screen) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[speed]}", markup=False),
            TimeRemainingColumn(),
            console=err,
            disable=not err.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> LogProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def started(self, total: int, done: int) -> None:
        self._task = self._progress.add_task("reading the log", total=total, completed=done, speed="")

    def moved(self, done: int, events: int, bytes_read: int) -> None:
        if self._task is None:
            return
        seconds = self._progress.tasks[self._task].elapsed or 0.0
        speed = f"{events / seconds:,.0f} events/s, {bytes_read / 1e6:,.0f} MB" if seconds else ""
        self._progress.update(self._task, completed=done, speed=speed)

    def phase(self, text: str) -> None:
        if self._task is not None:
            self._progress.update(self._task, description=text)


def show_up(console: Screen, info: dict[str, Any], data: Path) -> None:
    """Show where everything runs, and a first command to try."""
    table = Table.grid(padding=(0, 2))
    table.add_row("API", f"{info['url']}   (docs: {info['url']}/docs)")
    table.add_row("Console", f"{info['url']}/console   (the desk's screens; sign in with the admin's token)")
    table.add_row("Kafka", info["bootstrap_servers"])
    table.add_row("Schema registry", f"{info['schema_registry_url']}   (read-only, the API itself)")
    if info["sandbox_url"]:
        table.add_row("Sandbox", f"{info['sandbox_url']}   (stands in for payments and stock: no real money)")
    table.add_row("Tokens", str(data / "run" / "up.json"))
    table.add_row("Logs", str(data / "log"))
    console.print(Panel(table, title="Order Ledger is up", expand=False))
    gateway = info["tokens"]["gateway"]
    console.print("Try:\n")
    console.print(_FIRST_ORDER.format(url=info["url"], token=gateway))
    console.print("\nThen `order-ledger tail --from beginning` in another terminal. Ctrl-C stops everything.")


_FIRST_ORDER = """\
curl -s {url}/orders -H 'Authorization: Bearer {token}' \\
  -H 'Customer-Id: c-1' -H 'Idempotency-Key: cart-1' -H 'Content-Type: application/json' -d '{{
  "currency": "EUR", "total_minor": 2890,
  "lines": [{{"service": "product", "sku": "espresso-1kg", "name": "Espresso 1 kg", "quantity": 1, "unit_price_minor": 2490}}],
  "adjustments": [{{"kind": "shipping", "label": "Parcel", "amount_minor": 400}}],
  "contact": {{"name": "Ada", "email": "ada@example.org",
    "shipping_address": {{"line1": "1 Mill Lane", "city": "Leeds", "postcode": "LS1 1AA", "country": "GB"}}}}}}'"""
