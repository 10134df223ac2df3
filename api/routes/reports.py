"""Daily totals (`readDailyReport`)."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from api.call import Call
from api.context import AppContext
from api.contract import operations as docs
from api.contract.queries import DailyQuery
from api.contract.responses import DailyReportOut
from api.edge import json_response
from api.problems import FieldError, Problem
from api.representations import daily_row, day_number, to_json
from ledger.turns import Steps

MAX_DAYS = 366


def add_routes(router: APIRouter) -> None:
    """Register the routes."""
    router.add_api_route("/reports/daily", read_daily, methods=["GET"], **docs.READ_DAILY)


async def read_daily(call: Call) -> Response:
    """Totals per currency for the UTC days `from` to `to`, both included."""
    call.allow("admin", "reader")
    query = call.query(DailyQuery)
    first, last = query.first, query.last
    if last < first:
        raise Problem("invalid-field", "`to` is before `from`.", errors=[FieldError("/to", "before-from", "query")])
    if (last - first).days >= MAX_DAYS:
        raise Problem(
            "limit-exceeded", f"A report has at most {MAX_DAYS} days.", errors=[FieldError("/to", "too-many-days", "query")]
        )
    await call.caught_up()
    # There are no orders before the epoch, and keys count days from it.
    body = await call.in_turns(_report(call.ctx, day_number(first), day_number(last), query.currency))
    return json_response(body)


def _report(ctx: AppContext, first: int, last: int, currency: str | None) -> Steps[bytes]:
    """The body of a report; days are counted from the epoch."""
    # There are no orders before the epoch, and keys count days from it.
    days = (yield from ctx.queries.daily(max(0, first), last, currency)) if last >= 0 else {}
    rows = []
    for (number, of), totals in sorted(days.items()):
        rows.append(daily_row(number, of, totals))
        yield
    return to_json(DailyReportOut(rows))
