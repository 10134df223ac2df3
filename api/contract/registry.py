"""Descriptions of the schema registry's operations for the OpenAPI document: its paths, shapes and errors. Data only."""

from __future__ import annotations

from api.contract import responses
from api.contract.describing import Described, in_path, operation, ref
from api.contract.patterns import SCHEMA_VERSION

REGISTRY_JSON = "application/vnd.schemaregistry.v1+json"
_REGISTRY_SECURITY: list[Described] = [{"bearer": []}, {"basic": []}]
_SUBJECT = in_path("subject", "`<topic>-value`.", "order-events-value")
_ID = in_path("id", "The schema's id, as in the wire format.", "1017")
_VERSION = in_path("version", "A number from 1, or `latest`.", "latest", SCHEMA_VERSION)


def registry(name: str, summary: str, schema: Described, example: object, parameters: tuple[Described, ...] = ()) -> Described:
    """An operation in the shapes of the schema registry, including errors."""
    ok = {"description": summary, "content": {REGISTRY_JSON: {"schema": schema, "examples": {"example": {"value": example}}}}}
    described = operation(
        name, "schema registry", summary, "", {200: ok}, path="/", parameters=parameters, security=_REGISTRY_SECURITY
    )
    wrong = {REGISTRY_JSON: {"schema": ref(responses.RegistryErrorOut)}}
    errors = {401: "No token, or an unknown one.", 429: "Too many requests.", 500: "A bug in the server."}
    if parameters:
        errors |= {404: "No such subject (40401), version (40402) or schema (40403)."}
    if _VERSION in parameters:
        errors |= {422: "Not a version (42202)."}
    for status, text in errors.items():
        code = {404: 40403, 422: 42202}.get(status, status)
        sample = {"example": {"value": {"error_code": code, "message": text}}}
        described["responses"][str(status)] = {
            "description": text,
            "content": {REGISTRY_JSON: wrong[REGISTRY_JSON] | {"examples": sample}},
        }
    described["responses"].pop("403", None)
    return described


_AVRO = '{"type":"record","name":"OrderEvent","fields":[]}'
_TEXTS = {"type": "array", "items": {"type": "string"}}
_PAIR = {"type": "array", "items": ref(responses.RegistrySubjectVersionOut)}
_ENTRY = {"subject": "order-events-value", "version": 1, "id": 1017, "schema": _AVRO}

LIST_SUBJECTS = registry("listSubjects", "All subjects", _TEXTS, ["order-events-value"])
SCHEMA_TYPES = registry("schemaTypes", "Types of schemas", _TEXTS, ["AVRO"])
LIST_VERSIONS = registry(
    "listVersions", "Versions of a subject", {"type": "array", "items": {"type": "integer"}}, [1], (_SUBJECT,)
)
READ_VERSION = registry(
    "readVersion", "One version of a subject", ref(responses.RegistryVersionOut), _ENTRY, (_SUBJECT, _VERSION)
)
READ_VERSION_SCHEMA = registry(
    "readVersionSchema", "The bare schema", {"type": "object"}, {"type": "record"}, (_SUBJECT, _VERSION)
)
READ_SCHEMA = registry("readSchema", "A schema by id", ref(responses.RegistrySchemaOut), {"schema": _AVRO}, (_ID,))
READ_BARE_SCHEMA = registry("readBareSchema", "The bare schema by id", {"type": "object"}, {"type": "record"}, (_ID,))
SCHEMA_SUBJECTS = registry("schemaSubjects", "Subjects that have a schema", _TEXTS, ["order-events-value"], (_ID,))
SCHEMA_VERSIONS = registry(
    "schemaVersions", "Subjects and versions that have a schema", _PAIR, [{"subject": "order-events-value", "version": 1}], (_ID,)
)
