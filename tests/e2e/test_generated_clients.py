"""Clients that others would generate from `/openapi.json`: each places an order, pays it at the sandbox and sees it paid."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from commands.sandbox import PUBLISHABLE_KEY
from tests.support import loopback
from tests.support.node import Workbench
from tests.support.patience import PATIENCE_S
from tests.support.up_process import UpProcess

GENERATOR = "openapi-python-client==0.29.1"
CLIENT = Path(__file__).parents[1] / "clients" / "place_and_pay.py"


def fetched(up: UpProcess, path: Path) -> Path:
    """The document of the running ledger, in a file."""
    answer = loopback.get(f"{up.url}/openapi.json", headers={"Authorization": f"Bearer {up.token('reader')}"})
    assert answer.status_code == 200
    path.write_bytes(answer.content)
    return path


def arguments(up: UpProcess) -> list[str]:
    return [up.url, up.token("gateway"), up.info()["sandbox_url"], PUBLISHABLE_KEY]


def check_paid(up: UpProcess, done: subprocess.CompletedProcess[str], customer: str) -> None:
    """The client ended well, and the ledger says the same of its order."""
    assert done.returncode == 0, done.stderr
    order: dict[str, Any] = json.loads(done.stdout)
    headers = {"Authorization": f"Bearer {up.token('admin')}"}
    shown = loopback.get(f"{up.url}/orders/{order['order_id']}", headers=headers).json()
    assert (shown["customer_id"], shown["status"], shown["captured_minor"]) == (customer, "paid", 2490)
    assert {name: order[name] for name in ("order_id", "version", "lines", "total_minor")} == {
        name: shown[name] for name in ("order_id", "version", "lines", "total_minor")
    }


@pytest.mark.node
@pytest.mark.timeout(1_800)
@pytest.mark.kafka
def test_a_typescript_client_places_and_pays_an_order(up: UpProcess, tmp_path: Path) -> None:
    bench = Workbench(tmp_path / "node")
    fetched(up, bench.folder / "openapi.json")
    for tool in (("openapi-typescript", "openapi.json", "--output", "schema.d.ts"), ("tsc",)):
        done = bench.tool(*tool)
        assert done.returncode == 0, done.stdout + done.stderr
    check_paid(up, bench.node("built/place_and_pay.js", *arguments(up)), "typescript")


@pytest.mark.clients
@pytest.mark.timeout(1_800)
@pytest.mark.kafka
def test_a_python_client_places_and_pays_an_order(up: UpProcess, tmp_path: Path) -> None:
    uv = os.environ.get("UV") or shutil.which("uv")
    assert uv, "uv is not on PATH"
    document = fetched(up, tmp_path / "openapi.json")
    generate = [uv, "tool", "run", "--from", GENERATOR, "openapi-python-client", "generate", "--fail-on-warning"]
    generate += ["--path", str(document), "--output-path", str(tmp_path / "client")]
    done = subprocess.run(generate, capture_output=True, text=True, timeout=PATIENCE_S, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    run = [uv, "run", "--no-project", "--with", str(tmp_path / "client"), "python", str(CLIENT), *arguments(up)]
    check_paid(up, subprocess.run(run, capture_output=True, text=True, timeout=PATIENCE_S, cwd=tmp_path, check=False), "python")
