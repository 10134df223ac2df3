"""Strict reader for request bodies: one JSON object in UTF-8, of bounded size and depth, which every parser reads alike.

Accepts a subset of I-JSON (RFC 7493): no duplicate keys, integers only, strings without control characters. Strings are
normalised to NFC. Invalid JSON is `malformed-json` (400); JSON that is not allowed is a 422 that points to the value.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from api.problems import FieldError, Problem

MAX_BODY_BYTES = 64 * 1024
MAX_DEPTH = 8
MAX_ERRORS = 20  # in one answer: enough for an honest client, and a hostile one gets no large answer

M = TypeVar("M", bound=BaseModel)

_JSON_TYPE = re.compile(rb'[ \t]*application/json[ \t]*(;[ \t]*charset[ \t]*=[ \t]*"?utf-8"?[ \t]*)?;?[ \t]*$', re.IGNORECASE)
_LATE_CONTROLS = re.compile("[\x7f-\x9f]")  # JSON itself forbids those below 0x20 outside escapes
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")


class _DuplicateKey(ValueError):
    pass


async def read_body(receive: Receive, headers: dict[bytes, bytes]) -> bytes:
    """The raw JSON body. Raises `Problem` `unsupported-media-type` or `body-too-large`, without reading beyond the limit."""
    raw = await read_raw(receive, headers, MAX_BODY_BYTES)
    # An empty body needs no type.
    if raw and not _JSON_TYPE.match(headers.get(b"content-type", b"")):
        raise Problem("unsupported-media-type")
    return raw


async def read_raw(receive: Receive, headers: dict[bytes, bytes], max_bytes: int) -> bytes:
    """The raw body of any type. Raises like `read_body`."""
    if headers.get(b"content-encoding", b"identity").strip(b" \t").lower() not in (b"identity", b""):
        raise Problem("unsupported-media-type", "Content-Encoding is not supported.")
    length = headers.get(b"content-length")
    if length is not None and length.isdigit() and int(length[:20]) > max_bytes:
        raise _too_large()
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        if chunk := message.get("body", b""):
            size += len(chunk)
            if size > max_bytes:
                raise _too_large()
            chunks.append(chunk)
        if not message.get("more_body", False):
            break
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large() -> Problem:
    # The remaining body is not read, so the connection cannot be reused.
    return Problem("body-too-large", headers={"Connection": "close"})


def parse(raw: bytes) -> Any:
    """The JSON value in `raw`. Raises `Problem` `malformed-json`, `limit-exceeded` (depth) or `invalid-field` (text)."""
    try:
        text = raw.decode("utf-8")
        value = _plainly_spelled(raw)
        if value is _OTHERWISE:
            value = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise Problem("malformed-json", "The body is not UTF-8.") from None
    except _DuplicateKey:
        raise Problem("malformed-json", "An object has a duplicate key.") from None
    except RecursionError:
        raise _too_deep() from None
    except json.JSONDecodeError as exc:
        raise Problem("malformed-json", f"{exc.msg} at character {exc.pos}.") from None
    except ValueError:  # an integer of more digits than Python converts
        raise Problem("invalid-field", "A number has too many digits.", errors=[FieldError("", "number-too-large")]) from None
    # Check the whole text first: it is normalised exactly if all strings are, because no JSON punctuation combines with the
    # character after it, and without a backslash there are no escapes.
    if b"\\" in raw or "\x7f" in text or not (text.isascii() or _is_plain(text)):
        _check_depth(value)
        _check_text(value)
        return _composed(value)
    return value


_OTHERWISE = object()


def _plainly_spelled(raw: bytes) -> Any:
    """The value of compact JSON, as most clients write it; `_OTHERWISE` for anything else.

    msgspec alone is too lenient, for example with duplicate keys. But if it encodes the decoded value to the same bytes,
    nothing was ignored. This takes a third of the time of the strict reader.
    """
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return _OTHERWISE
    return value if msgspec.json.encode(value) == raw else _OTHERWISE


def _is_plain(text: str) -> bool:
    return unicodedata.is_normalized("NFC", text) and not _LATE_CONTROLS.search(text)


def validated(model: type[M], value: Any) -> M:
    """`value` as `model`. Raises `Problem` `unknown-field`, `limit-exceeded` or `invalid-field`, pointing to the faults."""
    try:
        return model.model_validate(value)
    except ValidationError as exc:
        _check_depth(value)
        raise _problem_of(exc.errors(include_url=False, include_context=False, include_input=False)) from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _DuplicateKey
    return members


def _no_constant(name: str) -> Any:
    raise json.JSONDecodeError(f"{name} is not JSON", name, 0)


def _too_deep() -> Problem:
    return Problem("limit-exceeded", f"The body is nested deeper than {MAX_DEPTH} levels.", errors=[FieldError("", "too-deep")])


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return
    if any(isinstance(v, (dict, list)) for v in level):
        raise _too_deep()


def _children(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def _check_text(value: Any) -> None:
    errors = list(_bad_text(value, ""))[:MAX_ERRORS]
    if not errors:
        return
    if any(error.code == "lone-surrogate" for error in errors):
        raise Problem("malformed-json", "A string contains half a surrogate pair.")
    raise Problem(
        "invalid-field", "A string contains control characters, or the name of a member is not in Unicode NFC.", errors=errors
    )


def _bad_text(value: Any, pointer: str) -> Iterator[FieldError]:
    if isinstance(value, str):
        if code := _flaw(value):
            yield FieldError(pointer, code)
    elif isinstance(value, dict):
        for key, member in value.items():
            if code := _flaw(key) or (None if unicodedata.is_normalized("NFC", key) else "not-nfc"):
                yield FieldError(pointer, code)  # the key itself is omitted: it may not be printable
            else:
                yield from _bad_text(member, f"{pointer}/{_escaped(key)}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _bad_text(item, f"{pointer}/{index}")


def _flaw(text: str) -> str | None:
    if any("\ud800" <= c <= "\udfff" for c in text):
        return "lone-surrogate"
    if _CONTROLS.search(text):
        return "control-character"
    return None


def _composed(value: Any) -> Any:
    """`value` with all strings in Unicode NFC, before anything is hashed, so that the same text is the same request.

    Macs, pointed Hebrew and Hindi keyboards produce other forms.
    """
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    if isinstance(value, dict):
        return {key: _composed(member) for key, member in value.items()}
    return [_composed(item) for item in value] if isinstance(value, list) else value


def _escaped(key: object) -> str:
    return str(key).replace("~", "~0").replace("/", "~1")


# plainer words for some of pydantic's error types
_WORDS = {
    "extra_forbidden": "unknown-field",
    "int_type": "not-an-integer",
    "literal_error": "not-one-of",
    "string_pattern_mismatch": "pattern",
}
_COUNTS = frozenset({"too_long"})  # of lists; strings have string_too_long


def _problem_of(details: list[ErrorDetails]) -> Problem:
    errors = [_field_error(error) for error in details]
    if unknown := [e for e in errors if e.code == "unknown-field"]:
        return Problem("unknown-field", "The body has members that this operation does not have.", errors=unknown[:MAX_ERRORS])
    if any(error["type"] in _COUNTS for error in details):
        many = [e for e, f in zip(errors, details, strict=True) if f["type"] in _COUNTS]
        return Problem("limit-exceeded", errors=many[:MAX_ERRORS])
    return Problem("invalid-field", "The body has values that are missing or not allowed.", errors=errors[:MAX_ERRORS])


def _field_error(error: ErrorDetails) -> FieldError:
    kind = error["type"]
    pointer = "".join(f"/{_escaped(part)}" for part in error["loc"] if part != "[key]")
    return FieldError(pointer, _WORDS.get(kind) or kind.replace("_", "-"))
