"""A ledger that trusts an issuer: for tests of signed tokens over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx
from joserfc.jwk import ECKey, OctKey, RSAKey

from api.callers.oidc import Oidc
from ledger.memory.log import MemoryLog
from ledger.topics import Topics
from tests.support import loopback
from tests.support.harness import RunningLedger, running_ledger
from tests.support.issuer import Clocks, RunningIssuer, rsa_key, running_issuer, trusting

SKEW_S = 30  # OIDC_LEEWAY_SECONDS


class Trusted(NamedTuple):
    """A ledger that trusts an issuer, and the keys of both and of somebody else."""

    ledger: RunningLedger
    issuer: RunningIssuer
    oidc: Oidc
    clocks: Clocks
    elliptic: ECKey
    attacker: RSAKey

    @property
    def now_s(self) -> float:
        return self.clocks.now_ms / 1000

    def claims(self, **changes: Any) -> dict[str, Any]:
        return self.issuer.claims(self.now_s, **changes)

    def get(self, token: str, path: str = "/orders", **headers: str) -> httpx.Response:
        with loopback.client(base_url=self.ledger.url, headers={"Authorization": f"Bearer {token}"} | headers) as client:
            return client.get(path)


@contextmanager
def running_trusted(**changes: Any) -> Iterator[Trusted]:
    """Its issuer publishes the key that signs, an elliptic one, one for encryption, and by mistake a secret.

    `changes`: of the settings.
    """
    clocks = Clocks()
    with running_issuer() as issuer:
        elliptic = ECKey.generate_key("P-256", {"kid": "elliptic", "use": "sig"})
        secret = OctKey.import_key("a secret of the issuer, published by mistake", {"kid": "shared"})
        issuer.published += [elliptic, rsa_key("for encryption", use="enc"), secret]
        oidc = trusting(issuer.url, clocks, **changes)
        with running_ledger(MemoryLog(), Topics(), oidc=oidc) as ledger:
            ledger.run(oidc.issuer.fetch())
            yield Trusted(ledger, issuer, oidc, clocks, elliptic, rsa_key("attacker"))
