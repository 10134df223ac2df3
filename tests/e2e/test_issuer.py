"""`serve` as a process with an issuer of tokens: settings, restarts without the issuer, `doctor`, and what its log has."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from api.cli import doctor
from ledger.ports import free_port
from ledger.topics import Topics
from tests.support import loopback
from tests.support.issuer import AUDIENCE, ROLES, RunningIssuer, running_issuer
from tests.support.patience import PATIENCE_S
from tests.support.processes import TOKENS, LedgerNode

# `/metrics` needs a token, and neither read models nor Kafka.


@pytest.fixture
def issuer() -> Iterator[RunningIssuer]:
    with running_issuer() as running:
        yield running


def node(tmp_path: Path, **env: str) -> LedgerNode:
    """A ledger whose Kafka does not exist."""
    return LedgerNode(tmp_path, f"127.0.0.1:{free_port()}", Topics("issuer."), env=env)


@pytest.fixture
def ledger(tmp_path: Path, issuer: RunningIssuer) -> Iterator[LedgerNode]:
    running = node(tmp_path, OIDC_ISSUER=issuer.url, OIDC_AUDIENCE=AUDIENCE, OIDC_ROLES=ROLES, OIDC_NAME_CLAIM="email")
    yield running
    running.end()


def status(ledger: LedgerNode, token: str) -> int:
    """That of `/metrics` with this token, once `serve` answers."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return loopback.get(f"{ledger.url}/metrics", headers={"Authorization": f"Bearer {token}"}).status_code
        except httpx.TransportError:
            assert time.monotonic() < deadline, ledger.tails()
            time.sleep(0.05)


def verdicts(ledger: LedgerNode, token: str) -> list[str]:
    return [f.verdict for f in doctor._api(ledger.url, token) if f.subject == "issuer of serve"]


def test_a_killed_serve_accepts_signed_tokens_again_while_the_issuer_is_unreachable(
    ledger: LedgerNode, issuer: RunningIssuer
) -> None:
    serve = ledger.child("serve")
    serve.start()
    known = issuer.token(email="ada@example.org")
    assert status(ledger, known) == 200
    assert verdicts(ledger, known) == ["ok"]
    serve.kill()
    issuer.stop()
    issuer.rotate("second")
    try:
        serve.start()
        assert status(ledger, known) == 200
        assert status(ledger, issuer.token(email="ada@example.org")) == 503
        assert status(ledger, f"{known[:-4]}AAAA") == 401
        assert status(ledger, TOKENS["reader"]) == 200
        assert verdicts(ledger, known) == ["warning"]
    finally:
        issuer.start()
    assert serve.stop() == 0
    text = serve.log_file.read_text("utf-8")
    assert "keys of the issuer not fetched, keeping those that are known" in text
    for secret in (known, known.split(".")[1], "ada@example.org"):
        assert secret not in text


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"OIDC_ALGORITHMS": "RS256,HS256"}, "OIDC_ALGORITHMS names HS256"),
        ({"OIDC_AUDIENCE": ""}, "OIDC_AUDIENCE is not set"),
        ({"OIDC_ISSUER": ""}, "OIDC_AUDIENCE, OIDC_ROLES without OIDC_ISSUER"),
        ({"APP_ENV": "production", "KAFKA_SECURITY_PROTOCOL": "SSL"}, "OIDC_ISSUER does not begin with https://"),
    ],
)
def test_serve_ends_with_a_line_for_a_wrong_setting(tmp_path: Path, env: dict[str, str], said: str) -> None:
    chosen = {"OIDC_ISSUER": "http://127.0.0.1:9", "OIDC_AUDIENCE": AUDIENCE, "OIDC_ROLES": json.dumps({"a": "admin"})}
    ledger = node(tmp_path, **(chosen | env))
    serve = ledger.child("serve")
    serve.start()
    try:
        assert serve.process is not None
        assert serve.process.wait(PATIENCE_S) == 1
        text = serve.log_file.read_text("utf-8")
        assert said in text
        assert "Traceback" not in text
    finally:
        ledger.end()
