"""A whole ledger with everything around it, to be broken as a plan says: `rig_campaign` runs one and judges what is left.

Brokers behind a proxy, `commands` and `serve` on several nodes, the sandbox. What happens to them is a `Fault` of `fault_plan`.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from ledger.kafka.log import KafkaLog
from ledger.partitioner import partition_for
from ledger.ports import free_port
from ledger.topics import Topics
from tests.support import loopback, small_disk
from tests.support.chaotic_shop import CHAOS, STOCK_CHAOS
from tests.support.cluster import Cluster
from tests.support.fault_plan import Fault, Kind, Site
from tests.support.harness import decided, placed
from tests.support.kafka_proxy import Api, Fate, KafkaProxy, Rule, Rules, running_proxy
from tests.support.patience import PATIENCE_S
from tests.support.pausing import pause, resume
from tests.support.processes import TOKENS, Child, LedgerNode
from tests.support.reading_shown import read_mails
from tests.support.sandboxed import WEBHOOK_SECRET, RunningSandbox, running_sandbox
from tests.support.standbys import with_metrics

PARTITIONS = 4
DISK_MB = 192
FEW_FILES = 2  # more than are open
EXCUSED_S = 15.0  # a process that could not write or open a file may notice it so long afterwards
# Shares of disturbed replies. A JoinGroup without a reply is given up only after half a minute, so it always comes.
SHARES = {
    Api.PRODUCE: 0.03,
    Api.FETCH: 0.02,
    Api.ADD_PARTITIONS_TO_TXN: 0.03,
    Api.END_TXN: 0.03,
    Api.INIT_PRODUCER_ID: 0.3,
    Api.JOIN_GROUP: 0.3,
}
LOST = (Fate.DELAY, Fate.DROP, Fate.DUPLICATE, Fate.CUT, Fate.LATE)
COMES = (Fate.DELAY, Fate.DUPLICATE)


@dataclass(frozen=True)
class Ended:
    """A process that ended by itself. `excused`: it had no disk or no files."""

    name: str
    code: int
    excused: bool


def reply_rules(seed: int, longest_s: float) -> Rules:
    """Replies are up to `longest_s` late."""
    return Rules(
        seed, {api: Rule(share, COMES if api is Api.JOIN_GROUP else LOST, (0.05, longest_s)) for api, share in SHARES.items()}
    )


class Rig:
    """`processes` by name (`commands-1`, `serve-1`, ...), `urls` of all `serve`. Faults come from one thread, which also calls
    `watch` often: it restarts what ended, as a supervisor would.
    """

    def __init__(
        self, cluster: Cluster, proxy: KafkaProxy, sandbox: RunningSandbox, node: LedgerNode, nodes: int, longest_s: float
    ) -> None:
        self.cluster, self.proxy, self.sandbox, self.node = cluster, proxy, sandbox, node
        self.processes: dict[str, Child] = {}
        self.urls: list[str] = []
        self.metrics: list[str] = []  # host:port of each `commands`
        self.ended: list[Ended] = []
        self.replies: Counter[tuple[Api, Fate]] = Counter()
        self.filled = 0  # disks
        self._longest_s = longest_s
        self._to_fill: dict[str, bool] = {}  # whether only when there are databases
        self._excused: dict[str, tuple[int, float]] = {}  # process id, and until when (monotonic)
        self._limits: dict[str, tuple[int, tuple[int, int]]] = {}
        for number in range(1, nodes + 1):
            commands = with_metrics(self._add("commands", number))
            self.metrics.append(f"127.0.0.1:{commands.env['METRICS_PORT']}")
            serve, port = self._add("serve", number), free_port()
            serve.env["PORT"] = str(port)
            self.urls.append(f"http://127.0.0.1:{port}")

    def _add(self, verb: str, number: int) -> Child:
        name = f"{verb}-{number}"
        self.processes[name] = self.node.child(verb, name)
        return self.processes[name]

    def commands(self) -> list[Child]:
        """Those of `processes`."""
        return [child for child in self.processes.values() if child.verb == "commands"]

    @property
    def outbox(self) -> Path:
        return self.node.folder / "outbox"

    def site(self) -> Site:
        """What can be broken here."""
        kinds = tuple(kind for kind in Kind if kind is not Kind.FULL_DISK or small_disk.is_possible())
        return Site(tuple(self.processes), tuple(str(node) for node in self.cluster.nodes), kinds)

    def running(self) -> dict[int, str]:
        """The process ids of all, with their kind."""
        children = {child.pid: child.verb for child in list(self.processes.values()) if child.process is not None}
        return children | {broker.pid: "broker" for broker in list(self.cluster.brokers.values())}

    def start(self) -> None:
        """Start all processes; returns when each is ready and customers get messages."""
        for child in self.processes.values():
            child.start()
        self.wait_ready()
        self.sandbox.sandbox.webhooks.send_to(f"{self.urls[0]}/webhooks/stripe", WEBHOOK_SECRET)
        self._wait_announcing()

    def wait_ready(self) -> None:
        for url in self.urls:
            self.node.wait_ready(url=url)

    def _wait_announcing(self) -> None:
        """The notifier begins at the end of the log: place orders until it has announced one of each partition; cancel them."""
        headers = {"Authorization": f"Bearer {TOKENS['gateway']}", "Customer-Id": "warm-up", "Prefer": "wait=10"}
        deadline, orders, announced = time.monotonic() + PATIENCE_S, list[str](), set[int]()
        with loopback.client(base_url=self.urls[0], headers=headers) as client:
            while len(announced) < PARTITIONS:
                assert time.monotonic() < deadline, self.node.tails()
                orders.append(placed(client)["order_id"])
                time.sleep(0.1)
                announced = {partition_for(mail.order_id.encode(), PARTITIONS) for mail in read_mails(self.outbox)}
            for order_id in orders:
                answer = decided(client, f"/orders/{order_id}/cancel", {})
                assert answer.status_code == 200, answer.text

    # ---- faults

    def begin(self, fault: Fault) -> None:
        """What happens at the time of a fault."""
        match fault.kind:
            case Kind.KILL | Kind.WIPE | Kind.FULL_DISK | Kind.PAUSE | Kind.FILE_LIMIT:
                self._begin_of_process(fault, fault.targets[0])
            case Kind.KILL_BROKER | Kind.KILL_TWO:
                self.cluster.kill(*map(int, fault.targets))
            case Kind.PAUSE_BROKER:
                pause(self.cluster.brokers[int(fault.targets[0])].pid)
            case Kind.OUTSIDE:
                self.sandbox.chaos(
                    seed=fault.seed,
                    ports={"payments": CHAOS, "product": STOCK_CHAOS, "merch": STOCK_CHAOS},
                    hold_timeout_ms=1_500,
                    webhook_copies=3,
                    webhook_delay_ms=400,
                )
            case Kind.REPLIES:
                self.proxy.obey(reply_rules(fault.seed, self._longest_s))

    def _begin_of_process(self, fault: Fault, name: str) -> None:
        child = self.processes[name]
        self.watch()  # so that it runs
        match fault.kind:
            case Kind.KILL:
                child.kill()
                child.start()
            case Kind.WIPE:
                child.kill()
                shutil.rmtree(self.node.state_dir(name), ignore_errors=True)  # it may not have begun to write
                child.start()
            case Kind.PAUSE:
                pause(child.pid)
            case Kind.FULL_DISK:
                child.kill()
                self._to_fill[name] = fault.seed % 2 == 0
                self.node.state_dir(name).mkdir(exist_ok=True)
                child.start(small_disk.on_small_disk(self.node.state_dir(name), DISK_MB))
                self._excused[name] = (child.pid, float("inf"))
            case Kind.FILE_LIMIT:
                self._excused[name] = (child.pid, float("inf"))
                process = psutil.Process(child.pid)
                soft, hard = process.rlimit(psutil.RLIMIT_NOFILE)
                self._limits[name] = (child.pid, (soft, hard))
                process.rlimit(psutil.RLIMIT_NOFILE, (process.num_fds() + FEW_FILES, hard))

    def end(self, fault: Fault) -> None:
        """What ends a fault that lasts."""
        match fault.kind:
            case Kind.PAUSE:
                resume(self.processes[fault.targets[0]].pid)
            case Kind.FULL_DISK:
                self._end_full_disk(fault.targets[0])
            case Kind.FILE_LIMIT:
                self._end_file_limit(fault.targets[0])
            case Kind.KILL_BROKER | Kind.KILL_TWO:
                self.cluster.start(list(map(int, fault.targets)))
            case Kind.PAUSE_BROKER:
                resume(self.cluster.brokers[int(fault.targets[0])].pid)
            case Kind.OUTSIDE:
                self.sandbox.chaos()
            case Kind.REPLIES:
                self.replies += self.proxy.tally.done
                self.proxy.obey(Rules())

    def _end_full_disk(self, name: str) -> None:
        while name in self._to_fill:  # on a machine that is slower than the plan
            self.watch()
            time.sleep(0.02)
        self._excuse_no_longer(name)
        child = self.processes[name]
        if small_disk.used_mb(child.pid, self.node.state_dir(name)) is not None:
            child.kill()
            child.start()

    def _end_file_limit(self, name: str) -> None:
        pid, limits = self._limits.pop(name)
        if self.processes[name].ended() is None and self.processes[name].pid == pid:
            psutil.Process(pid).rlimit(psutil.RLIMIT_NOFILE, limits)
        self._excuse_no_longer(name)

    def _excuse_no_longer(self, name: str) -> None:
        if name in self._excused:
            self._excused[name] = (self._excused[name][0], time.monotonic() + EXCUSED_S)

    def watch(self) -> None:
        """Restart what ended, on the usual disk, and fill the small disks."""
        for name, child in self.processes.items():
            if (code := child.ended()) is not None:
                excused, _ = self._excused.pop(name, (None, 0.0))
                self.ended.append(Ended(name, code, excused == child.pid))
                self._to_fill.pop(name, None)
                child.start()
                continue
            if name in self._excused and time.monotonic() > self._excused[name][1]:
                del self._excused[name]
            if name in self._to_fill:
                used_mb = small_disk.used_mb(child.pid, self.node.state_dir(name))
                if used_mb is not None and (used_mb > 1 or not self._to_fill[name]):
                    del self._to_fill[name]
                    self.filled += small_disk.fill(child.pid, self.node.state_dir(name))

    def calm(self) -> None:
        """End everything, and let obligations that were put off be met now: only the process that dies forgets when."""
        self.proxy.obey(Rules())
        self.sandbox.chaos()
        for broker in self.cluster.brokers.values():
            if broker.poll() is None:
                os.kill(broker.pid, signal.SIGCONT)
        self.cluster.start()
        self.cluster.wait_whole()
        self.watch()
        for name, child in self.processes.items():
            os.kill(child.pid, signal.SIGCONT)
            if child.verb == "commands" or small_disk.used_mb(child.pid, self.node.state_dir(name)) is not None:
                child.kill()
                child.start()
        self.wait_ready()


@contextmanager
def running_rig(
    folder: Path, brokers: int = 1, nodes: int = 1, longest_s: float = 0.5, env: Mapping[str, str] | None = None
) -> Iterator[Rig]:
    """One `commands` and one `serve` on each of `nodes`; as many writers. Replies of Kafka are up to `longest_s` late.

    `env`: more settings of all processes.
    """
    cluster = Cluster(folder / "kafka", brokers, proxied=True)
    topics = Topics("rig.")
    with ExitStack() as parts:
        proxy = parts.enter_context(running_proxy({advertised: port for port, advertised in cluster.proxied.values()}))
        parts.callback(cluster.stop)
        cluster.start()
        cluster.wait_whole()
        KafkaLog(cluster.settings()).ensure_topics(topics.specs(PARTITIONS, nodes), PATIENCE_S)
        sandbox = parts.enter_context(running_sandbox(folder))
        settings = {
            "SANDBOX_URL": sandbox.url,
            "PAYMENT_GATEWAY_WEBHOOK_SECRETS": WEBHOOK_SECRET,
            "OUTSIDE_TIMEOUT_MS": "1000",
            "OUTBOX_DIR": str(folder / "outbox"),
            **(env or {}),
        }
        node = LedgerNode(folder, cluster.proxied_servers, topics, nodes, PARTITIONS, env=settings)
        parts.callback(node.end)
        rig = Rig(cluster, proxy, sandbox, node, nodes, longest_s)
        rig.start()
        yield rig
