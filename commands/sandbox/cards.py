"""Stripe's published test cards, as far as the sandbox plays them (Stripe, "Test card numbers"). Any other number is refused."""

from __future__ import annotations

from msgspec import Struct


class TestCard(Struct, frozen=True):
    """What becomes of a payment with this card. `refund`: `settles`, `fails_later` after it was settled, or `pends` first."""

    __test__ = False  # no class of tests, whatever its name begins with

    name: str
    decline_code: str | None = None  # refused when it is confirmed, or after 3-D Secure when that is asked for
    code: str = "card_declined"
    authenticate: bool = False  # 3-D Secure
    refund: str = "settles"
    disputed: bool = False  # as soon as it is captured


CARDS: dict[str, TestCard] = {
    "4242424242424242": TestCard("visa"),
    "5555555555554444": TestCard("mastercard"),
    "4000000000000002": TestCard("chargeDeclined", "generic_decline"),
    "4000000000009995": TestCard("chargeDeclinedInsufficientFunds", "insufficient_funds"),
    "4000000000009987": TestCard("chargeDeclinedLostCard", "lost_card"),
    "4000000000009979": TestCard("chargeDeclinedStolenCard", "stolen_card"),
    "4000000000000069": TestCard("chargeDeclinedExpiredCard", "expired_card", code="expired_card"),
    "4000000000000127": TestCard("chargeDeclinedIncorrectCvc", "incorrect_cvc", code="incorrect_cvc"),
    "4000000000000119": TestCard("chargeDeclinedProcessingError", "processing_error", code="processing_error"),
    "4000002760003184": TestCard("authenticationRequired", authenticate=True),
    "4000002500003155": TestCard("authenticationRequiredOnSetup", authenticate=True),
    "4000008260003178": TestCard("authenticationRequiredInsufficientFunds", "insufficient_funds", authenticate=True),
    "4000000000000259": TestCard("createDispute", disputed=True),
    "4000000000005126": TestCard("refundFail", refund="fails_later"),
    "4000000000007726": TestCard("pendingRefund", refund="pends"),
}
BY_METHOD = {f"pm_card_{card.name}": number for number, card in CARDS.items()}
