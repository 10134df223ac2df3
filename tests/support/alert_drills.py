"""What makes each alert fire, for promtool: a healthy ledger, and what is wrong with it in each drill.

A sample a minute, for 90 minutes, in promtool's notation: `0+60x90` is 0, 60, ... 5400; `_x90` is nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.operators_files import alerts

COMMANDS, SERVE = "order-ledger-commands", "order-ledger-serve"
MINUTES = 90
DAY_S = 86_400


def series(name: str, target: str, **labels: str) -> str:
    """A series of a target: c1 and c2 are `commands`, s1 is `serve`."""
    pairs = {"job": SERVE if target.startswith("s") else COMMANDS, "instance": target} | labels
    matchers = ",".join(f'{label}="{value}"' for label, value in pairs.items())
    return f"{name}{{{matchers}}}"


def always(value: float) -> str:
    return f"{value}+0x{MINUTES}"


def rising(per_minute: float) -> str:
    return f"0+{per_minute}x{MINUTES}"


def buckets(name: str, target: str, quick: str, per_minute: float, **labels: str) -> dict[str, str]:
    """A histogram: everything is at most `quick` seconds."""
    return {series(f"{name}_bucket", target, **labels, le=edge): rising(per_minute) for edge in (quick, "10.0", "+Inf")}


def slow(name: str, target: str, quick: str, per_minute: float, **labels: str) -> dict[str, str]:
    """The same, where nothing is that quick."""
    return buckets(name, target, quick, per_minute, **labels) | {series(f"{name}_bucket", target, **labels, le=quick): always(0)}


TRANSACTION = ("ledger_commands_transaction_seconds", "c1", "0.1", 60)
READ = ("ledger_http_request_duration_seconds", "s1", "0.1", 60)
LAG = ("ledger_loop_lag_seconds", "s1", "0.01", 600)
UNANSWERED = series("ledger_commands_call_seconds_count", "c1", port="stripe", kind="capture", answer="none")
NOT_SENT = series("ledger_commands_messages_total", "c1", channel="email", fate="given_up")


def http(status: str, route: str = "/orders", method: str = "POST") -> str:
    return series("ledger_http_requests_total", "s1", method=method, route=route, status=status)


HEALTHY: Mapping[str, str] = {
    series("up", "c1"): always(1),
    series("up", "c2"): always(1),
    series("up", "s1"): always(1),
    series("ledger_commands_log_reachable", "c1"): always(1),
    series("ledger_fold_connected", "s1"): always(1),
    series("ledger_log_partitions_without_leader", "s1"): "0+0x20 1+0x0 0+0x69",
    series("ledger_worker_restarts_total", "s1", worker="contacts"): "0+0x20 1+0x69",
    series("process_open_fds", "s1"): always(900),
    series("process_max_fds", "s1"): always(65_536),
    series("ledger_rocksdb_writes_stopped", "s1"): "0+0x20 1+0x1 0+0x68",
    series("ledger_rocksdb_background_errors", "s1"): always(0),
    series("ledger_commands_log_clock_skew_seconds", "c1", partition="0"): always(-0.01),
    series("ledger_clock_skew_seconds", "s1", partition="0"): always(0.01),
    **{
        series(f"ledger_commands_writer_{state}", target, writer=writer): always(int(target == owner or state == "followed"))
        for state in ("owned", "ready", "followed")
        for writer, owner in (("0", "c1"), ("1", "c2"))
        for target in ("c1", "c2")
    },
    series("ledger_commands_behind", "c1", partition="0"): always(3),
    series("ledger_commands_decided_total", "c1", outcome="accepted"): rising(60),
    series("ledger_commands_undecided", "s1"): "0+0x30 2+0x5 0+0x53",
    series("ledger_commands_standby_behind", "c2", partition="0"): always(10),
    series("ledger_commands_starts_over_total", "c1", cause="discard"): "0+0x20 1+0x69",
    **buckets(*TRANSACTION, writer="0"),
    series("ledger_commands_hanging_transactions", "c1"): always(0),
    series("ledger_log_held_back_seconds", "s1"): always(0.2),
    series("ledger_commands_call_seconds_count", "c1", port="stripe", kind="capture", answer="done"): rising(10),
    UNANSWERED: "0+0x20 1+0x69",
    series("ledger_commands_obligations", "c1", kind="capture", state="owed"): always(5),
    series("ledger_commands_obligations", "c1", kind="capture", state="stuck"): always(0),
    series("ledger_commands_obligation_failing_seconds", "c1", kind="capture"): "0+60x20 0+0x69",
    series("ledger_webhooks_total", "s1", kind="invalid"): "0+0x20 1+0x69",
    series("ledger_commands_messages_total", "c1", channel="email", fate="sent"): rising(5),
    series("ledger_commands_messages_waiting", "c1"): always(3),
    series("ledger_commands_webhook_endpoints_failing", "c1"): "0+0x20 1+0x30 0+0x39",
    series("ledger_commands_webhook_tries_total", "c1", result="delivered"): rising(60),
    series("ledger_orders_frozen", "s1"): always(0),
    series("ledger_fold_staleness_seconds", "s1"): always(0),
    series("ledger_fold_behind", "s1"): always(12),
    http("201"): rising(60),
    http("503"): rising(1),
    http("503", "/ready", "GET"): rising(30),
    **buckets(*READ, method="GET", route="/orders/{order_id}"),
    **buckets(*LAG),
    series("ledger_tokens_stale", "s1"): always(0),
    series("ledger_token_expires_in_seconds", "s1", role="gateway"): always(90 * DAY_S),
    series("ledger_oidc_issuer_failing", "s1"): "0+0x20 1+0x5 0+0x64",
    series("ledger_audit_waiting", "s1"): always(10),
}


@dataclass(frozen=True, slots=True)
class Drill:
    """`wrong`: series that are otherwise, or None for one that is missing. `labels`: those of the alert, without its severity."""

    wrong: Mapping[str, str | None]
    labels: Mapping[str, str] = field(default_factory=dict)
    minute: int = 60


COMMANDS_1, SERVE_1 = {"job": COMMANDS, "instance": "c1"}, {"job": SERVE, "instance": "s1"}

DRILLS: Mapping[str, Drill] = {
    "OrderLedgerNoCommands": Drill({series("up", t): always(0) for t in ("c1", "c2")}),
    "OrderLedgerNoServe": Drill({series("up", "s1"): None}),
    "OrderLedgerProcessDown": Drill({series("up", "c1"): always(0)}, COMMANDS_1),
    "OrderLedgerKafkaUnreachable": Drill({series("ledger_commands_log_reachable", "c1"): always(0)}, COMMANDS_1),
    "OrderLedgerPartitionWithoutLeader": Drill({series("ledger_log_partitions_without_leader", "s1"): always(1)}),
    "OrderLedgerWorkerRestarts": Drill(
        {series("ledger_worker_restarts_total", "s1", worker="contacts"): rising(1)}, SERVE_1 | {"worker": "contacts"}
    ),
    "OrderLedgerManyOpenFiles": Drill({series("process_open_fds", "s1"): always(60_000)}, SERVE_1),
    "OrderLedgerStoreWritesStopped": Drill({series("ledger_rocksdb_writes_stopped", "s1"): always(1)}, SERVE_1),
    "OrderLedgerStoreErrors": Drill({series("ledger_rocksdb_background_errors", "s1"): always(1)}, SERVE_1),
    "OrderLedgerClockSkew": Drill(
        {series("ledger_clock_skew_seconds", "s1", partition="0"): always(-7)}, SERVE_1 | {"partition": "0"}
    ),
    "OrderLedgerWriterWithoutOwner": Drill(
        {series("ledger_commands_writer_owned", "c1", writer="0"): always(0)}, {"writer": "0"}
    ),
    "OrderLedgerWriterNotReady": Drill({series("ledger_commands_writer_ready", "c1", writer="0"): always(0)}, {"writer": "0"}),
    "OrderLedgerWriterOwnedTwice": Drill({series("ledger_commands_writer_owned", "c2", writer="0"): always(1)}, {"writer": "0"}),
    "OrderLedgerDecidesNothing": Drill(
        {series("ledger_commands_decided_total", "c1", outcome="accepted"): "0+60x30 1800+0x59"}, minute=40
    ),
    "OrderLedgerCommandsBehind": Drill({series("ledger_commands_behind", "c1", partition="0"): always(900)}, {"partition": "0"}),
    "OrderLedgerUndecided": Drill({series("ledger_commands_undecided", "s1"): always(1)}, {"instance": "s1"}),
    "OrderLedgerNoStandby": Drill({series("ledger_commands_writer_followed", "c2", writer="0"): always(0)}, {"writer": "0"}),
    "OrderLedgerStandbyBehind": Drill(
        {series("ledger_commands_standby_behind", "c2", partition="0"): always(50_000)},
        {"job": COMMANDS, "instance": "c2", "partition": "0"},
    ),
    "OrderLedgerWriterStartsOver": Drill(
        {series("ledger_commands_starts_over_total", "c1", cause="discard"): rising(1)}, {"instance": "c1", "cause": "discard"}
    ),
    "OrderLedgerSlowTransactions": Drill(slow(*TRANSACTION, writer="0"), {"instance": "c1"}),
    "OrderLedgerTransactionLeftOpen": Drill({series("ledger_commands_hanging_transactions", "c1"): always(1)}, COMMANDS_1),
    "OrderLedgerReadersHeldBack": Drill({series("ledger_log_held_back_seconds", "s1"): rising(60)}),
    "OrderLedgerNoAnswerFromOutside": Drill({UNANSWERED: rising(30)}, {"port": "stripe"}),
    "OrderLedgerObligationsStuck": Drill(
        {series("ledger_commands_obligations", "c1", kind="capture", state="stuck"): always(1)}, {"kind": "capture"}
    ),
    "OrderLedgerObligationFailing": Drill(
        {series("ledger_commands_obligation_failing_seconds", "c1", kind="capture"): rising(60)}, {"kind": "capture"}, minute=80
    ),
    "OrderLedgerWebhooksRefused": Drill({series("ledger_webhooks_total", "s1", kind="invalid"): rising(1)}),
    # The counter begins at its first event, as it does in the program.
    "OrderLedgerMessagesGivenUp": Drill({NOT_SENT: "_x60 1+0x29"}, {"channel": "email"}, minute=65),
    "OrderLedgerMessagesWaiting": Drill({series("ledger_commands_messages_waiting", "c1"): always(500)}),
    "OrderLedgerWebhookEndpointFailing": Drill({series("ledger_commands_webhook_endpoints_failing", "c1"): always(1)}, minute=80),
    "OrderLedgerWebhookAbandoned": Drill(
        {series("ledger_commands_webhook_tries_total", "c1", result="abandoned"): "_x60 1+0x29"}, minute=65
    ),
    "OrderLedgerOrdersFrozen": Drill({series("ledger_orders_frozen", "s1"): always(2)}),
    "OrderLedgerReadsStale": Drill({series("ledger_fold_staleness_seconds", "s1"): rising(60)}, SERVE_1),
    "OrderLedgerFoldBehind": Drill({series("ledger_fold_behind", "s1"): always(90_000)}, SERVE_1),
    # A small shop whose every order fails; probes and scrapes are answered.
    "OrderLedgerServerErrors": Drill(
        {
            http("503"): rising(0.5),
            http("201"): always(0),
            http("200", "/live", "GET"): rising(20),
            http("200", "/metrics", "GET"): rising(4),
        }
    ),
    "OrderLedgerUnexpectedError": Drill({http("500"): "_x60 1+0x29"}, {"method": "POST", "route": "/orders"}, minute=65),
    "OrderLedgerSlowReads": Drill(slow(*READ, method="GET", route="/orders/{order_id}")),
    "OrderLedgerEventLoopLag": Drill(slow(*LAG), {"instance": "s1"}),
    "OrderLedgerTokensStale": Drill({series("ledger_tokens_stale", "s1"): always(1)}, SERVE_1),
    "OrderLedgerTokenExpires": Drill(
        {series("ledger_token_expires_in_seconds", "s1", role="gateway"): always(13 * DAY_S)}, {"role": "gateway"}, minute=80
    ),
    "OrderLedgerIssuerFailing": Drill({series("ledger_oidc_issuer_failing", "s1"): always(1)}, SERVE_1),
    "OrderLedgerAuditLost": Drill(
        {series("ledger_audit_lost_total", "s1", action="contact_read"): "_x60 1+0x29"}, {"instance": "s1"}, minute=61
    ),
    "OrderLedgerAuditWaiting": Drill({series("ledger_audit_waiting", "s1"): always(9_000)}, SERVE_1),
}


def drill_file(rules: str, only: str | None = None) -> dict[str, Any]:
    """The tests of all alerts, or of the drill of one, in promtool's form; `rules` is the path of the rules."""
    quiet = [{"eval_time": f"{minute}m", "alertname": name, "exp_alerts": []} for name in alerts() for minute in (5, 30, 60, 90)]
    groups = [] if only else [_group("a healthy ledger", HEALTHY, quiet)]
    for name, drill in DRILLS.items():
        if only not in (None, name):
            continue
        present = {one: values for one, values in {**HEALTHY, **drill.wrong}.items() if values is not None}
        fires = {"eval_time": f"{drill.minute}m", "alertname": name, "exp_alerts": [_expected(name, drill)]}
        groups.append(_group(name, present, [fires]))
    return {"rule_files": [rules], "evaluation_interval": "1m", "tests": groups}


def _group(name: str, present: Mapping[str, str], tests: list[dict[str, Any]]) -> dict[str, Any]:
    rows = [{"series": one, "values": values} for one, values in present.items()]
    return {"name": name, "interval": "1m", "input_series": rows, "alert_rule_test": tests}


def _expected(name: str, drill: Drill) -> dict[str, Any]:
    rule = alerts()[name]

    def filled(text: str) -> str:
        return re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda match: drill.labels[match[1]], text)

    texts = {key: filled(text) for key, text in rule["annotations"].items()}
    return {"exp_labels": dict(drill.labels) | rule["labels"], "exp_annotations": texts}
