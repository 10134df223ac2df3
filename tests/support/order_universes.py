"""Universes of orders: of one kind each, with what happens to them. See `order_space`, which reaches their states."""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.order_commands import (
    ATTENTION,
    BY_HAND,
    CANCELS,
    DEFINITE_NO,
    DISPUTES,
    EXPIRES,
    FULFIL,
    IMPORT,
    M1,
    P1,
    P2,
    PAY,
    PAY_LESS,
    REFUNDS,
    SECOND_DISPUTE,
    TOTAL,
    arrived,
    ask_back,
    cut,
    notes,
    parcel,
    part_back,
    payments_of,
    stock_of,
)
from tests.support.order_model import Command


@dataclass(frozen=True)
class Universe:
    """Orders of one kind, and what happens to them. `head` comes first, so that the axis of interest has room.

    `occasions`: how many times money may come to be owed back while the order is open; its history would not end otherwise.
    `at_once`: where everything that ports can say is followed to its end, refunds succeed or fail and are not on their way first;
    several of them would have too many ways there. Alphabets are numbers into `KNOWN`: commands are dictionaries, which cannot be
    hashed.
    """

    name: str
    alphabet: tuple[int, ...]
    services: tuple[str, ...] = ("product",)
    total: int = TOTAL
    head: tuple[int, ...] = ()
    attempts: int = 1
    cart: str = ""
    occasions: int = 3
    at_once: bool = False
    old: tuple[str, int] | None = None  # of an older service: its status there, and what that refunded

    @property
    def opening(self) -> Command:
        """The command that places the order."""
        if self.old is not None:
            return IMPORT | {"cart": self.cart, "status": self.old[0], "refunded": self.old[1]}
        return {"op": "PlaceOrder", "role": "customer", "services": self.services, "total": self.total, "cart": self.cart}


KNOWN: list[Command] = []


def _words(*groups: list[Command]) -> tuple[int, ...]:
    commands = [c for group in groups for c in group]
    KNOWN.extend(c for n, c in enumerate(commands) if c not in KNOWN and c not in commands[:n])
    return tuple(KNOWN.index(c) for c in commands)


_P1, _P2, _SP, _SM = payments_of(1), payments_of(2), stock_of("product"), stock_of("merch")
_OPENED, _AUTHORISED, _CAPTURED, _VOIDED = _P1[0], _P1[6], _P1[9], _P1[11]
_SECOND = [_P2[0], _P2[2], _P2[6], _P2[8], _P2[9], _P2[11]]
_PAID = _words([PAY, _OPENED, _CAPTURED, _SP[0]])
_NAMELESS = _words([PAY, {"op": "RecordPayment", "fact": "PaymentCaptured", "attempt": 1, "amount": TOTAL}, _SP[0]])
_PART_PAID = _words([PAY, _OPENED, _P1[8], _SP[0]])

PAYMENT_UNIVERSES = (
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
    Universe("captured under an unknown name", _words([CANCELS[1], *_P1, *REFUNDS[:3], *_SP]), head=_NAMELESS),
    Universe("two disputes on the way to the door", _words([CANCELS[1], *FULFIL, *DISPUTES, *SECOND_DISPUTE, *_SP]), head=_PAID),
    Universe(
        "nothing to pay",
        _words([*CANCELS, *EXPIRES, PAY, *_SP, *_SM, *FULFIL, ATTENTION[0]]),
        services=("product", "merch"),
        total=0,
    ),
)

_TWO = "two and one"
_PAID_TWO = _words([PAY, _OPENED, _CAPTURED, _SP[0], _SM[0]])
_PART_PAID_TWO = _words([PAY, _OPENED, _P1[8], _SP[0], _SM[0]])
_CAPTURED_LESS: Command = {"op": "RecordPayment", "attempt": 1, "fact": "PaymentCaptured", "ref": "pi_1", "amount": 918}
_GOODWILL = ask_back(amount=600)

# What the desk does, on an order of two units and one.
DESK_UNIVERSES = (
    Universe(
        "parcels and cancelled lines of a paid order",
        _words(
            [CANCELS[1], *FULFIL, cut(P1), cut(M1), parcel(P1), parcel(M1), arrived(1), arrived(2), arrived(3)],
            [part_back("product", 1), part_back("product", 2), part_back("merch", 1), _SP[2], _SM[2]],
        ),
        head=_PAID_TWO,
        cart=_TWO,
        at_once=True,
    ),
    Universe(
        "lines cancelled before and while it is paid",
        _words(
            [cut(P1), cut(M1), PAY, *PAY_LESS[:2], _AUTHORISED, _CAPTURED_LESS, _CAPTURED, _VOIDED],
            [_SM[0], part_back("product", 1), CANCELS[0]],
        ),
        head=_words([_SP[0]]),
        cart=_TWO,
        at_once=True,
    ),
    Universe(
        "two refunds asked for",
        _words([_GOODWILL, ask_back(P1), *REFUNDS[:3], REFUNDS[4], CANCELS[1]]),
        head=_PAID_TWO,
        cart=_TWO,
        at_once=True,
        occasions=2,
    ),
    Universe(
        "a refund asked for, made in the dashboard, and disputed",
        _words([_GOODWILL, *REFUNDS[:3], *BY_HAND[1:], *DISPUTES[:4:3], CANCELS[1]]),
        head=_PAID_TWO,
        cart=_TWO,
        at_once=True,
        occasions=1,
    ),
    Universe(
        "a refund asked for that fails",
        _words([_GOODWILL, *REFUNDS[:3], DEFINITE_NO, *ATTENTION, CANCELS[1]]),
        head=_PAID_TWO,
        cart=_TWO,
        at_once=True,
        occasions=1,
    ),
    Universe(
        "units refunded, cancelled and back in stock",
        _words(
            [ask_back(P1), ask_back(P1, restock=True), ask_back(M1, shipping=True), cut(P1), cut(M1, shipping=True)],
            [parcel(P1), part_back("product", 1), *REFUNDS[:2]],
        ),
        head=_PAID_TWO,
        cart=_TWO,
        at_once=True,
        occasions=2,
    ),
    Universe(
        "units refunded for less than they cost, and cancelled",
        _words(
            [ask_back(P1, amount=50), ask_back(P2, amount=1), ask_back(M1, P1, amount=301, shipping=True)],
            [cut(P1), cut(M1), cut(P1, shipping=True), CANCELS[1], notes(till="7"), notes(till=None)],
        ),
        head=_PAID_TWO,
        cart=_TWO,
        occasions=4,
    ),
    Universe(
        "units refunded and cancelled before all is paid",
        _words([ask_back(P1), ask_back(P1, amount=50), cut(P1), cut(P1, shipping=True), _CAPTURED_LESS, _CAPTURED]),
        head=_PART_PAID_TWO,
        cart=_TWO,
        occasions=4,
    ),
    Universe(
        "notes on an order",
        _words([notes(till="7"), notes(till=None, shelf="b"), notes(shelf=None), PAY, _OPENED, _CAPTURED, _SP[0], CANCELS[1]]),
    ),
)

# Fewer states, because the ports themselves lead to the others: for tests that continue from each state to its end.
SMALL_PAYMENT_UNIVERSES = (
    *PAYMENT_UNIVERSES[:2],
    Universe("one refund given back", _words([CANCELS[1], *REFUNDS[:3], DEFINITE_NO, *ATTENTION]), head=_PAID),
    Universe("money taken back in the dashboard or disputed", _words([CANCELS[1], *BY_HAND, *DISPUTES]), head=_PAID),
    Universe(
        "part of the money captured and given back", _words([CANCELS[1], _CAPTURED, *REFUNDS[:3], *ATTENTION]), head=_PART_PAID
    ),
    Universe("part of the money captured and disputed", _words([CANCELS[1], _CAPTURED, *DISPUTES[:3:2]]), head=_PART_PAID),
    *PAYMENT_UNIVERSES[6:],
)

SMALL_DESK_UNIVERSES = (
    Universe(
        "parcels and cancelled lines",
        _words([cut(P1), cut(M1), parcel(P1), FULFIL[1], arrived(1), CANCELS[1]]),
        head=_PAID_TWO,
        cart=_TWO,
        at_once=True,
    ),
    Universe(
        "lines cancelled while it is paid",
        _words([cut(P1), _AUTHORISED, _CAPTURED, CANCELS[0]]),
        head=_words([PAY, _OPENED, _SP[0], _SM[0]]),
        cart=_TWO,
        at_once=True,
    ),
    Universe("a refund asked for, and on its way", _words([_GOODWILL]), head=_PAID_TWO, cart=_TWO, occasions=1),
    Universe(
        "two refunds asked for, and cancelled",
        _words([_GOODWILL, ask_back(P1), CANCELS[1]]),
        head=_PAID_TWO,
        cart=_TWO,
        occasions=2,
        at_once=True,
    ),
    Universe(
        "a refund asked for, and disputed",
        _words([_GOODWILL, DISPUTES[0], DISPUTES[3], CANCELS[1]]),
        head=_PAID_TWO,
        cart=_TWO,
        occasions=1,
        at_once=True,
    ),
    Universe(
        "units refunded and cancelled",
        _words([ask_back(P1), ask_back(P1, restock=True), cut(P1), parcel(P1)]),
        head=_PAID_TWO,
        cart=_TWO,
        occasions=2,
        at_once=True,
    ),
)

# The same questions with more events together: minutes, for the campaign.
LARGE_PAYMENT_UNIVERSES = (
    Universe(
        "refunds, disputes and attention together",
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

_TWO_READY = _words([_SP[0], _SM[0]])
LARGE_DESK_UNIVERSES = (
    Universe(
        "parcels, cancelled lines and their refunds",
        _words(
            [*CANCELS[:2], *FULFIL, cut(P1), cut(P1, role="customer"), cut(M1), cut(M1, shipping=True), parcel(P1), parcel(M1)],
            [arrived(1), arrived(2), arrived(3), part_back("product", 1), part_back("product", 2), part_back("merch", 1)],
            [_SP[2], _SM[2]],
        ),
        head=_PAID_TWO,
        cart=_TWO,
    ),
    Universe(
        "lines cancelled in every turn of a payment",
        _words(
            [cut(P1), cut(M1), cut(P1, shipping=True), PAY, *PAY_LESS, *_P1, _CAPTURED_LESS, CANCELS[0], EXPIRES[1]],
            [part_back("product", 1)],
        ),
        head=_TWO_READY,
        cart=_TWO,
    ),
    Universe(
        "lines cancelled while stock is reserved",
        _words(
            [cut(P1), cut(M1), PAY, *PAY_LESS[:2], _OPENED, _AUTHORISED, _CAPTURED, *_SP, *_SM, part_back("product", 1)],
            [CANCELS[0], EXPIRES[1]],
        ),
        services=("product", "merch"),
        cart=_TWO,
    ),
    Universe(
        "refunds asked for, by hand, disputed and failed",
        _words([_GOODWILL, ask_back(P1), *REFUNDS, *BY_HAND[1:], *DISPUTES[:3], DISPUTES[3], CANCELS[1], *ATTENTION[1:]]),
        head=_PAID_TWO,
        cart=_TWO,
        occasions=2,
    ),
    Universe(
        "units refunded, cancelled, shipped and back in stock",
        _words(
            [ask_back(P1), ask_back(P1, restock=True), ask_back(M1, shipping=True), cut(P1), cut(M1), cut(M1, shipping=True)],
            [parcel(P1), parcel(M1), part_back("product", 1), part_back("product", 2), *REFUNDS[:2], CANCELS[1]],
        ),
        head=_PAID_TWO,
        cart=_TWO,
        occasions=3,
    ),
)

# Of an older service: they owe nothing.
_DOOR = [*FULFIL, cut(P1), ask_back(P1), parcel(P1), arrived(1), CANCELS[1], *DISPUTES[:4:3], notes(till="7")]
IMPORTED_UNIVERSES = (
    Universe("imported and paid", _words(_DOOR, BY_HAND[1:2]), cart=_TWO, old=("paid", 0)),
    Universe("imported and refunded", _words(_DOOR, BY_HAND[1:2]), cart=_TWO, old=("processing", TOTAL)),
    Universe("imported and shipped", _words(_DOOR, BY_HAND), cart=_TWO, old=("shipped", 400)),
)

OWING_UNIVERSES = (*PAYMENT_UNIVERSES, *DESK_UNIVERSES)
UNIVERSES = (*OWING_UNIVERSES, *IMPORTED_UNIVERSES)
# From these every move of the shown status is reached; two others are only about payment attempts.
MOVING_UNIVERSES = (*PAYMENT_UNIVERSES[:1], *PAYMENT_UNIVERSES[3:], *DESK_UNIVERSES[:2], *IMPORTED_UNIVERSES)
SMALL_UNIVERSES = (*SMALL_PAYMENT_UNIVERSES, *SMALL_DESK_UNIVERSES)
LARGE_UNIVERSES = (*LARGE_PAYMENT_UNIVERSES, *LARGE_DESK_UNIVERSES)
