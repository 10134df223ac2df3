"""The verbs `history` and `diff`: one order, for a person or a script."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any
from urllib.parse import quote

from api.cli.tail import time_option
from api.cli.terminal import Screen, write_json, write_text
from ledger.errors import ConfigError, LedgerError
from ledger.http_client import BlockingHttp, NoAnswer, with_query


class ApiError(LedgerError):
    """The API answered with a problem."""

    code = "api"


PATIENCE_S = 100.0  # for an answer from the API


def run_history(order_id: str, url: str, token: str, at: str | None, as_json: bool, err: Screen) -> int:
    """Print the events of one order, up to the time `at` (RFC 3339) if set. Returns 1 if there is no such order."""
    rows: list[dict[str, Any]] = []
    until = None if at is None else time_option(at, "--at")
    path = f"/orders/{quote(order_id, safe='')}"
    with api_client(url, token) as client:
        while True:
            answer = read(client, f"{path}/events", {"after": rows[-1]["version"] if rows else 0, "limit": 200}, "data")
            if answer is None:
                err.print(f"no order {' '.join(order_id.split())}", style="red")
                return 1
            rows += answer["data"]
            if len(answer["data"]) < 200:
                break
    if until is not None:
        rows = [row for row in rows if datetime.fromisoformat(row["occurred_at"]) <= until]
    if as_json:
        write_json(rows)
        return 0
    for row in rows:
        place = f"{row['partition']}-{row['offset']}"
        head = f"v{row['version']:<3} {row['occurred_at']}  {place:>9}  {row['type']:<18} {row['status']:<10} {row['actor']}"
        write_text([head])
        if detail := {name: value for name, value in row["detail"].items() if value not in (None, [], "")}:
            write_text([f"     {json.dumps(detail, ensure_ascii=False)}"])
    return 0


def run_diff(order_id: str, before: int, after: int, url: str, token: str, as_json: bool, err: Screen) -> int:
    """Print the fields in which two versions of an order differ. Returns 1 if there is no such order or version."""
    path = f"/orders/{quote(order_id, safe='')}"
    with api_client(url, token) as client:
        states = [read(client, path, {"version": version}, "order_id") for version in (before, after)]
    if states[0] is None or states[1] is None:
        err.print(f"no order {' '.join(order_id.split())} with versions {before} and {after}", style="red")
        return 1
    left, right = _flat(states[0]), _flat(states[1])
    changed = [name for name in {**left, **right} if left.get(name) != right.get(name)]
    if as_json:
        rows = [{"field": name, "before": left.get(name), "after": right.get(name)} for name in changed]
        write_json({"order_id": order_id, "from": before, "to": after, "changes": rows})
        return 0
    for name in changed:
        was, now = (json.dumps(side[name], ensure_ascii=False) if name in side else "-" for side in (left, right))
        write_text([f"{name:<28} {was} -> {now}"])
    return 0


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Leaves by path: `axes.payment`, `lines[0].sku`."""
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in _flat(inner, f"{name}.{key}" if name else key).items()}
    if isinstance(value, list) and value:
        return {k: v for i, inner in enumerate(value) for k, v in _flat(inner, f"{name}[{i}]").items()}
    return {name: value}


def api_client(url: str, token: str) -> BlockingHttp:
    """A client of the API. Raises `ConfigError` for an invalid address or token."""
    if not token.isascii():
        raise ConfigError("the token contains characters that are not ASCII")
    try:
        return BlockingHttp(url, PATIENCE_S, {"Authorization": f"Bearer {token}"})
    except ConfigError as exc:
        raise ConfigError(f"{url!r}: {exc}") from None


def read(client: BlockingHttp, path: str, params: dict[str, Any], member: str) -> dict[str, Any] | None:
    """The body of the answer, which has this member; None for 404. Raises `ApiError`."""
    try:
        answer = client.get(with_query(path, params))
    except NoAnswer as exc:
        raise ApiError(f"{client.base_url} does not answer: {exc}") from exc
    if answer.status == 404:
        return None
    if answer.status != 200:
        raise ApiError(f"{answer.status} {answer.text[:300]}")
    try:
        body = answer.json()
    except ValueError:
        body = None
    if not isinstance(body, dict) or member not in body:
        raise ApiError(f"{client.base_url} is not the ledger's API")
    return body
