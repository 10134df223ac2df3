"""One trace from a request through decision, fold, call and the provider's report to the customer's message; nothing without."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan

from api.processes.otel import endpoint, traced
from ledger import tracing
from ledger.http_client import HttpClient
from ledger.memory.log import MemoryLog
from ledger.ports import free_port
from ledger.topics import Topics
from tests.support.harness import decided, order_body, running_ledger
from tests.support.patience import until
from tests.support.paying_shop import Shop, payment_of
from tests.support.post import MailServer
from tests.support.sandboxed import RunningSandbox
from tests.support.spans import CALLER, TRACE, Spans, collected, title

CANARY = "canary.nightingale@example.org"


@pytest.fixture
def spans() -> Iterator[Spans]:
    with collected() as running:
        yield running


@pytest.fixture
def traced_shop(sandbox: RunningSandbox, mails: MailServer, spans: Spans) -> Iterator[Shop]:
    with running_ledger(MemoryLog(), Topics("traced."), sandbox=sandbox, email_url=mails.url) as ledger:
        shop = Shop(ledger, sandbox)
        shop.customer.headers["traceparent"] = CALLER
        yield shop


def names(spans: list[ReadableSpan]) -> set[str]:
    return {title(span) for span in spans}


def test_an_order_is_one_trace_from_the_request_to_the_last_message(
    traced_shop: Shop, mails: MailServer, sandbox: RunningSandbox, spans: Spans, calm: None
) -> None:
    order = traced_shop.place(contact=order_body()["contact"] | {"email": CANARY})
    payment = decided(traced_shop.customer, *payment_of(order)).json()
    del traced_shop.customer.headers["traceparent"]  # everything from here on follows from the ledger's own work
    traced_shop.until_axes(order, stock="reserved")  # so that the capture follows from the authorisation
    with traced_shop.unreconciled():
        sandbox.pay(payment)
        traced_shop.until_axes(order, payment="authorised")
        traced_shop.until_messages_delivered()
        sandbox.chaos(webhook_lost=1.0)  # a message about the capture could be here before the answer to the call
    traced_shop.until_status(order, "paid")
    until(lambda: len(mails.subjects(CANARY)) >= 2)
    wanted = {
        "POST /orders",
        "POST /orders/{order_id}/payment",
        "decide OrderPlaced",
        "decide PaymentRequested",
        "decide StockReserved",
        "decide PaymentOpened",
        "decide PaymentCaptured",
        "fold",
        "reserve",
        "create_payment",
        "capture",
        "payment reported",
        "send email",
    }
    until(lambda: wanted <= names(spans.of_trace()))
    until(lambda: orphans(spans.of_trace()) == [])  # a span is known when it has ended, its parent perhaps later
    own = spans.of_trace()
    assert orphans(own) == [], spans.tree()
    by_id = {span.context.span_id: span for span in own}
    (captured,) = [span for span in own if title(span) == "decide PaymentCaptured"]
    assert path_to(captured, by_id)[-3:] == ["decide PaymentAuthorised", "capture", "decide PaymentCaptured"], spans.tree()
    (placed_mail,) = [s for s in own if s.name == "send email" and (s.attributes or {})["ledger.version"] == 1]
    assert path_to(placed_mail, by_id) == ["POST /orders", "decide OrderPlaced", "send email"]


def orphans(own: list[ReadableSpan]) -> list[str]:
    """Titles of the spans that follow from neither the caller's nor one of these."""
    known = {span.context.span_id for span in own} | {int(CALLER.split("-")[2], 16)}
    return [title(span) for span in own if span.parent is None or span.parent.span_id not in known]


def path_to(span: ReadableSpan, by_id: dict[int, ReadableSpan]) -> list[str]:
    """Titles of what led to it, from the first."""
    titles = [title(span)]
    while span.parent is not None and span.parent.span_id in by_id:
        span = by_id[span.parent.span_id]
        titles.insert(0, title(span))
    return titles


def test_no_span_has_anything_that_a_client_wrote(traced_shop: Shop, spans: Spans) -> None:
    contact = order_body()["contact"] | {"email": CANARY, "name": "Canary Nightingale"}
    traced_shop.place(contact=contact, metadata={"canary": "canary"})
    traced_shop.customer.get("/orders/canary", params={"email": "canary"})
    traced_shop.customer.get("/canary")
    until(lambda: "GET /orders/{order_id}" in names(spans.all()))
    text = "".join(span.to_json() for span in spans.all())
    assert "ord_" in text
    assert "anary" not in text


def test_a_failed_call_is_a_failed_span(traced_shop: Shop, sandbox: RunningSandbox, spans: Spans, calm: None) -> None:
    sandbox.chaos(ports={"product": {"error": 1.0}, "merch": {"error": 1.0}})
    traced_shop.place()
    until(lambda: "reserve" in names(spans.of_trace()))
    (failed, *_) = [span for span in spans.of_trace() if span.name == "reserve"]
    assert (failed.attributes or {})["error.type"] == "not met"
    assert not failed.status.is_ok


def test_polls_of_machines_are_no_spans(traced_shop: Shop, spans: Spans) -> None:
    for path in ("/live", "/ready", "/metrics", "/orders"):
        assert traced_shop.admin.get(path).status_code == 200
    until(lambda: "GET /orders" in names(spans.all()))
    assert [span.name for span in spans.all() if span.name.startswith("GET")] == ["GET /orders"]


def test_without_a_tracer_the_context_of_a_command_is_that_of_its_event() -> None:
    with running_ledger(MemoryLog(), Topics("dormant.")) as ledger, ledger.client() as client:
        order = decided(client, "/orders", order_body(), traceparent=CALLER).json()
        other = decided(client, "/orders", order_body(), traceparent=f"{CALLER}, 00-zz").json()
        contexts = {
            (record.key or b"").decode(): dict(record.headers).get("traceparent")
            for record in ledger.records(ledger.topics.events)
        }
        assert contexts[order["order_id"]] == CALLER.encode()
        assert contexts[other["order_id"]] is None


def test_a_call_carries_the_context_of_its_span(spans: Spans, collector: Collector) -> None:
    async def call() -> None:
        client = HttpClient(collector.url)
        try:
            await client.request("POST", "/before", body=b"")
            with tracing.span("reserve", "client", CALLER.encode()):
                await client.request("POST", "/in", body=b"", headers={"Idempotency-Key": "k"})
        finally:
            await client.close()

    asyncio.run(call())
    (span,) = spans.of_trace()
    before, within = collector.headers
    assert "traceparent" not in before
    assert within["traceparent"] == f"00-{TRACE}-{span.context.span_id:016x}-01"
    assert within["Idempotency-Key"] == "k"


# ---- the collector --------------------------------------------------------------------------------------------------


class Collector:
    """A real HTTP server that takes spans as OTLP."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.headers: list[Mapping[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.headers.append(self.headers)
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever)


@pytest.fixture
def collector() -> Iterator[Collector]:
    running = Collector()
    running.thread.start()
    try:
        yield running
    finally:
        running.server.shutdown()
        running.server.server_close()
        running.thread.join()


def test_spans_reach_the_collector_past_a_proxy_and_name_the_process(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    with traced("commands", "node-7"), tracing.span("reserve", "client", CALLER.encode()) as span:
        span.note(ledger__order_id="ord_1")
    assert tracing.tracer() is None
    (request,) = collector.requests
    (resource,) = request.resource_spans
    about = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert (about["service.name"], about["service.instance.id"]) == ("order-ledger-commands", "node-7")
    (exported,) = resource.scope_spans[0].spans
    assert (exported.name, exported.trace_id.hex()) == ("reserve", TRACE)


def test_a_collector_that_is_not_there_costs_spans_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"http://127.0.0.1:{free_port()}/v1/traces")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with traced("serve", "node-7"), tracing.span("fold", "consumer"):
        pass


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "http://c:4318"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "TRUE"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "a", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "b"}, "b"),
    ],
    ids=["nothing", "empty", "general", "disabled", "of traces"],
)
def test_it_is_dormant_unless_the_environment_names_a_collector(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str | None
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert endpoint() == expected
