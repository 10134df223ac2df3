"""`up`: runs broker, commands, serve and, unless external services are set, the sandbox in one data directory.

A process that ends is restarted. Ctrl-C stops everything.

    <data>/broker/            the embedded broker's data
    <data>/state/             databases of commands and serve
    <data>/sandbox/           state and journal of the stand-ins for payments and stock
    <data>/outbox/            e-mail to customers as files, if no mail server is set
    <data>/keys.json          hash key and one token per role, created once (0600)
    <data>/tokens.json        hashes of the tokens, read by `serve`
    <data>/run/<process>.pid  broker, commands, serve, sandbox
    <data>/run/up.json        addresses of everything, with the tokens (0600)
    <data>/log/<process>.log  JSON lines

Secrets reach the children through their environment, never through arguments. A killed `up` leaves no orphans: children end
when their standard input is closed, and any that remain are found by their pid files at the next start.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from api.callers.auth import hash_token, new_token
from api.callers.roles import ROLES
from api.processes.child import MOST_ENDS, STOP_S, Child
from api.processes.outside import needs_sandbox
from api.processes.running import FOLDING_FILE, read_keys, this_process, up_file
from api.settings import Settings, load_settings
from ledger.broker.aot_cache import Training
from ledger.broker.fetching import StartProgress
from ledger.broker.jars import JarCheck
from ledger.broker.node import EmbeddedBroker
from ledger.environment import is_in_env_file
from ledger.errors import BrokerError, ConfigError
from ledger.files import private_folder, write_whole
from ledger.kafka.settings import KafkaSettings
from ledger.patience import Patience, changed_ns, cpu_of
from ledger.ports import free_port, is_free

if TYPE_CHECKING:
    from api.processes.health import HealthServer

CHECK_S = 0.05
BROKER_PAUSE_S = 0.5


class Up:
    """Everything that `order-ledger up` runs. `report(line)` shows a line on the screen.

    `sandboxed`: ignore all settings in the environment, except LOG_LEVEL, and `.env`; the demo must not charge anybody.
    `stand_ins`: start the sandbox for services that are not set; without it, orders are accepted and nothing else happens.
    `train`: create Java's cache for later starts in the background (`ledger.broker.aot_cache`).
    `check`: a check of the broker's jars that has already begun.
    """

    def __init__(
        self,
        data: Path,
        port: int,
        report: Callable[[str], None],
        environment: Mapping[str, str] | None = None,
        sandboxed: bool = False,
        stand_ins: bool = True,
        train: bool = True,
        check: JarCheck | None = None,
    ) -> None:
        self.data = data.absolute()
        self._port = port
        self._report = report
        self._environment = dict(environment or {})
        self._sandboxed, self._stand_ins, self._train = sandboxed, stand_ins, train
        self._sandbox_port: int | None = None
        self._metrics_ports: dict[str, int] = {}  # by process
        self._broker_health: HealthServer | None = None
        self._stopping = threading.Event()
        self.broker = EmbeddedBroker(self.data / "broker", log_file=self.data / "log" / "broker.log", check=check)
        self.children: list[Child] = []
        self._training: Training | None = None
        self._bootstrap_servers = ""
        self._broker_failures, self._broker_not_before = 0, 0.0
        self.info: dict[str, Any] = {}
        self._was_ready = False

    def stop(self) -> None:
        """Ask it to end, at any time: the start of the broker ends early."""
        self._stopping.set()

    def run(self, on_ready: Callable[[dict[str, Any]], None], progress: Callable[[StartProgress], None] | None = None) -> int:
        """Start everything, call `on_ready(info)` once, supervise until stopped. Returns an exit code.

        Raises `BrokerError`, or `ConfigError` if the port is taken or another `up` uses the data directory.
        """
        for folder in (self.data, self.data / "run", self.data / "log"):
            private_folder(folder)
        lock = FileLock(self.data / "run" / "up.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(f"another `order-ledger up` is running in {self.data}") from None
        try:
            return self._run(on_ready, progress)
        finally:
            self._end()
            lock.release()

    def _run(self, on_ready: Callable[[dict[str, Any]], None], progress: Callable[[StartProgress], None] | None) -> int:
        keys = self._keys()
        for name in ("commands", "serve", "sandbox"):
            Child(name, [name], {}, self.data).end_leftover()
        if not is_free(self._port):
            raise ConfigError(f"port {self._port} is in use; choose another one with --port")
        if self._sandboxed or (needs_sandbox(_settings()) and self._stand_ins):
            self._sandbox_port = free_port()
        names = ["commands", "broker", *(["sandbox"] if self._sandbox_port is not None else [])]
        self._metrics_ports = {name: free_port() for name in names}
        try:
            # The children take seconds to import; they wait for the broker themselves.
            self._start_broker(keys, progress)
        except BrokerError:
            if self._stopping.is_set():
                return 0
            raise
        write_whole(self.data / "run" / "broker.pid", f"{self.broker.pid}\n", private=True)
        url = f"http://127.0.0.1:{self._port}"
        self.info = {
            "url": url,
            "bootstrap_servers": self.broker.bootstrap_servers,
            "schema_registry_url": url,
            "sandbox_url": self._sandbox_url,
            "metrics": {
                "serve": f"{url}/metrics",
                **{name: f"http://127.0.0.1:{port}/metrics" for name, port in self._metrics_ports.items()},
            },
            "tokens": keys["tokens"],
            **this_process(),
        }
        if self._wait_ready():
            self._was_ready = True
            self._write_info()
            on_ready(self.info)
            self._show_health_of_broker()
            if self._train:
                self._training = self.broker.training(self.data / "log" / "java-cache.log")
        while not self._stopping.wait(CHECK_S):
            self._tend()
            if self._training is not None:
                self._training.tend()
        return 0

    def _show_health_of_broker(self) -> None:
        from api.processes.process_metrics import health_of_broker  # takes a while to load, and nobody waits for it

        self._broker_health = health_of_broker(self.broker, "127.0.0.1", self._metrics_ports["broker"])
        self._broker_health.start()

    def _start_broker(self, keys: Mapping[str, Any], progress: Callable[[StartProgress], None] | None = None) -> None:
        self.broker.start(
            progress=progress,
            on_address=lambda servers: self._start_children(servers, keys),
            on_slow=lambda waited_s: self._say_slow("Kafka", waited_s),
            stopping=self._stopping.is_set,
        )

    def _new_patience(self) -> Patience:
        return Patience(say=lambda waited_s: self._say_slow("the ledger", waited_s))

    def _say_slow(self, part: str, waited_s: float) -> None:
        self._report(f"slow machine: {part} is not ready after {waited_s:.0f} s, but is making progress")

    def _start_children(self, bootstrap_servers: str, keys: Mapping[str, Any]) -> None:
        """Start `commands` and `serve`, or replace them if the address of the broker has changed."""
        if bootstrap_servers == self._bootstrap_servers:
            return
        self._end_children()
        self._bootstrap_servers = bootstrap_servers
        env = self._child_environment(bootstrap_servers, keys)
        folder = self.data if self._sandboxed else None
        arguments = [["serve"], ["commands"]]  # the slowest one first
        if self._sandbox_port is not None:
            arguments.append(["sandbox", "--data-dir", str(self.data / "sandbox"), "--port", str(self._sandbox_port)])
        self.children = [Child(own[0], own, env | self._metrics_environment(own[0]), self.data, folder) for own in arguments]
        for child in self.children:
            child.tend()

    def _tend(self) -> None:
        for child in self.children:
            if happened := child.tend():
                self._report(happened)
        if self.broker.poll() is not None and time.monotonic() >= self._broker_not_before:
            self._report("the broker exited; restarting it")
            self._restart_broker()

    def _restart_broker(self) -> None:
        """Raises `BrokerError` after `MOST_ENDS` failed starts in a row, or if a retry cannot help; not when it is to end."""
        try:
            self._start_broker(self._keys())
        except BrokerError as exc:
            if self._stopping.is_set():
                return
            self._broker_failures += 1
            if exc.code != "start_failed" or self._broker_failures >= MOST_ENDS:
                raise
            self._report(f"the broker could not be started ({str(exc).splitlines()[0]}); trying again")
            self._broker_not_before = time.monotonic() + BROKER_PAUSE_S
            return
        self._broker_failures = 0
        self.info["bootstrap_servers"] = self.broker.bootstrap_servers
        write_whole(self.data / "run" / "broker.pid", f"{self.broker.pid}\n", private=True)
        if self._was_ready:  # its port may be another one
            self._write_info()

    def _write_info(self) -> None:
        write_whole(up_file(self.data), json.dumps(self.info, indent=2) + "\n", private=True)

    def _wait_ready(self) -> bool:
        """Wait until `serve` is ready. Returns False if stopped meanwhile.

        Waits as long as the children make progress. Raises `ConfigError` if they do not, or if one of them keeps ending.
        """
        patience, folded_ns = self._new_patience(), 0
        folding = self.data / "state" / "projections" / FOLDING_FILE
        while not self._stopping.wait(CHECK_S):
            self._tend()
            for child in self.children:
                if child.ends >= MOST_ENDS:
                    raise ConfigError(f"{child.name} exited {child.ends} times; see {child.log_file}")
            pids = [child.pid for child in self.children if child.pid is not None]
            if (changed := changed_ns(folding)) != folded_ns:  # it first folds a long log, which may take any time
                folded_ns, patience = changed, self._new_patience()
            if patience.is_over(cpu_of(pids)):
                raise ConfigError(f"not ready after {patience.waited_s:.0f} s; see the logs in {self.data / 'log'}")
            if _is_ready(self._port):
                return True
        return False

    def _end_children(self) -> None:
        for child in self.children:
            child.ask_to_stop()
        for child in self.children:
            child.wait_stopped(STOP_S)

    def _end(self) -> None:
        if self._training is not None:
            self._training.stop()
        if self._broker_health is not None:
            self._broker_health.stop()
        self._end_children()
        self.broker.stop()
        (self.data / "run" / "broker.pid").unlink(missing_ok=True)
        up_file(self.data).unlink(missing_ok=True)

    @property
    def _sandbox_url(self) -> str | None:
        return None if self._sandbox_port is None else f"http://127.0.0.1:{self._sandbox_port}"

    def _keys(self) -> dict[str, Any]:
        """Hash key and tokens of this data directory; created once, so that tokens survive a restart."""
        path = self.data / "keys.json"
        try:
            keys = read_keys(self.data)
        except FileNotFoundError:
            keys = {"hash_key": secrets.token_hex(32), "tokens": {role: new_token(role) for role in ROLES}}
        if "webhook_secret" not in keys:  # also in a directory of an earlier version
            keys["webhook_secret"] = f"whsec_{secrets.token_urlsafe(32)}"
            write_whole(path, json.dumps(keys, indent=2) + "\n", private=True)
        hashes = [{"name": role, "role": role, "sha256": [hash_token(token)]} for role, token in keys["tokens"].items()]
        write_whole(self.data / "tokens.json", json.dumps({"tokens": hashes}, indent=2) + "\n", private=True)
        return keys

    def _metrics_environment(self, name: str) -> dict[str, str]:
        port = self._metrics_ports.get(name)
        return {} if port is None else {"METRICS_HOST": "127.0.0.1", "METRICS_PORT": str(port)}

    def _child_environment(self, bootstrap_servers: str, keys: Mapping[str, Any]) -> dict[str, str]:
        allowed = frozenset() if self._sandboxed else load_settings().plaintext_allowed
        sandbox = {}
        if self._sandbox_url is not None:
            sandbox = {
                "SANDBOX_URL": self._sandbox_url,
                "SANDBOX_WEBHOOK_URL": f"http://127.0.0.1:{self._port}/webhooks/stripe",
                "PAYMENT_GATEWAY_WEBHOOK_SECRETS": keys["webhook_secret"],
            }
        own = {
            "OUTBOX_DIR": str(self.data / "outbox"),
            **sandbox,
            **self._environment,
            "KAFKA_BOOTSTRAP_SERVERS": bootstrap_servers,
            "KAFKA_SECURITY_PROTOCOL": "PLAINTEXT",
            "KAFKA_REPLICATION_FACTOR": "-1",  # as many as the embedded broker has: one
            "ALLOW_PLAINTEXT": ",".join(sorted(allowed | {"kafka"})),  # the embedded broker, on loopback
            "ALLOW_FEW_REPLICAS": "true",
            "LEDGER_HASH_KEY": keys["hash_key"],
            "LEDGER_TOKENS_FILE": str(self.data / "tokens.json"),
            "STATE_DIR": str(self.data / "state"),
            "NODE_ID": "up",
            "HOST": "127.0.0.1",
            "PORT": str(self._port),
        }
        replaced = own.keys() | OF_UP | (SETTINGS - {"LOG_LEVEL"} if self._sandboxed else frozenset())
        # A name counts in any case, and one of two that differ only in case would win by chance.
        return {name: value for name, value in os.environ.items() if name.upper() not in replaced} | own


OF_UP = frozenset({"LEDGER_TOKENS", "METRICS_HOST", "METRICS_PORT"})  # LEDGER_TOKENS_FILE replaces the first; ports are its own
SETTINGS = frozenset(name.upper() for name in (*Settings.model_fields, *(f"kafka_{name}" for name in KafkaSettings.model_fields)))


def _settings() -> Settings:
    """The settings around `up`. Raises `ConfigError` also for tokens in `.env`: its children read that file, too."""
    settings = load_settings()
    if is_in_env_file(Settings, "ledger_tokens"):
        raise ConfigError("LEDGER_TOKENS is set in .env, but `up` has tokens of its own (run/up.json): remove it there")
    return settings


def _is_ready(port: int) -> bool:
    """Whether `serve` says that it is ready and not stale: a stale one is still waiting for Kafka.

    Uses `http.client`, which ignores proxies: no proxy can reach this machine's loopback.
    """
    connection = HTTPConnection("127.0.0.1", port, timeout=2.0)
    try:
        connection.request("GET", "/ready")
        answer = connection.getresponse()
        return answer.status == 200 and not json.loads(answer.read()).get("stale", False)
    except (OSError, HTTPException, ValueError):
        return False  # not listening yet, or just ended
    finally:
        connection.close()
