"""HTTP clients for servers of the tests, all on 127.0.0.1: without TLS, without a proxy of the environment.

httpx reads all certificates of the system for each new client: 23 ms, hundreds of times in a run.
"""

from __future__ import annotations

import ssl
from typing import Any

import httpx

from tests.support.patience import PATIENCE_S

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


# httpx gives up after five seconds, which a busy machine needs for a long traceback alone.
HERE: dict[str, Any] = {"verify": NO_TLS, "trust_env": False, "timeout": PATIENCE_S}


# A connection for each call: on a busy machine, an idle one is closed by the server just when it is used again.
EACH_ALONE = httpx.Limits(max_keepalive_connections=0)


def client(**options: Any) -> httpx.Client:
    return httpx.Client(**HERE | options)


def async_client(**options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(**HERE | options)


def get(url: str, **options: Any) -> httpx.Response:
    return httpx.get(url, **HERE | options)


def post(url: str, **options: Any) -> httpx.Response:
    return httpx.post(url, **HERE | options)
