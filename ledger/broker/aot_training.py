"""Creates Java's ahead-of-time cache (`ledger.broker.aot_cache`): `python -m ledger.broker.aot_training CACHE_DIR`.

It starts a separate broker in a temporary directory beside the jars, runs a short load like that of the ledger, and stops it, at
which Java writes the cache. Everything runs at the lowest priority. The cache gets its name when it is complete and Java has
accepted it once; an interrupted training leaves a directory that the next one removes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from ledger.broker import aot_cache
from ledger.broker.jars import ensure_jars
from ledger.broker.java import java_path, java_takes
from ledger.broker.node import EmbeddedBroker
from ledger.errors import LedgerError
from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.log import NewRecord, TopicPartition
from ledger.topics import Topics

LOAD_TRANSACTIONS = 300  # enough for the methods on the path of an order to be compiled with profiles
LOAD_AT_MOST_S = 120.0
END_S = 600.0  # writing the cache takes 6 s of CPU, at the lowest priority
_PREFIX = "training-"


def make(cache_dir: Path) -> Path | None:
    """Create the cache for the current Java and jars. Returns its file; None if it exists or another process creates it."""
    jars = ensure_jars(cache_dir)
    try:
        with FileLock(cache_dir / ".aot.lock", timeout=0):
            target = aot_cache.cache_file(java_path(), jars)
            if target.exists():
                return None
            for abandoned in cache_dir.glob(f"{_PREFIX}*"):
                shutil.rmtree(abandoned, ignore_errors=True)
            work = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=cache_dir))
            try:
                _train(work, cache_dir, work / target.name)
                java_takes(work / target.name, jars)
                (work / target.name).replace(target)
            finally:
                shutil.rmtree(work, ignore_errors=True)
            aot_cache.remove_older(target)
            return target
    except Timeout:
        return None


def _train(work: Path, cache_dir: Path, output: Path) -> None:
    broker = EmbeddedBroker(work / "data", cache_dir=cache_dir, aot_output=output)
    broker.start()
    try:
        _load(broker.bootstrap_servers)
    finally:
        broker.stop(END_S)


def _load(bootstrap_servers: str) -> None:
    """The usual load of the ledger: commands, transactions of events, readers of both."""
    log = KafkaLog(
        KafkaSettings(
            _env_file=None,  # type: ignore[call-arg]
            bootstrap_servers=bootstrap_servers,
            security_protocol="PLAINTEXT",
            replication_factor=-1,
        )
    )
    topics = Topics("training.")
    log.ensure_topics(topics.specs(4, 1), 120.0)
    writer, sender, reader = log.writer("training"), log.sender("training"), log.reader("training", max_wait_ms=1)
    try:
        writer.start(120.0)
        reader.assign({TopicPartition(name, p): 0 for name in (topics.events, topics.commands) for p in range(4)})
        deadline = time.monotonic() + LOAD_AT_MOST_S
        for n in range(LOAD_TRANSACTIONS):
            key, value = str(n).encode(), bytes(400)
            sender.send(NewRecord(topics.commands, n % 4, key, value), lambda acked, error: None)
            writer.transact([NewRecord(topics.events, p, key, value) for p in range(1 + n % 4)])
            reader.poll(100, 0.005)
            if time.monotonic() > deadline:
                break
    finally:
        reader.close()
        writer.close()
        sender.close()


def _step_back() -> None:
    """Use only idle time of the processor."""
    if hasattr(os, "nice"):
        os.nice(19)
    if hasattr(os, "SCHED_IDLE"):
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        except PermissionError:
            print("idle scheduling is not available, using niceness only", flush=True)


def _end_with_parent(cache_dir: Path) -> None:
    """End this process and its children when standard input ends."""

    def wait() -> None:
        with suppress(OSError):  # a broken pipe counts as its end
            while os.read(0, 4096):
                pass
        started = psutil.Process().children(recursive=True)
        for process in started:
            process.kill()
        psutil.wait_procs(started, 5.0)
        for work in cache_dir.glob(f"{_PREFIX}*"):
            shutil.rmtree(work, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=wait, name="end-with-parent", daemon=True).start()


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 if the cache exists or is being created elsewhere, 1 with one line if it could not be created."""
    parser = argparse.ArgumentParser(prog="python -m ledger.broker.aot_training")
    parser.add_argument("cache_dir", type=Path)
    parser.add_argument("--with-parent", action="store_true", help="exit when standard input ends")
    chosen = parser.parse_args(arguments)
    if chosen.with_parent:
        _end_with_parent(chosen.cache_dir)
    _step_back()
    began = time.monotonic()
    try:
        file = make(chosen.cache_dir)
    except (LedgerError, OSError) as exc:
        print(f"Java's cache could not be created: {exc}", flush=True)
        return 1
    if file is not None:
        print(f"made {file} in {time.monotonic() - began:.0f} s, {file.stat().st_size / 1e6:.0f} MB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
