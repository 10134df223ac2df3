"""Query parameters, one model per operation: what a request may send, and what the OpenAPI document says about it.

Every value arrives as text. A validator turns it into what the route needs, and each fault has a stable word as its pydantic type
(`not_an_integer`, `not_a_time`, ...) and a message that completes a sentence about the parameter. Parameters that may be omitted
have a default; unknown ones are refused. `api.query` reads a request, `api.contract.describing` writes the document.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from api.contract.patterns import MAX_VERSION, NAME, POSITION, whole
from api.contract.requests import MAX_FEED_CURSOR
from api.contract.responses import Status
from ledger.events import EVENT_TYPES
from ledger.rfc3339 import parse_ms

_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_EVENT_TYPES = frozenset(EVENT_TYPES)
_INTEGER = re.compile(r"-?[0-9]{1,18}")


def _integer(text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise PydanticCustomError("not_an_integer", "must be an integer.")
    return int(text)


def _time_ms(text: str) -> int:
    if (at_ms := parse_ms(text)) is not None:
        return at_ms
    hint = " In a query, write a plus sign as %2B." if " " in text else ""
    raise PydanticCustomError("not_a_time", "must be an RFC 3339 time, for example 2030-01-31T12:00:00Z.{hint}", {"hint": hint})


def _day(text: str) -> date:
    if _DAY.fullmatch(text):
        try:
            return date.fromisoformat(text)
        except ValueError:
            pass  # such as 30 February: refused below
    raise PydanticCustomError("not_a_date", "must be a date, for example 2030-01-31.")


def _event_types(text: str) -> tuple[str, ...]:
    types = tuple(sorted(set(text.split(","))))
    if not set(types) <= _EVENT_TYPES:
        raise PydanticCustomError("not_an_event_type", "must be types of events, comma-separated, for example OrderPlaced.")
    return types


INTEGER = BeforeValidator(_integer)
# ms since the epoch; finer digits are truncated
TimeMs = Annotated[int, BeforeValidator(_time_ms), WithJsonSchema({"type": "string", "format": "date-time"})]
Day = Annotated[date, BeforeValidator(_day), WithJsonSchema({"type": "string", "format": "date"})]
Version = Annotated[int, Field(ge=1, le=MAX_VERSION), INTEGER]


class QueryParameters(BaseModel):
    """The parameters of one operation, without any of its own: none may be sent."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class OrderQuery(QueryParameters):
    """`readOrder`. At most one of the two; the route checks that."""

    version: Annotated[Version | None, Field(description="As of this version. Not together with `at`.")] = None
    at_ms: Annotated[TimeMs | None, Field(alias="at", description="As of this time: includes all events up to then.")] = None


class OwnOrdersQuery(QueryParameters):
    """`listOrders` of a gateway, which sees only the orders of its customer."""

    status: Annotated[Status | None, Field(description="Only orders with this status.")] = None
    placed_from_ms: Annotated[
        TimeMs | None, Field(alias="placed_from", description="Only orders placed at or after this time.")
    ] = None
    placed_to_ms: Annotated[TimeMs | None, Field(alias="placed_to", description="Only orders placed at or before this time.")] = (
        None
    )
    attention: Annotated[Literal["true"] | None, Field(description="Only orders that need attention.")] = None
    number: Annotated[
        Annotated[str, Field(pattern=r"^.{1,64}$")] | None,
        Field(description="Only the order with this number. Not together with another filter.", examples=["AMWK-446T-4"]),
    ] = None
    reference: Annotated[
        Annotated[str, Field(pattern=r"^.{1,64}$")] | None,
        Field(description="Only orders with exactly this reference. Not together with `status` or `attention`."),
    ] = None
    limit: Annotated[int, Field(ge=1, le=100, description="Maximum number of rows."), INTEGER] = 20
    cursor: Annotated[str | None, Field(description="`next_cursor` of the previous page.")] = None


class OrdersQuery(OwnOrdersQuery):
    """`listOrders` of staff."""

    customer_id: Annotated[
        Annotated[str, Field(pattern=whole(NAME))] | None,
        Field(description="Only orders of this customer (not for gateways)."),
    ] = None


class AdminOrdersQuery(OrdersQuery):
    """`listOrders` of an admin, who may see contacts."""

    email: Annotated[
        Annotated[str, Field(max_length=254)] | None,
        Field(description="Only orders with this e-mail address (admins only). Not together with another filter."),
    ] = None


class EventsQuery(QueryParameters):
    """`readEvents`."""

    after: Annotated[int, Field(ge=0, le=MAX_VERSION, description="Only events with a higher version."), INTEGER] = 0
    limit: Annotated[int, Field(ge=1, le=200, description="Maximum number of rows."), INTEGER] = 100


class OwnFeedQuery(QueryParameters):
    """`readFeed` of a gateway, which sees only the events of its customer's orders."""

    after: Annotated[
        Annotated[str, Field(max_length=MAX_FEED_CURSOR)] | None,
        Field(description="Only events behind this cursor: `next_cursor` of the previous page, or the `id` of a streamed event."),
    ] = None
    start: Annotated[
        Literal["beginning", "end"],
        Field(description="Where to begin without `after`: at the first event, or behind the last one that this node knows."),
    ] = "beginning"
    types: Annotated[
        tuple[str, ...] | None,
        BeforeValidator(_event_types),
        WithJsonSchema({"type": "string", "pattern": "^[A-Za-z]+(,[A-Za-z]+)*$"}),
        Field(alias="type", description="Only events of these types, comma-separated.", examples=["OrderPlaced,OrderShipped"]),
    ] = None
    limit: Annotated[int, Field(ge=1, le=500, description="Maximum number of rows."), INTEGER] = 100


class FeedQuery(OwnFeedQuery):
    """`readFeed` of staff."""

    customer: Annotated[
        Annotated[str, Field(pattern=whole(NAME))] | None,
        Field(description="Only events of this customer's orders (not for gateways)."),
    ] = None


class DeliveriesQuery(QueryParameters):
    """`readWebhookDeliveries`."""

    before: Annotated[
        Annotated[int, Field(ge=0, le=2**62), INTEGER] | None, Field(description="Only tries before: `next_before` of a page.")
    ] = None
    limit: Annotated[int, Field(ge=1, le=200, description="Maximum number of rows."), INTEGER] = 50


class CommandQuery(QueryParameters):
    """`readCommand`. How many partitions there are is known to the route: it checks the position as a whole."""

    at: Annotated[
        str | None,
        Field(
            description="Partition and offset of the command.",
            json_schema_extra={"pattern": whole(POSITION)},
            examples=["3-1017"],
        ),
    ] = None


class DailyQuery(QueryParameters):
    """`readDailyReport`. Both days are included."""

    first: Annotated[Day, Field(alias="from", description="First day.", examples=["2030-01-01"])]
    last: Annotated[Day, Field(alias="to", description="Last day, included; at most 366 days.", examples=["2030-01-31"])]
    currency: Annotated[Annotated[str, Field(pattern=r"^[A-Z]{3}$")] | None, Field(description="Only this currency.")] = None
