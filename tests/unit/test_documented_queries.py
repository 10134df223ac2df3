"""The SQL of projections/README.md on a real Parquet file, with orders whose events do not add up by type."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from api.cli.parquet import ParquetFile
from ledger.schemas.codec import event_codec
from tests.support.desk_line import CANCEL, PAY, PLACE, TOPICS, Line
from tests.support.order_commands import PLACED_AT

ROOT = Path(__file__).resolve().parents[2]
DAY_MS, FIRST_DAY = 86_400_000, date(2023, 11, 14)


def payment(fact: str, **more: Any) -> dict[str, Any]:
    return {"op": "RecordPayment", "fact": fact, "attempt": 1, "ref": "pi_1", **more}


def refund(fact: str, no: int) -> dict[str, Any]:
    return {"op": "RecordRefund", "fact": fact, "no": no, "ref": f"re_{no}", "amount": 1000}


# (day, command): one attempt is captured in two steps, two refunds settle and fail afterwards, the third one stays.
STORY: list[tuple[int, dict[str, Any]]] = [
    (0, PLACE),
    (0, PAY),
    (0, payment("PaymentOpened")),
    (0, payment("PaymentCaptured", amount=400)),
    (1, payment("PaymentCaptured", amount=1000)),
    (1, CANCEL),
    (1, refund("RefundSettled", 1)),
    (2, refund("RefundFailed", 1)),
    (2, refund("RefundSettled", 2)),
    (3, refund("RefundFailed", 2)),
    (4, refund("RefundSettled", 3)),
]


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The events of `STORY` for one order, and an order that is only captured, as `export` writes them."""
    line = Line()
    for day, command in STORY:
        line.order(command, at=PLACED_AT + day * DAY_MS)
    for command in (PLACE, PAY, payment("PaymentOpened"), payment("PaymentCaptured", amount=1000)):
        line.order(command, "ord_2", at=PLACED_AT + 4 * DAY_MS)
    assert None not in line.deal()
    path = tmp_path_factory.mktemp("export") / "orders.parquet"
    with ParquetFile(path) as file:
        for record in line.log[TOPICS.events]:
            file.add(0, record.offset, event_codec().decode_fields(record.value))
    assert file.written == len(STORY) + 4
    return path


@pytest.fixture
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection


def documented(path: Path) -> list[str]:
    """The queries of the document, on this file."""
    block = re.search(r"```sql\n(.*?)```", (ROOT / "projections/README.md").read_text("utf-8"), re.DOTALL)
    assert block is not None
    return [query for query in block[1].replace("orders.parquet", str(path)).split(";") if query.strip()]


def test_money_per_day_counts_a_refund_that_settled_and_failed_once_and_two_captures_once(
    parquet: Path, database: duckdb.DuckDBPyConnection
) -> None:
    sums = {day: money for day, *money in database.sql(documented(parquet)[0]).fetchall()}
    expected = [("EUR", 400, 0), ("EUR", 600, 1000), ("EUR", 0, 0), ("EUR", 0, -1000), ("EUR", 1000, 1000)]
    assert sums == {FIRST_DAY + timedelta(days=day): list(money) for day, money in enumerate(expected)}
    last = (
        "SELECT sum(c), sum(r) FROM (SELECT max_by(captured_minor, version) AS c, max_by(refunded_minor, version) AS r "
        f"FROM '{parquet}' GROUP BY order_id)"
    )
    assert database.sql(last).fetchall() == [(2000, 1000)] == [tuple(map(sum, zip(*(m[1:] for m in sums.values()), strict=True)))]


def test_the_sum_over_a_type_is_another_one(parquet: Path, database: duckdb.DuckDBPyConnection) -> None:
    """So the file above can show the difference."""
    by_type = (
        "SELECT sum(payment.amount_minor) FILTER (type = 'PaymentCaptured'), "
        f"sum(refund.amount_minor) FILTER (type = 'RefundSettled') FROM '{parquet}'"
    )
    assert database.sql(by_type).fetchall() == [(2400, 3000)]
