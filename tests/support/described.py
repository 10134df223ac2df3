"""The OpenAPI document as a contract: every answer is checked against it.

The operation is described, the status is one of its statuses, the body fits the schema of its media type.
"""

from __future__ import annotations

import functools
import json
import re
from typing import Any

import httpx
from jsonschema import Draft202012Validator


def check_described(document: dict[str, Any], response: httpx.Response) -> None:
    """Raises `AssertionError` when an answer is not what the document says."""
    request = response.request
    for header in ("Request-Id", "Cache-Control", "X-Content-Type-Options"):
        assert header in response.headers, f"no {header}"
    template = template_of(document, request.url.path)
    if template is None:
        assert response.status_code in (200, 404), request.url.path  # 200: the docs page
        return
    head = request.method == "HEAD"
    operation = document["paths"][template].get("get" if head else request.method.lower())
    if operation is None:
        assert response.status_code == 405, (request.method, request.url.path, response.status_code)
        return
    where = f"{request.method} {template}"
    described = operation["responses"].get(str(response.status_code))
    assert described is not None, f"{where}: status {response.status_code} is not described: {response.text}"
    media = response.headers.get("content-type", "").split(";")[0]
    contents = described.get("content", {})
    if not contents:
        assert not media, f"{where}: {response.status_code} has no body"
        return
    assert media in contents, f"{where}: {media} is not among {list(contents)}"
    if head:
        assert media == "text/event-stream" or response.content == b"", f"{where}: a body where there must be none"
        return
    if media.endswith("json"):
        validate(document, contents[media]["schema"], response.json(), where)
        if media == "application/problem+json":
            code = response.json()["code"]
            assert code in contents[media]["examples"], f"{where}: problem {code} is not described"


def validate(document: dict[str, Any], schema: dict[str, Any], value: Any, where: str) -> None:
    errors = [
        f"{'/'.join(map(str, e.path))}: {e.message}"
        for e in _validator(id(document), json.dumps(schema), document).iter_errors(value)
    ]
    assert not errors, f"{where}: {errors}\n{value}"


_documents: dict[int, dict[str, Any]] = {}


def _validator(number: int, schema: str, document: dict[str, Any]) -> Draft202012Validator:
    _documents[number] = document
    return _cached_validator(number, schema)


@functools.cache
def _cached_validator(number: int, schema: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads(schema) | {"components": _documents[number]["components"]})


def template_of(document: dict[str, Any], path: str) -> str | None:
    """The document's path that `path` is an instance of; a literal path wins over a template."""
    if path in document["paths"]:
        return path
    for template in document["paths"]:
        if re.fullmatch(re.sub(r"\\\{[a-z_]+\\\}", "[^/]+", re.escape(template)), path):
            return str(template)
    return None
