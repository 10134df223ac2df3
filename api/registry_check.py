"""With a schema registry configured, every schema id must resolve there to the same schema, else no start (DESIGN 4)."""

from __future__ import annotations

import json

import httpx

from ledger.errors import ConfigError
from ledger.schemas import SchemaVersion, schema_versions


def check_registry(url: str, prefix: str = "", timeout_s: float = 10.0) -> None:
    """Ask the registry at `url` for every released schema id. Raises `ConfigError` naming the first that differs."""
    with httpx.Client(base_url=url.rstrip("/") + "/", timeout=timeout_s) as client:
        for schema in schema_versions():
            _check(client, schema, prefix)


def _check(client: httpx.Client, schema: SchemaVersion, prefix: str) -> None:
    subject = schema.subject(prefix)
    try:
        answer = client.get(f"schemas/ids/{schema.id}")
    except httpx.HTTPError as exc:
        raise ConfigError(f"SCHEMA_REGISTRY_URL does not answer: {exc}") from exc
    hint = "load it there with its id: order-ledger schema publish"
    if answer.status_code == 404:
        raise ConfigError(f"the registry has no schema {schema.id} ({subject} version {schema.version}); {hint}")
    if answer.status_code != 200:
        raise ConfigError(f"the registry answers {answer.status_code} for schema {schema.id} ({subject})")
    if json.loads(answer.json()["schema"]) != schema.parsed:
        raise ConfigError(f"the registry has another schema under id {schema.id} than {subject} version {schema.version}")
