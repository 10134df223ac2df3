"""A line of the log may say where a fault came from, never what a client sent."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from api.processes.log_lines import NOT_AN_ID, configure_logging, log_to_stderr
from commands.idempotency import fresh_command_id, order_id_of
from ledger.errors import StoreError
from ledger.faults import named, without_values


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """The lines written until it is called, as a process writes them."""
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    configure_logging("test")
    yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    root.handlers[:] = before
    root.setLevel(level)


def fault() -> BaseException:
    try:
        try:
            raise KeyError("canary inside")
        except KeyError as exc:
            raise ValueError("canary outside") from exc
    except ValueError as exc:
        return exc


def test_an_exception_is_logged_by_kind_and_place_with_its_cause(lines: Callable[[], list[dict[str, Any]]]) -> None:
    log = structlog.get_logger("ledger.test")
    log.error("failed", exc_info=fault())
    try:
        raise fault()
    except ValueError:
        log.error("failed", exc_info=True)
        logging.getLogger("uvicorn.error").exception("Exception in ASGI application\n")
    written = lines()
    assert len(written) == 3
    for line in written:
        text = line["exception"]
        assert "canary" not in json.dumps(line)
        assert text.index("KeyError") < text.index("which led to") < text.index("ValueError")
        assert "test_log_lines.py" in text
        assert " in fault" in text


@pytest.fixture
def verbs_lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    written, before = io.StringIO(), structlog.get_config()
    monkeypatch.setattr("sys.stderr", written)
    log_to_stderr()
    yield written
    structlog.configure(**before)


def test_a_verb_logs_neither_the_message_nor_the_variables_of_an_exception(verbs_lines: io.StringIO) -> None:
    secret = "canary in a variable"
    log = structlog.get_logger("ledger.test")
    try:
        raise fault()
    except ValueError:
        log.exception("failed", order_id=secret)
        log.error("failed", exc_info=True)
    written = verbs_lines.getvalue()
    assert written.count("which led to") == 2
    assert " in fault" in written
    assert NOT_AN_ID in written
    assert "canary" not in written


def test_the_ledgers_and_the_systems_own_words_about_a_fault_are_logged() -> None:
    assert named(StoreError("store p0 is in use")) == "StoreError: store p0 is in use"
    assert named(OSError(28, "No space left on device")) == "OSError: [Errno 28] No space left on device"
    assert without_values(StoreError("store p0 is in use")) == "StoreError: store p0 is in use"
    assert named(KeyError("canary")) == "KeyError"
    assert "canary" not in without_values(fault())


def test_other_libraries_log_no_message_of_an_exception_either(lines: Callable[[], list[dict[str, Any]]]) -> None:
    logging.getLogger("mode.service").error("Crashed reason=%r in %s", fault(), "App")
    logging.getLogger("mode.service").error("No exception: %(a)s", {"a": 1})

    async def forgotten() -> None:
        async def failing() -> None:
            raise fault()

        asyncio.get_running_loop().create_task(failing())
        await asyncio.sleep(0.01)

    asyncio.run(forgotten())
    import gc

    gc.collect()
    written = lines()
    assert "canary" not in json.dumps(written)
    assert written[0]["event"].startswith("Crashed reason='ValueError at test_log_lines.py:")
    assert written[1]["event"] == "No exception: 1"
    assert [line["event"] for line in written[2:]] == ["Task exception was never retrieved"]


def test_an_id_is_logged_only_in_the_ledgers_own_form(lines: Callable[[], list[dict[str, Any]]]) -> None:
    log, ours, command = structlog.get_logger("ledger.test"), order_id_of("cmd_1"), fresh_command_id()
    log.warning("x", order_id=ours, command_id=command)
    log.warning("x", order_id="Ada-Example", command_id="ada@example.org")
    log.warning("x", order_id=None)
    written = lines()
    assert (written[0]["order_id"], written[0]["command_id"]) == (ours, command)
    assert (written[1]["order_id"], written[1]["command_id"]) == (NOT_AN_ID, NOT_AN_ID)
    assert written[2]["order_id"] is None
