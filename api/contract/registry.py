"""The schema registry in the OpenAPI document: its operations, bodies and errors.

Shapes, error codes and content type are those of Confluent's REST API. Each constant contains the arguments of
`APIRouter.add_api_route` except path and endpoint.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.contract import registry_responses
from api.contract.describing import Described, in_path, operation, ref
from api.contract.patterns import SCHEMA_VERSION

REGISTRY_JSON = "application/vnd.schemaregistry.v1+json"
_SECURITY: list[Described] = [{"bearer": []}, {"basic": []}]
_AVRO = '{"type":"record","name":"OrderEvent","fields":[]}'

# Codes of errors. The first three digits are the HTTP status.
NO_SUBJECT, NO_VERSION, NO_SCHEMA, NO_LEVEL, NO_MODE = 40401, 40402, 40403, 40408, 40409
BAD_SCHEMA, BAD_VERSION = 42201, 42202
_MEANINGS = {
    400: "The body is not JSON.",
    401: "No token, or an unknown one.",
    403: "The token gives no role.",
    404: "Not an id.",
    NO_SUBJECT: "No such subject.",
    NO_VERSION: "The subject has no such version.",
    NO_SCHEMA: "No such schema.",
    NO_LEVEL: "The subject does not exist, so it has no compatibility of its own.",
    NO_MODE: "The subject does not exist, so it has no mode of its own.",
    413: "The body is too large.",
    415: "The body is not JSON by its content type.",
    422: "The body has another shape.",
    BAD_SCHEMA: "The body has no schema, or one that is not Avro.",
    BAD_VERSION: "Not a version.",
    429: "Too many requests.",
    500: "A bug in the server.",
    503: "The key of the token is unknown, and the issuer of tokens does not answer.",
}
_ALWAYS, _BODY = (401, 403, 429, 500, 503), (400, 413, 415, 422, BAD_SCHEMA)


class SchemaToFindBody(BaseModel):
    """A schema to look up or to compare. Other members, which newer clients send, are ignored."""

    model_config = ConfigDict(
        strict=True, extra="ignore", json_schema_extra={"examples": [{"schema": _AVRO, "schemaType": "AVRO"}]}
    )

    text: Annotated[str, Field(alias="schema", min_length=1, description="the schema, as JSON in a string")]
    kind: Annotated[Literal["AVRO"] | None, Field(alias="schemaType", description="the registry has Avro schemas only")] = None
    references: Annotated[
        Annotated[list[Any], Field(max_length=0)] | None,
        Field(description="schemas that the schema refers to: none can be"),
    ] = None


_SUBJECT = in_path("subject", "The name of a subject: `<topic>-value`.", "order-events-value")
_ID = in_path("id", "The schema's id, as in the wire format.", "1017")
_VERSION = in_path("version", "A number from 1, or `latest`.", "latest", SCHEMA_VERSION)


def _flag(name: str, text: str) -> Described:
    """A query parameter that is on if it is `true`; anything else, also nothing, is off, as in other registries."""
    schema = {"type": "string"}
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": text, "example": "true"}


_TO_GLOBAL = _flag("defaultToGlobal", "`true`: for an unknown subject, answer what the whole registry has.")
_VERBOSE = _flag("verbose", "`true`: also answer `messages`, the reasons against it.")
_TEXTS = {"type": "array", "items": {"type": "string"}}


def registry(
    name: str,
    summary: str,
    text: str,
    schema: Described,
    example: object,
    parameters: tuple[Described, ...] = (),
    *,
    codes: tuple[int, ...] = (),
    body: bool = False,
) -> Described:
    """An operation in the shapes of the registry. `codes` are those of its errors, in addition to the common ones."""
    ok = {
        "description": f"{summary}.",
        "content": {REGISTRY_JSON: {"schema": schema, "examples": {"example": {"value": example}}}},
    }
    described = operation(name, "schema registry", summary, text, {200: ok}, path="/", parameters=parameters, security=_SECURITY)
    described["responses"] = {"200": ok} | _errors((*_ALWAYS, *codes, *(_BODY if body else ())))
    if body:
        described["openapi_extra"]["requestBody"] = {
            "required": True,
            "description": "The schema in question.",
            "content": {media: {"schema": ref(SchemaToFindBody)} for media in (REGISTRY_JSON, "application/json")},
        }
    return described


def _errors(codes: tuple[int, ...]) -> Described:
    """Responses by status, each with one example per code."""
    by_status: dict[str, Described] = {}
    for code in sorted(codes, key=str):
        content = {"schema": ref(registry_responses.RegistryErrorOut), "examples": {}}
        answer = by_status.setdefault(str(code)[:3], {"description": "", "content": {REGISTRY_JSON: content}})
        answer["description"] += f"`{code}`: {_MEANINGS[code]}\n\n"
        value = {"error_code": code, "message": _MEANINGS[code]}
        answer["content"][REGISTRY_JSON]["examples"][str(code)] = {"value": value}
    return by_status


# ---- schemas by id ---------------------------------------------------------------------------------------------------

READ_SCHEMA = registry(
    "readSchema",
    "A schema by id",
    "What deserialisers ask for once per id that they meet in a record.",
    ref(registry_responses.RegistrySchemaOut),
    {"schema": _AVRO},
    (_ID,),
    codes=(404, NO_SCHEMA),
)
READ_BARE_SCHEMA = registry(
    "readBareSchema",
    "The bare schema by id",
    "The Avro schema itself, not in a string.",
    {"type": "object"},
    {"type": "record"},
    (_ID,),
    codes=(404, NO_SCHEMA),
)
SCHEMA_SUBJECTS = registry(
    "schemaSubjects",
    "Subjects that have a schema",
    "One subject: two schemas of the ledger are never the same.",
    _TEXTS,
    ["order-events-value"],
    (_ID,),
    codes=(404, NO_SCHEMA),
)
SCHEMA_VERSIONS = registry(
    "schemaVersions",
    "Subjects and versions that have a schema",
    "One subject with one version: two schemas of the ledger are never the same.",
    {"type": "array", "items": ref(registry_responses.RegistrySubjectVersionOut)},
    [{"subject": "order-events-value", "version": 1}],
    (_ID,),
    codes=(404, NO_SCHEMA),
)
SCHEMA_TYPES = registry("schemaTypes", "Types of schemas", "The registry has Avro schemas only.", _TEXTS, ["AVRO"])

# ---- subjects --------------------------------------------------------------------------------------------------------

LIST_SUBJECTS = registry("listSubjects", "All subjects", "One per topic of the ledger.", _TEXTS, ["order-events-value"])
FIND_SCHEMA = registry(
    "lookUpSchema",
    "Look up a schema in a subject",
    "The version whose schema is the one in the body. White space and the order of members do not matter. Nothing is registered.",
    ref(registry_responses.RegistryVersionOut),
    {"subject": "order-events-value", "version": 1, "id": 1017, "schema": _AVRO},
    (_SUBJECT,),
    codes=(NO_SUBJECT, NO_SCHEMA),
    body=True,
)
LIST_VERSIONS = registry(
    "listVersions",
    "Versions of a subject",
    "Numbers from 1, without gaps.",
    {"type": "array", "items": {"type": "integer"}},
    [1],
    (_SUBJECT,),
    codes=(NO_SUBJECT,),
)
READ_VERSION = registry(
    "readVersion",
    "One version of a subject",
    "The schema with its id.",
    ref(registry_responses.RegistryVersionOut),
    {"subject": "order-events-value", "version": 1, "id": 1017, "schema": _AVRO},
    (_SUBJECT, _VERSION),
    codes=(NO_SUBJECT, NO_VERSION, BAD_VERSION),
)
READ_VERSION_SCHEMA = registry(
    "readVersionSchema",
    "The bare schema",
    "The Avro schema of one version itself, not in a string.",
    {"type": "object"},
    {"type": "record"},
    (_SUBJECT, _VERSION),
    codes=(NO_SUBJECT, NO_VERSION, BAD_VERSION),
)

# ---- compatibility ---------------------------------------------------------------------------------------------------

_COMPATIBILITY = "FULL_TRANSITIVE: every version of a subject reads what every other one wrote."
CHECK_VERSION = registry(
    "checkCompatibility",
    "Compare a schema with one version",
    "Whether the schema in the body and that version can read what the other one wrote. Nothing is registered.",
    ref(registry_responses.RegistryCompatibilityOut),
    {"is_compatible": True},
    (_SUBJECT, _VERSION, _VERBOSE),
    codes=(NO_SUBJECT, NO_VERSION, BAD_VERSION),
    body=True,
)
CHECK_SUBJECT = registry(
    "checkCompatibilityWithAll",
    "Compare a schema with all versions",
    "Whether the schema in the body could be the next version of the subject. Nothing is registered.",
    ref(registry_responses.RegistryCompatibilityOut),
    {"is_compatible": True},
    (_SUBJECT, _VERBOSE),
    codes=(NO_SUBJECT,),
    body=True,
)
READ_CONFIG = registry(
    "readConfig",
    "The compatibility of all subjects",
    _COMPATIBILITY,
    ref(registry_responses.RegistryConfigOut),
    {"compatibilityLevel": "FULL_TRANSITIVE"},
)
READ_SUBJECT_CONFIG = registry(
    "readSubjectConfig",
    "The compatibility of a subject",
    _COMPATIBILITY,
    ref(registry_responses.RegistryConfigOut),
    {"compatibilityLevel": "FULL_TRANSITIVE"},
    (_SUBJECT, _TO_GLOBAL),
    codes=(NO_LEVEL,),
)

# ---- the registry itself ---------------------------------------------------------------------------------------------

READ_MODE = registry(
    "readMode",
    "The mode of the registry",
    "Read-only: schemas are part of the program.",
    ref(registry_responses.RegistryModeOut),
    {"mode": "READONLY"},
)
READ_SUBJECT_MODE = registry(
    "readSubjectMode",
    "The mode of a subject",
    "Read-only: schemas are part of the program.",
    ref(registry_responses.RegistryModeOut),
    {"mode": "READONLY"},
    (_SUBJECT, _TO_GLOBAL),
    codes=(NO_MODE,),
)
LIST_CONTEXTS = registry("listContexts", "All contexts", "Only the default one, which is called `.`.", _TEXTS, ["."])
