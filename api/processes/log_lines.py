"""Logging of every process: JSON lines on standard error, or readable lines on a terminal. Configured once, at start.

No line repeats what a client sent: exceptions are logged by type and place, ids only if they have the ledger's own form.
"""

from __future__ import annotations

import logging
import re
import sys

import structlog

from api.contract.patterns import COMMAND_ID, ORDER_ID
from ledger.faults import in_short, without_values

_ID_FORMS = {"order_id": re.compile(ORDER_ID), "command_id": re.compile(COMMAND_ID)}
NOT_AN_ID = "(not an id)"


def configure_logging(process: str, level: str = "INFO") -> None:
    """Send records of structlog and the standard library to standard error, one line each, with `process` as `service`."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        shorten_exception,
        only_our_ids,
        structlog.processors.CallsiteParameterAdder({structlog.processors.CallsiteParameter.PROCESS}),
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    renderer: structlog.types.Processor
    renderer = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()

    def name_process(_: object, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
        event["service"] = process
        return event

    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(shorten_arguments)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, name_process, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # "abc" is how mode names the logger of the HTTP service
    for noisy in ("faust", "mode", "abc", "uvicorn.access", "aiohttp", "kafka"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level)))


def shorten_exception(_: object, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """Replace `exc_info` by `exception`: type and place. The message is dropped, it may repeat what a client sent."""
    exc_info: object = event.pop("exc_info", None)
    if exc_info is True:
        exc_info = sys.exc_info()
    exc = exc_info[1] if isinstance(exc_info, tuple) else exc_info
    if isinstance(exc, BaseException):
        event["exception"] = without_values(exc)
    if event.get("logger") == "asyncio":
        event["event"] = str(event.get("event")).partition("\n")[0]  # the other lines show the task with its exception
    return event


def only_our_ids(_: object, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """Hide ids without the ledger's own form: a path or a foreign record may contain anything."""
    for name, form in _ID_FORMS.items():
        if (value := event.get(name)) is not None and not form.fullmatch(str(value)):
            event[name] = NOT_AN_ID
    return event


def shorten_arguments(record: logging.LogRecord) -> bool:
    """Shorten exceptions among the arguments of other libraries' records, which would be logged in full."""
    if isinstance(record.args, tuple):
        record.args = tuple(in_short(arg) if isinstance(arg, BaseException) else arg for arg in record.args)
    return True


def log_to_stderr() -> None:
    """For verbs that end by themselves: readable lines on standard error, so that standard output stays clean.

    structlog's own default would show an exception with its message and all local variables.
    """
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
            shorten_exception,
            only_our_ids,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
