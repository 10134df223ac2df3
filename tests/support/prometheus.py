"""A real Prometheus that scrapes a ledger: by the jobs, with the alerts and for the dashboard that `ops export` writes.

It is the machine's (`apt-get install prometheus`), or built with Go without its service discovery.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from api.cli.ops import ALERTS, contents
from ledger.ports import free_port
from tests.support import loopback
from tests.support.go_programs import on_path_or_built
from tests.support.patience import PATIENCE_S

MODULE, VERSION = "github.com/prometheus/prometheus", "v0.316.0"
SCRAPE_CONFIGS = "prometheus/scrape_configs.yml"


def program(name: str) -> Path:
    """`prometheus` or `promtool`. Raises `RuntimeError` with Go's words when it has to be built and cannot be."""
    # Without its service discovery, which is most of the program.
    return on_path_or_built(name, f"{MODULE}/cmd/{name}", MODULE, VERSION, "promtool", tags="remove_all_sd")


class Prometheus:
    """One that runs: questions in PromQL, over a time."""

    def __init__(self, url: str) -> None:
        self._client = loopback.client(base_url=url)

    def over(self, query: str, start_s: float, end_s: float, step_s: float = 2.0) -> list[dict[str, Any]]:
        """The series of a query between two times (seconds since the epoch). Raises `AssertionError` with Prometheus' words."""
        asked = {"query": query, "start": str(start_s), "end": str(end_s), "step": str(step_s)}
        answer = self._client.get("/api/v1/query_range", params=asked)
        assert answer.status_code == 200, f"{query}: {answer.text}"
        series: list[dict[str, Any]] = answer.json()["data"]["result"]
        return series

    def targets(self) -> dict[str, str]:
        """Address -> "up", "down" or "unknown"."""
        active = self._client.get("/api/v1/targets").json()["data"]["activeTargets"]
        return {target["labels"]["instance"]: target["health"] for target in active}

    def is_ready(self) -> bool:
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def close(self) -> None:
        self._client.close()


@contextmanager
def running_prometheus(folder: Path, targets: Mapping[str, Sequence[str]], token: str, every_s: int = 1) -> Iterator[Prometheus]:
    """One with the files of `ops export`, whose jobs get `targets` (job -> host:port) and are scraped every `every_s`.

    Its data and its log stay in `folder`. Raises `RuntimeError` with the end of the log when it does not start.
    """
    folder.mkdir()
    files = contents()
    (folder / "alerts.yml").write_text(files[ALERTS], "utf-8")
    (folder / "token").write_text(token)
    jobs = yaml.safe_load(files[SCRAPE_CONFIGS])["scrape_configs"]
    for job in jobs:
        job["scrape_interval"] = f"{every_s}s"
        job["static_configs"] = [{"targets": list(targets[job["job_name"]])}]
        if "authorization" in job:
            job["authorization"]["credentials_file"] = str(folder / "token")
    config = {"global": {"evaluation_interval": f"{every_s}s"}, "rule_files": ["alerts.yml"], "scrape_configs": jobs}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port, log = free_port(), folder / "prometheus.log"
    command = [str(program("prometheus")), f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"], stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    prometheus = Prometheus(f"http://127.0.0.1:{port}")
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not prometheus.is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Prometheus did not start ({process.poll()}): {log.read_text('utf-8', 'replace')[-3000:]}")
            time.sleep(0.05)
        yield prometheus
    finally:
        prometheus.close()
        process.terminate()
        process.wait(PATIENCE_S)
