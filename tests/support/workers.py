"""Divides a run of the suite: four worker processes, one broker for all of them.

Half of a run is waiting (for processes, for Kafka, for pauses): with two workers, two cores are idle for a third of the time.
A run of named files or tests gets one process, as with plain pytest; `-n 0` forces that, `-n 3` another number.
"""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock
from xdist.scheduler import LoadScopeScheduling

from ledger.broker.node import EmbeddedBroker
from ledger.kafka.settings import KafkaSettings

WORKERS = 4

# Long tests that share nothing but the broker: each may run in any worker. The tests of every other file share fixtures or
# caches of their module, and stay together.
INDEPENDENT = ("tests/faults/", "tests/integration/test_faust_app.py", "tests/integration/test_faust_app_process.py")

TOGETHER = ("tests/e2e/", "tests/cluster/")


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # it has no type information
    """Which tests belong together: all end-to-end tests (they share an `up`), all on a cluster, a file's, or none."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        for together in TOGETHER:
            if file.startswith(together):
                return together
        return nodeid if file.startswith(INDEPENDENT) else file


class SharedRun:
    """A folder that all workers of one run share: who is still running (a lock each), and where the broker is."""

    def __init__(self, folder: Path, worker: str) -> None:
        self._folder = folder
        self._presence = FileLock(folder / f"at-work-{worker}")
        self._presence.acquire()
        self._broker: EmbeddedBroker | None = None
        self.processes: set[int] = set()  # of the broker, if this worker owns it

    def bootstrap_servers(self, data: Path) -> str:
        """Addresses of the run's broker. The first worker that asks starts it, in `data`."""
        address = self._folder / "bootstrap"
        with FileLock(self._folder / "starting"):
            if not address.exists():
                # `quick` compiles less: cheaper for a run of minutes.
                self._broker = EmbeddedBroker(data, log_file=data.parent / "broker.log", jit="quick")
                before = {child.pid for child in psutil.Process().children()}
                self._broker.start()
                self.processes = {child.pid for child in psutil.Process().children()} - before
                address.write_text(self._broker.bootstrap_servers)
        return address.read_text()

    def leave(self) -> None:
        """Called after the last test. The broker's owner waits for the other workers; the lock of a dead one is free, too."""
        self._presence.release()
        if self._broker is not None:
            for presence in self._folder.glob("at-work-*"):
                with FileLock(presence):
                    pass
            self._broker.stop()


SHARED_RUN = pytest.StashKey[SharedRun]()
FOLDER = pytest.StashKey[Path]()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """For `-n auto`, which is the project's default."""
    chosen = [Path(argument.partition("::")[0]) for argument in config.args]
    return WORKERS if all(path.is_dir() for path in chosen) else 0


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    return Scheduling(config, log)


def pytest_configure(config: pytest.Config) -> None:
    """Before xdist starts its workers."""
    gc.set_threshold(50_000)  # exhaustive searches keep their objects: scanning them costs a third of the time
    if not hasattr(config, "workerinput"):
        config.stash[FOLDER] = Path(tempfile.mkdtemp(prefix="order-ledger-tests-"))
        share_bytecode(config)


def share_bytecode(config: pytest.Config) -> None:
    """Compile each module once, not in each of the hundred processes of a run, where Python keeps no bytecode.

    Container images often set PYTHONDONTWRITEBYTECODE. Without bytecode, importing `serve` takes 2.8 s instead of 0.8 s.
    """
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None) and getattr(config, "cache", None) is not None:
        os.environ["PYTHONPYCACHEPREFIX"] = str(config.cache.mkdir("bytecode"))


def pytest_collection_finish(session: pytest.Session) -> None:
    gc.freeze()  # modules and tests stay: no later collection need scan them


def pytest_configure_node(node: Any) -> None:
    node.workerinput["shared_folder"] = str(node.config.stash[FOLDER])


def pytest_sessionstart(session: pytest.Session) -> None:
    config = session.config
    if hasattr(config, "workerinput"):
        config.stash[SHARED_RUN] = SharedRun(Path(config.workerinput["shared_folder"]), os.environ["PYTEST_XDIST_WORKER"])
    elif not config.getoption("numprocesses"):
        config.stash[SHARED_RUN] = SharedRun(config.stash[FOLDER], "alone")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Runs last, after the fixtures of the session. Outside any test, so the wait counts against no test's timeout."""
    if (run := session.config.stash.get(SHARED_RUN, None)) is not None:
        run.leave()


def pytest_unconfigure(config: pytest.Config) -> None:
    if (folder := config.stash.get(FOLDER, None)) is not None:
        shutil.rmtree(folder)


def broker_processes(config: pytest.Config) -> set[int]:
    """Processes of the run's broker, if this process owns it."""
    return config.stash[SHARED_RUN].processes


@pytest.fixture(scope="session")
def kafka(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> KafkaSettings:
    """Settings of the broker that most tests share. A test that kills a broker starts one of its own."""
    data = tmp_path_factory.mktemp("broker") / "data"
    return KafkaSettings(bootstrap_servers=pytestconfig.stash[SHARED_RUN].bootstrap_servers(data), client_id="tests")
