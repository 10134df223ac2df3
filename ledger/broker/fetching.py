"""Downloads jars from Maven repositories and reports progress. The only importer of `jgo`."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ledger.broker.lock import LOCK_FILE, Jar, sha256_of
from ledger.errors import BrokerError
from ledger.extras import needs

if TYPE_CHECKING:
    from jgo.maven import MavenContext

Phase = Literal["download", "verify", "format", "start"]

_DOWNLOAD_ATTEMPTS = 3
_CHECK_S = 0.1


@dataclass(frozen=True, slots=True)
class StartProgress:
    """`done` of `total` `unit`s. Reported from several threads, one at a time; within one call of `ensure_jars` or
    `EmbeddedBroker.start` the phases come in the order download or verify, format, start."""

    phase: Phase
    done: int
    total: int
    unit: Literal["bytes", "jars", "steps"]


Report = Callable[[StartProgress], None]
Stopping = Callable[[], bool]


def never() -> bool:
    """The `Stopping` of a start that nobody ends early."""
    return False


def end_if(stopping: Stopping) -> None:
    """Raises `BrokerError` `not_running` once the start is to end."""
    if stopping():
        raise BrokerError("not_running", "stopped before Kafka was ready")


def fetch_jars(directory: Path, missing: Sequence[Jar], report: Report, jobs: int, stopping: Stopping = never) -> None:
    """Fetch `missing` into `directory`, `jobs` at a time. Raises `BrokerError`."""
    for abandoned in directory.glob("incoming-*"):
        shutil.rmtree(abandoned, ignore_errors=True)  # its process may be ending
    if not missing:
        return
    # jgo writes in place and trusts existing files: in the user's own Maven repository, an interrupted download would leave a
    # broken jar. A temporary directory is harmless.
    incoming = Path(tempfile.mkdtemp(prefix="incoming-", dir=directory))
    download = _Download(incoming, sum(jar.size_bytes for jar in missing), report)
    try:
        _in_threads(jobs, lambda jar: download.fetch(jar, directory / jar.file_name), missing, stopping)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)  # after a stop, a thread may still write there


def _in_threads(jobs: int, fetch: Callable[[Jar], None], jars: Sequence[Jar], stopping: Stopping) -> None:
    """Call `fetch` for each of `jars`, `jobs` at a time. Raises the first error, once all threads have ended.

    Raises `BrokerError` `not_running` without waiting for them: jgo may wait minutes for a slow repository, and nothing ends that
    from outside. So they are no pool, which the end of the program would wait for.
    """
    left = iter(tuple(jars))  # shared: each thread takes the next one
    errors: list[BaseException] = []

    def work() -> None:
        try:
            while not (errors or stopping()) and (jar := next(left, None)) is not None:
                fetch(jar)
        except BaseException as exc:  # raised by the caller
            errors.append(exc)

    threads = [threading.Thread(target=work, name=f"jars-{n}", daemon=True) for n in range(min(jobs, len(jars)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            end_if(stopping)
            thread.join(_CHECK_S)
    end_if(stopping)
    if errors:
        raise errors[0]


class _Download:
    """One download into the cache: fetches jars through jgo from several threads and counts bytes."""

    def __init__(self, incoming: Path, total_bytes: int, report: Report) -> None:
        self._total_bytes = total_bytes
        self._report = report
        self._done_bytes = 0
        self._counting = threading.Lock()
        self._any_arrived = False
        self._maven = maven_context(incoming, self._count)

    def fetch(self, jar: Jar, target: Path) -> None:
        """Download `jar` to `target`, complete and verified, or raise."""
        for attempt in range(1, _DOWNLOAD_ATTEMPTS + 1):
            artifact = self._maven.create_dependency(jar.coordinate).artifact
            try:
                path = artifact.resolve()
                break
            except OSError as error:
                if error.errno is not None:
                    raise  # an error of the file system: those of jgo's HTTP client have no errno
                # A single lost connection is retried; if nothing ever arrived, there is no network.
                if attempt == _DOWNLOAD_ATTEMPTS or not self._any_arrived:
                    raise BrokerError("no_network", _no_network(jar, self._maven, error)) from error
                if partial := artifact.cached_path:
                    partial.unlink(missing_ok=True)
            except RuntimeError as error:
                raise BrokerError(
                    "download_failed",
                    f"no Maven repository of {_repositories(self._maven)} has {jar.coordinate}: is it missing in a mirror, or "
                    "refused by a proxy?",
                ) from error
            time.sleep(0.5 * attempt)
        self._any_arrived = True
        if (actual := sha256_of(path)) != jar.sha256:
            path.unlink()
            raise BrokerError(
                "bad_hash",
                f"{jar.coordinate} has SHA-256 {actual}, but {LOCK_FILE} says {jar.sha256}. The file was deleted. Something "
                "between this machine and the Maven repository changes downloads; nothing was started.",
            )
        path.replace(target)

    @contextmanager
    def _count(self, _file_name: str, _total: int) -> Iterator[Callable[[int], None]]:
        """jgo's progress callback: one use per file, called with the size of each chunk."""
        yield self._add

    def _add(self, size_bytes: int) -> None:
        with self._counting:
            self._done_bytes = min(self._done_bytes + size_bytes, self._total_bytes)
            self._report(StartProgress("download", self._done_bytes, self._total_bytes, "bytes"))


def maven_context(repo_cache: Path, count: Any = None) -> MavenContext:
    """jgo's access to the repositories: Maven Central, or those of jgo's configuration file."""
    # Imported here because it takes half a second, and a usual start downloads nothing.
    with needs("embedded"):
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
        f"Kafka's jars are downloaded once, but {_repositories(maven)} did not answer for {jar.coordinate} ({error}). Connect to "
        "the network (HTTPS_PROXY is honoured; put a mirror into jgo's configuration file), or copy the cache directory from "
        "another machine and set ORDER_LEDGER_CACHE to its parent."
    )
