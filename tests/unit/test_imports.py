"""Which verb imports which heavy libraries: each adds 0.1 to 0.6 s of CPU to every start, on two cores for all processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]
HEAVY = {
    "aiohttp",
    "apprise",
    "avro",
    "babel",
    "confluent_kafka",
    "fastapi",
    "fastavro",
    "faust",
    "grpc",
    "httpx",
    "jgo",
    "jinja2",
    "jsonschema",
    "kafka",  # kafka-python: only to ask about transactions
    "pyarrow",
    "pydantic",
    "pydantic_settings",
    "requests",
    "rich.progress",
    "rocksdict",
    "starlette",
    "stripe",
    "structlog",
    "uvicorn",
}

# The imports before the first line of the verb's work, and which of the above it may import.
SETTINGS = {"pydantic", "pydantic_settings"}
LOG = {"confluent_kafka", "fastavro", "rocksdict", "structlog", *SETTINGS}
ALLOWED = {
    "from api.cli.verbs import app; import typer; typer.main.get_command(app)": set(),
    "import api.processes.up, api.cli.screens": {"rich.progress", *SETTINGS},
    "import api.processes.companions, api.processes.wiring, commands.processor.process": LOG,
    "import api.processes.sandbox": {"aiohttp", "fastavro", "starlette", "uvicorn", "structlog", *SETTINGS},
    "import api.processes.serve": {"aiohttp", "fastapi", "faust", "starlette", "uvicorn", *LOG},
}


@pytest.mark.parametrize("source", ALLOWED)
def test_a_process_imports_only_the_heavy_libraries_it_uses(source: str) -> None:
    program = f"import json, sys\n{source}\nprint(json.dumps(sorted(sys.modules)))"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True, timeout=PATIENCE_S
    )
    assert (set(json.loads(ran.stdout)) & HEAVY) - ALLOWED[source] == set()
