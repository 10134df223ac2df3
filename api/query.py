"""Strict reader for query parameters: each at most once, none unknown. Faults raise a `Problem` that points to them.

The models of `api.contract.queries` say what an operation takes. FastAPI could read them itself (`Annotated[Model, Query()]`),
but before the route: it would judge the query of a caller who is not known yet, and take the last of repeated parameters.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from api.contract.describing import Described, query_parameters
from api.contract.queries import QueryParameters
from api.problems import FieldError, Problem

MAX_ERRORS = 20  # in one answer

Q = TypeVar("Q", bound=QueryParameters)


def read_query(model: type[Q], items: Iterable[tuple[str, str]]) -> Q:
    """The (name, value) pairs of a query string as `model`.

    Raises `Problem`: `invalid-field` for values that are repeated, missing or not allowed, `unknown-field` if the only fault is a
    parameter that the operation does not have: a misspelt filter must not be ignored.
    """
    sent: dict[str, str] = {}
    for name, value in items:
        if name in sent:
            text = f"The parameter {name!r} is sent more than once."
            raise Problem("invalid-field", text, errors=[FieldError(f"/{name}", "repeated", "query")])
        sent[name] = value
    try:
        return model.model_validate(sent)
    except ValidationError as exc:
        raise _problem_of(model, exc.errors(include_url=False, include_input=False)) from None


# plainer words for some of pydantic's error types
_WORDS = {
    "extra_forbidden": "unknown-field",
    "greater_than_equal": "out-of-range",
    "less_than_equal": "out-of-range",
    "literal_error": "not-one-of",
    "string_pattern_mismatch": "pattern",
}


def _problem_of(model: type[QueryParameters], details: list[ErrorDetails]) -> Problem:
    details.sort(key=lambda error: error["type"] == "extra_forbidden")  # a wrong value says more than an unknown name
    errors = [FieldError(f"/{error['loc'][0]}", _word(error), "query") for error in details][:MAX_ERRORS]
    sentences = [_sentence(model, error) for error in details if error["type"] != "extra_forbidden"]
    if not sentences:
        return Problem("unknown-field", "The query has parameters that this operation does not have.", errors=errors)
    return Problem("invalid-field", " ".join(sentences), errors=errors)


def _word(error: ErrorDetails) -> str:
    return _WORDS.get(error["type"]) or error["type"].replace("_", "-")


def _sentence(model: type[QueryParameters], error: ErrorDetails) -> str:
    """What is wrong with a parameter, without its value."""
    name, context = str(error["loc"][0]), error.get("ctx", {})
    match error["type"]:
        case "literal_error":
            return f"{name} must be {context['expected']}."
        case "string_pattern_mismatch":
            return f"{name} must match {context['pattern']}."
        case "greater_than_equal" | "less_than_equal":
            schema = _described(model, name)["schema"]
            return f"{name} must be {schema['minimum']} to {schema['maximum']}."
        case "missing":
            return f"{name} is required, for example {_described(model, name)['example']}."
    return f"{name} {error['msg']}"


def _described(model: type[QueryParameters], name: str) -> Described:
    return next(parameter for parameter in query_parameters(model) if parameter["name"] == name)
