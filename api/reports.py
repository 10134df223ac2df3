"""Daily totals (A13)."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from api import docs
from api.call import Call
from api.edge import json_response
from api.errors import FieldError, Problem
from api.orders import staleness
from api.representations import daily_row, day_number, to_json

MAX_DAYS = 366


def add_routes(router: APIRouter) -> None:
    router.add_api_route("/reports/daily", read_daily, methods=["GET"], **docs.READ_DAILY)


async def read_daily(call: Call) -> Response:
    """Totals of the UTC days `from` to `to`, both included, per currency."""
    call.allow("admin", "reader")
    query = call.query()
    first, last = query.day("from"), query.day("to")
    currency = query.text("currency", r"[A-Z]{3}")
    query.done()
    if last < first:
        raise Problem("invalid-field", "`to` is before `from`.", errors=[FieldError("/to", "before-from", "query")])
    if (last - first).days >= MAX_DAYS:
        raise Problem(
            "limit-exceeded", f"A report has at most {MAX_DAYS} days.", errors=[FieldError("/to", "too-many-days", "query")]
        )
    await call.caught_up()
    # Before the epoch nothing was ordered, and keys count days from it.
    days = call.ctx.queries.daily(max(0, day_number(first)), max(0, day_number(last)), currency) if day_number(last) >= 0 else {}
    rows = [daily_row(number, of, totals) for (number, of), totals in sorted(days.items())]
    return json_response(to_json({"data": rows}), 200, staleness(call))
