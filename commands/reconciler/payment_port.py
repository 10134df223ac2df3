"""The port to the payment provider. Every call returns current facts; none raises for a failure of the other side.

The provider keeps `order_id` and `attempt` as metadata of a payment, `order_id` and `refund_no` as metadata of a refund, so
every object names its order. Keys are those of the obligations: the same key has the effect only once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Container
from typing import Protocol

from msgspec import Struct

from commands.reconciler.answers import Answer, Fact, Hint
from ledger.errors import LedgerError

KEY_REUSED = "idempotency_error"  # code of a No: this key was used for another request


class ProviderUnavailable(LedgerError):
    """The provider does not answer, or cannot at the moment. `after_s`: the pause that it requests."""

    code = "provider_unavailable"

    def __init__(self, why: str, after_s: float = 0.0) -> None:
        super().__init__(why)
        self.after_s = after_s


class InvalidSignature(LedgerError):
    """A webhook that is forged or too old."""

    code = "invalid_signature"


class NotForUs(LedgerError):
    """A genuine webhook for the other mode or account, or of unknown shape: it is ignored."""

    code = "not_for_us"


class Repeated(LedgerError):
    """A genuine webhook that was already processed."""

    code = "repeated"


class PaymentView(Struct, frozen=True):
    """A payment with its client secret, which is never logged or stored, and kept for at most a minute."""

    provider: str
    provider_ref: str
    state: str
    amount_minor: int
    currency: str
    client_secret: str | None

    def __repr__(self) -> str:
        return f"PaymentView({self.provider_ref!r}, {self.state!r})"


class Sighting(Struct, frozen=True):
    """The provider's facts about one order, in causal order. `order_id` is empty if it belongs to no order of this ledger."""

    order_id: str
    facts: tuple[Fact, ...]
    provider_ref: str = ""
    message_id: str = ""  # of the webhook that triggered it


async def nothing_known(_hint: Hint) -> bool:
    """Default for `known`: compares with nothing."""
    return False


class PaymentProvider(Protocol):
    """One account at one provider."""

    name: str  # actor of its facts

    async def create(self, order_id: str, attempt: int, amount_minor: int, currency: str, key: str) -> Answer:
        """Open a payment that is first authorised and captured later. Done: PaymentOpened with its reference."""

    async def find(self, order_id: str, attempt: int, since_ms: int) -> Answer:
        """Find a payment created at or after `since_ms` whose reference is unknown here. No: there is none.

        Done: PaymentOpened with its reference, then its current state, which alone would not report the reference.
        """

    async def fetch(self, provider_ref: str) -> Answer:
        """All facts about a payment, including its refunds and disputes. No: there is no such payment."""

    async def capture(self, provider_ref: str, amount_minor: int, currency: str, key: str) -> Answer:
        """Done: PaymentCaptured, or PaymentVoided if the authorisation has lapsed."""

    async def cancel(self, provider_ref: str, key: str) -> Answer:
        """Done: PaymentVoided, or PaymentCaptured if it is too late."""

    async def refund(
        self, provider_ref: str, order_id: str, refund_no: int, amount_minor: int, currency: str, key: str
    ) -> Answer:
        """Done: RefundSubmitted or RefundSettled. No: this call made no refund, nor will another one with this key.

        `KEY_REUSED`: the key was used for another amount.
        """

    async def find_refund(self, provider_ref: str, refund_no: int) -> Answer:
        """The refund of this payment with the number `refund_no`, in any state. No: there is none."""

    async def fetch_refund(self, refund_ref: str) -> Answer:
        """Done: the current state of the refund."""

    async def view(self, provider_ref: str) -> PaymentView:
        """Fetch the payment with its secret. Raises `ProviderUnavailable`; `KeyError` if there is none."""

    async def sighting(self, provider_ref: str, pause_s: float = 0.0) -> Sighting:
        """Like `fetch`, with the order it belongs to. At most one fetch per `pause_s`, for callers without news.

        Raises `ProviderUnavailable`; `KeyError` if there is none.
        """

    async def read_webhook(
        self,
        body: bytes,
        signature: str,
        now_s: float,
        known: Callable[[Hint], Awaitable[bool]] = nothing_known,
        followed: Container[str] = (),
    ) -> Sighting:
        """Fetch the facts that a signed message is about: the message itself is only a hint.

        A type that is not processed has no facts; neither has a message whose content is already `known`, which causes no fetch.
        Raises `InvalidSignature` (also if more than five minutes off), `NotForUs`, `ProviderUnavailable`, and `Repeated` if its
        id is in `followed`.
        """

    def recent(self, since_ms: int) -> AsyncIterator[Sighting]:
        """Refunds and disputes of all orders since `since_ms`, for the daily sweep. Raises `ProviderUnavailable`."""

    async def close(self) -> None: ...
