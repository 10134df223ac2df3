"""One request as the routes see it: principal, customer, headers, query and body. Every method raises `Problem`."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any, NamedTuple, TypeVar, cast

from pydantic import BaseModel
from starlette.requests import Request

from api.bodies import parse, read_body, validated
from api.callers.auth import Principal, Token, bearer_token
from api.callers.issuer_rules import FORBIDDEN, RefusedToken
from api.callers.oidc import IssuerUnavailable
from api.context import AppContext
from api.contract import patterns
from api.contract.card_numbers import has_card_number
from api.problems import FieldError, Problem, invalid_header
from api.query import Q, read_query
from api.services.audit import By
from ledger.rfc3339 import format_ms
from ledger.turns import Steps

DEFAULT_WAIT_S, MAX_WAIT_S = 3.0, 10.0
CATCH_UP_S = 1.0  # default time a read waits for `Ledger-Position`; `Prefer` overrides it

_NUMBER = re.compile(patterns.NUMBER)
_NAME, _KEY, _VERSION_TAG = re.compile(patterns.NAME), re.compile(patterns.KEY), re.compile(patterns.VERSION_TAG)
_ORDER_ID = re.compile(patterns.ORDER_ID)
_ANY_TAG = re.compile(r'(?:W/)?"([\x21\x23-\x7e]*)"')
_WAIT = re.compile(r'wait[ \t]*=[ \t]*"?([0-9]{1,9})"?')

_READS = ("GET", "HEAD")

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


class Preferences(NamedTuple):
    """The supported part of `Prefer` (RFC 7240). `applied` is sent as `Preference-Applied` unless it is empty."""

    wait_s: float | None
    respond_async: bool
    applied: str


_NO_PREFERENCES = Preferences(None, False, "")


class Exchange:
    """What is known about a request before it reaches a route; kept in the ASGI scope as `exchange`."""

    __slots__ = ("ctx", "customer", "headers", "keys_awaited", "may_be_kept", "request_id", "token", "traceparent")

    def __init__(self, ctx: AppContext, headers: dict[bytes, bytes], request_id: bytes, traceparent: bytes | None) -> None:
        self.ctx, self.headers, self.request_id, self.traceparent = ctx, headers, request_id, traceparent
        self.token: Token | None = None  # the accepted one
        self.keys_awaited = False  # the request has waited for keys of the issuer
        self.customer = ""
        self.may_be_kept = False  # by the client, which checks at each use whether it has changed

    @property
    def principal(self) -> Principal | None:
        return None if self.token is None else self.token.principal


class Call(Request):
    """A request in one of the API's routes."""

    @property
    def exchange(self) -> Exchange:
        return cast("Exchange", self.scope["exchange"])

    @property
    def ctx(self) -> AppContext:
        return self.exchange.ctx

    @property
    def instance(self) -> str:
        """The path as sent, for problems."""
        return cast("bytes", self.scope.get("raw_path") or self.scope["path"].encode()).decode("latin-1")

    def header(self, name: bytes) -> str | None:
        """Value of a header; `name` in lower case. Strips only the white space of RFC 9110: `c-1\\xa0` is not `c-1`."""
        value = self.exchange.headers.get(name)
        return None if value is None else value.decode("latin-1").strip(" \t")

    # ---- who

    def allow(self, *roles: str, basic_too: bool = False) -> Principal:
        """The principal, if its role is one of `roles` (empty: any role). Counts one request towards its limit.

        Raises `unauthenticated`, `forbidden`, `issuer-unavailable`, `too-many-requests`, and `KeysWanted`: then the route is
        called again when they are known.
        """
        exchange = self.exchange
        known = exchange.token or self._authenticated(basic_too)
        principal = known.principal
        if exchange.token is None:
            exchange.token = known
            exchange.ctx.limits.take(principal)
        if roles and principal.role not in roles:
            raise Problem("forbidden", f"This requires the role {' or '.join(roles)}; the role of the token is {principal.role}.")
        return principal

    def _authenticated(self, basic_too: bool) -> Token:
        """The token of the request, which is valid. A `WWW-Authenticate` says why it is not (RFC 6750, 3.1)."""
        exchange, tokens = self.exchange, self.ctx.tokens
        header = exchange.headers.get(b"authorization")
        token = bearer_token(header, basic_too) if header else None
        if not token:
            raise _unauthenticated(basic_too, invalid=False)
        known = tokens.find(token)
        if known is None:
            return self._signed(token, basic_too)
        if tokens.is_expired(known):
            assert known.expires_at_ms is not None
            detail = f"The token expired at {format_ms(known.expires_at_ms)}."
            raise _unauthenticated(basic_too, why="The token expired", detail=detail)
        return known

    def _signed(self, token: bytes, basic_too: bool) -> Token:
        """The same for a token that is not in the tokens file."""
        oidc = self.ctx.oidc
        if oidc is None or b"." not in token:
            raise _unauthenticated(basic_too)
        try:
            return oidc.find(token, may_fetch=not self.exchange.keys_awaited)
        except IssuerUnavailable:
            raise Problem("issuer-unavailable") from None
        except RefusedToken as refused:
            detail = f"{refused.description}."
            if refused.reason in FORBIDDEN:
                challenge = f'Bearer realm="order-ledger", error="insufficient_scope", error_description="{refused.description}"'
                raise Problem("forbidden", detail, headers={"WWW-Authenticate": challenge}) from None
            raise _unauthenticated(basic_too, why=refused.description, detail=detail) from None

    @property
    def by(self) -> By:
        """The caller, for the audit. Call `allow` first."""
        principal = self.exchange.principal
        assert principal is not None
        return By(principal.actor, principal.role, self.exchange.request_id.decode())

    def customer(self, principal: Principal) -> str:
        """The customer for whom a gateway acts; "" for staff. Counts one request towards the customer's limit.

        A token that is for one customer needs no `Customer-Id`. Raises `forbidden` if it names another one, `customer-required`,
        `too-many-requests`, and `invalid-field` for an id that must not be stored.
        """
        if principal.role != "gateway":
            return ""
        customer = self.header(b"customer-id")
        if principal.customer:
            if customer is not None and customer != principal.customer:
                raise Problem("forbidden", "The token is for one customer, and Customer-Id names another.")
            customer = principal.customer
        if customer is None or not _NAME.fullmatch(customer):
            raise Problem("customer-required")
        if not self.exchange.customer:
            self.exchange.customer = customer
            self.ctx.limits.take_customer(customer)
        if self.method not in _READS and has_card_number(customer):
            text = "A customer id is kept in the log for ever and must not contain a card number."
            raise Problem("invalid-field", text, errors=[FieldError("/Customer-Id", "card-number", "header")])
        self.exchange.customer = customer
        return customer

    def order_id(self) -> str:
        """The order id in the path. Raises `order-not-found` for an impossible id: a command about it would only keep arbitrary
        text of a client in the log."""
        order_id: str = self.path_params["order_id"]
        if not (_NAME if self.method in _READS else _ORDER_ID).fullmatch(order_id):
            raise Problem("order-not-found")
        return order_id

    def number(self, name: str) -> int:
        """A number from 1 in the path. Raises `not-found` for anything else."""
        text: str = self.path_params[name]
        if not _NUMBER.fullmatch(text):
            raise Problem("not-found")
        return int(text)

    # ---- what the headers ask for

    def idempotency_key(self) -> str:
        key = self.header(b"idempotency-key")
        if key is None or key == "":
            raise Problem("idempotency-key-required")
        if not _KEY.fullmatch(key):
            raise Problem("idempotency-key-invalid")
        return key

    def expected_version(self) -> int | None:
        """The version in `If-Match`; None if any version will do. Raises `invalid-if-match`."""
        tag = self.header(b"if-match")
        if tag is None or tag == "*":
            return None
        match = _VERSION_TAG.fullmatch(tag)
        if match is None:
            raise Problem("invalid-if-match")
        return int(match[1])

    def has_version(self, version: int) -> bool:
        """Whether `If-None-Match` names this version, so that the client already has it."""
        tags = self.header(b"if-none-match")
        if tags is None:
            return False
        return tags == "*" or str(version) in _ANY_TAG.findall(tags)

    @cached_property
    def preferences(self) -> Preferences:
        """`Prefer`. Ignores unknown preferences, as RFC 7240 requires. Cuts a wait that is too long; `applied` says so."""
        header = self.header(b"prefer")
        if header is None:
            return _NO_PREFERENCES
        wait_s, respond_async, applied = None, False, []
        for preference in header.lower().split(","):
            name = preference.split(";")[0].strip(" \t")
            if name == "respond-async" and not respond_async:
                respond_async = True
                applied.append(name)
            elif wait_s is None and (match := _WAIT.fullmatch(name)):
                wait_s = min(float(match[1]), MAX_WAIT_S)
                applied.append(f"wait={wait_s:.0f}")
        return Preferences(wait_s, respond_async, ", ".join(applied))

    async def caught_up(self) -> None:
        """Wait until this node has folded to the request's `Ledger-Position`. Raises `not-caught-up`, `invalid-field`."""
        header = self.header(b"ledger-position")
        if header is None:
            return
        partition, offset = self.ctx.parse_position(header, "Ledger-Position", "header")
        wait_s = self.preferences.wait_s
        if not await self.ctx.projector.reached(partition, offset, CATCH_UP_S if wait_s is None else wait_s):
            raise Problem(
                "not-caught-up",
                f"This node has folded partition {partition} only up to {self.ctx.projector.position(partition)}.",
            )

    async def in_turns(self, steps: Steps[T], wait_turn: bool = False) -> T:
        """The result of work that may be long, done in turns with other work and charged to the caller. See `Turns.run`.

        Raises what the work raises.
        """
        result, _ = await self.ctx.turns.run(steps, wait_turn, self._charge)
        return result

    def _charge(self, worked_s: float) -> None:
        exchange = self.exchange
        if exchange.principal is not None:
            exchange.ctx.limits.charge(exchange.principal, exchange.customer, worked_s)

    def query(self, model: type[Q]) -> Q:
        """The query as `model`. Raises `invalid-field`, `unknown-field`."""
        return read_query(model, self.query_params.multi_items() if self.scope["query_string"] else ())

    # ---- body

    async def json(self) -> Any:
        """The JSON value of the body, read strictly; `{}` if there is no body."""
        raw = await read_body(self.receive, self.exchange.headers)
        return parse(raw) if raw else {}

    async def body_as(self, model: type[M]) -> tuple[Any, M]:
        """The body as JSON value and as `model`. A missing body counts as an empty object."""
        value = await self.json()
        return value, validated(model, value)


def _unauthenticated(basic_too: bool, invalid: bool = True, why: str = "", detail: str = "") -> Problem:
    """`invalid`: a token was sent; `why` it is not accepted, if that can be said."""
    challenge = 'Bearer realm="order-ledger"'
    if invalid:
        challenge += ', error="invalid_token"' + (f', error_description="{why}"' if why else "")
    if basic_too:
        challenge += ', Basic realm="order-ledger"'
    return Problem("unauthenticated", detail, headers={"WWW-Authenticate": challenge})


# A proxy and this program must never read different values from one request.
_SINGLE = (b"authorization", b"customer-id", b"idempotency-key", b"if-match", b"ledger-position", b"content-type")


def headers_of(raw: list[tuple[bytes, bytes]]) -> tuple[dict[bytes, bytes], Problem | None]:
    """Headers by name, and a problem if one of `_SINGLE` is sent twice."""
    headers = dict(raw)
    if len(headers) != len(raw):
        names = [name for name, _ in raw]
        for name in _SINGLE:
            if names.count(name) > 1:
                return headers, invalid_header(name.decode().title(), "The header is sent more than once.")
    return headers, None
