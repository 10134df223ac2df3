"""The tracer on OpenTelemetry, for who has a collector. The only importer of `opentelemetry`.

It exists only if OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is set, and OTEL_SDK_DISABLED is not true.
All OTEL_* variables are those of OpenTelemetry's own specification; the SDK reads them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import structlog

from api.settings import program_version
from ledger import tracing
from ledger.extras import needs
from ledger.http_client import is_loopback

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, SpanContext

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
CLOSE_S = 3.0

log = structlog.get_logger(__name__)


def endpoint() -> str | None:
    """Where spans go, as the environment says; None: there are no traces."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    return next((value for name in ENDPOINTS if (value := os.environ.get(name, "").strip())), None)


@contextmanager
def traced(process: str, node: str) -> Iterator[None]:
    """Spans of `process` go to the collector of the environment, if it names one, until the block ends.

    Raises `MissingExtra` if OpenTelemetry is not installed. The SDK replaces an invalid variable by its default, and logs that.
    """
    if (where := endpoint()) is None:
        yield
        return
    tracer = _exporting(process, node, where)
    tracing.use(tracer)
    log.info("spans are sent to a collector")
    try:
        yield
    finally:
        tracing.use(None)
        tracer.close()


def _exporting(process: str, node: str, where: str) -> OtelTracer:
    with needs("traces"):
        import requests
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    session = requests.Session()
    session.trust_env = not is_loopback(urlsplit(where).hostname or "")  # a proxy does not reach this machine
    named = {"service.version": program_version(), "service.instance.id": node}
    if not os.environ.get("OTEL_SERVICE_NAME"):
        named["service.name"] = f"order-ledger-{process}"
    provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(session=session)))
    return OtelTracer(provider)


class OtelTracer:
    """`tracing.Tracer` on `provider`, which it owns."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import trace

        self._provider = provider
        self._tracer = provider.get_tracer("order-ledger", program_version())
        self._kinds: dict[tracing.Kind, trace.SpanKind] = {
            "server": trace.SpanKind.SERVER,
            "client": trace.SpanKind.CLIENT,
            "producer": trace.SpanKind.PRODUCER,
            "consumer": trace.SpanKind.CONSUMER,
            "internal": trace.SpanKind.INTERNAL,
        }

    def begin(
        self,
        name: str,
        kind: tracing.Kind,
        parent: bytes | None = None,
        links: Sequence[bytes] = (),
        began_ns: int = 0,
    ) -> OtelSpan:
        from opentelemetry.trace import Link

        linked = [Link(one) for context in links if (one := _parsed(context)) is not None]
        span = self._tracer.start_span(
            name, _around(parent), kind=self._kinds[kind], links=linked, start_time=began_ns or None, record_exception=False
        )
        return OtelSpan(span)

    def close(self) -> None:
        # On a thread: the SDK tries an export for ten seconds and more, and a process must not be late for that.
        closing = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        closing.start()
        closing.join(CLOSE_S)
        if closing.is_alive():
            log.warning("the collector does not answer, the last spans are lost")


class OtelSpan:
    """`tracing.Span` on one of OpenTelemetry."""

    def __init__(self, span: Span) -> None:
        self._span = span

    @property
    def traceparent(self) -> bytes:
        context = self._span.get_span_context()
        return b"00-%032x-%016x-%02x" % (context.trace_id, context.span_id, context.trace_flags)

    def note(self, **attributes: str | int) -> None:
        self._span.set_attributes({name.replace("__", "."): value for name, value in attributes.items()})

    def fail(self, error: str) -> None:
        from opentelemetry.trace import Status, StatusCode

        self._span.set_status(Status(StatusCode.ERROR))
        self._span.set_attribute("error.type", error)

    def end(self, name: str = "") -> None:
        if name:
            self._span.update_name(name)
        self._span.end()


def _around(parent: bytes | None) -> Context:
    """A context of OpenTelemetry with only this parent: never that of the thread."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, set_span_in_context

    known = _parsed(parent or b"")
    return Context() if known is None else set_span_in_context(NonRecordingSpan(known), Context())


def _parsed(traceparent: bytes) -> SpanContext | None:
    from opentelemetry.trace import SpanContext, TraceFlags

    if not tracing.FORM.fullmatch(traceparent):
        return None
    _, trace_id, span_id, flags = traceparent.split(b"-")
    context = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16) & 1))
    return context if context.is_valid else None
