"""The port to the payment provider. Every call says what is true now; none of them raises for the other side.

`order_id` and `attempt` are kept by the provider as metadata of a payment, `order_id` and `refund_no` as those of a refund, so
whatever is found there names the order it belongs to. Keys are the obligations' own: the same key is the same effect.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Container
from typing import Protocol

from msgspec import Struct

from commands.reconciler.answers import Answer, Fact, Told
from ledger.errors import LedgerError


class ProviderUnavailable(LedgerError):
    """The provider does not answer, or says that it cannot now. `after_s`: how long it asks to be left alone."""

    code = "provider_unavailable"

    def __init__(self, why: str, after_s: float = 0.0) -> None:
        super().__init__(why)
        self.after_s = after_s


class InvalidSignature(LedgerError):
    """A webhook that the provider did not send, or not now."""

    code = "invalid_signature"


class NotForUs(LedgerError):
    """A genuine webhook of the other mode or account, or of a shape that is not known: nothing follows from it."""

    code = "not_for_us"


class Repeated(LedgerError):
    """A genuine webhook that was followed already."""

    code = "repeated"


class PaymentView(Struct, frozen=True):
    """A payment as its customer needs it. `client_secret` is never logged, stored, or kept longer than a minute."""

    provider: str
    provider_ref: str
    state: str
    amount_minor: int
    currency: str
    client_secret: str | None

    def __repr__(self) -> str:
        return f"PaymentView({self.provider_ref!r}, {self.state!r})"


class Sighting(Struct, frozen=True):
    """Facts that the provider holds about one order, in causal order. `order_id` is empty when it names none of ours."""

    order_id: str
    facts: tuple[Fact, ...]
    provider_ref: str = ""
    message_id: str = ""  # of the webhook that led to it


async def nothing_known(_told: Told) -> bool:
    """For who has nothing to compare a message with."""
    return False


class PaymentProvider(Protocol):
    """One account at one provider."""

    name: str  # actor of the facts it reports

    async def create(self, order_id: str, attempt: int, amount_minor: int, currency: str, key: str) -> Answer:
        """Open a payment that is authorised first and captured by us. Done: PaymentOpened with its reference."""

    async def find(self, order_id: str, attempt: int, since_ms: int) -> Answer:
        """A payment created at or after `since_ms` whose reference is not known here. No: there is none.

        Done: PaymentOpened with its reference, then how it stands: a state that is known already would not bring the name.
        """

    async def fetch(self, provider_ref: str) -> Answer:
        """All facts about a payment, its refunds and disputes included. No: there is no such payment."""

    async def capture(self, provider_ref: str, amount_minor: int, key: str) -> Answer:
        """Done: PaymentCaptured, or PaymentVoided when the authorisation is gone."""

    async def cancel(self, provider_ref: str, key: str) -> Answer:
        """Done: PaymentVoided, or PaymentCaptured when it is too late."""

    async def refund(self, provider_ref: str, order_id: str, refund_no: int, amount_minor: int, key: str) -> Answer:
        """Done: RefundSubmitted or RefundSettled. No: it was definitely not made."""

    async def find_refund(self, provider_ref: str, refund_no: int) -> Answer:
        """The refund of this payment with our number, whatever its state. No: there is none."""

    async def fetch_refund(self, refund_ref: str) -> Answer:
        """Done: how the refund stands now."""

    async def view(self, provider_ref: str) -> PaymentView:
        """The payment with its secret, fetched now. Raises `ProviderUnavailable`; `KeyError` when there is none."""

    async def sighting(self, provider_ref: str, pause_s: float = 0.0) -> Sighting:
        """As `fetch`, with the order it belongs to; fetched at least `pause_s` after the last time, for an asker without news.

        Raises `ProviderUnavailable`; `KeyError` when there is none.
        """

    async def read_webhook(
        self,
        body: bytes,
        signature: str,
        now_s: float,
        known: Callable[[Told], Awaitable[bool]] = nothing_known,
        followed: Container[str] = (),
    ) -> Sighting:
        """What a signed message is about, fetched now: the message itself is a hint, never a fact.

        A type we do not follow gives no facts; nor does, without a fetch, a message that says nothing which is not `known`.
        Raises `InvalidSignature` (also: older or newer than five minutes), `NotForUs`, `ProviderUnavailable`, and `Repeated` for
        a message whose id is among those that were `followed`.
        """

    def recent(self, since_ms: int) -> AsyncIterator[Sighting]:
        """Refunds and disputes of all orders since then, for the daily sweep. Raises `ProviderUnavailable`."""

    async def close(self) -> None: ...
