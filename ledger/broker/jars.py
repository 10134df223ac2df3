"""The jars of the embedded broker: `avro/kafka.lock.json` lists them with their hashes; they are kept in the user's cache folder.

`python -m ledger.broker.jars lock` resolves the jars again and rewrites the lock file.

Not on pooch, which keeps such caches: it has one URL per file, while a jar is looked for in each repository of jgo's
configuration file in turn (fatiando/pooch#310 is open). It would need that list, its order and the paths of Maven coordinates
from us, and jgo would stay for the lock file. It also hashes one file after the other at each start, and counts bytes per file.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from ledger.broker.fetching import Report, StartProgress, Stopping, end_if, fetch_jars, maven_context, never
from ledger.broker.lock import LOCK_FILE, Jar, JarLock, sha256_of
from ledger.errors import BrokerError, LedgerError
from ledger.files import errors_of_the_disk, require_disk
from ledger.schemas.data_files import data_dir as avro_dir

if TYPE_CHECKING:
    from jgo.maven import MavenContext


KAFKA_VERSION = "4.4.0"
SLF4J_VERSION = "1.7.36"

_CACHE_WAIT_S = 600.0
_HASHERS = 2

log = logging.getLogger(__name__)


def cache_root() -> Path:
    """`$ORDER_LEDGER_CACHE`, else `order-ledger` in the user's cache folder of the platform.

    Raises `BrokerError` `directory_unusable` for a user without a home directory.
    """
    if chosen := os.environ.get("ORDER_LEDGER_CACHE"):
        return Path(os.path.abspath(os.path.expanduser(chosen)))  # noqa: PTH100, PTH111  # a user without a home may set a path
    try:
        return user_cache_path("order-ledger", appauthor=False)
    except RuntimeError as error:
        raise BrokerError(
            "directory_unusable", "this user has no home directory: set ORDER_LEDGER_CACHE to a directory for Kafka's jars"
        ) from error


def jar_paths(cache_dir: Path | None = None, lock: JarLock | None = None) -> list[Path]:
    """Paths of the jars of `lock` in the cache. `cache_dir` defaults to `kafka-<version>` in `cache_root()`."""
    lock = lock or JarLock.read()
    cache_dir = cache_dir or cache_root() / f"kafka-{lock.kafka_version}"
    return [cache_dir / jar.file_name for jar in lock.jars]


def ensure_jars(
    cache_dir: Path | None = None,
    progress: Report | None = None,
    jobs: int = 8,
    lock: JarLock | None = None,
    check: JarCheck | None = None,
    stopping: Stopping = never,
) -> list[Path]:
    """Paths of all jars of `lock` (default: the shipped one) in the cache, each with the SHA-256 in `lock`.

    All are hashed every time, except those that `check` has verified and that have not changed since. Missing or damaged jars are
    downloaded, up to `jobs` at a time, from Maven Central or from the repositories of jgo's configuration file; a damaged jar is
    logged. The usual call writes nothing and opens no connection.

    Raises `BrokerError`: `no_network`, `download_failed`, `bad_hash` (also for a damaged jar that could not be fetched again),
    `no_disk_space`, `directory_unusable`, `already_running`; `not_running` soon after `stopping()` returns True.
    """
    lock = lock or JarLock.read()
    paths = jar_paths(cache_dir, lock)
    known = check.right() if check else {}
    directory, report = paths[0].parent, one_at_a_time(progress, stopping)
    with errors_of_the_disk(directory):
        unknown = [(jar, path) for jar, path in zip(lock.jars, paths, strict=True) if known.get(path) != (jar, _identity(path))]
        if wrong := [jar for jar, actual in _hashes(directory, [jar for jar, _ in unknown], report) if actual != jar.sha256]:
            directory.mkdir(parents=True, exist_ok=True)
            try:
                with FileLock(directory / ".lock", timeout=_CACHE_WAIT_S, thread_local=False).acquire(cancel_check=stopping):
                    _fill(directory, wrong, report, jobs, stopping)
            except Timeout as error:
                end_if(stopping)
                raise BrokerError(
                    "already_running", f"another process has been filling {directory} for {_CACHE_WAIT_S:.0f} s: is it stuck?"
                ) from error
    return paths


class JarCheck:
    """Hashes the jars in the cache in a thread that starts immediately.

    That takes 0.05 to 0.3 s of one core, in parallel with the imports of a start, which use another one.
    """

    def __init__(self, cache_dir: Path | None = None, lock: JarLock | None = None) -> None:
        self._cache_dir, self._lock = cache_dir, lock
        self._right: dict[Path, tuple[Jar, _Identity]] = {}
        self._thread = threading.Thread(target=self._run, name="jar-check", daemon=True)
        self._thread.start()

    def right(self) -> dict[Path, tuple[Jar, _Identity]]:
        """Each verified jar with the identity of its file. Waits for the thread."""
        self._thread.join()
        return self._right

    def _run(self) -> None:
        # `ensure_jars` will meet any problem with the cache again, and report it.
        with suppress(OSError, LedgerError):
            lock = self._lock or JarLock.read()
            for jar, path in zip(lock.jars, jar_paths(self._cache_dir, lock), strict=True):
                before = _identity(path)
                if before is not None and sha256_of(path) == jar.sha256:
                    self._right[path] = (jar, before)


_Identity = tuple[int, int, int]  # inode, size in bytes, time of the last change in ns


def _identity(path: Path) -> _Identity | None:
    """Identity of the file at `path`; None if there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _hashes(directory: Path, jars: Sequence[Jar], report: Report) -> Iterator[tuple[Jar, str | None]]:
    """The SHA-256 of each jar in `directory`; None if it is missing."""
    with ThreadPoolExecutor(_HASHERS, thread_name_prefix="jars") as pool:
        hashes = pool.map(sha256_of, (directory / jar.file_name for jar in jars))
        for done, (jar, actual) in enumerate(zip(jars, hashes, strict=True), 1):
            if actual is not None:
                report(StartProgress("verify", done, len(jars), "jars"))
            yield jar, actual


def _fill(directory: Path, wrong: Sequence[Jar], report: Report, jobs: int, stopping: Stopping) -> None:
    """Download missing or damaged jars. The caller holds the lock of the directory; an earlier holder may have done it."""
    hashes = {jar: sha256_of(directory / jar.file_name) for jar in wrong}
    wrong = [jar for jar in wrong if hashes[jar] != jar.sha256]
    damaged = [jar for jar in wrong if hashes[jar] is not None]
    for jar in damaged:
        log.warning("%s is damaged (its SHA-256 is %s), downloading it again", directory / jar.file_name, hashes[jar])
    if wrong:
        require_disk(directory, sum(jar.size_bytes for jar in wrong) // 2**20 + 64)
    try:
        fetch_jars(directory, wrong, report, jobs, stopping)
    except BrokerError as error:
        if not damaged or error.code == "not_running":
            raise
        names = ", ".join(jar.file_name for jar in damaged)
        raise BrokerError(
            "bad_hash",
            f"{names} in {directory} {'is' if len(damaged) == 1 else 'are'} damaged ({LOCK_FILE} has another SHA-256) and could "
            f"not be downloaded again; nothing was started. {error}",
        ) from error


def write_jar_lock(kafka_version: str, path: Path) -> JarLock:
    """Resolve the runtime closure of Kafka and slf4j-simple with jgo, fetch every jar and write the lock file at `path`.

    Each jar is compared with the SHA-1 its repository publishes. Needs the network; raises errors of jgo, and `ValueError`
    if a jar does not match or is of a kind that the lock file does not support.
    """
    roots = (f"org.apache.kafka:kafka_2.13:{kafka_version}", f"org.slf4j:slf4j-simple:{SLF4J_VERSION}")
    with tempfile.TemporaryDirectory() as scratch:
        maven = maven_context(Path(scratch))
        named, closure = maven.resolver.resolve([maven.create_dependency(root) for root in roots])
        wanted = {dependency.artifact.key for dependency in (*named, *closure)}
        with ThreadPoolExecutor(8) as pool:
            jars = pool.map(lambda key: _lock_jar(maven, *key), wanted)
            lock = JarLock(kafka_version, roots, tuple(sorted(jars, key=lambda jar: jar.coordinate)))
    lock.write(path)
    return lock


def _lock_jar(maven: MavenContext, group: str, name: str, version: str, classifier: str, packaging: str) -> Jar:
    coordinate = f"{group}:{name}:{version}"
    if classifier or packaging != "jar":
        raise ValueError(f"{coordinate} is a {packaging} with classifier {classifier!r}, not a plain jar")
    component = maven.project(group, name).at_version(version)
    path = component.artifact().resolve()
    published = component.artifact(packaging="jar.sha1").resolve().read_text("ascii").split()[0]
    content = path.read_bytes()
    if hashlib.sha1(content, usedforsecurity=False).hexdigest() != published:
        raise ValueError(f"{coordinate} does not have the SHA-1 its repository publishes ({published})")
    return Jar(coordinate, hashlib.sha256(content).hexdigest(), len(content))


def one_at_a_time(progress: Report | None, stopping: Stopping = never) -> Report:
    """`progress` (or nothing), made safe to call from several threads. Raises `BrokerError` once the start is to end."""
    reporting = threading.RLock()

    def report(step: StartProgress) -> None:
        end_if(stopping)
        if progress is not None:
            with reporting:
                progress(step)

    return report


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m ledger.broker.jars lock`: rewrite the lock file, for example for another version of Kafka."""
    parser = argparse.ArgumentParser(prog="python -m ledger.broker.jars")
    lock = parser.add_subparsers(required=True).add_parser("lock", help="resolve Kafka's jars again and rewrite the lock file")
    lock.add_argument("--kafka", default=KAFKA_VERSION, metavar="VERSION", help="default: %(default)s")
    lock.add_argument("--output", type=Path, default=avro_dir() / LOCK_FILE, help="default: %(default)s")
    chosen = parser.parse_args(arguments)
    written = write_jar_lock(chosen.kafka, chosen.output)
    size_mb = sum(jar.size_bytes for jar in written.jars) / 1e6
    print(f"{chosen.output}: {len(written.jars)} jars, {size_mb:.1f} MB")


if __name__ == "__main__":
    main()
