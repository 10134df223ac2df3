"""Request bodies: what counts as JSON and what does not, and where an error points."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.types import Message

from api import bodies
from api.bodies import MAX_BODY_BYTES, parse, read_body, validated
from api.contract.card_numbers import has_card_number
from api.contract.requests import PlaceOrderBody, SetStatusBody
from api.problems import PROBLEMS, Problem
from tests.support.harness import order_body


def refused(raw: bytes | str) -> Problem:
    with pytest.raises(Problem) as caught:
        parse(raw.encode() if isinstance(raw, str) else raw)
    return caught.value


def refused_order(**changes: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        validated(PlaceOrderBody, order_body(**changes))
    return caught.value


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b'{"a":1}x',
        b'{"a":1,"a":1}',
        b'{"a":{"b":1,"c":2,"b":3}}',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":01}',
        b"{'a':1}",
        b'{"a":"\x01"}',
        b'{"a":"\xff"}',
        b"\xef\xbb\xbf{}",
        '{"a":1}'.encode("utf-16"),
        b'{"a":"\\ud800"}',
        b'{"\\udfff":1}',
        b'{"a":"\\ude00\\ud83d"}',
    ],
)
def test_anything_but_one_json_value_without_duplicate_keys_is_malformed(raw: bytes) -> None:
    problem = refused(raw)
    assert (problem.slug, problem.status) == ("malformed-json", 400)


@pytest.mark.parametrize(
    ("raw", "pointer", "code"),
    [
        ('{"a":"x\\ny"}', "/a", "control-character"),
        ('{"a":["\\u0000"]}', "/a/0", "control-character"),
        ('{"a":"\x7f"}', "/a", "control-character"),
        ('{"a":"\x85"}', "/a", "control-character"),
        ('{"e\u0301":1}', "", "not-nfc"),
        ('{"a/b~c":"\\t"}', "/a~1b~0c", "control-character"),
        ('{"a":{"\\u0007":1}}', "/a", "control-character"),
    ],
)
def test_text_that_two_readers_could_read_differently_is_refused_with_a_pointer(raw: str, pointer: str, code: str) -> None:
    problem = refused(raw)
    assert (problem.slug, problem.status) == ("invalid-field", 422)
    assert [(e.pointer, e.code) for e in problem.errors] == [(pointer, code)]


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("Zoe\u0308", "Zoë"),  # a Mac's file names
        ("\u05e9\u05bc\u05c1", "\u05e9\u05bc\u05c1"),  # pointed Hebrew, marks in another order
        ("\u05e9\u05c1\u05bc", "\u05e9\u05bc\u05c1"),
        ("\u0921\u093c", "\u0921\u093c"),  # Hindi: NFC keeps the nukta apart
        ("\u095c", "\u0921\u093c"),
    ],
)
def test_text_as_people_type_it_is_kept_in_nfc_however_it_is_escaped(typed: str, kept: str) -> None:
    assert parse(json.dumps({"a": [{"b": typed}]}).encode()) == {"a": [{"b": kept}]}
    assert parse(json.dumps({"a": [{"b": typed}]}, ensure_ascii=False).encode()) == {"a": [{"b": kept}]}


def test_text_in_nfc_passes_however_it_is_escaped() -> None:
    assert parse(b'{"a":"Zo\\u00eb \\ud83d\\ude00 \\"q\\" \\/"}') == {"a": 'Zoë 😀 "q" /'}
    assert parse('{"a":"Zoë 😀"}'.encode()) == {"a": "Zoë 😀"}


def nested(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


def test_eight_levels_pass_and_nine_do_not() -> None:
    with pytest.raises(Problem) as eight:
        validated(SetStatusBody, parse(nested(8).encode()))
    with pytest.raises(Problem) as nine:
        validated(SetStatusBody, parse(nested(9).encode()))
    assert (eight.value.slug, nine.value.slug) == ("unknown-field", "limit-exceeded")


@pytest.mark.parametrize("raw", ["[" * 30_000, "[" * 20_000 + "]" * 20_000, '{"a":' * 10_000 + "1" + "}" * 10_000])
def test_a_body_of_brackets_alone_is_refused_and_nothing_overflows(raw: str) -> None:
    with pytest.raises(Problem, match=r"limit-exceeded|malformed-json"):
        validated(SetStatusBody, parse(raw.encode()))


def test_a_number_of_ten_thousand_digits_is_an_invalid_field() -> None:
    assert refused('{"a":' + "9" * 10_000 + "}").slug == "invalid-field"


@pytest.mark.parametrize("number", ["1.0", "1e3", "1E0", "0.5", "1e999", "true", '"1"', "null", str(10**30)])
def test_only_integers_are_numbers(number: str) -> None:
    raw = json.dumps(order_body()).replace('"total_minor": 3400', f'"total_minor": {number}')
    with pytest.raises(Problem) as caught:
        validated(PlaceOrderBody, parse(raw.encode()))
    assert caught.value.slug == "invalid-field"
    assert [e.pointer for e in caught.value.errors] == ["/total_minor"]


def test_unknown_members_are_named_with_their_place() -> None:
    lines = [order_body()["lines"][0] | {"discount": 3}]
    problem = refused_order(lines=lines, coupon="x")
    assert problem.slug == "unknown-field"
    assert {(e.pointer, e.code) for e in problem.errors} == {("/lines/0/discount", "unknown-field"), ("/coupon", "unknown-field")}


@pytest.mark.parametrize(
    ("changes", "pointer", "code"),
    [
        ({"currency": "EURO"}, "/currency", "pattern"),
        ({"currency": 7}, "/currency", "string-type"),
        ({"lines": []}, "/lines", "too-short"),
        ({"lines": {}}, "/lines", "list-type"),
        ({"total_minor": -1}, "/total_minor", "greater-than-equal"),
        ({"total_minor": 10**9 + 1}, "/total_minor", "less-than-equal"),
        ({"reference": "x" * 65}, "/reference", "string-too-long"),
        ({"contact": None}, "/contact", "model-type"),
        ({"contact": order_body()["contact"] | {"email": "nobody"}}, "/contact/email", "not-an-email-address"),
        ({"contact": order_body()["contact"] | {"phone": "1" * 33}}, "/contact/phone", "string-too-long"),
        ({"contact": order_body()["contact"] | {"delivery_note": "x" * 501}}, "/contact/delivery_note", "string-too-long"),
        ({"contact": order_body()["contact"] | {"locale": "de_AT"}}, "/contact/locale", "pattern"),
        ({"contact": order_body()["contact"] | {"locale": "german"}}, "/contact/locale", "pattern"),
        ({"contact": order_body()["contact"] | {"locale": "de-AT\n"}}, "/contact/locale", "pattern"),
        ({"contact": order_body()["contact"] | {"locale": "../de"}}, "/contact/locale", "pattern"),
        ({"contact": order_body()["contact"] | {"locale": ""}}, "/contact/locale", "pattern"),
        ({"contact": order_body()["contact"] | {"locale": "de" + "-x" * 17}}, "/contact/locale", "string-too-long"),
        ({"contact": order_body()["contact"] | {"locale": 49}}, "/contact/locale", "string-type"),
        ({"adjustments": [{"kind": "gift", "label": "x", "amount_minor": 1}]}, "/adjustments/0/kind", "not-one-of"),
    ],
)
def test_a_value_outside_its_limits_is_an_invalid_field_with_a_pointer(changes: dict[str, Any], pointer: str, code: str) -> None:
    problem = refused_order(**changes)
    assert problem.slug == "invalid-field"
    assert (pointer, code) in [(e.pointer, e.code) for e in problem.errors]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sku", ""),
        ("sku", "a b"),
        ("sku", "x" * 65),
        ("name", ""),
        ("name", "x" * 121),
        ("quantity", 0),
        ("quantity", 1000),
        ("quantity", True),
        ("unit_price_minor", -1),
        ("unit_price_minor", 100_000_001),
        ("service", "other"),
    ],
)
def test_a_line_outside_its_limits_is_an_invalid_field(field: str, value: Any) -> None:
    problem = refused_order(lines=[order_body()["lines"][0] | {field: value}])
    assert (problem.slug, problem.errors[0].pointer) == ("invalid-field", f"/lines/0/{field}")


def test_more_lines_or_adjustments_than_allowed_exceed_a_limit() -> None:
    line, adjustment = order_body()["lines"][0], order_body()["adjustments"][0]
    lines = [line | {"sku": f"s{n}"} for n in range(101)]
    assert validated(PlaceOrderBody, order_body(lines=lines[:100])).lines[99].sku == "s99"
    assert refused_order(lines=lines).slug == "limit-exceeded"
    assert refused_order(adjustments=[adjustment] * 21).slug == "limit-exceeded"


def test_a_hundred_wrong_members_get_a_bounded_answer() -> None:
    problem = refused_order(**{f"x{n}": n for n in range(100)})
    assert len(problem.errors) == 20


# ---- reading --------------------------------------------------------------------------------------------------------


def read(chunks: list[bytes], **headers: str) -> bytes:
    messages: list[Message] = [
        {"type": "http.request", "body": c, "more_body": n < len(chunks) - 1} for n, c in enumerate(chunks)
    ]

    async def receive() -> Message:
        return messages.pop(0)

    named = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return asyncio.run(read_body(receive, named))


def test_a_body_in_pieces_is_joined() -> None:
    assert read([b'{"a"', b":1", b"}"], content_type="application/json") == b'{"a":1}'


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "application/json; charset=latin-1", "application/x-www-form-urlencoded", "application/problem+json"],
)
def test_a_body_that_is_not_declared_as_json_is_an_unsupported_media_type(kind: str) -> None:
    with pytest.raises(Problem, match="unsupported-media-type"):
        read([b"{}"], content_type=kind)


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON;charset=UTF-8", 'application/json; charset="utf-8"'])
def test_json_is_declared_in_these_ways(kind: str) -> None:
    assert read([b"{}"], content_type=kind) == b"{}"


def test_a_compressed_body_is_an_unsupported_media_type() -> None:
    with pytest.raises(Problem, match="unsupported-media-type"):
        read([b"{}"], content_type="application/json", content_encoding="gzip")


def test_sixty_four_kib_pass_and_one_byte_more_does_not_declared_or_not() -> None:
    full = b'"' + b"x" * (MAX_BODY_BYTES - 2) + b'"'
    assert read([full], content_type="application/json") == full
    with pytest.raises(Problem, match="body-too-large"):
        read([full, b"x", b"never read"], content_type="application/json")
    with pytest.raises(Problem, match="body-too-large"):
        read([b"never read"], content_type="application/json", content_length=str(MAX_BODY_BYTES + 1))
    with pytest.raises(Problem, match="body-too-large"):
        read([b"never read"], content_type="application/json", content_length="9" * 5000)


# ---- properties -----------------------------------------------------------------------------------------------------

_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


def tried(call: Callable[[], Any]) -> Any:
    """The result, or the problem."""
    try:
        return call()
    except Problem as problem:
        return problem


_numbers = st.sampled_from(
    ["0", "-0", "-0.0", "1.0", "1.5", "1e5", "1E5", "1e22", "1e400", "5e-324", "0.30000000000000004", "01"]
)
_spelled = st.recursive(
    _numbers
    | st.integers(-(10**30), 10**30).map(str)
    | st.floats().map(json.dumps)
    | st.builds(json.dumps, st.text(max_size=5), ensure_ascii=st.booleans())
    | st.sampled_from(["null", "true", "nul", "", '"\x7f"', '"e\u0301"', '"/"', r'"\/"', r'"\ud800"', r'"\n"', "9" * 5000]),
    lambda inner: (
        st.builds(lambda items, sep: f"[{sep.join(items)}]", st.lists(inner, max_size=3), st.sampled_from([",", ", ", " ,"]))
        | st.builds(
            lambda pairs, sep: "{" + ",".join(f'"{key}"{sep}{item}' for key, item in pairs) + "}",
            st.lists(st.tuples(st.sampled_from(["a", "b", "é", r"\u0061", "\x7f"]), inner), max_size=3),
            st.sampled_from([":", ":", ": "]),
        )
        | inner.map(lambda text: "[" * 9 + text + "]" * 9)
    ),
    max_leaves=8,
)


def described(raw: bytes) -> str:
    """The value with its types, or the problem."""
    result = tried(lambda: parse(raw))
    return f"problem {result.shown('/')}" if isinstance(result, Problem) else repr(result)


@given(_spelled.map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(b'{"a":1,"a":1}')
@example(b'{"a":{"a":1,"b":2,"a":1}}')
@example(b"\xef\xbb\xbf{}")
@example(b"[" * 20_000 + b"]" * 20_000)
def test_the_fast_reader_accepts_and_refuses_what_the_strict_one_does(raw: bytes) -> None:
    fast = described(raw)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(bodies, "_plainly_spelled", lambda _: bodies._OTHERWISE)
        assert fast == described(raw)


@given(_values)
def test_json_without_white_space_is_read_by_the_fast_reader(value: Any) -> None:
    raw = msgspec.json.encode(value)
    assert bodies._plainly_spelled(raw) == value


@given(st.binary(max_size=300))
def test_any_bytes_are_a_value_or_a_named_problem(raw: bytes) -> None:
    problem = tried(lambda: parse(raw))
    if isinstance(problem, Problem):
        assert problem.slug in PROBLEMS
        json.dumps(msgspec.to_builtins(problem.shown("/")))


@given(_values)
def test_any_json_is_validated_or_a_named_problem_that_can_be_sent(value: Any) -> None:
    problem = tried(lambda: validated(PlaceOrderBody, parse(json.dumps(value).encode())))
    assert isinstance(problem, Problem), "nothing this small is an order"
    assert 400 <= problem.status < 500
    problem.as_bytes("/orders")


@given(_values, st.booleans())
def test_an_accepted_value_is_the_value_that_was_sent(value: Any, ascii_only: bool) -> None:
    result = tried(lambda: parse(json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")))
    if isinstance(result, Problem):
        assert result.slug in ("invalid-field", "malformed-json", "limit-exceeded")
    else:
        assert result == value


@pytest.mark.parametrize(
    "text",
    [
        "my card is 4242 4242 4242 4242, thanks",
        "4242-4242-4242-4242",
        "378282246310005",
        "x5555555555554444x",
        "6011111111111117.",
    ],
)
def test_a_card_number_in_free_text_is_refused_and_not_repeated(text: str) -> None:
    assert has_card_number(text)
    body = order_body()
    body["contact"]["delivery_note"] = text
    with pytest.raises(Problem) as caught:
        validated(PlaceOrderBody, body)
    shown = msgspec.to_builtins(caught.value.shown("/orders"))
    assert shown["errors"] == [{"pointer": "/contact/delivery_note", "code": "card-number"}]
    assert "4242" not in str(caught.value.shown("/orders"))


@pytest.mark.parametrize(
    "text", ["", "Ring twice", "+44 113 496 0000", "4242 4242 4242 4243", "1234567890123456", "424242424242424242424"]
)
def test_other_digits_are_not_a_card_number(text: str) -> None:
    assert not has_card_number(text)
