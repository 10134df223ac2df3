"""The jars of the embedded broker: `avro/kafka.lock.json` names them with their hashes, a cache in the user's folder has them.

`python -m ledger.broker.jars lock` resolves the jars anew and rewrites the lock file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock, Timeout

from ledger.errors import BrokerError, LedgerError
from ledger.files import errors_of_the_disk, require_disk, write_whole
from ledger.schemas.data_files import data_dir as avro_dir
from ledger.schemas.data_files import data_file

if TYPE_CHECKING:
    from jgo.maven import MavenContext

Phase = Literal["download", "verify", "format", "start"]

LOCK_FILE = "kafka.lock.json"
KAFKA_VERSION = "4.4.0"
SLF4J_VERSION = "1.7.36"

_CACHE_WAIT_S = 600.0
_DOWNLOAD_ATTEMPTS = 3
_HASHERS = 2

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` `unit`s. Reported from several threads, one at a time; within one call of `ensure_jars` or
    `EmbeddedBroker.start` the phases come in the order download or verify, format, start."""

    phase: Phase
    done: int
    total: int
    unit: Literal["bytes", "jars", "steps"]


Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Jar:
    """One line of the lock file. `coordinate` is Maven's `group:artifact:version`, `sha256` is lower-case hex."""

    coordinate: str
    sha256: str
    size_bytes: int

    @property
    def file_name(self) -> str:
        _, artifact, version = self.coordinate.split(":")
        return f"{artifact}-{version}.jar"


@dataclass(frozen=True, slots=True)
class JarLock:
    kafka_version: str
    roots: tuple[str, ...]
    jars: tuple[Jar, ...]

    @classmethod
    def read(cls, path: Path | None = None) -> JarLock:
        """The lock file at `path`, else the one that is shipped. Raises `FileNotFoundError`, `ValueError` when malformed."""
        document = json.loads((path or data_file(LOCK_FILE)).read_text("utf-8"))
        try:
            jars = tuple(Jar(jar["coordinate"], jar["sha256"], jar["size_bytes"]) for jar in document["jars"])
            lock = cls(document["kafka_version"], tuple(document["roots"]), jars)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path or LOCK_FILE} is not a lock file of jars: {error!r}") from error
        if len({jar.file_name for jar in jars}) != len(jars):
            raise ValueError(f"{path or LOCK_FILE}: two jars have the same file name")
        return lock

    def write(self, path: Path) -> None:
        """Written whole or not at all, one jar per line so that a change reads well in a diff."""
        jars = ",\n    ".join(
            json.dumps({"coordinate": jar.coordinate, "sha256": jar.sha256, "size_bytes": jar.size_bytes}) for jar in self.jars
        )
        head = f'"kafka_version": {json.dumps(self.kafka_version)},\n  "roots": {json.dumps(list(self.roots))}'
        write_whole(path, f'{{\n  {head},\n  "jars": [\n    {jars}\n  ]\n}}\n')


def cache_root() -> Path:
    """`$ORDER_LEDGER_CACHE`, else `order-ledger` in the user's cache folder of the platform.

    Raises `BrokerError` `directory_unusable` for a user without a home directory.
    """
    try:
        return _cache_root()
    except RuntimeError as error:
        raise BrokerError(
            "directory_unusable", "this user has no home directory: set ORDER_LEDGER_CACHE to a directory for Kafka's jars"
        ) from error


def _cache_root() -> Path:
    if chosen := os.environ.get("ORDER_LEDGER_CACHE"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "order-ledger"


def jar_paths(cache_dir: Path | None = None, lock: JarLock | None = None) -> list[Path]:
    """Where the jars of `lock` are, or would be. `cache_dir` defaults to `kafka-<version>` in `cache_root()`."""
    lock = lock or JarLock.read()
    cache_dir = cache_dir or cache_root() / f"kafka-{lock.kafka_version}"
    return [cache_dir / jar.file_name for jar in lock.jars]


def ensure_jars(
    cache_dir: Path | None = None,
    progress: Report | None = None,
    jobs: int = 8,
    lock: JarLock | None = None,
    check: JarCheck | None = None,
) -> list[Path]:
    """Paths of all jars of `lock` (default: the shipped one) in the cache, each with the SHA-256 that `lock` names.

    All are hashed, every time, but for those that `check` has found right and that have not changed since. What is missing or
    damaged is fetched, up to `jobs` jars at a time, from Maven Central or from the repositories of jgo's configuration file; a
    damaged jar is named in one line of the log. The usual call writes nothing and opens no connection.

    Raises `BrokerError`: `no_network`, `download_failed`, `bad_hash` (also for a damaged jar that could not be fetched again),
    `no_disk_space`, `directory_unusable`, `already_running`.
    """
    lock = lock or JarLock.read()
    paths = jar_paths(cache_dir, lock)
    known = check.right() if check else {}
    directory, report = paths[0].parent, one_at_a_time(progress)
    with errors_of_the_disk(directory):
        unknown = [(jar, path) for jar, path in zip(lock.jars, paths, strict=True) if known.get(path) != (jar, _identity(path))]
        if wrong := [jar for jar, found in _hashes(directory, [jar for jar, _ in unknown], report) if found != jar.sha256]:
            directory.mkdir(parents=True, exist_ok=True)
            try:
                with FileLock(directory / ".lock", timeout=_CACHE_WAIT_S, thread_local=False):
                    _fill(directory, wrong, report, jobs)
            except Timeout as error:
                raise BrokerError(
                    "already_running", f"another process has been filling {directory} for {_CACHE_WAIT_S:.0f} s: is it stuck?"
                ) from error
    return paths


class JarCheck:
    """Hashes the jars in the cache in a thread, from the moment it is made.

    They take 0.05 to 0.3 s of one core. Beside the imports of a start, which need another one, nobody waits for them.
    """

    def __init__(self, cache_dir: Path | None = None, lock: JarLock | None = None) -> None:
        self._cache_dir, self._lock = cache_dir, lock
        self._right: dict[Path, tuple[Jar, _Identity]] = {}
        self._thread = threading.Thread(target=self._run, name="jar-check", daemon=True)
        self._thread.start()

    def right(self) -> dict[Path, tuple[Jar, _Identity]]:
        """Each jar whose hash was right, and which file it was then. Waits for the thread."""
        self._thread.join()
        return self._right

    def _run(self) -> None:
        # Whatever is wrong with the cache is met again by `ensure_jars`, which says so.
        with suppress(OSError, LedgerError):
            lock = self._lock or JarLock.read()
            for jar, path in zip(lock.jars, jar_paths(self._cache_dir, lock), strict=True):
                before = _identity(path)
                if before is not None and _sha256(path) == jar.sha256:
                    self._right[path] = (jar, before)


_Identity = tuple[int, int, int]  # inode, size in bytes, time of the last change in ns


def _identity(path: Path) -> _Identity | None:
    """Which file is at `path`; None when there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _hashes(directory: Path, jars: Sequence[Jar], report: Report) -> Iterator[tuple[Jar, str | None]]:
    """The SHA-256 of each jar in `directory`; None where it is missing."""
    with ThreadPoolExecutor(_HASHERS, thread_name_prefix="jars") as pool:
        hashes = pool.map(_sha256, (directory / jar.file_name for jar in jars))
        for done, (jar, found) in enumerate(zip(jars, hashes, strict=True), 1):
            if found is not None:
                report(Progress("verify", done, len(jars), "jars"))
            yield jar, found


def _fill(directory: Path, wrong: Sequence[Jar], report: Report, jobs: int) -> None:
    """Fetch what is missing or damaged. The caller holds the directory's lock; whoever held it before may have done it all."""
    found = {jar: _sha256(directory / jar.file_name) for jar in wrong}
    wrong = [jar for jar in wrong if found[jar] != jar.sha256]
    damaged = [jar for jar in wrong if found[jar] is not None]
    for jar in damaged:
        log.warning("%s is damaged (its SHA-256 is %s): fetching it again", directory / jar.file_name, found[jar])
    if wrong:
        require_disk(directory, sum(jar.size_bytes for jar in wrong) // 2**20 + 64)
    try:
        _fetch(directory, wrong, report, jobs)
    except BrokerError as error:
        if not damaged:
            raise
        names = ", ".join(jar.file_name for jar in damaged)
        raise BrokerError(
            "bad_hash",
            f"{names} in {directory} {'is' if len(damaged) == 1 else 'are'} damaged ({LOCK_FILE} has another SHA-256) and could "
            f"not be fetched again; nothing was started. {error}",
        ) from error


def _fetch(directory: Path, missing: Sequence[Jar], report: Report, jobs: int) -> None:
    for abandoned in directory.glob("incoming-*"):
        shutil.rmtree(abandoned)
    if not missing:
        return
    # jgo writes in place and trusts what it finds: in the user's own Maven repository an interrupted download would stay
    # behind as a broken jar. A directory of our own that is thrown away cannot do harm.
    incoming = Path(tempfile.mkdtemp(prefix="incoming-", dir=directory))
    download = _Download(incoming, sum(jar.size_bytes for jar in missing), report)
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="jars")
    try:
        futures = [pool.submit(download.fetch, jar, directory / jar.file_name) for jar in missing]
        finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
        for future in finished:
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        shutil.rmtree(incoming)


class _Download:
    """One filling of the cache: fetches jars through jgo from several threads and adds up their bytes."""

    def __init__(self, incoming: Path, total_bytes: int, report: Report) -> None:
        self._total_bytes = total_bytes
        self._report = report
        self._done_bytes = 0
        self._counting = threading.Lock()
        self._any_arrived = False
        self._maven = _maven_context(incoming, self._count)

    def fetch(self, jar: Jar, target: Path) -> None:
        """Put `jar` at `target`, whole and checked, or raise."""
        for attempt in range(1, _DOWNLOAD_ATTEMPTS + 1):
            artifact = self._maven.create_dependency(jar.coordinate).artifact
            try:
                path = artifact.resolve()
                break
            except OSError as error:
                if error.errno is not None:
                    raise  # of the file system: those of jgo's HTTP client have no errno
                # A lost connection among many is tried again; when nothing ever arrived there is no network to try.
                if attempt == _DOWNLOAD_ATTEMPTS or not self._any_arrived:
                    raise BrokerError("no_network", _no_network(jar, self._maven, error)) from error
                if partial := artifact.cached_path:
                    partial.unlink(missing_ok=True)
            except RuntimeError as error:
                raise BrokerError(
                    "download_failed",
                    f"no Maven repository of {_repositories(self._maven)} gave {jar.coordinate}: a mirror that lacks it, or a "
                    "proxy that refuses it?",
                ) from error
            time.sleep(0.5 * attempt)
        self._any_arrived = True
        if (found := _sha256(path)) != jar.sha256:
            path.unlink()
            raise BrokerError(
                "bad_hash",
                f"{jar.coordinate} came with SHA-256 {found}, but {LOCK_FILE} says {jar.sha256}. The file was deleted. Something "
                "between here and the Maven repository changes what it delivers; nothing was started.",
            )
        path.replace(target)

    @contextmanager
    def _count(self, _file_name: str, _total: int) -> Iterator[Callable[[int], None]]:
        """jgo's progress callback: one use per file, called with the size of each chunk."""
        yield self._add

    def _add(self, size_bytes: int) -> None:
        with self._counting:
            self._done_bytes = min(self._done_bytes + size_bytes, self._total_bytes)
            self._report(Progress("download", self._done_bytes, self._total_bytes, "bytes"))


def _maven_context(repo_cache: Path, count: Any = None) -> MavenContext:
    """jgo's door to the repositories: Maven Central, or what jgo's configuration file puts in its place or adds."""
    # Imported here because it takes half a second, and the usual start downloads nothing.
    from jgo.config import GlobalSettings
    from jgo.constants import MAVEN_CENTRAL_URL
    from jgo.maven import MavenContext, PythonResolver

    repositories = {"central": MAVEN_CENTRAL_URL} | GlobalSettings.load().repositories
    resolver = PythonResolver(progress_callback=count)
    return MavenContext(resolver=resolver, repo_cache=repo_cache, remote_repos=repositories, timeout=20)


def _repositories(maven: MavenContext) -> str:
    return ", ".join(maven.remote_repos.values())


def _no_network(jar: Jar, maven: MavenContext, error: Exception) -> str:
    return (
        f"Kafka's jars are fetched once, and {_repositories(maven)} did not answer for {jar.coordinate} ({error}). Connect to "
        "the network (HTTPS_PROXY is honoured; a mirror goes into jgo's configuration file), or copy the cache directory of a "
        "machine that has it and name its parent in ORDER_LEDGER_CACHE."
    )


def write_jar_lock(kafka_version: str, path: Path) -> JarLock:
    """Resolve the runtime closure of Kafka and slf4j-simple with jgo, fetch every jar and write the lock file at `path`.

    Each jar is compared with the SHA-1 its repository publishes. Needs the network; raises what jgo raises, and `ValueError`
    when a jar does not match or is of a kind the lock file has no words for.
    """
    roots = (f"org.apache.kafka:kafka_2.13:{kafka_version}", f"org.slf4j:slf4j-simple:{SLF4J_VERSION}")
    with tempfile.TemporaryDirectory() as scratch:
        maven = _maven_context(Path(scratch))
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


def one_at_a_time(progress: Report | None) -> Report:
    """`progress`, or nothing, callable from several threads."""
    if progress is None:
        return lambda _: None
    reporting = threading.RLock()

    def report(step: Progress) -> None:
        with reporting:
            progress(step)

    return report


def _sha256(path: Path) -> str | None:
    """In hex; None when there is no such file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m ledger.broker.jars lock`: make the lock file again, for instance for another version of Kafka."""
    parser = argparse.ArgumentParser(prog="python -m ledger.broker.jars")
    lock = parser.add_subparsers(required=True).add_parser("lock", help="resolve Kafka's jars anew and rewrite the lock file")
    lock.add_argument("--kafka", default=KAFKA_VERSION, metavar="VERSION", help="default: %(default)s")
    lock.add_argument("--output", type=Path, default=avro_dir() / LOCK_FILE, help="default: %(default)s")
    chosen = parser.parse_args(arguments)
    written = write_jar_lock(chosen.kafka, chosen.output)
    size_mb = sum(jar.size_bytes for jar in written.jars) / 1e6
    print(f"{chosen.output}: {len(written.jars)} jars, {size_mb:.1f} MB")


if __name__ == "__main__":
    main()
