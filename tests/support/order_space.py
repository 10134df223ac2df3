"""Every order that can be reached, up to what the rules cannot tell apart: breadth first over evolve∘decide.

The quotient is `order_model.State`: dropped are version, times (but whether the time to pay is over), actors, amounts that
only repeat the fact, reservation references, carriers, `times_reserved` and who cancelled why; failures of refunds count to
three. `decide` hands the dropped things on without looking at them, except the version (`stale`, `full` are part of the
command), so one order stands for its class; `test_decide_exhaustive.py` holds this claim too.

The axes multiply, so there are several universes, each complete under its own alphabet: whose facts and requests are used
to go on. Every reached state then meets the *whole* alphabet in the test.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import msgspec

from commands.decide import decide
from commands.messages import (
    CancelOrder,
    OrderCommand,
    PlaceOrder,
    RaiseAttention,
    RecordDispute,
    RecordPayment,
    RecordRefund,
    RecordStock,
    RequestPayment,
    ResolveAttention,
    ShipOrder,
)
from ledger.events import Adjustment, Line, OrderEvent
from ledger.evolve import evolve
from ledger.order import Order
from tests.support import order_model as model
from tests.support.order_model import Command, State

PLACED_AT = 1_700_000_000_000
WINDOW_MS = 30 * 60 * 1000
TOTAL = 1000
ACTORS = {"customer": "gateway:web", "admin": "admin:desk"}


# ---- a command in words -> the command of the project ---------------------------------------------------------------


def order_command(c: Command, order_id: str = "ord_1", command_id: str = "cmd_x") -> OrderCommand:
    """The `OrderCommand` that `c` (see `order_model`) stands for."""
    role: str = c.get("role", "reconciler")
    customer = {"customer": "c-1"}.get(role, "")
    return OrderCommand(
        command_id=command_id,
        order_id=order_id,
        fingerprint=c.get("fingerprint", bytes(16)),
        operation=c["op"],
        actor=ACTORS.get(role, role),
        customer_id="c-2" if c.get("foreign") else customer,
        expected_version=c.get("expected_version"),
        **_payload(c),
    )


def _payload(c: Command) -> dict[str, Any]:
    match c["op"]:
        case "PlaceOrder":
            return {"place": place_order(c.get("services", ("product",)), c.get("total", TOTAL))}
        case "CancelOrder":
            return {"cancel": CancelOrder(c["reason"])}
        case "RequestPayment":
            return {"request_payment": RequestPayment(c["amount"], c.get("currency", "EUR"))}
        case "ShipOrder":
            return {"ship": ShipOrder(c.get("carrier"), c.get("tracking"))}
        case "RecordPayment":
            return {
                "record_payment": RecordPayment(
                    c["fact"],
                    c["attempt"],
                    c.get("amount"),
                    c.get("ref"),
                    c.get("waiting"),
                    c.get("code"),
                    c.get("charge"),
                    c.get("capture_before"),
                )
            }
        case "RecordRefund":
            return {"record_refund": RecordRefund(c["fact"], c["no"], c.get("ref"), c.get("amount"), c.get("code"))}
        case "RecordDispute":
            return {
                "record_dispute": RecordDispute(
                    c["fact"], c["ref"], c.get("amount"), c.get("reason"), c.get("due_by"), c.get("outcome")
                )
            }
        case "RecordStock":
            return {"record_stock": RecordStock(c["fact"], c["service"], c.get("ref"), c.get("reason"))}
        case "RaiseAttention":
            return {"raise_attention": RaiseAttention(c["code"], c["key"])}
        case "ResolveAttention":
            return {"resolve_attention": ResolveAttention(c["code"], c["key"], c["action"], c.get("amount"), c.get("ticket"))}
    return {}


def place_order(services: tuple[str, ...], total: int) -> PlaceOrder:
    """An order of one line a service; the adjustment makes up the total."""
    lines = tuple(Line(service, f"{service}-1", "A thing", 2, 100) for service in services)
    rest = total - 200 * len(services)
    kind = "shipping" if rest >= 0 else "discount"
    return PlaceOrder("EUR", total, lines, (Adjustment(kind, kind, rest),), bytes(32), WINDOW_MS, "cart-1")


def at_ms(c: Command) -> int:
    """Broker time of `c`: right after the order was placed (so the clock may fall), or when the time to pay is over."""
    return PLACED_AT + WINDOW_MS if c.get("late") else PLACED_AT + 1


def meet(order: Order, c: Command) -> tuple[OrderCommand, Order]:
    """`c` as it meets `order`: with its expected version, or with an order that is full."""
    if c.get("full"):
        order = msgspec.structs.replace(order, version=1000)
    if c.get("stale"):
        c = c | {"expected_version": order.version - 1}
    elif c.get("matching"):
        c = c | {"expected_version": order.version}
    return order_command(c), order


# ---- the quotient ---------------------------------------------------------------------------------------------------


def state_of(o: Order) -> State:
    """The class of `o`."""
    settled = sum(r.amount_minor for r in o.refunds if r.state == "settled")
    return State(
        total=o.total_minor,
        stock=tuple((s.service, s.state) for s in o.stock),
        cancelled=o.lifecycle == "cancelled",
        fulfilment=o.fulfilment,
        attempts=tuple(
            model.Attempt(a.state, a.provider_ref, a.captured_minor, a.waiting_for, a.code, a.charge_ref, a.capture_before)
            for a in o.attempts
        ),
        refunds=tuple(model.Refund(r.no, r.provider_ref, r.state, r.amount_minor) for r in o.refunds),
        failures=min(o.refund_failures, 3),
        recent=min(o.refund_failures_recent, 3),
        disputes=tuple(model.Dispute(d.provider_ref, d.outcome, d.amount_minor) for d in o.disputes),
        flags=tuple(sorted((f.code, f.obligation_key) for f in o.attention)),
        elsewhere=o.refunded_minor - settled,
        late=o.updated_at >= o.expires_at,
    )


def quotient(s: State) -> State:
    return s._replace(failures=min(s.failures, 3), recent=min(s.recent, 3))


# ---- alphabets ------------------------------------------------------------------------------------------------------


def _payments(no: int) -> list[Command]:
    fact = {"op": "RecordPayment", "attempt": no}
    ref = f"pi_{no}"
    return [
        fact | {"fact": "PaymentOpened", "ref": ref},
        fact | {"fact": "PaymentOpened"},
        fact | {"fact": "PaymentPending", "waiting": "customer_action"},
        fact | {"fact": "PaymentPending", "waiting": "provider", "ref": ref},
        fact | {"fact": "PaymentDeclined", "code": "card_declined", "ref": ref},
        fact | {"fact": "PaymentDeclined", "code": "card_declined", "charge": "ch_1"},
        fact | {"fact": "PaymentAuthorised", "ref": ref, "amount": TOTAL, "capture_before": 7},
        fact | {"fact": "PaymentAuthorised", "ref": ref, "amount": TOTAL, "capture_before": 8},
        fact | {"fact": "PaymentCaptured", "ref": ref, "amount": 600},
        fact | {"fact": "PaymentCaptured", "ref": ref, "amount": TOTAL},
        fact | {"fact": "PaymentCaptured", "ref": ref},
        fact | {"fact": "PaymentVoided", "code": "expired"},
    ]


def _refunds(no: int, ref: str, amount: int) -> list[Command]:
    fact: Command = {"op": "RecordRefund", "no": no, "ref": ref, "amount": amount}
    return [fact | {"fact": f} for f in ("RefundSubmitted", "RefundSettled", "RefundFailed")]


def _stock(service: str) -> list[Command]:
    fact = {"op": "RecordStock", "service": service}
    return [
        fact | {"fact": "StockReserved", "ref": "res_1"},
        fact | {"fact": "StockRejected", "reason": "out_of_stock"},
        fact | {"fact": "StockReleased"},
    ]


CANCELS: list[Command] = [
    {"op": "CancelOrder", "role": "customer", "reason": "customer_request"},
    {"op": "CancelOrder", "role": "admin", "reason": "fraud"},
    {"op": "CancelOrder", "role": "reconciler", "reason": "out_of_stock"},
]
EXPIRES: list[Command] = [{"op": "ExpireOrder"}, {"op": "ExpireOrder", "late": True}]
PAY: Command = {"op": "RequestPayment", "role": "customer", "amount": TOTAL}
FULFIL: list[Command] = [
    {"op": "StartFulfilment", "role": "admin"},
    {"op": "ShipOrder", "role": "admin", "carrier": "DHL", "tracking": "T1"},
    {"op": "ConfirmDelivery", "role": "admin"},
]
REFUNDS = _refunds(1, "re_1", 600) + _refunds(2, "re_2", 400)
BY_HAND = _refunds(0, "re_x", TOTAL)  # in the provider's dashboard
DEFINITE_NO: Command = {"op": "RecordRefund", "fact": "RefundFailed", "no": 1, "code": "account_closed"}
DISPUTES: list[Command] = [
    {"op": "RecordDispute", "fact": "DisputeOpened", "ref": "dp_1", "amount": TOTAL, "reason": "fraudulent", "due_by": 9},
    {"op": "RecordDispute", "fact": "DisputeOpened", "ref": "dp_1", "amount": TOTAL, "outcome": "won"},
    *({"op": "RecordDispute", "fact": "DisputeClosed", "ref": "dp_1", "outcome": o} for o in ("won", "lost", "withdrawn")),
]
SECOND_DISPUTE: list[Command] = [
    {"op": "RecordDispute", "fact": "DisputeOpened", "ref": "dp_2", "amount": 300},
    {"op": "RecordDispute", "fact": "DisputeClosed", "ref": "dp_2", "outcome": "lost"},
]
_FLAG: Command = {"code": "refund_failed", "key": "att:ord_1:refund:1"}
_RESOLVE: Command = {"op": "ResolveAttention", "role": "admin"} | _FLAG
ATTENTION: list[Command] = [
    {"op": "RaiseAttention"} | _FLAG,
    _RESOLVE | {"action": "retry"},
    _RESOLVE | {"action": "settled_elsewhere"},
]

_REQUESTS = [*CANCELS, *EXPIRES, PAY, *FULFIL, *ATTENTION[1:]]
WHOLE: list[Command] = [
    {"op": "PlaceOrder", "role": "customer"},
    *_REQUESTS,
    *(c | {"stale": True} for c in _REQUESTS),
    *(c | {"matching": True} for c in _REQUESTS),
    *(c | {"full": True} for c in _REQUESTS),
    {"op": "CancelOrder", "role": "customer", "reason": "other", "foreign": True},
    PAY | {"late": True},
    PAY | {"amount": TOTAL + 1},
    PAY | {"currency": "USD"},
    *_payments(1),
    *_payments(2),
    *(c | {"stale": True, "full": True} for c in _payments(1)),
    {"op": "RecordPayment", "fact": "PaymentPending", "attempt": 1},
    {"op": "RecordPayment", "fact": "PaymentDeclined", "attempt": 1},
    {"op": "RecordPayment", "fact": "PaymentAuthorised", "attempt": 1},
    {"op": "RecordPayment", "fact": "PaymentAuthorised", "attempt": 1, "ref": "pi_other"},
    {"op": "RecordPayment", "fact": "PaymentCaptured", "attempt": 1, "amount": TOTAL},
    {"op": "RecordPayment", "fact": "PaymentCaptured", "attempt": 9, "ref": "pi_9", "amount": TOTAL},
    {"op": "RecordPayment", "fact": "PaymentOpened", "attempt": 0, "ref": "pi_0"},
    *REFUNDS,
    *BY_HAND,
    DEFINITE_NO,
    {"op": "RecordRefund", "fact": "RefundSettled", "no": 1, "ref": "re_x"},  # known by its reference under another number
    {"op": "RecordRefund", "fact": "RefundSettled", "no": 1},
    *DISPUTES,
    *SECOND_DISPUTE,
    *_stock("product"),
    *_stock("merch"),
    {"op": "RecordStock", "service": "gifts", "fact": "StockReserved"},
    *ATTENTION[:1],
    {"op": "RaiseAttention", "code": "dispute", "key": "att:ord_1:dispute"},
    _RESOLVE | {"action": "settled_elsewhere", "amount": 300, "ticket": "T-1"},
    _RESOLVE | {"action": "retry", "code": "stuck"},
    _RESOLVE | {"action": "retry", "key": "att:ord_1:refund:2"},
    {"op": "RaiseAttention"} | _FLAG | {"key": "att:ord_1:refund:2"},
]


# ---- universes ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Universe:
    """Orders of one kind, and what happens to them. `head` is done first, so that the axis of interest has room.

    Alphabets are numbers into `KNOWN`: commands are dictionaries, which cannot be hashed.
    """

    name: str
    alphabet: tuple[int, ...]
    services: tuple[str, ...] = ("product",)
    total: int = TOTAL
    head: tuple[int, ...] = ()
    attempts: int = 1


class Reached(NamedTuple):
    """An order that stands for its class, and how it came about."""

    order: Order
    parent: Reached | None
    command: Command
    event: OrderEvent


KNOWN: list[Command] = []


def _words(commands: list[Command]) -> tuple[int, ...]:
    for c in commands:
        if c not in KNOWN:
            KNOWN.append(c)
    return tuple(KNOWN.index(c) for c in commands)


_P1, _P2, _SP, _SM = _payments(1), _payments(2), _stock("product"), _stock("merch")
_OPENED, _AUTHORISED, _CAPTURED, _VOIDED = _P1[0], _P1[6], _P1[9], _P1[11]
_SECOND = [_P2[0], _P2[2], _P2[6], _P2[8], _P2[9], _P2[11]]
_PAID = _words([PAY, _OPENED, _CAPTURED, _SP[0]])
_NAMELESS = _words([PAY, {"op": "RecordPayment", "fact": "PaymentCaptured", "attempt": 1, "amount": TOTAL}, _SP[0]])
_PART_PAID = _words([PAY, _OPENED, _P1[8], _SP[0]])

UNIVERSES = (
    Universe(
        "two services from cart to door",
        _words([*CANCELS, *EXPIRES, PAY, _OPENED, _AUTHORISED, _CAPTURED, _VOIDED, *_SP, *_SM, *FULFIL]),
        services=("product", "merch"),
    ),
    Universe("every turn of a payment attempt", _words([PAY, *_P1, CANCELS[0], EXPIRES[1], *_SP])),
    Universe(
        "a second payment attempt",
        _words([PAY, _OPENED, _AUTHORISED, _CAPTURED, _VOIDED, *_SECOND, CANCELS[0], EXPIRES[1], _SP[0]]),
        attempts=2,
    ),
    Universe(
        "money given back",
        _words([CANCELS[1], *REFUNDS, DEFINITE_NO, *ATTENTION]),
        head=_PAID,
    ),
    Universe(
        "money taken back in the dashboard and disputed",
        _words([CANCELS[1], *REFUNDS[:3], *BY_HAND, *DISPUTES]),
        head=_PAID,
    ),
    Universe(
        "part of the money captured",
        _words([CANCELS[1], _CAPTURED, *REFUNDS[:3], *DISPUTES[:3:2], *ATTENTION]),
        head=_PART_PAID,
    ),
    Universe("captured under a name that nobody told", _words([CANCELS[1], *_P1, *REFUNDS[:3], *_SP]), head=_NAMELESS),
    Universe("two disputes on the way to the door", _words([CANCELS[1], *FULFIL, *DISPUTES, *SECOND_DISPUTE, *_SP]), head=_PAID),
    Universe(
        "nothing to pay",
        _words([*CANCELS, *EXPIRES, PAY, *_SP, *_SM, *FULFIL, ATTENTION[0]]),
        services=("product", "merch"),
        total=0,
    ),
)

# From fewer states: the ports themselves lead to the others. For questions that go on from each state as far as it goes.
SMALL_UNIVERSES = (
    *UNIVERSES[:2],
    Universe("one refund given back", _words([CANCELS[1], *REFUNDS[:3], DEFINITE_NO, *ATTENTION]), head=_PAID),
    Universe("money taken back in the dashboard or disputed", _words([CANCELS[1], *BY_HAND, *DISPUTES]), head=_PAID),
    Universe(
        "part of the money captured and given back", _words([CANCELS[1], _CAPTURED, *REFUNDS[:3], *ATTENTION]), head=_PART_PAID
    ),
    Universe("part of the money captured and disputed", _words([CANCELS[1], _CAPTURED, *DISPUTES[:3:2]]), head=_PART_PAID),
    *UNIVERSES[6:],
)

# The same questions with more at once: minutes, for the campaign.
LARGE_UNIVERSES = (
    Universe(
        "refunds, disputes and attention at once",
        _words([CANCELS[1], *REFUNDS, *BY_HAND, *DISPUTES, *ATTENTION]),
        head=_PAID,
    ),
    Universe(
        "part of the money captured, and everything after",
        _words([CANCELS[1], _CAPTURED, *REFUNDS[:3], *BY_HAND[1:], *DISPUTES[:3], *ATTENTION]),
        head=_PART_PAID,
    ),
    Universe("every turn of two payment attempts", _words([PAY, *_P1, *_P2, CANCELS[0], EXPIRES[1], _SP[0]]), attempts=2),
    Universe(
        "two payment attempts and two services",
        _words([PAY, *_P1, *_SECOND, CANCELS[0], EXPIRES[1], *_SP, *_SM]),
        services=("product", "merch"),
        attempts=2,
    ),
)


def placed(universe: Universe) -> tuple[OrderCommand, OrderEvent]:
    """The command and event that open `universe`."""
    command = order_command({"op": "PlaceOrder", "role": "customer", "services": universe.services, "total": universe.total})
    event = decide(command, None, PLACED_AT)
    assert isinstance(event, OrderEvent)
    return command, event


@cache
def reach(universe: Universe) -> dict[State, Reached]:
    """Every class of `universe`, in the order of discovery."""
    _, event = placed(universe)
    first = Reached(evolve(None, event), None, {"op": "PlaceOrder"}, event)
    for number in universe.head:
        step = _step(first, KNOWN[number])
        assert step is not None, f"{universe.name}: {KNOWN[number]} is refused in its head"
        first = step[1]
    found = {state_of(first.order): first}
    queue = deque(found.values())
    while queue:
        reached = queue.popleft()
        for number in universe.alphabet:
            if (step := _step(reached, KNOWN[number])) is None:
                continue
            state, after = step
            if state not in found and len(state.attempts) <= universe.attempts:
                found[state] = after
                queue.append(after)
    return found


def _step(reached: Reached, c: Command) -> tuple[State, Reached] | None:
    event = decide(order_command(c), reached.order, at_ms(c))
    if not isinstance(event, OrderEvent):
        return None
    after = evolve(reached.order, event)
    return state_of(after), Reached(after, reached, c, event)


@cache
def reachable() -> dict[State, Reached]:
    """Every class of every universe."""
    return {state: reached for universe in UNIVERSES for state, reached in reach(universe).items()}


def history(reached: Reached) -> list[OrderEvent]:
    """The events that lead to it, first to last."""
    events: list[OrderEvent] = []
    at: Reached | None = reached
    while at is not None:
        events.append(at.event)
        at = at.parent
    return events[::-1]
