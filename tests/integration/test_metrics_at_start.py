"""Counters whose labels are known show 0 from the start of `serve`.

Otherwise Prometheus sees no increase when the first one is counted, and the dashboard has no data until then.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from api import connections
from api.connections import ENDINGS
from ledger.audit import ACTIONS
from ledger.memory.log import MemoryLog
from ledger.topics import Topics
from tests.support.harness import running_ledger


def test_counters_with_known_labels_show_0_before_anything_is_counted() -> None:
    with running_ledger(MemoryLog(), Topics("fresh.")) as ledger:
        shown = ledger.client("reader").get("/metrics").text
    for name, label, values in (
        ("ledger_http_connections_ended", "why", ENDINGS),
        ("ledger_audit_lost", "action", (*ACTIONS, "unknown")),
        ("ledger_audit_records", "action", ACTIONS),
        ("ledger_token_reloads", "outcome", ("taken", "refused")),
    ):
        assert dict(re.findall(rf'^{name}_total{{{label}="([^"]+)"}} (\S+)$', shown, re.MULTILINE)) == dict.fromkeys(
            values, "0.0"
        )


def test_every_reason_to_close_a_connection_is_among_those_shown() -> None:
    calls = [node for node in ast.walk(ast.parse(Path(connections.__file__).read_text())) if isinstance(node, ast.Call)]
    ends = [call.args[0] for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "end" and call.args]
    words = {node.value for end in ends for node in ast.walk(end) if isinstance(node, ast.Constant)}
    assert words | {"refused"} == set(ENDINGS)
