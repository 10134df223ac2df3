"""Objects that look like Stripe's but break its types: each is read as facts that can be reported, or as one error."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest

from commands.messages import RecordPayment, command_codec
from commands.reconciler.answers import Fact, command_of
from commands.reconciler.payment_port import InvalidSignature, NotForUs
from commands.reconciler.stripe_facts import Intent, StripeDispute, StripeRefund, facts_of, hint_in, payment_in, read, state_of
from commands.reconciler.stripe_webhook import read_event, sign
from tests.support.stripe_objects import CHARGE, DISPUTE, INTENT, NOW, REFUND, SECRET, mutated

KINDS: list[tuple[dict[str, Any], type[Any]]] = [(INTENT, Intent), (REFUND, StripeRefund), (DISPUTE, StripeDispute)]


def reported(facts: tuple[Fact, ...]) -> None:
    """Each fact fits a command that can be encoded and decoded."""
    for fact in facts:
        command = command_of(fact, "ord_1", "cmd_1", "stripe")
        assert command_codec().decode(command_codec().encode(command)) == command


def whole(kind: type[Any], thing: dict[str, Any]) -> Any:
    """`thing` as `kind`; None when it is not."""
    try:
        return read(thing, kind)
    except msgspec.ValidationError:
        return None


def test_twenty_thousand_mutated_objects_are_facts_or_invalid() -> None:
    chance, taken = random.Random(5), 0
    intent, refund, dispute = (read(thing, kind) for thing, kind in KINDS)
    for _ in range(20_000):
        thing, kind = chance.choice(KINDS)
        read_object = whole(kind, mutated(thing, chance))
        if read_object is None:
            continue
        taken += 1
        if kind is Intent:
            reported(facts_of(read_object, [refund], [dispute]))
        else:
            reported(
                facts_of(
                    intent, [read_object] if kind is StripeRefund else [refund], [read_object] if kind is StripeDispute else []
                )
            )
    assert taken > 4_000


def test_fields_that_stripes_own_types_call_nullable_stop_no_read() -> None:
    bare = {"id": "re_9", "status": None, "amount": 2200, "payment_intent": {"id": "pi_1"}, "metadata": None}
    refund = read(bare, StripeRefund)
    assert payment_in(bare) == payment_in(bare | {"payment_intent": "pi_1", "amount": "x"}) == "pi_1"
    assert payment_in(bare | {"payment_intent": None}) is payment_in(bare | {"payment_intent": 7}) is payment_in({}) is None
    intent = read(INTENT | {"metadata": {"order": "ord_1", "attempt": "1"}, "latest_charge": None}, Intent)
    assert [type(f).__name__ for f in facts_of(intent, [refund])] == ["RecordPayment", "RecordRefund"]
    assert facts_of(read(INTENT | {"metadata": None}, Intent)) == ()


@pytest.mark.parametrize("status", ["requires_payment_method", "requires_confirmation"])
@pytest.mark.parametrize("kind", ["card_error", "api_error", "invalid_request_error", "idempotency_error", "a_new_one", None])
def test_only_an_error_of_the_card_is_a_decline(kind: str | None, status: str) -> None:
    """Any other is a fault of the provider or of a request; the payment is open as before."""
    error = INTENT["last_payment_error"] | {"type": kind}
    about = INTENT | {"status": status, "latest_charge": None, "last_payment_error": error}
    declined = kind == "card_error"
    expected = ["PaymentDeclined"] if declined else ["PaymentOpened"]
    intent = read(about, Intent)
    assert [fact.fact for fact in facts_of(intent)] == expected
    assert state_of(intent) == ("declined" if declined else "open")
    hint = hint_in(msgspec.Raw(json.dumps(about).encode()))
    assert hint is not None
    assert [fact.fact for fact in hint.facts] == expected
    if declined:
        (fact,) = facts_of(intent)
        assert isinstance(fact, RecordPayment)
        assert (fact.code, fact.charge_ref) == ("do_not_honor", "ch_1")


def test_a_failed_3d_secure_is_a_decline_although_its_type_is_that_of_a_request() -> None:
    error = {"type": "invalid_request_error", "code": "payment_intent_authentication_failure", "message": "failed"}
    intent = read(INTENT | {"status": "requires_payment_method", "latest_charge": None, "last_payment_error": error}, Intent)
    (fact,) = facts_of(intent)
    assert isinstance(fact, RecordPayment)
    assert (fact.fact, fact.code) == ("PaymentDeclined", "payment_intent_authentication_failure")


def test_twenty_thousand_signed_messages_are_events_or_not_for_us() -> None:
    chance, taken = random.Random(6), 0
    for number in range(20_000):
        thing = chance.choice([CHARGE, INTENT, REFUND, DISPUTE])
        kind = chance.choice(["payment_intent.succeeded", "charge.refunded", "refund.updated", "a.new.kind"])
        event = {"id": "evt_1", "object": "event", "type": kind, "livemode": False, "data": {"object": mutated(thing, chance)}}
        body = json.dumps(event if number % 3 else mutated(event, chance)).encode()
        try:
            event_read = read_event(body, sign(body, SECRET, NOW), (SECRET,), NOW, False, None)
        except NotForUs:
            continue
        taken += 1
        assert event_read.payment_ref is None or isinstance(event_read.payment_ref, str)
        if (hint := hint_in(event_read.data.object)) is not None:
            reported(hint.facts)
    assert taken > 10_000


@pytest.mark.parametrize(("kind", "thing"), [(Intent, INTENT), (StripeRefund, REFUND), (StripeDispute, DISPUTE)])
def test_an_object_without_a_name_is_invalid(kind: type[Any], thing: dict[str, Any]) -> None:
    assert whole(kind, thing) is not None
    assert whole(kind, thing | {"id": ""}) is None


def test_a_message_about_a_payment_without_a_name_is_not_followed() -> None:
    for about in ({"object": "payment_intent", "id": ""}, {"object": "refund", "payment_intent": ""}):
        body = json.dumps({"id": "evt_1", "type": "refund.updated", "livemode": False, "data": {"object": about}}).encode()
        assert read_event(body, sign(body, SECRET, NOW), (SECRET,), NOW, False, None).payment_ref is None


NO_EVENTS = {"bytes": b"\xff", "deep": b"[" * 100_000, "empty": b"{}", "null": b"null", "number": b'{"id":1}'}


@pytest.mark.parametrize("body", NO_EVENTS.values(), ids=NO_EVENTS)
def test_a_signed_message_that_is_no_event_is_not_for_us_and_an_unsigned_one_is_forged(body: bytes) -> None:
    with pytest.raises(NotForUs):
        read_event(body, sign(body, SECRET, NOW), (SECRET,), NOW, False, None)
    with pytest.raises(InvalidSignature):
        read_event(body, sign(body, "whsec_other", NOW), (SECRET,), NOW, False, None)
