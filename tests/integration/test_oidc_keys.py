"""The keys of an issuer over HTTP: fetched, rotated, withdrawn; and an issuer that is unreachable or silent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from joserfc.jwk import import_key

from api.callers import issuer as issuer_keys
from api.callers.oidc import Oidc
from api.cli import doctor
from ledger.memory.log import MemoryLog
from ledger.topics import Topics
from tests.support import loopback
from tests.support.harness import RunningLedger, key, order_body, running_ledger
from tests.support.issuer import DISCOVERY, JWKS, Clocks, RunningIssuer, rsa_key, running_issuer, sign, trusting
from tests.support.patience import PATIENCE_S, until_async


class Both(NamedTuple):
    """A ledger and its issuer. No time passes by itself."""

    ledger: RunningLedger
    issuer: RunningIssuer
    oidc: Oidc
    clocks: Clocks

    def token(self, **changes: Any) -> str:
        return self.issuer.token(self.clocks.now_ms / 1000, **changes)

    def get(self, token: str, path: str = "/orders") -> httpx.Response:
        return loopback.get(f"{self.ledger.url}{path}", headers={"Authorization": f"Bearer {token}"})

    def status(self, token: str) -> int:
        return self.get(token).status_code

    def fetch(self) -> None:
        self.ledger.run(self.oidc.issuer.fetch())

    def metric(self, name: str) -> float:
        lines = self.ledger.client("operator").get("/metrics").text.splitlines()
        (line,) = [line for line in lines if line.startswith(f"{name} ")]
        return float(line.split()[1])


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Both]:
    clocks = Clocks()
    with running_issuer() as issuer:
        oidc = trusting(issuer.url, clocks, tmp_path / "oidc.json")
        with running_ledger(MemoryLog(), Topics(), oidc=oidc) as ledger:
            yield Both(ledger, issuer, oidc, clocks)


# ---- when keys are fetched ------------------------------------------------------------------------------------------


def test_the_first_token_waits_for_the_keys_and_the_next_ones_do_not(both: Both) -> None:
    assert both.status(both.token()) == 200
    assert both.issuer.asked == {DISCOVERY: 1, JWKS: 1}
    assert both.status(both.token(sub="u-2")) == 200
    assert both.issuer.asked == {DISCOVERY: 1, JWKS: 1}


def test_a_key_that_is_new_is_fetched_when_a_token_names_it(both: Both) -> None:
    old = both.token()
    assert both.status(old) == 200
    both.issuer.rotate("second")
    both.clocks.pass_s(issuer_keys.FETCH_AGAIN_S)
    assert both.status(both.token()) == 200
    assert both.status(old) == 200, "its key is still published"
    assert +both.oidc.issuer.fetches == {"taken": 2}


def test_tokens_with_unknown_keys_cause_few_fetches_whatever_they_name(both: Both) -> None:
    both.fetch()
    attacker = rsa_key("attacker")
    claims = both.issuer.claims(both.clocks.now_ms / 1000)
    for number in range(50):
        assert both.status(sign(claims, attacker, kid=f"{number}")) == 401
    assert both.oidc.issuer.fetches.total() == 1
    both.clocks.pass_s(issuer_keys.FETCH_AGAIN_S)
    for number in range(50):
        assert both.status(sign(claims, attacker, kid=f"{number}")) == 401
    assert +both.oidc.issuer.fetches == {"taken": 1, "unchanged": 1}
    assert both.status(both.token()) == 200


def test_requests_that_want_the_same_keys_share_one_fetch(both: Both) -> None:
    both.issuer.answering.clear()

    async def all_at_the_same_time() -> list[int]:
        async with loopback.async_client(base_url=both.ledger.url) as client:
            tokens = [both.token(sub=f"u-{number}") for number in range(20)]
            asked = [asyncio.create_task(client.get("/orders", headers={"Authorization": f"Bearer {t}"})) for t in tokens]
            await until_async(lambda: both.ledger.context.metrics.in_progress == len(asked))
            both.issuer.answering.set()
            return [answer.status_code for answer in await asyncio.gather(*asked)]

    assert asyncio.run(all_at_the_same_time()) == [200] * 20
    assert both.issuer.asked[JWKS] == 1


def test_a_withdrawn_key_ends_its_tokens_and_their_streams(both: Both) -> None:
    order = both.ledger.client().post("/orders", json=order_body(), headers=key()).json()["order_id"]
    token = both.token()
    headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}
    with (
        loopback.client(base_url=both.ledger.url, headers=headers) as client,
        client.stream("GET", f"/orders/{order}/events") as stream,
    ):
        arrived = stream.iter_text()
        while "OrderPlaced" not in next(arrived):
            pass
        both.issuer.published = [rsa_key("second")]
        both.fetch()
        both.ledger.client().post(f"/orders/{order}/cancel", json={}, headers=key())
        assert "".join(arrived).count("OrderCancelled") <= 1
    assert both.status(token) == 401
    assert both.status(both.token()) == 200


def test_the_same_key_may_get_another_id(both: Both) -> None:
    both.fetch()
    old, (signing,) = both.token(), both.issuer.published
    both.issuer.published = [import_key({**signing.as_dict(private=True), "kid": "renamed"})]
    both.fetch()
    assert (both.status(old), both.status(both.token())) == (401, 200)


def test_another_key_under_the_same_id_ends_the_tokens_of_the_old_one(both: Both) -> None:
    old = both.token()
    assert both.status(old) == 200
    both.issuer.published = [rsa_key("first")]
    both.fetch()
    assert (both.status(old), both.status(both.token())) == (401, 200)


# ---- an issuer that is unreachable ------------------------------------------------------------------------------------


def test_an_unreachable_issuer_costs_only_tokens_with_unknown_keys(both: Both) -> None:
    both.fetch()
    known = both.token()
    both.issuer.stop()
    try:
        both.issuer.rotate("second")
        both.clocks.pass_s(issuer_keys.FETCH_AGAIN_S)
        unknown = both.get(both.token())
        assert (unknown.status_code, unknown.json()["code"]) == (503, "issuer-unavailable")
        assert int(unknown.headers["retry-after"]) > 0
        assert both.status(both.token()) == 503, "without a fetch of its own"
        assert +both.oidc.issuer.fetches == {"taken": 1, "failed": 1}
        assert both.status(known) == 200
        forged = sign(both.issuer.claims(both.clocks.now_ms / 1000), rsa_key("x"), kid="first")
        assert both.status(forged) == 401
        assert both.get(both.token(), "/subjects").status_code == 503
        assert both.ledger.client("reader").get("/orders").status_code == 200
        assert both.metric("ledger_oidc_issuer_failing") == 1
        assert both.metric('ledger_oidc_checks_total{outcome="issuer_unavailable"}') == 3
        assert both.metric("ledger_oidc_keys_age_seconds") == issuer_keys.FETCH_AGAIN_S
    finally:
        both.issuer.start()
    both.clocks.pass_s(issuer_keys.FETCH_AGAIN_S)
    assert both.status(both.token()) == 200
    assert both.metric("ledger_oidc_issuer_failing") == 0


def test_a_start_without_the_issuer_has_the_keys_of_the_last_run(both: Both, tmp_path: Path) -> None:
    both.fetch()
    both.issuer.stop()
    try:
        file = tmp_path / "oidc.json"
        assert file.stat().st_mode & 0o077 == 0
        again = trusting(both.issuer.url, both.clocks, file)
        with running_ledger(MemoryLog(), Topics(), oidc=again) as ledger:
            headers = {"Authorization": f"Bearer {both.token()}"}
            assert loopback.get(f"{ledger.url}/orders", headers=headers).status_code == 200
            assert again.issuer.discovery.token_endpoint == f"{both.issuer.url}/token"
            ledger.run(again.issuer.fetch())
            assert again.issuer.failure
            assert loopback.get(f"{ledger.url}/orders", headers=headers).status_code == 200
    finally:
        both.issuer.start()


def test_doctor_shows_the_issuer_and_what_to_do(both: Both) -> None:
    def verdict() -> list[tuple[str, bool]]:
        text = both.ledger.client("operator").get("/metrics").text
        return [(f.verdict, bool(f.advice)) for f in doctor._of_metrics(text) if f.subject == "issuer of serve"]

    assert verdict() == [("wrong", True)]
    both.fetch()
    assert verdict() == [("ok", False)]
    both.issuer.instead[JWKS] = 500, b"", {}
    both.fetch()
    assert verdict() == [("warning", True)]
    with running_ledger(MemoryLog(), Topics()) as without:
        text = without.client("operator").get("/metrics").text
    assert "ledger_oidc" not in text
    assert [f for f in doctor._of_metrics(text) if f.subject == "issuer of serve"] == []


def test_a_silent_issuer_holds_up_nobody_else(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    both.fetch()
    known = both.token()
    both.issuer.rotate("second")
    both.clocks.pass_s(issuer_keys.FETCH_AGAIN_S)
    both.issuer.answering.clear()
    monkeypatch.setattr(issuer_keys, "FETCH_S", PATIENCE_S)
    unknown = both.token()

    async def beside_it() -> list[int]:
        async with loopback.async_client(base_url=both.ledger.url) as client:
            waiting = asyncio.create_task(client.get("/orders", headers={"Authorization": f"Bearer {unknown}"}))
            await until_async(lambda: both.issuer.asked[DISCOVERY] == 2)
            answers = [await client.get("/orders", headers={"Authorization": f"Bearer {known}"}) for _ in range(20)]
            assert not waiting.done()
            both.issuer.answering.set()
            return [answer.status_code for answer in (*answers, await waiting)]

    assert asyncio.run(beside_it()) == [200] * 21


def test_a_request_waits_for_keys_only_so_long(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    both.issuer.answering.clear()
    monkeypatch.setattr(issuer_keys, "FETCH_S", 0.2)
    assert both.status(both.token()) == 503
    assert both.oidc.issuer.failure == "no answer in 0.2 s"
