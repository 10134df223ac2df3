"""HTTP responses for the outcomes of commands.

decided       the order as of the version that the command produced: 201 or 200, `Ledger-Outcome: changed`
unchanged     nothing to change, or already known: 200 with the order as it was then, `Ledger-Outcome: unchanged`
refused       the problem for the code of the refusal
undecided     202 with `Location: /commands/{id}?at=P-N`, where the outcome will be
"""

from __future__ import annotations

from starlette.responses import Response

from api import visibility
from api.call import DEFAULT_WAIT_S, Call, Preferences
from api.contract.responses import CommandOut, CurrentOut
from api.edge import json_response
from api.problems import UNCHANGED, Problem, sentence, slug_of
from api.representations import etag, shown_status, to_json
from api.services.submissions import Decided, Pending
from commands.messages import OrderCommand
from ledger.contacts import OrderContact
from ledger.order import FoldError, Order
from ledger.outcomes import Outcome
from projections.queries import VersionNotFound


async def carry_out(call: Call, command: OrderCommand, created: bool = False, contact: OrderContact | None = None) -> Response:
    """Perform `command` and answer it. Raises `Problem` for a refusal, and `NotNow` like `Submissions.perform`.

    `contact` is made durable before the command of a new order. `created`: success is a 201.
    """
    result = await perform(call, command, contact)
    if isinstance(result, Pending):
        return undecided(call, command, result)
    return await decided(call, command, result, created)


async def perform(call: Call, command: OrderCommand, contact: OrderContact | None = None) -> Decided | Pending:
    """`Submissions.perform` with the preferences of `call`."""
    return await call.ctx.submissions.perform(command, wait_of(call.preferences), contact, call.exchange.traceparent)


def wait_of(preferences: Preferences) -> float:
    """How long an answer may wait for the outcome, in seconds."""
    if preferences.wait_s is not None:
        return preferences.wait_s
    return 0.0 if preferences.respond_async else DEFAULT_WAIT_S


async def decided(call: Call, command: OrderCommand, result: Decided, created: bool) -> Response:
    """The answer for this outcome. Raises `Problem` for a refusal."""
    outcome, partition = result.outcome, call.ctx.partition_of(command.order_id)
    headers = headers_of_outcome(call, partition, result.replayed)
    if outcome.code is not None and outcome.code not in UNCHANGED:
        raise await refused(call, command.command_id, outcome, headers)
    order = await order_then(call, partition, outcome)
    if order is None:
        # Committed, but this node could not fold even the first event: only its position can be shown.
        members = {
            "order_id": outcome.order_id,
            "command_id": command.command_id,
            "frozen": visibility.frozen(call, outcome.order_id),
        }
        raise Problem("order-frozen", members=members)
    headers["ETag"] = etag(order.version)
    headers["Ledger-Outcome"] = "unchanged" if outcome.code else "changed"
    if created:
        headers["Location"] = f"/orders/{order.order_id}"
    return json_response(visibility.order_shown(call, order, result.contact), 201 if created else 200, headers)


def headers_of_outcome(call: Call, partition: int, replayed: bool) -> dict[str, str]:
    """Headers of every answer to a decided command."""
    headers = {"Ledger-Position": call.ctx.position(partition)}
    if applied := call.preferences.applied:
        headers["Preference-Applied"] = applied
    if replayed:
        headers["Idempotency-Replayed"] = "true"
    return headers


async def order_then(call: Call, partition: int, outcome: Outcome) -> Order | None:
    """The order after (or, for a refusal, at) the command; if it is frozen earlier, its last version that was folded."""
    queries = call.ctx.queries
    if outcome.version is not None:
        steps = queries.as_of_version(partition, outcome.order_id, outcome.version)
    else:
        steps = queries.as_of_time(partition, outcome.order_id, outcome.at)
    try:
        return await call.in_turns(steps)
    except (VersionNotFound, FoldError):
        return queries.order(partition, outcome.order_id)


async def refused(call: Call, command_id: str, outcome: Outcome, headers: dict[str, str] | None = None) -> Problem:
    """The problem for a refusal, reduced to what the caller may see."""
    assert outcome.code is not None
    partition = call.ctx.partition_of(outcome.order_id)
    slug = slug_of(outcome.code)
    if slug == "order-not-found" or not visibility.may_hear(call, outcome.order_id):
        # Reveals neither whose order it is nor whether it exists.
        return Problem("order-not-found", members={"command_id": command_id}, headers=headers)
    members: dict[str, object] = {"order_id": outcome.order_id, "command_id": command_id}
    if slug == "order-frozen":
        members["frozen"] = visibility.frozen(call, outcome.order_id)
    elif slug != "idempotency-key-reused" and (order := await order_then(call, partition, outcome)) is not None:
        members["current"] = CurrentOut(order.version, shown_status(order))
    return Problem(slug, sentence(outcome.detail), members=members, headers=headers)


async def command_state(call: Call, command_id: str, order_id: str, outcome: Outcome | None) -> bytes:
    """The body of `readCommand`; `outcome` None: not decided yet."""
    if outcome is None:
        return to_json(CommandOut(command_id, "pending", order_id, None, None))
    await call.ctx.submissions.folded_as_met(outcome)
    if outcome.code is None or outcome.code in UNCHANGED:
        order = await order_then(call, call.ctx.partition_of(order_id), outcome)
        version = outcome.version or (order.version if order else None)
        return to_json(CommandOut(command_id, "accepted", order_id, version, None))
    problem = await refused(call, command_id, outcome)
    return to_json(CommandOut(command_id, "refused", order_id, None, problem.shown(call.instance)))


def undecided(call: Call, command: OrderCommand, pending: Pending) -> Response:
    """202 for a durable command without an outcome yet."""
    return accepted_later(call, command, f"/commands/{command.command_id}?at={pending.partition}-{pending.offset}", None)


def accepted_later(call: Call, command: OrderCommand, location: str, version: int | None) -> Response:
    """202 with the URL of the result. `version`: the command is decided, but what it leads to is not there yet."""
    headers = {"Location": location}
    if applied := call.preferences.applied:
        headers["Preference-Applied"] = applied
    state = CommandOut(command.command_id, "pending" if version is None else "accepted", command.order_id, version, None)
    return json_response(to_json(state), 202, headers)
