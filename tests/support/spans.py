"""Spans of this process in memory, by OpenTelemetry's own exporter for tests, and a trace as a text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from api.processes.otel import OtelTracer
from ledger import tracing

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = f"00-{TRACE}-00f067aa0ba902b7-01"  # the context that a caller sends


class Spans:
    """Those that have ended."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def all(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def of_trace(self, trace: str = TRACE) -> list[ReadableSpan]:
        """In the order of their begin."""
        own = [span for span in self.all() if f"{span.context.trace_id:032x}" == trace]
        return sorted(own, key=lambda span: span.start_time or 0)

    def tree(self, trace: str = TRACE) -> list[str]:
        """The trace as lines, indented below what each span follows from, with milliseconds since its begin."""
        spans = self.of_trace(trace)
        children: dict[int, list[ReadableSpan]] = {}
        known = {span.context.span_id for span in spans}
        for span in spans:
            parent = span.parent.span_id if span.parent and span.parent.span_id in known else 0
            children.setdefault(parent, []).append(span)
        first = spans[0].start_time or 0 if spans else 0

        def below(span_id: int, depth: int) -> Iterator[str]:
            for one in children.get(span_id, []):
                began, ended = one.start_time or 0, one.end_time or 0
                yield f"{(began - first) / 1e6:8.1f} {(ended - began) / 1e6:7.1f}  {'  ' * depth}{title(one)}"
                yield from below(one.context.span_id, depth + 1)

        return list(below(0, 0))


def title(span: ReadableSpan) -> str:
    """The name, with the event that was decided."""
    about: Mapping[str, Any] = span.attributes or {}
    return f"{span.name} {about['ledger.event']}" if "ledger.event" in about else span.name


@contextmanager
def collected() -> Iterator[Spans]:
    """Until the block ends, this process has a tracer."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = OtelTracer(provider)
    tracing.use(tracer)
    try:
        yield Spans(exporter)
    finally:
        tracing.use(None)
        tracer.close()
