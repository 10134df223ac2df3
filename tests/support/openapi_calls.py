"""Calls of the API's operations that schemathesis generates from the OpenAPI document, sent to a running ledger and judged.

schemathesis knows the document and nothing else: its order ids and its tokens do not exist. Here a call gets a role that may
make it, and half of the time the name of something that exists; everything else stays as generated. An answer is judged as
schemathesis judges by the document (status, content type, headers, body, success for what the document forbids), and:

    below 500, except for a 503 that is described
    a problem's slug is described for the operation
    what the document allows is refused only by rules that no schema can express (`BEYOND_SCHEMAS`)
    without a token 401, unless the operation is open to all
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import httpx
import requests
import schemathesis
from hypothesis import strategies as st
from schemathesis.config import SchemathesisConfig
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.generation.case import Case
from schemathesis.generation.meta import CoveragePhaseData
from schemathesis.schemas import APIOperation, BaseSchema
from schemathesis.specs.openapi import checks

from api.connections import ConnectionLimits
from api.problems import PROBLEMS
from commands.reconciler.stripe_webhook import sign
from commands.sandbox.cards import VISA
from ledger.schemas.versions import schema_versions
from tests.support.described import check_described
from tests.support.harness import ROLES, RunningLedger, free_order_body, key, order_body
from tests.support.patience import PATIENCE_S
from tests.support.sandboxed import WEBHOOK_SECRET, RunningSandbox

Operation = APIOperation[Any, Any, Any, Any]
Call = Case[Operation]

CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.missing_required_header,
    checks.allow_header_conformance,
]
CUSTOMER = "c-1"
RESTOCK_CALLS = 50
STAFF = {"setOrderStatus": "admin", "resolveAttention": "admin", "eraseCustomer": "operator", "readDailyReport": "reader"}
STAFF |= dict.fromkeys(("requestRefund", "createShipment", "confirmShipment", "changeMetadata", "importOrder"), "admin")
STAFF |= dict.fromkeys(("putWebhookEndpoint", "deleteWebhookEndpoint", "rotateWebhookSecret", "replayWebhooks"), "admin")
STAFF |= dict.fromkeys(("readWebhookEndpoint", "readWebhookEndpoints", "readWebhookSecret", "readWebhookDeliveries"), "admin")
STAFF |= dict.fromkeys(("addNote", "readNotes", "deleteNote", "readOutlook"), "admin")
# Codes of problems, or of their errors, for rules that the document states in words: sums, pairs, the state of an order, that
# 1.0 is not an integer. "42201" and "42202" are the registry's, for a text that is not a schema and an invalid version number.
BEYOND_SCHEMAS = frozenset(
    {
        *("currency-not-supported", "total-mismatch", "duplicate-line", "wrong-sign", "not-a-phone-number", "control-character"),
        *("not-an-email-address", "looks-like-a-card-number", "idempotency-key-reused", "idempotency-key-required"),
        *("status-not-settable", "wrong-status", "wrong-action", "excludes-version", "before-from", "too-many-days"),
        *("invalid-position", "invalid-cursor", "customer-required", "invalid-signature", "version-conflict", "not-acceptable"),
        *("half-a-line", "unknown-line", "shipping-of-a-line", "below-zero", "excludes-others", "impossible", "without-lines"),
        *("missing", "not-a-time", "not-a-date", "payment-refused", "42201", "42202", "not-an-integer"),
        *("not-a-webhook-url", "private-address", "not-an-event-type", "excludes-from"),
    }
)

# Operations that fill up an order, or the ledger, after a hundred accepted calls, and how they say so.
FILLED = {"addNote": "limit-exceeded", "putWebhookEndpoint": "limit-exceeded", "changeMetadata": "too-much-metadata"}

HEADER_BYTES = ConnectionLimits().header_bytes


class Choice(NamedTuple):
    """Who sends a call, whether its names exist, and which existing ones they are. The plain choice comes first: hypothesis
    draws it most often."""

    role: Literal["right", "any", "none"] = "right"
    real: bool = True
    number: int = 0


CHOICES = st.builds(
    Choice, st.sampled_from(("right",) * 8 + ("any", "none")), st.sampled_from((True, True, True, False)), st.integers(0, 1_000)
)


class Fuzzed:
    """A running ledger with a few orders, and the answers it has given."""

    def __init__(self, ledger: RunningLedger, sandbox: RunningSandbox) -> None:
        self.ledger, self.document = ledger, json.loads(json.dumps(ledger.app.openapi()))
        self.schema = schemathesis.openapi.from_dict(json.loads(json.dumps(self.document)), config=SchemathesisConfig(seed=1))
        self.operations = dict(_described_operations(self.schema))
        self.session = requests.Session()
        self.session.trust_env = False
        self.answers: Counter[str] = Counter()
        self._customer = ledger.client(customer=CUSTOMER)
        self._stock(sandbox)

    def close(self) -> None:
        self.session.close()

    def _stock(self, sandbox: RunningSandbox) -> None:
        """Place orders in several states, and collect the names of everything else that calls are about."""
        client, staff, placed, final = self._customer, self.ledger.client("admin"), self.placed, self._final

        def until(order_id: str, status: str) -> str:
            deadline = time.monotonic() + PATIENCE_S
            while staff.get(f"/orders/{order_id}").json()["status"] != status:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            return order_id

        unpaid, opened, paid, cancelled = (placed(order_body()) for _ in range(4))
        for order_id in (opened, paid):
            wanted = {"total_minor": 3400, "currency": "EUR"}
            self.payment = final(client, "POST", f"/orders/{order_id}/payment", wanted)
        assert sandbox.pay(self.payment, VISA) == "requires_capture"
        final(client, "POST", f"/orders/{cancelled}/cancel", {})
        free, shipped = placed(free_order_body()), placed(free_order_body())
        for order_id in (free, shipped):
            until(order_id, "paid")
        final(staff, "PUT", f"/orders/{shipped}/status", {"status": "shipped", "carrier": "DHL"})
        self.orders = [until(paid, "paid"), unpaid, opened, until(cancelled, "cancelled"), free, until(shipped, "shipped")]
        self.note_id = final(staff, "POST", f"/orders/{paid}/notes", {"text": "a note"})["note_id"]
        later = client.post("/orders", json=order_body(), headers=key() | {"Prefer": "respond-async"})
        assert later.status_code == 202, later.text
        self.command_id, _, self.place = later.headers["Location"].removeprefix("/commands/").partition("?at=")
        self.cursor = client.get("/orders?limit=1").json()["next_cursor"]
        self.position = client.get(f"/orders/{unpaid}").headers["Ledger-Position"]

    def placed(self, body: dict[str, Any]) -> str:
        return str(self._final(self._customer, "POST", "/orders", body)["order_id"])

    @staticmethod
    def _final(client: httpx.Client, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a command, sent again under its key until it is decided."""
        headers, deadline = key() | {"Prefer": "wait=10"}, time.monotonic() + PATIENCE_S
        while (answer := client.request(method, path, json=body, headers=headers)).status_code in (202, 503):
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.1)
        assert answer.is_success, answer.text
        final_answer: dict[str, Any] = answer.json()
        return final_answer

    # ---- making

    def fuzzed(self, operation_id: str, mode: GenerationMode) -> st.SearchStrategy[Call]:
        return self.operations[operation_id].as_strategy(generation_mode=mode)

    def at_the_bounds(self, operation_id: str) -> Iterator[Call]:
        """Cases for each bound and each kind of violation of each parameter and of the body."""
        operation = self.operations[operation_id]
        modes, config = list(GenerationMode), self.schema.config.generation_for(operation=operation)
        for case in self.schema.iter_coverage_cases(operation, generation_modes=modes, generation_config=config):
            yield _without_stopgaps(case)

    def _make_real(self, case: Call, choice: Choice) -> None:
        """Replace the well-formed names of the case by names that exist."""
        assert case.meta is not None
        modes = {location.name: info.mode for location, info in case.meta.components.items()}
        number = choice.number

        def real(location: str) -> bool:
            return modes.get(location, GenerationMode.POSITIVE) is GenerationMode.POSITIVE

        schema = schema_versions()[number % len(schema_versions())]
        if "PATH" in modes and real("PATH"):
            names = {
                "order_id": self.orders[number % len(self.orders)],
                "command_id": self.command_id,
                "customer_id": CUSTOMER if number % 5 else "somebody",
                "slug": sorted(PROBLEMS)[number % len(PROBLEMS)],
                "id": str(schema.id),
                "subject": schema.subject(self.ledger.topics.prefix),
                "version": ("latest", "1", "9")[number % 3],
                "number": str(1 + number % 2),
                "note_id": self.note_id,
                "name": f"endpoint-{number % 3}",
            }
            case.path_parameters = {name: names[name] for name in case.path_parameters}
        if "QUERY" in modes and real("QUERY"):
            names = {"cursor": self.cursor, "at": self.place, "customer_id": CUSTOMER}
            if case.operation.label == "GET /commands/{command_id}":
                case.query = case.query | {name: names[name] for name in case.query if name in names}
            elif "cursor" in case.query:  # a cursor belongs to its filters: a cursor without filters, or filters without a cursor
                other_filters = {name: value for name, value in case.query.items() if name != "cursor"}
                case.query = {"cursor": self.cursor} if number % 4 == 0 else other_filters
        if real("HEADER") and "Ledger-Position" in case.headers:
            case.headers["Ledger-Position"] = self.position
        if real("BODY") and isinstance(case.body, dict) and "schema" in case.body:
            case.body["schema"] = schema.text
        elif real("BODY") and isinstance(case.body, dict):
            self._make_payable(case.body)
            self._make_of_the_order(case.body)

    @staticmethod
    def _make_of_the_order(body: dict[str, Any]) -> None:
        """Units of a line that every order here has."""
        if "contact" not in body:
            for units in body.get("lines", ()):
                units |= {"service": "product", "sku": "espresso-1kg"}

    def _make_payable(self, body: dict[str, Any]) -> None:
        """Correct the total of a well-formed order, and the amount of a payment."""
        if "lines" in body and "contact" in body:
            for number, line in enumerate(body["lines"]):
                line["sku"] = f"sku-{number}"
            for adjustment in body.get("adjustments", ()):
                sign_of = -1 if adjustment["kind"] == "discount" else 1
                adjustment["amount_minor"] = sign_of * abs(adjustment["amount_minor"])
            lines = sum(line["quantity"] * line["unit_price_minor"] for line in body["lines"])
            body["total_minor"] = lines + sum(a["amount_minor"] for a in body.get("adjustments", ()))
            body["currency"] = "EUR"
            if body["contact"] is not None and "phone" in body["contact"]:
                body["contact"]["phone"] = None
        elif body.get("action", "initiate") == "initiate" and "total_minor" in body:
            body |= {"total_minor": self.payment["amount_minor"], "currency": "EUR"}

    def _role(self, case: Call, choice: Choice) -> str | None:
        if choice.role == "none":
            return None
        if choice.role == "any":
            return ROLES[choice.number % len(ROLES)]
        if "email" in case.query:  # for admins alone
            return "admin"
        if {"customer_id", "customer"} & case.query.keys():  # not for gateways
            return "reader"
        return STAFF.get(case.operation.definition.raw["operationId"], "gateway")

    # ---- sending and judging

    def call(self, case: Call, choice: Choice = Choice()) -> requests.Response:
        """Send `case` and judge the answer. Raises `AssertionError`, or an exception group of schemathesis, with a curl line."""
        operation, role = case.operation.definition.raw, self._role(case, choice)
        if self.answers.total() % RESTOCK_CALLS == 0:  # orders placed earlier may be cancelled by now
            self.orders[1], self.orders[4] = self.placed(order_body()), self.placed(free_order_body())
        if choice.real:
            self._make_real(case, choice)
        if role not in (None, "gateway"):
            case.headers.pop("Customer-Id", None)  # ignored from other roles, whatever its value
        headers: dict[str, str] = {}
        if role is not None:
            headers["Authorization"] = f"Bearer {self.ledger.tokens[role]}"
        if role == "gateway" and (choice.real or "Customer-Id" not in case.headers) and self._is_well_formed(case, "HEADER"):
            headers["Customer-Id"] = CUSTOMER
        if "Ledger-Position" in case.headers:
            headers["Prefer"] = "wait=0"  # do not wait for a position that nobody has reached
        if "text/html" in next(r for status, r in operation["responses"].items() if status[0] == "2").get("content", {}):
            headers["Accept"] = ("text/html", "*/*")[choice.number % 2]
        sent = requests.Request(**case.as_transport_kwargs(base_url=self.ledger.url, headers=headers)).prepare()
        if operation["operationId"] == "receiveStripeWebhook" and choice.real and self._is_well_formed(case, "HEADER"):
            body = sent.body or b""
            assert isinstance(body, bytes | str)
            signed = body if isinstance(body, bytes) else body.encode()
            sent.headers["Stripe-Signature"] = sign(signed, WEBHOOK_SECRET, int(time.time()))
        answer = self.session.send(sent, timeout=PATIENCE_S, allow_redirects=False)
        self.answers[f"{case.operation.label} {answer.status_code}"] += 1
        if len(sent.path_url) > HEADER_BYTES - 2_000:  # only a cursor of the feed may be so long: too long, percent-encoded
            assert answer.status_code in (422, 431), self._story(case, answer)
            return answer
        self._judge(case, answer, role, operation)
        return answer

    @staticmethod
    def _is_well_formed(case: Call, location: str) -> bool:
        assert case.meta is not None
        return all(i.mode is GenerationMode.POSITIVE for at, i in case.meta.components.items() if at.name == location)

    def _judge(self, case: Call, answer: requests.Response, role: str | None, operation: dict[str, Any]) -> None:
        # An empty list or object of the query is not sent, so what makes the case wrong may be left out.
        whole = not any(value in ([], {}, None) for value in case.query.values())
        case.validate_response(answer, checks=[check for check in CHECKS if whole or check is not checks.negative_data_rejection])
        assert answer.status_code < 500 or answer.status_code == 503, self._story(case, answer)
        check_described(self.document, _as_httpx(answer))
        if answer.status_code == 405:
            return
        if role is None and operation.get("security") != []:
            assert answer.status_code in (401, 422), self._story(case, answer)  # 422: a header sent twice
            return
        assert case.meta is not None
        well_formed = all(info.mode is GenerationMode.POSITIVE for info in case.meta.components.values())
        if well_formed and answer.status_code in (400, 412, 415, 422):
            problem = answer.json()
            codes = {problem.get("code") or str(problem["error_code"])} | {error["code"] for error in problem.get("errors", ())}
            theirs = {"gateway": {"customer_id", "customer", "email"}, "reader": {"email"}}.get(role or "", set())
            not_for_them = bool(theirs & case.query.keys()) and "unknown-field" in codes
            filled = FILLED.get(operation["operationId"]) in codes
            assert not_for_them or filled or codes & BEYOND_SCHEMAS, self._story(case, answer)

    def _story(self, case: Call, answer: requests.Response) -> str:
        return f"{answer.status_code} {answer.text[:1000]}\n{case.as_curl_command(base_url=self.ledger.url)}"


def _described_operations(schema: BaseSchema) -> Iterator[tuple[str, Operation]]:
    """All operations of the document, by operation id."""
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), result
        yield result.ok().definition.raw["operationId"], result.ok()


def _without_stopgaps(case: Call) -> Call:
    """schemathesis 4.32 finds no value for a pattern that begins with digits or quotes, and fills in `0`: in every case of the
    operation, which then tests that header alone. Such a header is left out, unless the case is about it."""
    assert case.meta is not None
    about = case.meta.phase.data.parameter if isinstance(case.meta.phase.data, CoveragePhaseData) else None
    for parameter in case.operation.headers:
        pattern = parameter.definition["schema"].get("pattern")
        value = case.headers.get(parameter.name)
        if value is not None and pattern is not None and parameter.name != about and not re.search(pattern, value):
            del case.headers[parameter.name]
    return case


def _as_httpx(answer: requests.Response) -> httpx.Response:
    """The answer for the harness, which judges those of every other test."""
    assert answer.request.method is not None
    assert answer.request.url is not None
    headers = {k: v for k, v in answer.headers.items() if k.lower() not in ("content-length", "transfer-encoding")}
    request = httpx.Request(answer.request.method, answer.request.url)
    return httpx.Response(answer.status_code, headers=headers, content=answer.content, request=request)
