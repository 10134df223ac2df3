"""JSON schemas of other projects' files: compose files, workflows."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any


def published_schema(name: str) -> dict[str, Any]:
    """A JSON schema as its owners publish it, from the copy in check-jsonschema."""
    schema: dict[str, Any] = json.loads(
        (files("check_jsonschema") / "builtin_schemas" / "vendor" / f"{name}.json").read_text("utf-8")
    )
    return schema
