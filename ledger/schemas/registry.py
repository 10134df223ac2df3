"""The schemas in a schema registry, each under its own id. `SCHEMA_REGISTRY_URL` is the base URL of Confluent's API.

    http://registry:8081                          Confluent, Redpanda and others with its IMPORT mode
    http://registry:8080/apis/ccompat/v7          Apicurio 3

A user and password in the address are sent as Basic credentials. A registry assigns later ids from its highest one on, and those
of the ledger are spread over all 31 bits: use a separate registry, or a separate context of one.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ledger.errors import ConfigError
from ledger.http_client import BlockingHttp, HttpAnswer, NoAnswer
from ledger.schemas.versions import SchemaVersion, schema_versions

TIMEOUT_S = 10.0
_APICURIO_PATH = "/apis/ccompat/"
_HEADERS = {
    "Accept": "application/vnd.schemaregistry.v1+json, application/json",
    "Content-Type": "application/vnd.schemaregistry.v1+json",
}


def check_registry(url: str, prefix: str = "", timeout_s: float = TIMEOUT_S) -> None:
    """Check that every released schema is in the registry at `url` under its id. Raises `ConfigError` naming the first missing.

    `prefix` is that of the topics.
    """
    with _connected(url, timeout_s) as client:
        for schema in schema_versions():
            _check(client, schema, prefix)


def publish(url: str, prefix: str = "", timeout_s: float = TIMEOUT_S) -> tuple[SchemaVersion, ...]:
    """Publish every released schema to the registry at `url`, with its id and version. Returns the new ones. Can be repeated.

    Raises `ConfigError` if the registry does not answer or refuses, or if it has one of the schemas under another id or version,
    or another schema under one of the ids. Conflicts are detected before anything is written, unless others register schemas at
    the same time.
    """
    with _connected(url, timeout_s) as client:
        missing = tuple(schema for schema in schema_versions() if not _is_registered(client, schema, prefix))
        for schema in missing:
            _require_room(client, schema, prefix)
        load = _load_into_apicurio if _APICURIO_PATH in client.base_url else _import
        if missing:
            load(client, missing, prefix)
        for schema in missing:
            if not _is_registered(client, schema, prefix):
                raise ConfigError(f"the registry accepted {_name(schema, prefix)}, but does not have it")
    check_registry(url, prefix, timeout_s)
    return missing


def apicurio_archive(contents: Iterable[tuple[int, str]]) -> bytes:
    """The ZIP file for Apicurio's import, with (id, schema text) each.

    It contains only the texts: they become versions of a subject when they are registered, and keep their ids.
    """
    manifest = {"systemName": "Order Ledger", "systemDescription": "", "systemVersion": "3", "exportVersion": "3.0"}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("order-ledger.Manifest.json", json.dumps({**manifest, "exportedOn": 0, "exportedBy": ""}))
        for schema_id, text in contents:
            digest = hashlib.sha256(text.encode()).hexdigest()
            entity = {"contentId": schema_id, "contentHash": digest, "artifactType": "AVRO", "contentType": "application/json"}
            file.writestr(f"content/{digest}.Content.json", json.dumps(entity))
            file.writestr(f"content/{digest}.Content.data", text)
    return archive.getvalue()


def _load_into_apicurio(client: BlockingHttp, schemas: Iterable[SchemaVersion], prefix: str) -> None:
    """Apicurio accepts ids only in its own import: in IMPORT mode it answers 200 and assigns another id."""
    root = client.base_url.split(_APICURIO_PATH)[0]
    answer = _ask(
        client,
        "POST",
        f"{root}/apis/registry/v3/admin/import?requireEmptyRegistry=false",
        "importing the schemas",
        headers={"Content-Type": "application/zip", "X-Registry-Preserve-ContentId": "true"},
        body=apicurio_archive((schema.id, schema.text) for schema in schemas),
    )
    _require_success(answer, "importing the schemas")
    for schema in schemas:
        _register(client, schema, prefix, {})


def _import(client: BlockingHttp, schemas: Iterable[SchemaVersion], prefix: str) -> None:
    """Confluent's way: a subject in IMPORT mode accepts ids and versions. Its mode is restored, even after a failure."""
    for schema in schemas:
        mode = f"mode/{schema.subject(prefix)}"
        doing = f"setting {schema.subject(prefix)} to IMPORT mode"
        before = _ask(client, "GET", mode, doing)
        # force: the subject may have versions already
        _require_success(_ask(client, "PUT", f"{mode}?force=true", doing, {"mode": "IMPORT"}), doing)
        try:
            _register(client, schema, prefix, {"id": schema.id, "version": schema.version})
        finally:
            doing = f"restoring the mode of {schema.subject(prefix)}"
            if before.status == 200:
                _require_success(_ask(client, "PUT", mode, doing, {"mode": before.json_object().get("mode")}), doing)
            else:
                _require_success(_ask(client, "DELETE", mode, doing), doing)


def _register(client: BlockingHttp, schema: SchemaVersion, prefix: str, numbers: dict[str, int]) -> None:
    doing = f"registering {_name(schema, prefix)}"
    body = {"schema": schema.text, "schemaType": "AVRO", **numbers}
    answer = _ask(client, "POST", f"subjects/{schema.subject(prefix)}/versions", doing, body)
    _require_success(answer, doing)
    if (actual := answer.json_object().get("id")) != schema.id:
        raise ConfigError(
            f"the registry gave {_name(schema, prefix)} the id {actual}, not {schema.id}: delete that version there and try again"
        )


def _is_registered(client: BlockingHttp, schema: SchemaVersion, prefix: str) -> bool:
    """Whether the subject has this schema with its id and version. Raises `ConfigError` if it has it with others."""
    doing = f"looking up {_name(schema, prefix)}"
    body = {"schema": schema.text, "schemaType": "AVRO"}
    answer = _ask(client, "POST", f"subjects/{schema.subject(prefix)}", doing, body)
    if answer.status == 404:
        return False
    _require_success(answer, doing)
    registered = answer.json_object()
    if (registered.get("id"), registered.get("version")) != (schema.id, schema.version):
        raise ConfigError(
            f"the registry has {_name(schema, prefix)} as version {registered.get('version')} with id {registered.get('id')}, "
            f"not as version {schema.version} with id {schema.id}: delete the subject there permanently, and publish again"
        )
    return True


def _require_room(client: BlockingHttp, schema: SchemaVersion, prefix: str) -> None:
    """Check that no other schema has the version of the subject, and none but the same one (of another prefix) the id."""
    doing = f"looking up {_name(schema, prefix)}"
    answer = _ask(client, "GET", f"subjects/{schema.subject(prefix)}/versions/{schema.version}", doing)
    if answer.status != 404:
        _require_success(answer, doing)
        raise ConfigError(f"the registry has another schema as {_name(schema, prefix)}: delete the subject there permanently")
    if _ask(client, "GET", f"schemas/ids/{schema.id}", doing).status != 404:
        _check(client, schema, prefix)


def _check(client: BlockingHttp, schema: SchemaVersion, prefix: str) -> None:
    doing = f"looking up {_name(schema, prefix)}"
    answer = _ask(client, "GET", f"schemas/ids/{schema.id}", doing)
    if answer.status == 404:
        raise ConfigError(
            f"the registry has no schema {schema.id} ({_name(schema, prefix)}); "
            "publish it with its id: order-ledger schema publish"
        )
    _require_success(answer, doing)
    try:
        registered = json.loads(answer.json_object()["schema"])
    except (KeyError, TypeError, ValueError):
        raise ConfigError(
            f"invalid answer of the registry for schema {schema.id}: is SCHEMA_REGISTRY_URL a schema registry?"
        ) from None
    if registered != schema.parsed:
        raise ConfigError(f"the registry has another schema under id {schema.id} than {_name(schema, prefix)}")


@contextmanager
def _connected(url: str, timeout_s: float) -> Iterator[BlockingHttp]:
    try:
        client = BlockingHttp(url, timeout_s, _HEADERS)
    except ConfigError as exc:
        raise ConfigError(f"SCHEMA_REGISTRY_URL: {exc}") from None
    with client:
        yield client


def _ask(
    client: BlockingHttp,
    method: str,
    path: str,
    doing: str,
    value: Any = None,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> HttpAnswer:
    """Send a request; `value` is sent as JSON, `path` is below the base URL, or a full URL."""
    sent = body if value is None else json.dumps(value).encode()
    try:
        return client.request(method, path if "://" in path else f"/{path}", body=sent, headers=headers)
    except NoAnswer as exc:
        raise ConfigError(f"SCHEMA_REGISTRY_URL does not answer ({doing}): {exc}") from exc


def _require_success(answer: HttpAnswer, doing: str) -> None:
    if not answer.ok:
        said = answer.json_object()
        why = said.get("message") or said.get("title") or answer.reason
        raise ConfigError(f"the registry answers {answer.status} to {doing}: {why}")


def _name(schema: SchemaVersion, prefix: str) -> str:
    return f"{schema.subject(prefix)} version {schema.version}"
