"""The schemas, read-only, at the paths of a Confluent schema registry: Confluent's deserialisers and the usual consoles need no
other registry.

Shapes, error codes and content type follow its REST API, as `AvroDeserializer` of confluent-kafka and `KafkaAvroDeserializer`
of Java expect. `/schemas/ids/{id}` answers exactly `{"schema": "<json>"}`, because old Java clients reject unknown members.
Other query parameters (`subject`, `fetchMaxId`, `format`, `deleted`, `normalize`, ...) have no effect.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from fastapi import APIRouter
from pydantic import ValidationError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.bodies import MAX_BODY_BYTES, read_raw
from api.call import Call
from api.contract import registry as docs
from api.contract.registry import BAD_SCHEMA, BAD_VERSION, NO_LEVEL, NO_MODE, NO_SCHEMA, NO_SUBJECT, NO_VERSION
from api.contract.registry_responses import (
    RegistryCompatibilityOut,
    RegistryConfigOut,
    RegistryErrorOut,
    RegistryModeOut,
    RegistrySchemaOut,
    RegistrySubjectVersionOut,
    RegistryVersionOut,
)
from api.edge import LedgerRoute, allowed_methods, with_keys
from api.problems import Problem
from api.representations import to_json
from ledger.errors import ConfigError
from ledger.schemas.versions import SchemaVersion, schema_versions

T = TypeVar("T")

_PATHS = re.compile(r"/(schemas|subjects|compatibility|config|mode|contexts)(/|$)")
# The types that a registry takes; every one of them is read as JSON.
_JSON_TYPES = re.compile(r"application/(json|octet-stream|vnd\.schemaregistry(\.v1)?\+json)[ \t]*(;.*)?", re.IGNORECASE)
MAX_MESSAGE = 500  # characters: a message of Avro's may repeat the schema


class RegistryError(Exception):
    """An error in the shape of the registry. The first three digits of `code` are the HTTP status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class RegistryRoute(LedgerRoute):
    """A route whose errors have the shape of the registry."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(scope, receive, send)
        try:
            if not self.serves(scope):
                headers = {"Allow": ", ".join(allowed_methods(scope))}
                response = error_response(405, "HTTP 405 Method Not Allowed: this registry is read-only", headers)
            else:
                response = await with_keys(call, self.answered)
        except RegistryError as error:
            response = error_response(error.code, error.message)
        except Problem as problem:
            response = error_response(problem.status, problem.detail, problem.headers)
        await self.respond(response, scope, receive, send)

    async def answered(self, call: Call) -> Response:
        call.allow(basic_too=True)
        response: Response = await self.endpoint(call)
        return response


def error_response(code: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """An error in the registry's shape. `code` begins with the HTTP status."""
    status = int(str(code)[:3])
    return Response(to_json(RegistryErrorOut(code, message)), status, headers, docs.REGISTRY_JSON)


def not_found(path: str) -> Response | None:
    """The registry's answer for an unknown path; None if `path` is not one of its own."""
    return error_response(404, "HTTP 404 Not Found") if _PATHS.match(path) else None


def add_routes(router: APIRouter) -> None:
    """Register the routes."""
    for path, endpoint, described in (
        ("/compatibility/subjects/{subject}/versions", check_subject, docs.CHECK_SUBJECT),
        ("/compatibility/subjects/{subject}/versions/{version}", check_version, docs.CHECK_VERSION),
        ("/subjects/{subject}", find_schema, docs.FIND_SCHEMA),
    ):
        router.add_api_route(path, endpoint, methods=["POST"], route_class_override=RegistryRoute, **described)
    for path, endpoint, described in (
        ("/config", read_config, docs.READ_CONFIG),
        ("/config/{subject}", read_subject_config, docs.READ_SUBJECT_CONFIG),
        ("/contexts", list_contexts, docs.LIST_CONTEXTS),
        ("/mode", read_mode, docs.READ_MODE),
        ("/mode/{subject}", read_subject_mode, docs.READ_SUBJECT_MODE),
        ("/schemas/ids/{id}", read_schema, docs.READ_SCHEMA),
        ("/schemas/ids/{id}/schema", read_bare_schema, docs.READ_BARE_SCHEMA),
        ("/schemas/ids/{id}/subjects", schema_subjects, docs.SCHEMA_SUBJECTS),
        ("/schemas/ids/{id}/versions", schema_subject_versions, docs.SCHEMA_VERSIONS),
        ("/schemas/types", schema_types, docs.SCHEMA_TYPES),
        ("/subjects", list_subjects, docs.LIST_SUBJECTS),
        ("/subjects/{subject}/versions", list_versions, docs.LIST_VERSIONS),
        ("/subjects/{subject}/versions/{version}", read_version, docs.READ_VERSION),
        ("/subjects/{subject}/versions/{version}/schema", read_version_schema, docs.READ_VERSION_SCHEMA),
    ):
        router.add_api_route(path, endpoint, methods=["GET"], route_class_override=RegistryRoute, **described)


def _answer(value: object) -> Response:
    return Response(to_json(value), 200, None, docs.REGISTRY_JSON)


def _by_id(call: Call) -> SchemaVersion:
    text: str = call.path_params["id"]
    if not (text.isascii() and text.isdecimal() and len(text) <= 10):
        raise RegistryError(404, "HTTP 404 Not Found")
    for schema in schema_versions():
        if schema.id == int(text):
            return schema
    raise RegistryError(NO_SCHEMA, f"Schema {text} not found")


def _schemas_of(call: Call) -> Sequence[SchemaVersion]:
    """The versions of the subject in the path; empty if there is no such subject."""
    return [s for s in schema_versions() if s.subject(call.ctx.topics.prefix) == call.path_params["subject"]]


def _of_subject(call: Call) -> Sequence[SchemaVersion]:
    if not (schemas := _schemas_of(call)):
        raise RegistryError(NO_SUBJECT, f"Subject '{call.path_params['subject']}' not found.")
    return schemas


def _by_version(call: Call) -> SchemaVersion:
    schemas = _of_subject(call)
    text: str = call.path_params["version"]
    if text in ("latest", "-1"):
        return schemas[-1]
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and 0 < int(text) < 2**31):
        raise RegistryError(
            BAD_VERSION,
            f"The specified version '{text}' is not a valid version id. "
            'Allowed values are between [1, 2^31-1] and the string "latest"',
        )
    for schema in schemas:
        if schema.version == int(text):
            return schema
    raise RegistryError(NO_VERSION, f"Version {text} not found.")


async def read_schema(call: Call) -> Response:
    """A schema by id."""
    return _answer(RegistrySchemaOut(_by_id(call).text))


async def read_bare_schema(call: Call) -> Response:
    """The bare schema by id."""
    return Response(_by_id(call).text, 200, None, docs.REGISTRY_JSON)


async def schema_subjects(call: Call) -> Response:
    """Subjects that have the schema."""
    return _answer([_by_id(call).subject(call.ctx.topics.prefix)])


async def schema_subject_versions(call: Call) -> Response:
    """Subjects and versions that have the schema."""
    schema = _by_id(call)
    return _answer([RegistrySubjectVersionOut(schema.subject(call.ctx.topics.prefix), schema.version)])


async def schema_types(call: Call) -> Response:
    """The types of schemas."""
    return _answer(["AVRO"])


async def list_subjects(call: Call) -> Response:
    """All subjects."""
    return _answer(list(dict.fromkeys(schema.subject(call.ctx.topics.prefix) for schema in schema_versions())))


async def list_versions(call: Call) -> Response:
    """Versions of a subject."""
    return _answer([schema.version for schema in _of_subject(call)])


async def read_version(call: Call) -> Response:
    """One version of a subject."""
    schema = _by_version(call)
    subject = schema.subject(call.ctx.topics.prefix)
    return _answer(RegistryVersionOut(schema.text, subject, schema.version, schema.id))


async def read_version_schema(call: Call) -> Response:
    """The bare schema of one version."""
    return Response(_by_version(call).text, 200, None, docs.REGISTRY_JSON)


# ---- about the registry and its subjects -----------------------------------------------------------------------------


def _require_own(call: Call, setting: str, code: int) -> None:
    """Raise `RegistryError` for an unknown subject, unless what the whole registry has will do. Known ones have the same."""
    if not _schemas_of(call) and not _is_set(call, "defaultToGlobal"):
        raise RegistryError(code, f"Subject '{call.path_params['subject']}' does not have subject-level {setting} configured")


def _is_set(call: Call, flag: str) -> bool:
    return call.query_params.get(flag, "").lower() == "true"


async def read_config(call: Call) -> Response:
    """The compatibility of all subjects."""
    return _answer(RegistryConfigOut("FULL_TRANSITIVE"))


async def read_subject_config(call: Call) -> Response:
    """The compatibility of one subject."""
    _require_own(call, "compatibility", NO_LEVEL)
    return _answer(RegistryConfigOut("FULL_TRANSITIVE"))


async def read_mode(call: Call) -> Response:
    """The mode of the registry."""
    return _answer(RegistryModeOut("READONLY"))


async def read_subject_mode(call: Call) -> Response:
    """The mode of one subject."""
    _require_own(call, "mode", NO_MODE)
    return _answer(RegistryModeOut("READONLY"))


async def list_contexts(call: Call) -> Response:
    """Only the default context."""
    return _answer(["."])


# ---- questions about a schema ----------------------------------------------------------------------------------------


async def _schema_in(call: Call) -> str:
    """The schema in the body. Raises `RegistryError`, and `Problem` for a body that is too large."""
    raw = await read_raw(call.receive, call.exchange.headers, MAX_BODY_BYTES)
    if not _JSON_TYPES.fullmatch(call.header(b"content-type") or ""):
        raise RegistryError(415, "HTTP 415 Unsupported Media Type")
    try:
        return docs.SchemaToFindBody.model_validate_json(raw).text
    except ValidationError as exc:
        errors = exc.errors(include_url=False, include_context=False, include_input=False)
    if any(error["type"] == "json_invalid" for error in errors):
        raise RegistryError(400, "The body is not JSON.")
    members = {error["loc"][0] for error in errors if error["loc"]}
    if members & {"schema", "schemaType", "references"}:
        raise RegistryError(BAD_SCHEMA, f"Invalid schema: see {', '.join(sorted(map(str, members)))}")
    raise RegistryError(422, "The body is not an object.")


async def _judged(call: Call, judge: Callable[[], T]) -> T:
    """The result of `judge`, which takes milliseconds: in a thread, and charged to the caller. Raises `RegistryError`."""
    exchange, began = call.exchange, time.perf_counter()
    try:
        return await asyncio.to_thread(judge)
    except ConfigError as exc:
        raise RegistryError(BAD_SCHEMA, f"Invalid schema: {str(exc)[:MAX_MESSAGE]}") from None
    finally:
        if exchange.principal is not None:
            call.ctx.limits.charge(exchange.principal, exchange.customer, time.perf_counter() - began)


async def find_schema(call: Call) -> Response:
    """The version of a subject that has the schema in the body."""
    from ledger.schemas.compatibility import same_schema  # Avro's checker is slow to import, and few ask

    schemas, text = _of_subject(call), await _schema_in(call)
    match = await _judged(call, lambda: next((schema for schema in schemas if same_schema(text, schema)), None))
    if match is None:
        raise RegistryError(NO_SCHEMA, "Schema not found")
    return _answer(RegistryVersionOut(match.text, match.subject(call.ctx.topics.prefix), match.version, match.id))


async def check_version(call: Call) -> Response:
    """Whether the schema in the body fits one version."""
    return await _compatibility(call, [_by_version(call)])


async def check_subject(call: Call) -> Response:
    """Whether the schema in the body fits all versions of a subject."""
    return await _compatibility(call, _of_subject(call))


async def _compatibility(call: Call, released: Sequence[SchemaVersion]) -> Response:
    from ledger.schemas.compatibility import compare

    text, verbose = await _schema_in(call), _is_set(call, "verbose")
    newest = _of_subject(call)[-1]

    def judge() -> list[str]:
        return [str(reason) for reason in compare(SchemaVersion(newest.topic, newest.version + 1, text), released)]

    reasons = await _judged(call, judge)
    return _answer(RegistryCompatibilityOut(not reasons, reasons if verbose else []))
