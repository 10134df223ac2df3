"""Answers for the desk: what an order owes, what staff may do with it, how the console logs them in. See `responses`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from api.contract import examples
from api.contract.responses import Response, ShipmentLineOut, Status, Timestamp


class OwedOut(Response):
    """Something that an order still owes the outside world."""

    kind: Annotated[str, Meta(description="what is to be done: a word of the ledger, such as reserve, capture or refund")]
    key: Annotated[str, Meta(description="the key of the call, as in `obligation_key` of a flag")]
    since: Annotated[Timestamp, Meta(description="when the order began to owe it")]
    due_at: Annotated[Timestamp | None, Meta(description="the time before which nothing need be done; null: it is due")]


class ActionOut(Response):
    """A request that would be accepted now. Members that do not apply to it are omitted."""

    operation: Annotated[str, Meta(description="the id of the operation")]
    status: Annotated[Status | None, Meta(description="of `setOrderStatus`")] = None
    number: Annotated[int | None, Meta(description="of `confirmShipment`: the parcel")] = None
    lines: Annotated[list[ShipmentLineOut], Meta(description="of at most these units")] = field(default_factory=list)
    amount_minor: Annotated[int | None, Meta(description="of `requestRefund`: at most this amount, in minor units")] = None
    code: Annotated[str | None, Meta(description="of `resolveAttention`: the code of the flag")] = None
    obligation_key: Annotated[str | None, Meta(description="of `resolveAttention`: the key of the flag")] = None


class OutlookOut(Response):
    """What an order owes as of `version`, and what the caller may do with it."""

    EXAMPLES = (examples.OUTLOOK,)

    version: int
    owes: Annotated[list[OwedOut], Meta(description="what it still owes the outside world")]
    actions: Annotated[list[ActionOut], Meta(description="requests that would be accepted now; none for a reader")]


class ConsoleLoginOut(Response):
    """How the console logs somebody in at the issuer (authorisation code with PKCE), which gives it a token of its own."""

    issuer: str
    client_id: str
    scopes: str
    parameters: dict[str, str]
    authorization_endpoint: str | None = None
    token_endpoint: str | None = None
    end_session_endpoint: str | None = None


class ConsoleConfigOut(Response):
    """What the console must know before somebody has logged in."""

    EXAMPLES = (examples.CONSOLE_CONFIG, examples.CONSOLE_CONFIG_WITHOUT_ISSUER)

    login: ConsoleLoginOut | None = None
