"""A payment provider with the part of Stripe's API that the ledger calls.

Objects carry Stripe's field names; errors are Stripe's error objects (`StripeProblem`). One request is one transaction of the
journal's database: changed objects, the row and effects in the journal, messages, and the answer stored under its idempotency
key are written together or not at all.

No real money, no real card: it accepts only the numbers of `cards` and the sandbox's own key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from commands.sandbox.chaos import Fate
from commands.sandbox.disputes import Disputes
from commands.sandbox.intents import Intents
from commands.sandbox.journal import Journal
from commands.sandbox.objects import DAY_S, TABLES, Body, Db, Objects, ProviderRequest, StripeProblem
from commands.sandbox.refunds import Refunds

PORT = "payments"


class Provider:
    """The provider. `now_s` is its clock, in seconds. `on_message` is called when there is a message to send."""

    def __init__(self, journal: Journal, now_s: Callable[[], int], on_message: Callable[[], None] = lambda: None) -> None:
        self._journal, self._now_s, self._on_message = journal, now_s, on_message
        self.objects = Objects(now_s)
        self.disputes = Disputes(self.objects)
        self.intents = Intents(self.objects, self.disputes)
        self.refunds = Refunds(self.objects)
        journal.add_tables(TABLES)

    def carry_out(self, request: ProviderRequest, work: Callable[[Db, ProviderRequest], Body]) -> tuple[int, Body, bool]:
        """(status, answer, replayed) of one request, with its row in the journal."""
        with self._journal.transaction() as db:
            kept = self._kept(db, request)
            status, answer = self._carry_out(db, request, work) if kept is None else kept
            replayed = kept is not None and not _is_misuse(answer)
            call = self._journal.note_call(
                db,
                self._now_s() * 1000,
                PORT,
                request.verb + (" replayed" if replayed else ""),
                key=request.key,
                order_id=request.order_id,
                fate=request.fate,
                request=_without_secrets(request.form),
                status=status,
                response={"id": answer.get("id"), "status": answer.get("status"), "code": _code(answer)},
            )
            for kind, ref, amount in request.effects:
                self._journal.note_effect(db, call, self._now_s() * 1000, PORT, kind, request.order_id, ref=ref, amount=amount)
        self._on_message()
        return status, answer, replayed

    def _carry_out(self, db: Db, request: ProviderRequest, work: Callable[[Db, ProviderRequest], Body]) -> tuple[int, Body]:
        db.execute("savepoint work")
        try:
            if request.key and request.fate == Fate.ERROR_KEPT:
                raise StripeProblem(500, "api_error", "chaos: the answer to this key for a day", kind="api_error")
            status, answer, keep = 200, work(db, request), True
        except StripeProblem as problem:
            status, answer, keep = problem.status, {"error": problem.error}, problem.kept
            if not keep:
                db.execute("rollback to work")
        db.execute("release work")
        if keep and request.key:
            row = (request.key, self._now_s(), _digest(request), status, json.dumps(answer))
            db.execute("insert or replace into keys (key, at_s, request, status, answer) values (?, ?, ?, ?, ?)", row)
        return status, answer

    def _kept(self, db: Db, request: ProviderRequest) -> tuple[int, Body] | None:
        """The first answer under this key, for a day. Another request under the same key is an error."""
        if not request.key:
            return None
        row = db.execute("select * from keys where key = ? and at_s > ?", (request.key, self._now_s() - DAY_S)).fetchone()
        if row is None:
            return None
        if row["request"] != _digest(request):
            text = "Keys for idempotent requests can only be used with the same parameters they were first used with."
            return 400, {"error": {"type": "idempotency_error", "message": text}}
        return row["status"], json.loads(row["answer"])

    def turn_refunds(self) -> int:
        """Change the state of refunds that are due; returns their number. Call it periodically."""
        due = self._journal.rows("select * from turns where at_s <= ?", self._now_s())
        for row in due:
            self.carry_out(ProviderRequest("turn_refund", "", {}), partial(self.refunds.turn, row=row))
        return len(due)


def _digest(request: ProviderRequest) -> str:
    text = json.dumps([request.verb, request.path, request.form], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _without_secrets(form: Mapping[str, Any]) -> Body:
    hidden = {"client_secret", "payment_method_data"}
    return {name: "..." if name in hidden else value for name, value in form.items()}


def _is_misuse(answer: Body) -> bool:
    return (answer.get("error") or {}).get("type") == "idempotency_error"


def _code(answer: Body) -> str | None:
    error = answer.get("error") or {}
    return error.get("code") or error.get("type")
