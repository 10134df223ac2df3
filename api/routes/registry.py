"""The schemas, read-only, at the paths of a Confluent schema registry: any Confluent deserialiser works without a registry.

Shapes, error codes and content type follow its REST API, as `AvroDeserializer` of confluent-kafka and `KafkaAvroDeserializer`
of Java expect. `/schemas/ids/{id}` answers exactly `{"schema": "<json>"}`, because old Java clients reject unknown members.
Query parameters (`subject`, `fetchMaxId`, `format`, `deleted`, ...) have no effect.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.call import Call
from api.contract import registry as docs
from api.contract.responses import RegistryErrorOut, RegistrySchemaOut, RegistrySubjectVersionOut, RegistryVersionOut
from api.edge import LedgerRoute, allowed_methods
from api.problems import Problem
from api.representations import to_json
from ledger.schemas.versions import SchemaVersion, schema_versions

PREFIXES = ("/schemas", "/subjects")
NO_SUBJECT, NO_VERSION, NO_SCHEMA, BAD_VERSION = 40401, 40402, 40403, 42202


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
                call.allow(basic_too=True)
                response = await self.endpoint(call)
        except RegistryError as error:
            response = error_response(error.code, error.message)
        except Problem as problem:
            response = error_response(problem.status, problem.detail, problem.headers)
        await self.respond(response, scope, receive, send)


def error_response(code: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """An error in the registry's shape. `code` begins with the HTTP status."""
    status = int(str(code)[:3])
    return Response(to_json(RegistryErrorOut(code, message)), status, headers, docs.REGISTRY_JSON)


def not_found() -> Response:
    """The registry's answer for an unknown path."""
    return error_response(404, "HTTP 404 Not Found")


def add_routes(router: APIRouter) -> None:
    """Register the routes."""
    for path, endpoint, described in (
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


def _of_subject(call: Call) -> Sequence[SchemaVersion]:
    subject: str = call.path_params["subject"]
    schemas = [schema for schema in schema_versions() if schema.subject(call.ctx.topics.prefix) == subject]
    if not schemas:
        raise RegistryError(NO_SUBJECT, f"Subject '{subject}' not found.")
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
