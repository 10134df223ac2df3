"""Building blocks for the descriptions of operations in the OpenAPI document. Used by `operations`.

A refusal is listed by its slug; its status, title and example come from the table in `problems`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from pydantic import BaseModel

from api.contract.patterns import whole
from api.contract.queries import QueryParameters
from api.contract.responses import HealthOut, ProblemOut, Response
from api.problems import PROBLEMS, Problem, ProblemType

Described = dict[str, Any]
SCHEMAS = "#/components/schemas/{model}"

_COMMON = ("RequestId", "Traceparent")


Model = type[BaseModel] | type[Response]


def component_name(name: str) -> str:
    """Name of a payload in the document: the class name without its suffix."""
    return name.removesuffix("Out").removesuffix("Body")


def ref(model: Model) -> Described:
    """A reference to the schema of a model."""
    return {"$ref": SCHEMAS.format(model=component_name(model.__name__))}


def examples_of(model: Model) -> Sequence[Any]:
    """The examples that a model declares."""
    if issubclass(model, Response):
        return model.EXAMPLES
    extra = model.model_config.get("json_schema_extra")
    examples = extra.get("examples") if isinstance(extra, dict) else None
    return examples if isinstance(examples, list) else []


def content(model: Model, media: str = "application/json") -> Described:
    """A body of this media type, with the model's schema and examples."""
    described: Described = {"schema": ref(model)}
    if examples := examples_of(model):
        described["examples"] = {f"example {number}": {"value": value} for number, value in enumerate(examples, 1)}
    return {media: described}


def success(text: str, model: type[Response], headers: str = "", media: str = "application/json") -> Described:
    """A response with the model as body. `headers`: names of components, space-separated."""
    return {"description": text, "content": content(model, media), "headers": headers_named(headers)}


def headers_named(names: str) -> Described:
    """References to these headers and to `RequestId`, by their HTTP names."""
    listed = ("RequestId", *names.split())
    return {_HEADER_NAMES.get(n, n): {"$ref": f"#/components/headers/{n}"} for n in listed}


_HEADER_NAMES = {
    "RequestId": "Request-Id",
    "LedgerPosition": "Ledger-Position",
    "LedgerOutcome": "Ledger-Outcome",
    "Replayed": "Idempotency-Replayed",
    "Applied": "Preference-Applied",
    "Staleness": "Ledger-Staleness-Ms",
    "RetryAfter": "Retry-After",
    "Challenge": "WWW-Authenticate",
}


def problems(slugs: Iterable[str], instance: str) -> Described:
    """Responses by status, each with one example per slug."""
    responses: Described = {}
    for slug in dict.fromkeys(slugs):
        kind: ProblemType = PROBLEMS[slug]
        response = responses.setdefault(
            str(kind.status),
            {"description": "", "content": {"application/problem+json": {"schema": ref(ProblemOut), "examples": {}}}},
        )
        response["description"] += f"`{slug}`: {kind.meaning}\n\n"
        examples = response["content"]["application/problem+json"]["examples"]
        examples[slug] = {"summary": kind.title, "value": msgspec.to_builtins(Problem(slug).shown(instance))}
        names = " ".join(["RetryAfter"] * (kind.retry_after_s is not None) + ["Challenge"] * (kind.status == 401))
        response["headers"] = headers_named(names)
    return {status: responses[status] for status in sorted(responses)}


def operation(  # noqa: PLR0913  # its parts
    name: str,
    tag: str,
    summary: str,
    text: str,
    answers: dict[int, Described],
    slugs: str = "",
    *,
    path: str,
    parameters: Iterable[Described | str] = (),
    query: type[QueryParameters] = QueryParameters,
    body: type[BaseModel] | None = None,
    body_required: bool = True,
    raw_body: Described | None = None,
    security: list[Described] | None = None,
) -> Described:
    """Arguments of `add_api_route`. `slugs`: in addition to the common ones; `parameters`: by component name or in full, without
    those of the query.

    `raw_body` is the schema of a body with an external shape.
    """
    always = "internal-error"
    if security != []:
        always += " unauthenticated forbidden too-many-requests issuer-unavailable"
    listed = (*parameters, *query_parameters(query), *_COMMON)
    named = [{"$ref": f"#/components/parameters/{n}"} if isinstance(n, str) else n for n in listed]
    extra: Described = {"parameters": named}
    if security is not None:
        extra["security"] = security
    if body is not None:
        text_of_body = inspect.getdoc(body) or ""
        extra["requestBody"] = {"required": body_required, "description": text_of_body, "content": content(body)}
    if raw_body is not None:
        described = {"application/json": {"schema": raw_body}}
        extra["requestBody"] = {"required": True, "description": raw_body["description"], "content": described}
    first, *others = answers
    responses: Described = {str(status): answers[status] for status in (first, *others)}
    responses |= problems(f"{slugs} {always}".split(), path)
    return {
        "operation_id": name,
        "tags": [tag],
        "summary": summary,
        "description": text,
        "status_code": first,
        "responses": responses,
        "openapi_extra": extra,
    }


@functools.cache
def query_parameters(model: type[QueryParameters]) -> tuple[Described, ...]:
    """The parameters of a query, from its model. One that may be omitted is never null, so its schema is that of its values."""
    schema = model.model_json_schema()
    required = schema.get("required", ())
    return tuple(_query_parameter(name, member, name in required) for name, member in schema.get("properties", {}).items())


def _query_parameter(name: str, member: Described, required: bool) -> Described:
    values: Described = {}
    for kind in member.get("anyOf", ()):
        if kind != {"type": "null"}:
            values |= kind
    values |= {key: value for key, value in member.items() if key not in ("anyOf", "title", "description", "examples")}
    if values.get("default", 0) is None:
        del values["default"]
    parameter: Described = {"name": name, "in": "query", "required": required, "schema": values}
    parameter["description"] = member["description"]
    return parameter | {"example": member["examples"][0]} if "examples" in member else parameter


def in_path(name: str, text: str, example: str, pattern: str | None = None) -> Described:
    """A path parameter. `pattern` only if other values are refused, and not just unknown."""
    schema = {"type": "string"} if pattern is None else {"type": "string", "pattern": whole(pattern)}
    return {"name": name, "in": "path", "required": True, "schema": schema, "description": text, "example": example}


def plain(name: str, summary: str, text: str, media: str, example: object, *, slugs: str = "", path: str) -> Described:
    """An operation of the `system` tag that answers with a document."""
    schema = {"type": "string"} if isinstance(example, str) else {"type": "object"}
    answers = {
        200: {"description": f"{summary}.", "content": {media: {"schema": schema, "examples": {"example": {"value": example}}}}}
    }
    return operation(name, "system", summary, text, answers, slugs, path=path)


def health(name: str, path: str, summary: str, text: str, not_ready: bool) -> Described:
    """An operation that reports the health of this node."""
    answers = {200: success(f"{summary}.", HealthOut)} | (
        {503: success("Not ready; see `checks`.", HealthOut)} if not_ready else {}
    )
    return operation(name, "system", summary, text, answers, "header-too-large", path=path, security=[])
