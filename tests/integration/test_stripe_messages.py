"""Messages of Stripe: which are genuine, and what happens after one."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest

from commands.reconciler.payment_port import InvalidSignature, NotForUs
from commands.reconciler.stripe_gateway import StripeGateway
from commands.reconciler.stripe_webhook import sign
from ledger import events as e
from tests.support.sandboxed import WEBHOOK_SECRET, RunningSandbox
from tests.support.stripe_door import opened, played

pytestmark = pytest.mark.usefixtures("calm")


def message(ref: str, **changes: Any) -> bytes:
    event = {
        "id": "evt_1",
        "object": "event",
        "type": "payment_intent.amount_capturable_updated",
        "livemode": False,
        "data": {"object": {"id": ref, "object": "payment_intent"}},
    }
    return json.dumps(event | changes).encode()


def test_a_genuine_message_is_followed_by_a_read(sandbox: RunningSandbox) -> None:
    async def play(door: StripeGateway) -> None:
        ref = (await opened(door, "ord_9"))["provider_ref"]
        body, now = message(ref), 1_900_000_000
        sighting = await door.read_webhook(body, sign(body, WEBHOOK_SECRET, now), now + 299)
        assert (sighting.order_id, [f.fact for f in sighting.facts]) == ("ord_9", [e.PAYMENT_OPENED])
        old_secret = sign(body, "whsec_old", now) + "," + sign(body, WEBHOOK_SECRET, now).split(",")[1]
        assert (await door.read_webhook(body, old_secret, now)).order_id == "ord_9"
        other = message(ref, type="customer.created")
        assert (await door.read_webhook(other, sign(other, WEBHOOK_SECRET, now), now)).facts == ()
        nobody = message("pi_of_nobody")
        assert (await door.read_webhook(nobody, sign(nobody, WEBHOOK_SECRET, now), now)).order_id == ""

    played(sandbox, play)


def test_a_thousand_forged_messages_are_all_refused_before_anything_is_read(sandbox: RunningSandbox) -> None:
    choice = random.Random(17)
    now = 1_900_000_000
    good = message("pi_1")
    signature = sign(good, WEBHOOK_SECRET, now)

    def forged(number: int) -> tuple[bytes, str, float]:
        """(body, signature, the time it is read)."""
        match number % 8:
            case 0:  # one byte of the body
                at = choice.randrange(len(good))
                return good[:at] + bytes([good[at] ^ choice.randint(1, 255)]) + good[at + 1 :], signature, now
            case 1:  # one digit of the signature
                at = signature.index("v1=") + 3 + choice.randrange(64)
                digit = choice.choice([d for d in "0123456789abcdef" if d != signature[at]])
                return good, signature[:at] + digit + signature[at + 1 :], now
            case 2:  # a time other than the signed one
                return good, signature.replace(str(now), str(now + choice.choice([-1, 1]) * choice.randint(1, 10_000))), now
            case 3:  # too old, or from the future
                return good, signature, now + choice.choice([-1, 1]) * choice.randint(301, 10**6)
            case 4:  # another secret
                return good, sign(good, f"whsec_{choice.random()}", now), now
            case 5:  # a message of the other mode, rightly signed
                body = message("pi_1", livemode=True)
                return body, sign(body, WEBHOOK_SECRET, now), now
            case 6:  # of another account, rightly signed
                body = message("pi_1", account=f"acct_{choice.randint(1, 10**9)}")
                return body, sign(body, WEBHOOK_SECRET, now), now
        broken = [
            "",
            "t=",
            f"t={now}",
            "v1=" + signature.split("v1=")[1],
            "t=x,v1=y",
            signature.replace("v1=", "v0="),
            "é=1",
            ",",
        ]
        return good, choice.choice(broken), now

    async def play(door: StripeGateway) -> None:
        for number in range(1_000):
            body, header, at = forged(number)
            with pytest.raises(NotForUs if number % 8 in (5, 6) else InvalidSignature):
                await door.read_webhook(body, header, at)

    before = len(sandbox.calls("payments"))
    played(sandbox, play, account="acct_ours")
    assert len(sandbox.calls("payments")) == before


def test_a_test_message_is_not_followed_with_a_live_key() -> None:
    async def play() -> None:
        door = StripeGateway("sk_live_canary", webhook_secrets=(WEBHOOK_SECRET,), api_base="http://127.0.0.1:1")
        body, now = message("pi_1"), 1_900_000_000
        with pytest.raises(NotForUs):
            await door.read_webhook(body, sign(body, WEBHOOK_SECRET, now), now)
        await door.close()

    asyncio.run(play())
