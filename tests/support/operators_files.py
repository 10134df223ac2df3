"""What `ops export` writes, for tests: queries of the dashboard, alert rules, and the metrics that the processes really have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import promql_parser
import yaml
from prometheus_client import CollectorRegistry

from api.cli.ops import ALERTS, DASHBOARD, contents

Labels = Mapping[str, frozenset[str]]  # of metrics, by the name of their samples

# What Prometheus adds to every sample, and what it makes itself.
OF_TARGETS = frozenset({"job", "instance"})
OF_PROMETHEUS: Labels = {"up": frozenset(), "ALERTS": frozenset({"alertname", "alertstate", "severity"})}
# Grafana replaces these before Prometheus sees a query.
_INTERVALS = re.compile(r"\$__(?:rate_interval|interval|range)")


@cache
def alerts() -> dict[str, dict[str, Any]]:
    """Alert rules by name."""
    groups = yaml.safe_load(contents()[ALERTS])["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    by_name = {rule["alert"]: rule for rule in rules}
    assert len(by_name) == len(rules), "two alerts have one name"
    return by_name


@cache
def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(contents()[DASHBOARD])
    return loaded


def panels() -> list[dict[str, Any]]:
    """Those that show something: not the titles of rows."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries_of_dashboard() -> list[tuple[str, str]]:
    """(panel, query), and the query of the marks for alerts."""
    rows = [(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]]
    return rows + [(one["name"], one["expr"]) for one in dashboard()["annotations"]["list"]]


# ---- queries --------------------------------------------------------------------------------------------------------


def parsed(query: str) -> promql_parser.Expr:
    """Raises `ValueError` if it is not PromQL."""
    return promql_parser.parse(_INTERVALS.sub("5m", query))


def selectors(query: str | promql_parser.Expr) -> list[promql_parser.VectorSelector]:
    """Everything that the query selects, in any depth."""
    selected: list[promql_parser.VectorSelector] = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            selected.append(node)

    promql_parser.walk(parsed(query) if isinstance(query, str) else query, visit)
    return selected


def names(query: str) -> set[str]:
    """Names of the samples that the query selects."""
    return {str(one.name) for one in selectors(query)}


def unknown(query: str, metrics: Labels) -> list[str]:
    """Each metric, and each label of one, that the query uses and `metrics` lacks."""
    missing: list[str] = []

    def check(part: promql_parser.Expr, labels: Iterable[str]) -> None:
        for one in selectors(part):
            known = metrics.get(str(one.name), frozenset()) | OF_TARGETS
            missing.extend(f"{one.name} has no label {label}" for label in labels if label not in known)

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            check(node.expr, node.modifier.labels)
        if isinstance(node, promql_parser.BinaryExpr) and node.modifier is not None and node.modifier.matching is not None:
            check(node, node.modifier.matching.labels)

    whole = parsed(query)
    promql_parser.walk(whole, visit)
    for one in selectors(whole):
        if one.name not in metrics:
            missing.append(f"there is no {one.name}")
        else:
            check(one, [matcher.name for matcher in one.matchers.matchers if matcher.name != "__name__"])
    return missing


# ---- metrics --------------------------------------------------------------------------------------------------------


def metrics_of(registry: CollectorRegistry) -> Labels:
    """Labels of each sample that the registry can have, also of those that it has no values for yet."""
    known: dict[str, frozenset[str]] = {}
    for family in registry.collect():
        # Families keep the names of their labels only here; their samples have them, too, but there may be none.
        labels = frozenset(getattr(family, "_labelnames", ()))
        if family.type == "counter":
            known[f"{family.name}_total"] = labels
        elif family.type == "histogram":
            known |= {f"{family.name}_bucket": labels | {"le"}, f"{family.name}_sum": labels, f"{family.name}_count": labels}
        else:
            known[family.name] = labels
    return known
