"""`doctor`: checks everything a running ledger needs, and says what is wrong and what to do about it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prometheus_client.parser import text_string_to_metric_families
from rich.table import Table
from rich.text import Text

from api.callers.auth import read_tokens
from api.callers.tokens_file import WARN_MS
from api.cli.inspection import node_of
from api.cli.terminal import Terminal, write_json
from api.cli.upgrade import advice, view_of
from api.processes.patient_log import LEAST_PATIENCE_S, patient
from api.processes.running import commands_status
from api.processes.wiring import open_log
from api.settings import Settings
from commands.notifier.message_port import FAILED_TEMPLATES
from commands.notifier.resuming import notifier_group
from ledger.clock import now_ms
from ledger.durability import weaknesses
from ledger.errors import ConfigError, LedgerError
from ledger.hanging import open_transactions
from ledger.http_client import BlockingHttp, HttpClient, NoAnswer, url_of
from ledger.kafka.settings import KafkaSettings
from ledger.levels import LEVEL
from ledger.log import EventLog, TopicPartition
from ledger.rfc3339 import format_ms
from ledger.schemas.registry import check_registry

LEAST_FREE_BYTES = 1 << 30
STALL_PATIENCE_S = 20.0  # for one pending command to be decided, which takes 0.01 s
STALL_PAUSE_S = 0.5
ANSWER_S = 50.0
SKEW_S = 5.0  # NTP keeps machines within a tenth of a second

Verdict = Literal["ok", "warning", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check. `advice` is empty if there is nothing to do."""

    subject: str
    verdict: Verdict
    result: str
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorOptions:
    """Where to look. `info`: of the `up` that runs in `data_dir`, if one does; `url` and `token` of the API override its own."""

    data_dir: Path
    info: dict[str, Any] | None
    url: str | None
    token: str | None


def run_doctor(kafka: KafkaSettings, settings: Settings, options: DoctorOptions, terminal: Terminal) -> int:
    """Run all checks and show the findings. Returns 1 if anything is wrong (a warning is not)."""
    data_dir, info = options.data_dir, options.info
    event_log = patient(open_log(kafka, settings.topics), lambda _: None, LEAST_PATIENCE_S)
    findings = [_broker(event_log, kafka, settings)]
    if findings[0].verdict == "ok":
        findings += [_topics(event_log, settings), _writers(event_log, settings), _held(event_log, settings)]
        findings += [_transactions(event_log, settings), _replicas(event_log, settings), _log(kafka, settings)]
        findings += [_level(event_log, settings)]
    if (status := commands_status(settings.state_dir)) is not None:
        findings += _status(status)
    if settings.schema_registry_url:
        findings.append(_registry(settings.schema_registry_url, settings.topic_prefix))
    findings += _tokens(data_dir if info else None, settings)
    findings += _api(*_address(options, settings))
    findings.append(_disk(data_dir if data_dir.exists() else settings.state_dir))
    wrong = any(f.verdict == "wrong" for f in findings)
    if terminal.as_json:
        rows = [{"subject": f.subject, "verdict": f.verdict, "found": f.result, "advice": f.advice} for f in findings]
        write_json({"ok": not wrong, "findings": rows})
        return int(wrong)
    table = Table("check", "", "result", "what to do")
    colours = {"ok": "green", "warning": "yellow", "wrong": "red"}
    for f in findings:
        table.add_row(f.subject, Text(f.verdict, style=colours[f.verdict]), f.result, f.advice)
    terminal.out.print(table)
    return int(wrong)


def _attempt(subject: str, advice: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, "ok", check())
    except LedgerError as exc:
        return Finding(subject, "wrong", str(exc), advice)


def _broker(event_log: EventLog, kafka: KafkaSettings, settings: Settings) -> Finding:
    def check() -> str:
        topic = settings.topics.events
        return f"{kafka.bootstrap_servers} answers; {topic} has {event_log.partitions(topic)} partitions"

    return _attempt(
        "Kafka", "check KAFKA_BOOTSTRAP_SERVERS and its TLS and SASL settings; `order-ledger up` starts a local broker", check
    )


def _topics(event_log: EventLog, settings: Settings) -> Finding:
    def check() -> str:
        specs = settings.topics.specs(event_log.partitions(settings.topics.events), event_log.partitions(settings.topics.writers))
        event_log.check_topics(specs)
        return f"{len(specs)} topics with the settings the ledger needs"

    return _attempt("topics", "correct the named setting; the ledger never changes an existing topic", check)


def _writers(event_log: EventLog, settings: Settings) -> Finding:
    """The number of pending commands, and whether any is processed within `STALL_PATIENCE_S`."""
    t = settings.topics
    try:
        tps = [TopicPartition(t.commands, p) for p in range(event_log.partitions(t.commands))]
        waiting, dealt_before = _undealt(event_log, settings, tps)
        dealt, deadline = dealt_before, time.monotonic() + STALL_PATIENCE_S
        while waiting and dealt <= dealt_before and time.monotonic() < deadline:
            time.sleep(STALL_PAUSE_S)
            waiting, dealt = _undealt(event_log, settings, tps)
    except LedgerError as exc:
        return Finding("commands", "wrong", str(exc), "see the log of `commands`")
    if waiting and dealt <= dealt_before:
        result = f"{waiting} commands pending, none processed within {STALL_PATIENCE_S:.0f} s"
        return Finding("commands", "wrong", result, "is `commands` running?")
    return Finding("commands", "ok", f"{waiting} commands pending")


def _held(event_log: EventLog, settings: Settings) -> Finding:
    """Writers that no process holds although their group is stable. After a process died, this is normal for a moment."""
    deadline = time.monotonic() + STALL_PATIENCE_S
    try:
        while (unheld := event_log.unheld(settings.topics.writers, settings.ledger_id)) and time.monotonic() < deadline:
            time.sleep(STALL_PAUSE_S)
    except LedgerError as exc:
        return Finding("writers", "wrong", str(exc), "see the log of `commands`")
    if unheld:
        result = f"writers {unheld} are held by no process, and none took them within {STALL_PATIENCE_S:.0f} s"
        advice = "is `commands` running? If so, it rejoins by itself, or its log says why it cannot"
        return Finding("writers", "wrong", result, advice)
    return Finding("writers", "ok", "every writer is held by a process")


def _transactions(event_log: EventLog, settings: Settings) -> Finding:
    """Transactions that Kafka left open."""
    t = settings.topics
    try:
        tps = [TopicPartition(topic, p) for topic in (t.events, t.refusals) for p in range(event_log.partitions(t.events))]
        transactions = open_transactions(event_log, t, settings.ledger_id, tps)
    except LedgerError as exc:
        return Finding("transactions", "warning", f"unknown: {exc}", "see the log of `commands`")
    hanging = [one for one in transactions if not one.known]
    if hanging:
        text = "; ".join(f"{one} has hung since {format_ms(one.last_timestamp_ms)}" for one in hanging)
        return Finding("transactions", "wrong", text, "order-ledger transactions")
    return Finding("transactions", "ok", "none hangs")


def _replicas(event_log: EventLog, settings: Settings) -> Finding:
    """Whether accepted orders survive a failed broker. Production refuses to start otherwise, unless that is allowed."""
    try:
        lines = weaknesses(event_log.durability(settings.topics.names))
    except LedgerError as exc:
        return Finding("replicas", "warning", f"unknown: {exc}", "see the log of `commands`")
    if not lines:
        return Finding("replicas", "ok", "what is accepted survives one failed broker")
    if settings.app_env != "production":
        return Finding("replicas", "ok", "what is accepted may be lost with a broker; production needs three replicas")
    advice = "change the topics, or set ALLOW_FEW_REPLICAS=true"
    return Finding("replicas", "warning" if settings.allow_few_replicas else "wrong", "; ".join(lines), advice)


def _log(kafka: KafkaSettings, settings: Settings) -> Finding:
    """Whether what this node keeps is of this log. A running process has its part open, and compares it itself."""
    try:
        holders = node_of(kafka, settings).holders(notifier_group(settings.ledger_id))
    except LedgerError as exc:
        return Finding("log", "warning", f"not compared: {exc}", "order-ledger inspect")
    if other := [holder.name for holder in holders if holder.verdict == "other"]:
        return Finding("log", "wrong", f"not the log from before of: {', '.join(other)}", "order-ledger inspect")
    return Finding("log", "ok", "nothing here is of another log")


def _level(event_log: EventLog, settings: Settings) -> Finding:
    """Whether all nodes have this program, and the feature level in use is its own."""
    try:
        view = view_of(event_log, settings.topics)
    except LedgerError as exc:
        return Finding("versions", "warning", f"unknown: {exc}", "start a `commands` of this version: it creates the topic")
    programs = ", ".join(sorted({f"{node.program} (level {node.level})" for node in view.live()})) or "none"
    result = f"feature level {view.level} is in use; running programs: {programs}"
    return Finding("versions", "ok", result) if view.level == LEVEL else Finding("versions", "warning", result, advice(view))


def _status(status: dict[str, Any]) -> list[Finding]:
    """What the `commands` process of this node reports about itself."""
    work = [worker for worker in status["workers"] if worker["restarts"] or worker["running"] < 1]
    counts = ", ".join(f"{count} {name}" for name, count in sorted(status["counts"].items()))
    findings = [
        Finding("work of commands", "ok", f"writers {status['ready_writers']} are active; {counts or 'nothing done yet'}")
    ]
    findings += _clocks("commands", {p: ms / 1000 for p, ms in status.get("clock_skews_ms", {}).items()})
    findings += [_worker("commands", w["name"], w["running"], w["restarts"], w["last_fault"]) for w in work]
    if failures := status["counts"].get(FAILED_TEMPLATES):
        result = f"{failures} messages were composed from shipped templates, because the shop's own failed"
        findings.append(Finding("templates", "warning", result, "order-ledger messages check"))
    return findings


def _clocks(process: str, skews_s: Mapping[str, float]) -> list[Finding]:
    """`skews_s`: by partition, how far Kafka's clock is ahead of that of the machine where `process` runs."""
    if not skews_s:
        return []
    subject, advice = f"clock of {process}", "set the clocks of all machines by NTP: orders expire by those of Kafka's brokers"
    partition = max(skews_s, key=lambda p: abs(skews_s[p]))
    apart_s = max(skews_s.values()) - min(skews_s.values())
    if apart_s > SKEW_S:
        return [Finding(subject, "warning", f"the clocks of Kafka's brokers are {apart_s:.0f} s apart", advice)]
    skew_s = skews_s[partition]
    if abs(skew_s) > SKEW_S:
        result = f"{abs(skew_s):.0f} s {'behind' if skew_s > 0 else 'ahead of'} that of Kafka"
        return [Finding(subject, "warning", result, advice)]
    return [Finding(subject, "ok", f"within {max(0.1, abs(skew_s)):.1f} s of that of Kafka")]


def _worker(process: str, name: str, running: float, restarts: float, fault: str = "") -> Finding:
    """A thread or a task that is not running, or had to be restarted."""
    subject, why = f"{name} of {process}", f", last error: {fault}" if fault else ""
    if running < 1:
        return Finding(
            subject, "wrong", f"not running{why}", f"see the log of `{process}`; restarting the process starts it again"
        )
    often = "once" if restarts == 1 else f"{restarts:.0f} times"
    return Finding(subject, "warning", f"restarted {often}{why}", f"see the log of `{process}`")


def _undealt(event_log: EventLog, settings: Settings, tps: list[TopicPartition]) -> tuple[int, int]:
    """(number of pending commands, sum of the offsets up to which commands are processed)."""
    ends, dealt, starts = event_log.ends(tps), event_log.progress(settings.ledger_id, tps), event_log.starts(tps)
    reached = {tp: max(dealt[tp], starts[tp]) for tp in tps}
    return sum(ends[tp] - reached[tp] for tp in tps), sum(reached.values())


def _registry(url: str, prefix: str) -> Finding:
    def check() -> str:
        check_registry(url, prefix)
        return f"{HttpClient(url).base_url} has the same schemas under the same ids"  # `url` may have a password

    return _attempt("schema registry", "order-ledger schema publish", check)


def _tokens(up_dir: Path | None, settings: Settings) -> list[Finding]:
    """Checks the tokens that are known here: those of the running `up`, or of the settings."""
    if up_dir is not None:
        settings = settings.model_copy(update={"ledger_tokens": None, "ledger_tokens_file": up_dir / "tokens.json"})
    elif settings.ledger_tokens is None and settings.ledger_tokens_file is None:
        return []
    try:
        tokens = read_tokens(settings)
    except ConfigError as exc:
        return [Finding("tokens", "wrong", str(exc), "correct it: `serve` keeps the tokens it has, but could not start again")]
    now, findings = now_ms(), []
    advice = "create one with `order-ledger token`, list it beside the old one, and move its users to it"
    for token in tokens:
        if token.expires_at_ms is not None and token.expires_at_ms <= now + WARN_MS[0]:
            expiry = "has expired" if token.is_expired(now) else "expires"
            result = f"{token.sha256.hex()[:8]}... of {token.principal.actor} {expiry} ({format_ms(token.expires_at_ms)})"
            findings.append(Finding("token", "warning", result, advice))
    return findings or [Finding("tokens", "ok", f"{len(tokens)} tokens, none expires soon")]


def _address(options: DoctorOptions, settings: Settings) -> tuple[str, str | None]:
    """(url, token) of the API. A token of the running `up` is used only for its own API."""
    info = options.info
    if options.url is not None:
        return options.url, options.token
    if info is None:
        return url_of(settings.host, settings.port), options.token
    return info["url"], options.token or info["tokens"]["operator"]


def _api(url: str, token: str | None) -> list[Finding]:
    try:
        with BlockingHttp(url, ANSWER_S) as client:
            url = client.base_url  # without a password
            ready = client.get("/ready")
            state = ready.json_object()
            if ready.status < 500 and state.get("status") not in ("ready", "not_ready"):
                return [Finding("API", "wrong", f"{url} is not the ledger's API", "check HOST and PORT, or pass --url")]
            metrics = client.get("/metrics", {"Authorization": f"Bearer {token}"}) if token else None
    except (NoAnswer, ConfigError) as exc:
        return [Finding("API", "wrong", f"{url} does not answer: {exc}", "is `serve` running?")]
    if ready.status != 200:
        findings = [Finding("API", "wrong", f"{url} is not ready: {ready.text[:300]}", "see the log of `serve`")]
    elif state.get("stale", False):
        findings = [
            Finding("API", "warning", f"{url} answers only reads, and those are stale: {ready.text[:300]}", "is Kafka running?")
        ]
    else:
        findings = [Finding("API", "ok", f"{url} is ready")]
    if metrics is None:
        return [*findings, Finding("metrics of serve", "warning", "not read: no token", "pass --token, or set LEDGER_TOKEN")]
    if metrics.status != 200:
        result = f"not read: {url} answered {metrics.status}"
        return [*findings, Finding("metrics of serve", "warning", result, "pass a valid token of any role as --token")]
    try:
        return findings + _of_metrics(metrics.text)
    except (ValueError, LookupError):
        advice = "check HOST and PORT, or pass --url"
        return [*findings, Finding("metrics of serve", "wrong", f"{url}/metrics is not that of the ledger's API", advice)]


def _of_metrics(metrics: str) -> list[Finding]:
    """What `serve` reports about itself: invalid tokens, failed workers, frozen orders."""
    findings = []
    if "\nledger_tokens_stale 1.0" in metrics:
        result = "the tokens file is invalid; the previous tokens stay in use"
        findings.append(Finding("tokens of serve", "wrong", result, "see the log of `serve`"))
    findings += _issuer(metrics)
    frozen = [line for line in metrics.splitlines() if line.startswith("ledger_orders_frozen ")]
    findings += _workers_of_serve(metrics)
    findings += _clocks("serve", _samples(metrics, "ledger_clock_skew_seconds", "partition"))
    if frozen and float(frozen[0].split()[1]) > 0:
        count = int(float(frozen[0].split()[1]))
        advice = "`order-ledger history ORDER` and the order's `frozen` name the record; see Frozen orders in OPERATIONS.md"
        findings.append(Finding("frozen orders", "wrong", f"{count} orders could not be folded", advice))
    elif frozen:
        findings.append(Finding("frozen orders", "ok", "none"))
    return findings


def _issuer(metrics: str) -> list[Finding]:
    """The keys of the issuer of signed tokens, if `serve` has one."""
    values = {family.name: family.samples[0].value for family in text_string_to_metric_families(metrics) if family.samples}
    if (failing := values.get("ledger_oidc_issuer_failing")) is None:
        return []
    keys, age_s = values["ledger_oidc_keys"], values.get("ledger_oidc_keys_age_seconds")
    advice = "see the log of `serve`, and check OIDC_ISSUER; tokens of the file are not affected"
    if not keys:
        return [Finding("issuer of serve", "wrong", "its keys are not known: no signed token is accepted", advice)]
    known = f"{keys:.0f} keys, confirmed {0 if age_s is None else age_s:.0f} s ago"
    if failing:
        return [Finding("issuer of serve", "warning", f"does not answer; tokens with other keys are refused ({known})", advice)]
    return [Finding("issuer of serve", "ok", known)]


def _samples(metrics: str, name: str, label: str) -> dict[str, float]:
    families = (family for family in text_string_to_metric_families(metrics) if family.name == name)
    return {sample.labels[label]: sample.value for family in families for sample in family.samples}


def _workers_of_serve(metrics: str) -> list[Finding]:
    """From its /metrics: every worker that is not running, or had to be restarted."""
    seen: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(metrics):
        if family.name in ("ledger_workers_running", "ledger_worker_restarts"):
            for sample in family.samples:
                seen.setdefault(sample.labels["worker"], {})[family.name] = sample.value
    return [
        _worker("serve", name, values["ledger_workers_running"], values["ledger_worker_restarts"])
        for name, values in seen.items()
        if values["ledger_worker_restarts"] or values["ledger_workers_running"] < 1
    ]


def _disk(folder: Path) -> Finding:
    place = folder if folder.exists() else Path()
    free = shutil.disk_usage(place).free
    result = f"{free / (1 << 30):.1f} GiB free at {place.absolute()}"
    if free < LEAST_FREE_BYTES:
        return Finding("disk", "wrong", result, "free some space: Kafka and RocksDB stop when the disk is full")
    return Finding("disk", "ok", result)
