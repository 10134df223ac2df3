"""The test cards published by Stripe that the sandbox supports (Stripe, "Test card numbers"). Any other number is refused."""

from __future__ import annotations

from msgspec import Struct


class TestCard(Struct, frozen=True):
    """The course of a payment with this card. `refund`: `settles`, `fails_later` after it has settled, or `pends` first."""

    __test__ = False  # not a test class, despite its name

    name: str
    decline_code: str | None = None  # declined at confirmation, or after 3-D Secure if required
    code: str = "card_declined"
    authenticate: bool = False  # 3-D Secure
    refund: str = "settles"
    disputed: bool = False  # as soon as it is captured


# The cards used by the demo and the tests.
VISA, DECLINED, NO_FUNDS = "4242424242424242", "4000000000000002", "4000000000009995"
THREE_D_SECURE, DISPUTED = "4000002760003184", "4000000000000259"
REFUND_FAILS, REFUND_PENDS = "4000000000005126", "4000000000007726"

CARDS: dict[str, TestCard] = {
    VISA: TestCard("visa"),
    "5555555555554444": TestCard("mastercard"),
    DECLINED: TestCard("chargeDeclined", "generic_decline"),
    NO_FUNDS: TestCard("chargeDeclinedInsufficientFunds", "insufficient_funds"),
    "4000000000009987": TestCard("chargeDeclinedLostCard", "lost_card"),
    "4000000000009979": TestCard("chargeDeclinedStolenCard", "stolen_card"),
    "4000000000000069": TestCard("chargeDeclinedExpiredCard", "expired_card", code="expired_card"),
    "4000000000000127": TestCard("chargeDeclinedIncorrectCvc", "incorrect_cvc", code="incorrect_cvc"),
    "4000000000000119": TestCard("chargeDeclinedProcessingError", "processing_error", code="processing_error"),
    THREE_D_SECURE: TestCard("authenticationRequired", authenticate=True),
    "4000002500003155": TestCard("authenticationRequiredOnSetup", authenticate=True),
    "4000008260003178": TestCard("authenticationRequiredInsufficientFunds", "insufficient_funds", authenticate=True),
    DISPUTED: TestCard("createDispute", disputed=True),
    REFUND_FAILS: TestCard("refundFail", refund="fails_later"),
    REFUND_PENDS: TestCard("pendingRefund", refund="pends"),
}
BY_METHOD = {f"pm_card_{card.name}": number for number, card in CARDS.items()}


def confirm_form(client_secret: str, number: str) -> dict[str, str]:
    """The form that Stripe.js sends from a customer's browser to confirm a payment with a card."""
    return {
        "client_secret": client_secret,
        "payment_method_data[type]": "card",
        "payment_method_data[card][number]": number,
    }
