"""Signed tokens over HTTP: which are accepted, as whom, and for how long."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from joserfc import jws
from joserfc.jwk import ECKey, OKPKey

from api.callers.issuer_rules import name_of
from ledger.memory.log import MemoryLog
from ledger.schemas.codec import audit_codec
from ledger.topics import Topics
from tests.support import loopback
from tests.support.harness import key, order_body, running_ledger
from tests.support.issuer import AUDIENCE, CONSOLE, GATEWAY, GATEWAY_SECRET, Clocks, rsa_key, running_issuer, sign, trusting
from tests.support.patience import until
from tests.support.trusted import SKEW_S, Trusted, running_trusted


@pytest.fixture(scope="module")
def trusted() -> Iterator[Trusted]:
    with running_trusted() as trusted:
        yield trusted


# ---- accepted -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "header"),
    [
        ({}, {}),
        ({}, {"typ": "application/at+JWT"}),
        ({}, {"typ": "JWT"}),
        ({}, {"typ": None}),
        ({"aud": ["https://other.example", AUDIENCE]}, {}),
        ({"roles": ["unknown", "shop-desk"]}, {}),
        ({"roles": "shop-desk"}, {}),
        ({"iat": None}, {}),
        ({}, {"x5t": "abc", "ext": "unknown members of a header are ignored"}),
        ({"sub": "auth0|5f7c8ec7c33c6c004bbafe82"}, {}),
    ],
)
def test_a_genuine_token_is_accepted(trusted: Trusted, changes: dict[str, Any], header: dict[str, Any]) -> None:
    answer = trusted.get(sign(trusted.claims(**changes), trusted.issuer.published[0], **header))
    assert answer.status_code == 200, answer.text


def test_every_allowed_algorithm_is_accepted_with_its_key() -> None:
    clocks = Clocks()
    with running_issuer() as issuer:
        keys = {"RS256": issuer.published[0], "PS512": rsa_key("pss"), "ES384": ECKey.generate_key("P-384", {"kid": "p384"})}
        keys |= {name: OKPKey.generate_key("Ed25519", {"kid": name}) for name in ("Ed25519", "EdDSA")}
        issuer.published = list(keys.values())
        oidc = trusting(issuer.url, clocks, oidc_algorithms=",".join(keys))
        with running_ledger(MemoryLog(), Topics(), oidc=oidc) as ledger:
            ledger.run(oidc.issuer.fetch())
            for algorithm, signing in keys.items():
                token = jws.serialize_compact(
                    {"alg": algorithm, "kid": signing.kid},
                    json.dumps(issuer.claims(clocks.now_ms / 1000)).encode(),
                    signing,
                    registry=_every_algorithm(algorithm),
                )
                assert loopback.get(f"{ledger.url}/orders", headers={"Authorization": f"Bearer {token}"}).status_code == 200


def _every_algorithm(name: str) -> jws.JWSRegistry:
    """joserfc warns of EdDSA's old name, which issuers use."""
    registry = jws.JWSRegistry(algorithms=[name])
    registry.algorithms = {name: type(jws.JWSRegistry.algorithms[name]).__new__(type(jws.JWSRegistry.algorithms[name]))}
    registry.algorithms[name].__dict__.update(jws.JWSRegistry.algorithms[name].__dict__)
    registry.algorithms[name].security_warning = None
    return registry


def test_a_token_of_the_file_works_beside_the_issuer(trusted: Trusted) -> None:
    assert trusted.ledger.client("reader").get("/orders").status_code == 200
    assert trusted.get("ol_reader_unknown").status_code == 401


def test_the_caller_is_named_in_the_log_and_a_retry_with_a_new_token_is_a_retry(trusted: Trusted) -> None:
    headers = key() | {"Customer-Id": "c-9", "Prefer": "wait=10"}
    answers = []
    for number in range(2):
        token = trusted.issuer.token(trusted.now_s, sub="u-web", roles=["shop-web"], jti=f"{number}")
        with loopback.client(base_url=trusted.ledger.url, headers={"Authorization": f"Bearer {token}"}) as client:
            answers.append(client.post("/orders", json=order_body(), headers=headers))
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].content == answers[1].content
    events = trusted.ledger.client("reader").get(f"/orders/{answers[0].json()['order_id']}/events").json()["data"]
    assert events[0]["actor"] == "gateway:oidc.u-web"


def test_the_audit_names_the_caller(trusted: Trusted) -> None:
    order = trusted.ledger.client().post("/orders", json=order_body(), headers=key()).json()["order_id"]
    token = trusted.issuer.token(trusted.now_s, sub="ada@example.org", roles=["shop-admin"])
    assert trusted.get(token, f"/orders/{order}").json()["contact"]["name"] == "Ada Example"
    until(lambda: not trusted.ledger.context.audit.waiting)
    records = [audit_codec().decode(record.value) for record in trusted.ledger.records(trusted.ledger.topics.audit)]
    (record,) = [record for record in records if record.order_id == order]
    assert (record.actor, record.role) == (f"admin:{name_of('ada@example.org')}", "admin")
    assert "ada@" not in record.actor


def test_limits_are_of_each_caller(trusted: Trusted) -> None:
    limits, before = trusted.ledger.context.limits, dict(trusted.ledger.context.limits._principals._kept)
    try:
        trusted.get(trusted.issuer.token(trusted.now_s, sub="u-fast"))
        assert "reader:oidc.u-fast" in limits._principals._kept
        limits._principals.charge("reader:oidc.u-fast", 1.0, 1e9)
        assert trusted.get(trusted.issuer.token(trusted.now_s, sub="u-fast", jti="another")).status_code == 429
        assert trusted.get(trusted.issuer.token(trusted.now_s, sub="u-slow")).status_code == 200
    finally:
        limits._principals._kept = before


def test_a_person_logs_in_with_pkce_and_a_program_with_its_secret(trusted: Trusted) -> None:
    issuer = trusted.issuer
    trusted.clocks.now_ms = max(trusted.clocks.now_ms, int(time.time() * 1000))
    with loopback.client(base_url=issuer.url) as browser:
        verifier = "a-random-text-that-only-the-console-knows-0123456789"
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        back = "http://127.0.0.1:1/console"
        query = {"response_type": "code", "client_id": CONSOLE, "redirect_uri": back, "state": "s", "scope": "openid"}
        query |= {"code_challenge": challenge, "code_challenge_method": "S256"}
        assert browser.get("/authorize", params=query).status_code == 200
        sent = browser.post("/authorize", params=query, data={"login": "ada"})
        assert sent.status_code == 302
        code = httpx.URL(sent.headers["location"]).params["code"]
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": back, "client_id": CONSOLE}
        assert browser.post("/token", data=form | {"code_verifier": "x" * 43}).status_code == 400
        answer = browser.post("/token", data=form | {"code_verifier": verifier})
        assert answer.status_code == 200, answer.text
        program = browser.post("/token", data={"grant_type": "client_credentials"}, auth=(GATEWAY, GATEWAY_SECRET))
    assert trusted.get(answer.json()["access_token"], "/reports/daily?from=2030-01-01&to=2030-01-01").status_code == 200
    assert trusted.get(program.json()["access_token"], **{"Customer-Id": "c-1"}).status_code == 200


# ---- when ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("skew_s", "status"), [(-SKEW_S - 700, 401), (-SKEW_S + 2, 200), (0, 200), (SKEW_S - 1, 200), (SKEW_S + 5, 401)]
)
def test_the_clock_of_the_issuer_may_be_this_much_ahead_or_behind(trusted: Trusted, skew_s: int, status: int) -> None:
    """A token that was issued just now, by a clock that differs, and is valid for ten minutes; `nbf` as many issuers set it."""
    at_s = trusted.now_s + skew_s
    assert trusted.get(trusted.issuer.token(at_s, nbf=int(at_s), sub=f"u-{skew_s}")).status_code == status


def test_a_token_that_was_accepted_ends_at_its_time(trusted: Trusted) -> None:
    token = trusted.issuer.token(trusted.now_s, sub="u-short", exp=int(trusted.now_s) + 60)
    before_ms = trusted.clocks.now_ms
    try:
        for passed_s, status in ((0, 200), (59, 200), (59 + SKEW_S, 200), (61 + SKEW_S, 401)):
            trusted.clocks.now_ms = before_ms + passed_s * 1000
            assert trusted.get(token).status_code == status, passed_s
    finally:
        trusted.clocks.now_ms = before_ms


@pytest.mark.parametrize(
    ("path", "customer"), [("/orders/{order}/events", "c-1"), ("/events?customer=c-streamed", "c-streamed")], ids=["order", "all"]
)
def test_a_stream_ends_with_its_signed_token(trusted: Trusted, path: str, customer: str) -> None:
    gateway = trusted.ledger.client(customer=customer)
    order = gateway.post("/orders", json=order_body(), headers=key()).json()["order_id"]
    token, before_ms = trusted.issuer.token(trusted.now_s, sub="u-stream"), trusted.clocks.now_ms
    headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}
    with (
        loopback.client(base_url=trusted.ledger.url, headers=headers) as client,
        client.stream("GET", path.format(order=order)) as stream,
    ):
        arrived = stream.iter_text()
        while "OrderPlaced" not in next(arrived):
            pass
        trusted.clocks.now_ms = before_ms + (600 + SKEW_S + 1) * 1000
        try:
            gateway.post(f"/orders/{order}/cancel", json={}, headers=key())  # wakes the stream
            assert "".join(arrived).count("OrderCancelled") <= 1  # ends: otherwise this would wait for half an hour
        finally:
            trusted.clocks.now_ms = before_ms


# ---- for one customer -----------------------------------------------------------------------------------------------


def test_a_gateway_for_one_customer_acts_for_no_other() -> None:
    clocks = Clocks()
    with running_issuer() as issuer:
        oidc = trusting(issuer.url, clocks, oidc_customer_claim="/shop/customer")
        with running_ledger(MemoryLog(), Topics(), oidc=oidc) as ledger:
            ledger.run(oidc.issuer.fetch())

            def asked(customer: Any, header: str | None) -> httpx.Response:
                token = issuer.token(clocks.now_ms / 1000, roles=["shop-web"], shop={"customer": customer})
                headers = {"Authorization": f"Bearer {token}"} | ({} if header is None else {"Customer-Id": header})
                return loopback.get(f"{ledger.url}/orders", headers=headers)

            own = ledger.client(customer="c-1").post("/orders", json=order_body(), headers=key()).json()["order_id"]
            ledger.client(customer="c-2").post("/orders", json=order_body(), headers=key())
            for header in (None, "c-1"):
                assert [order["order_id"] for order in asked("c-1", header).json()["data"]] == [own]
            another = asked("c-1", "c-2")
            assert (another.status_code, another.json()["code"]) == (403, "forbidden")
            assert asked("*", "c-2").status_code == 200
            assert asked("*", None).json()["code"] == "customer-required"
            for nobody in (None, "", 7, ["c-1"], "a b", "c" * 65):
                answer = asked(nobody, "c-1")
                assert (answer.status_code, "insufficient_scope" in answer.headers["www-authenticate"]) == (403, True), nobody


# ---- the console ----------------------------------------------------------------------------------------------------


def test_the_console_learns_without_a_token_how_to_log_in() -> None:
    with running_ledger(MemoryLog(), Topics()) as without:
        assert loopback.get(f"{without.url}/console/config.json").json() == {}
    with running_issuer() as issuer:
        oidc = trusting(issuer.url, Clocks(), oidc_console_client_id=CONSOLE, oidc_console_parameters=f"audience={AUDIENCE}")
        with running_ledger(MemoryLog(), Topics(), oidc=oidc) as ledger:
            known = {"issuer": issuer.url, "client_id": CONSOLE, "scopes": "openid", "parameters": {"audience": AUDIENCE}}
            assert loopback.get(f"{ledger.url}/console/config.json").json() == {"login": known}
            ledger.run(oidc.issuer.fetch())
            known |= {"authorization_endpoint": f"{issuer.url}/authorize", "token_endpoint": f"{issuer.url}/token"}
            answer = loopback.get(f"{ledger.url}/console/config.json")
            assert answer.json() == {"login": known}
            assert answer.headers["cache-control"] == "no-store"
