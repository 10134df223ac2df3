"""Query parameters, `Accept` and problems: small pure pieces of the API."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from api.contract.queries import DailyQuery, EventsQuery, OrderQuery, OrdersQuery, OwnOrdersQuery, QueryParameters
from api.problems import PROBLEMS, UNCHANGED, Problem, slug_of
from api.query import read_query
from api.representations import day, day_number
from api.routes.events import JSON, SSE, preferred
from ledger.rfc3339 import format_ms
from ledger.transitions import Code


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2030-01-31T12:00:00.123Z", 1_896_091_200_123),
        ("2030-01-31t13:00:00.1239+01:00", 1_896_091_200_123),
        ("1969-12-31T23:59:59.999Z", 0),  # before the epoch nothing happened here
        ("0001-01-01T00:00:00Z", 0),
        ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
    ],
)
def test_rfc_3339_times_are_read_to_the_millisecond(text: str, ms: int) -> None:
    assert read_query(OrderQuery, [("at", text)]).at_ms == ms


@pytest.mark.parametrize("text", ["", "2030-01-31", "2030-01-31T12:00:00", "2030-02-30T12:00:00Z", "2030-01-31 12:00:00Z", "1e3"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(Problem, match="invalid-field"):
        read_query(OrderQuery, [("at", text)])


def test_a_plus_sign_that_the_query_took_for_a_space_is_explained() -> None:
    with pytest.raises(Problem) as caught:
        read_query(OrderQuery, [("at", "2030-01-31T13:00:00 01:00")])
    assert "%2B" in caught.value.detail


@given(st.integers(min_value=0, max_value=253_402_300_799_999))
def test_a_time_that_is_shown_is_read_back_the_same(ms: int) -> None:
    assert read_query(OrderQuery, [("at", format_ms(ms))]).at_ms == ms


@given(st.text(max_size=40))
def test_any_text_that_is_no_time_is_a_problem(text: str) -> None:
    assume(not text[:1].isdecimal())
    with pytest.raises(Problem, match="invalid-field"):
        read_query(OrderQuery, [("at", text)])


@pytest.mark.parametrize("text", ["", "x", "1.0", " 1", "1_0", "٣", "0", "101", "-1", "9" * 40])
def test_integers_are_ascii_digits_within_their_range(text: str) -> None:
    with pytest.raises(Problem, match="invalid-field"):
        read_query(OrdersQuery, [("limit", text)])


def test_unknown_and_repeated_parameters_are_refused() -> None:
    with pytest.raises(Problem) as unknown:
        read_query(OrdersQuery, [("statsu", "paid")])
    assert unknown.value.slug == "unknown-field"
    assert [msgspec.to_builtins(e.shown()) for e in unknown.value.errors] == [
        {"pointer": "/statsu", "code": "unknown-field", "in": "query"}
    ]
    with pytest.raises(Problem, match="invalid-field"):
        read_query(OrdersQuery, [("limit", "1"), ("limit", "2")])


@pytest.mark.parametrize(
    ("model", "items", "errors", "says"),
    [
        (OrderQuery, [("at", "noon")], [("/at", "not-a-time")], "at must be an RFC 3339 time, for example"),
        (OrderQuery, [("version", "0")], [("/version", "out-of-range")], "version must be 1 to 2147483647."),
        (OrdersQuery, [("limit", "101")], [("/limit", "out-of-range")], "limit must be 1 to 100."),
        (EventsQuery, [("after", "-1")], [("/after", "out-of-range")], "after must be 0 to 2147483647."),
        (EventsQuery, [("limit", "1.5")], [("/limit", "not-an-integer")], "limit must be an integer."),
        (OrdersQuery, [("status", "lost")], [("/status", "not-one-of")], "status must be 'pending', 'paid', "),
        (OrdersQuery, [("attention", "false")], [("/attention", "not-one-of")], "attention must be 'true'."),
        (OrdersQuery, [("customer_id", "a b")], [("/customer_id", "pattern")], "customer_id must match ^([A-Za-z0-9_-]{1,64})$."),
        (OrdersQuery, [("customer_id", "c-1\n")], [("/customer_id", "pattern")], "customer_id must match"),
        (DailyQuery, [("to", "2030-01-31")], [("/from", "missing")], "from is required, for example 2030-01-01."),
        (
            DailyQuery,
            [("from", "2030-02-30"), ("to", "x")],
            [("/from", "not-a-date"), ("/to", "not-a-date")],
            "to must be a date",
        ),
        (OrdersQuery, [("x", "1"), ("limit", "x")], [("/limit", "not-an-integer"), ("/x", "unknown-field")], "limit must be"),
    ],
)
def test_a_wrong_value_is_named_with_its_rule_and_without_itself(
    model: type[QueryParameters], items: list[tuple[str, str]], errors: list[tuple[str, str]], says: str
) -> None:
    with pytest.raises(Problem) as caught:
        read_query(model, items)
    assert caught.value.slug == "invalid-field"
    assert [(error.pointer, error.code) for error in caught.value.errors] == errors
    assert {error.where for error in caught.value.errors} == {"query"}
    assert says in caught.value.detail


@pytest.mark.parametrize("model", [QueryParameters, OrderQuery, OwnOrdersQuery, OrdersQuery, EventsQuery])
def test_without_parameters_there_are_defaults_and_many_unknown_ones_are_not_all_repeated(model: type[QueryParameters]) -> None:
    assert read_query(model, []) == model()
    with pytest.raises(Problem, match="unknown-field") as caught:
        read_query(model, [(f"x{n}", "") for n in range(100)])
    assert len(caught.value.errors) == 20


def test_a_gateway_has_every_filter_but_that_of_the_customer() -> None:
    assert set(OrdersQuery.model_fields) - set(OwnOrdersQuery.model_fields) == {"customer_id"}
    assert read_query(OrdersQuery, []).limit == 20
    assert read_query(EventsQuery, []).limit == 100


def test_days_count_from_the_epoch() -> None:
    assert day(0) == "1970-01-01"
    report = read_query(DailyQuery, [("from", "2030-01-31"), ("to", "2030-01-31")])
    assert day_number(report.first) == 21_945
    assert day(21_945) == "2030-01-31"


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("*/*", JSON),
        ("application/json", JSON),
        ("text/event-stream", SSE),
        ("text/*", SSE),
        ("application/json, text/event-stream", JSON),
        ("application/json;q=0.5, text/event-stream", SSE),
        ("text/event-stream;q=0, */*", JSON),
        ("application/json;q=0, */*;q=0.1", SSE),
        ("text/html, */*;q=0.8", JSON),
        ("text/html", None),
        ("text/event-stream;q=x", None),
        ("", None),
    ],
)
def test_accept_chooses_the_representation(accept: str, wanted: str | None) -> None:
    assert preferred(accept) == wanted


def test_every_refusal_code_has_a_problem_or_is_success() -> None:
    for code in Code:
        assert code.value in UNCHANGED or slug_of(code) in PROBLEMS


def test_the_slug_of_a_refusal_is_its_code_with_hyphens_except_for_two() -> None:
    answered = [code for code in Code if code.value not in UNCHANGED]
    assert {c.value: slug_of(c) for c in answered if slug_of(c) != c.value.replace("_", "-")} == {
        "amount_differs": "total-mismatch",
        "unknown_parcel": "shipment-not-found",
    }


def test_a_problem_is_rfc_9457_with_code_and_retry_after() -> None:
    problem = Problem("not-caught-up", members={"order_id": None, "command_id": "cmd_x"})
    assert problem.headers == {"Retry-After": "1"}
    assert msgspec.to_builtins(problem.shown("/orders/x")) == {
        "type": "/problems/not-caught-up",
        "title": "Not caught up",
        "status": 503,
        "detail": PROBLEMS["not-caught-up"].meaning,
        "instance": "/orders/x",
        "code": "not-caught-up",
        "command_id": "cmd_x",
    }
