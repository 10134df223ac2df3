"""Performs one obligation: which call it needs, and which facts its answer contains.

read before act    capture and refund always read first: one more call, but no second effect after a lost answer.
                   A payment is created again under the same key, which is the same payment; when the provider may have
                   forgotten the key, it is searched for first
facts, not calls   facts about the order are reported; known facts are dropped here, using `decide` itself, so that a read
                   without news leaves no record
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from msgspec import Struct
from msgspec.structs import replace

from commands.decide import decide
from commands.decisions import Refusal
from commands.idempotency import fresh_command_id
from commands.messages import CancelOrder, OrderCommand, RaiseAttention, RecordPayment, RecordRefund
from commands.obligations import (
    STUCK,
    AttentionArgs,
    Kind,
    Obligation,
    PartArgs,
    PaymentArgs,
    RefundArgs,
    StockArgs,
    attention_key,
)
from commands.reconciler.answers import Answer, Done, Fact, No, Unknown, command_of
from commands.reconciler.payment_port import KEY_REUSED, PaymentProvider
from commands.reconciler.stock_port import StockService
from ledger import events
from ledger.durations import HOUR_MS
from ledger.events import OrderEvent
from ledger.evolve import evolve
from ledger.order import NEVER_OPENED, Order, attempt_no
from ledger.transitions import REQUESTED, Code, Operation

RECONCILER = "reconciler"
KEY_FORGOTTEN_MS = 20 * HOUR_MS  # providers keep idempotency keys for about a day (ARCHITECTURE, What an order owes)


@dataclass(frozen=True)
class Ports:
    """The external services. `stock` is by service name, as in the lines of an order."""

    payments: PaymentProvider
    stock: Mapping[str, StockService]

    def name_of(self, obligation: Obligation) -> str:
        """The port of an obligation; the ledger's own commands have none."""
        match obligation.args:
            case StockArgs(service=service) | PartArgs(service=service):
                return service
            case PaymentArgs() | RefundArgs():
                return self.payments.name
        return RECONCILER


class CallReport(Struct, frozen=True):
    """Commands to send, in this order.

    `failed`: the result is unknown, retry (the text is for the log), after `after_s` if the other side requests that.
    `reachable`: a read before the failure succeeded. `answered`: the other side gave a valid answer, even if it was a no.
    """

    commands: tuple[OrderCommand, ...] = ()
    failed: str | None = None
    after_s: float = 0.0
    reachable: bool = False
    answered: bool = True


async def perform(obligation: Obligation, order: Order, ports: Ports, now_ms: int) -> CallReport:
    """Perform the obligation. Raises only for bugs here."""
    own = _own_command(obligation, order)
    if own is not None:
        return CallReport(_news([own], order, now_ms))
    answer = await _CALLS[obligation.kind](obligation, order, ports, now_ms)
    match answer:
        case Unknown(why, after_s, reachable):
            return CallReport(failed=why, after_s=after_s, reachable=reachable, answered=reachable)
        case No(code):
            return CallReport(failed=f"refused: {code}")
    return CallReport(report_of(answer.facts, order, _actor(obligation, ports), now_ms))


def report_of(facts: Sequence[Fact], order: Order, actor: str, now_ms: int) -> tuple[OrderCommand, ...]:
    """Commands for those of `facts` that are new to `order`, each checked after the ones before it."""
    return _news([command_of(fact, order.order_id, fresh_command_id(), actor) for fact in facts], order, now_ms)


def all_known(facts: Sequence[Fact], order: Order, actor: str, now_ms: int) -> bool:
    """Whether `order` knows all of `facts`. A fact about an attempt that the order does not have is not known."""
    decisions = [decide(command_of(fact, order.order_id, fresh_command_id(), actor), order, now_ms) for fact in facts]
    return all(isinstance(d, Refusal) and d.code is Code.ALREADY_KNOWN for d in decisions)


def stuck(obligation: Obligation, order: Order, now_ms: int) -> tuple[OrderCommand, ...]:
    """Raise `STUCK`, because the obligation cannot be met. Empty if the flag is already open."""
    flag = RaiseAttention(STUCK, attention_key(order, obligation.key))
    return _news([_command(Operation.RAISE_ATTENTION, order, raise_attention=flag)], order, now_ms)


def _news(commands: Sequence[OrderCommand], order: Order, now_ms: int) -> tuple[OrderCommand, ...]:
    fresh = []
    for command in commands:
        event = decide(command, order, now_ms)
        if isinstance(event, OrderEvent):
            fresh.append(command)
            order = evolve(order, event)
    return tuple(fresh)


def _actor(obligation: Obligation, ports: Ports) -> str:
    name = ports.name_of(obligation)
    return f"{name}-service" if isinstance(obligation.args, StockArgs | PartArgs) else name


def _command(operation: Operation, order: Order, **payload: object) -> OrderCommand:
    return OrderCommand(
        command_id=fresh_command_id(),
        order_id=order.order_id,
        fingerprint=bytes(16),
        operation=operation,
        actor=RECONCILER,
        **payload,  # type: ignore[arg-type]  # one payload, named as its operation needs it
    )


def _own_command(obligation: Obligation, order: Order) -> OrderCommand | None:
    match obligation.kind:
        case Kind.CANCEL:
            return _command(Operation.CANCEL_ORDER, order, cancel=CancelOrder("out_of_stock"))
        case Kind.EXPIRE:
            return _command(Operation.EXPIRE_ORDER, order)
        case Kind.CALL_PERSON:
            assert isinstance(obligation.args, AttentionArgs)
            flag = RaiseAttention(obligation.args.code, obligation.key)
            return _command(Operation.RAISE_ATTENTION, order, raise_attention=flag)
    return None


# ---- the calls ------------------------------------------------------------------------------------------------------


async def _reserve(obligation: Obligation, order: Order, ports: Ports, now_ms: int) -> Answer:
    args = _stock(obligation)
    return await ports.stock[args.service].reserve(order.order_id, order.currency, args.lines, obligation.key)


async def _release(obligation: Obligation, order: Order, ports: Ports, now_ms: int) -> Answer:
    return await ports.stock[_stock(obligation).service].release(order.order_id, obligation.key)


async def _release_part(obligation: Obligation, order: Order, ports: Ports, now_ms: int) -> Answer:
    args = obligation.args
    assert isinstance(args, PartArgs)
    return await ports.stock[args.service].release_part(order.order_id, args.lines, args.part, obligation.key)


async def _create(obligation: Obligation, order: Order, ports: Ports, now_ms: int) -> Answer:
    args, pay = _payment(obligation), ports.payments
    if now_ms - args.since > KEY_FORGOTTEN_MS:
        existing = await pay.find(order.order_id, args.attempt, order.placed_at)
        if not isinstance(existing, No):
            return existing
    answer = await pay.create(order.order_id, args.attempt, args.amount_minor, order.currency, obligation.key)
    if isinstance(answer, No):
        return Done((RecordPayment(events.PAYMENT_VOIDED, args.attempt, code=answer.code),))
    return _after_a_read(answer) if now_ms - args.since > KEY_FORGOTTEN_MS else answer


async def _read_payment(obligation: Obligation, order: Order, ports: Ports, now_ms: int) -> Answer:
    args = _payment(obligation)
    if args.provider_ref is None:
        # A webhook reported the attempt without its reference: only a search can find it. The payment is older than that fact.
        return await ports.payments.find(order.order_id, args.attempt, order.placed_at)
    return await ports.payments.fetch(args.provider_ref)


async def _capture(obligation: Obligation, order: Order, ports: Ports, now_ms: int) -> Answer:
    args = _payment(obligation)
    current = await _read_payment(obligation, order, ports, now_ms)
    if not isinstance(current, Done) or args.provider_ref is None:
        return current
    if any(f.fact in _SETTLES_CAPTURE for f in current.facts if isinstance(f, RecordPayment) and f.attempt == args.attempt):
        return current
    answer = await ports.payments.capture(args.provider_ref, args.amount_minor, order.currency, obligation.key)
    return _after_a_read(await _or_read(answer, args.provider_ref, order, ports))


_SETTLES_CAPTURE = frozenset({events.PAYMENT_CAPTURED, events.PAYMENT_VOIDED})


async def _void(obligation: Obligation, order: Order, ports: Ports, now_ms: int) -> Answer:
    args = _payment(obligation)
    if args.provider_ref is None:
        attempt = attempt_no(order, args.attempt)
        if attempt is not None and attempt.state != REQUESTED:  # the provider reported it, so it exists
            return await _read_payment(obligation, order, ports, now_ms)
        # The secret of this attempt was never handed out, so nobody can pay it.
        return Done((RecordPayment(events.PAYMENT_VOIDED, args.attempt, code=NEVER_OPENED),))
    answer = await ports.payments.cancel(args.provider_ref, obligation.key)
    return await _or_read(answer, args.provider_ref, order, ports)


def _after_a_read(answer: Answer) -> Answer:
    return replace(answer, reachable=True) if isinstance(answer, Unknown) else answer


async def _or_read(answer: Answer, provider_ref: str, order: Order, ports: Ports) -> Answer:
    """After a definite no, read the payment: the reason is a fact that the order does not know yet."""
    if not isinstance(answer, No):
        return answer
    current = await ports.payments.fetch(provider_ref)
    if isinstance(current, Done) and report_of(current.facts, order, ports.payments.name, order.updated_at):
        return current
    return current if isinstance(current, Unknown) else answer


async def _refund(obligation: Obligation, order: Order, ports: Ports, now_ms: int) -> Answer:
    args, pay = _refund_args(obligation), ports.payments
    existing = await pay.find_refund(args.provider_ref, args.refund_no)
    if not isinstance(existing, No):
        return existing
    answer = await pay.refund(
        args.provider_ref, order.order_id, args.refund_no, args.amount_minor, order.currency, obligation.key
    )
    if isinstance(answer, No):
        return await _number_used_up(args, answer, ports)
    return _after_a_read(answer)


async def _number_used_up(args: RefundArgs, answer: No, ports: Ports) -> Answer:
    """After a definite no: the refund of this number failed. The provider keeps that answer under the key, for any later amount.

    The reason may be a fact that the order does not know yet, such as a refund in the dashboard, and the next number is for what
    is left after it. So facts come first: until the number is used up, the obligation has its key, which is not called again.
    """
    current = await ports.payments.fetch(args.provider_ref)
    facts = current.facts if isinstance(current, Done) else ()
    if any(isinstance(fact, RecordRefund) and fact.refund_no == args.refund_no for fact in facts):
        return Done(facts)  # there is such a refund: the search was behind
    if answer.code == KEY_REUSED and not isinstance(current, Done):
        return _after_a_read(current) if isinstance(current, Unknown) else Unknown(answer.code, reachable=True)
    failed = RecordRefund(events.REFUND_FAILED, args.refund_no, amount_minor=args.amount_minor, code=answer.code)
    return Done((*facts, failed))


async def _read_refund(obligation: Obligation, order: Order, ports: Ports, now_ms: int) -> Answer:
    return await ports.payments.fetch_refund(_refund_args(obligation).provider_ref)


Call = Callable[[Obligation, Order, Ports, int], Awaitable[Answer]]

_CALLS: dict[Kind, Call] = {
    Kind.RESERVE: _reserve,
    Kind.RELEASE: _release,
    Kind.RELEASE_PART: _release_part,
    Kind.CREATE_PAYMENT: _create,
    Kind.LOOK_AT_PAYMENT: _read_payment,
    Kind.CAPTURE: _capture,
    Kind.VOID: _void,
    Kind.REFUND: _refund,
    Kind.LOOK_AT_REFUND: _read_refund,
    Kind.LOOK_AT_DISPUTE: _read_payment,
}


def _stock(obligation: Obligation) -> StockArgs:
    assert isinstance(obligation.args, StockArgs)
    return obligation.args


def _payment(obligation: Obligation) -> PaymentArgs:
    assert isinstance(obligation.args, PaymentArgs)
    return obligation.args


def _refund_args(obligation: Obligation) -> RefundArgs:
    assert isinstance(obligation.args, RefundArgs)
    return obligation.args
