"""Publishing to a registry with Confluent's IMPORT mode: a server on loopback that keeps its rules.

The real registry, Apicurio, which works differently, is in tests/integration/test_apicurio.py.
"""

from __future__ import annotations

import base64
import json
import logging
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ledger.errors import ConfigError
from ledger.schemas import registry
from ledger.schemas.registry import check_registry, publish
from ledger.schemas.versions import EVENTS, SchemaVersion, minify, schema_versions, versions_of


class Refused(Exception):
    """Answered by a status and Confluent's error body."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ImportModeRegistry:
    """The rules: an id and a version are accepted in IMPORT mode only and required there; a subject that has versions enters it
    only with force. `refuse` makes registering fail, `seen` collects the Authorization headers."""

    def __init__(self) -> None:
        self.subjects: dict[str, dict[int, tuple[int, str]]] = {}
        self.modes: dict[str, str] = {}
        self.refuse: str | None = None
        self.seen: list[str | None] = []

    def answer(self, method: str, path: str, body: dict[str, Any]) -> Any:
        if match := re.fullmatch(r"/schemas/ids/(\d+)", path):
            return {"schema": self._by_id(int(match[1]))}
        if match := re.fullmatch(r"/mode/([^/?]+)(\?force=true)?", path):
            return self._mode(method, match[1], forced=bool(match[2]), mode=body.get("mode"))
        if match := re.fullmatch(r"/subjects/([^/]+)/versions", path):
            return self._register(match[1], body)
        if match := re.fullmatch(r"/subjects/([^/]+)/versions/(\d+)", path):
            return self._row(match[1], int(match[2]))
        if match := re.fullmatch(r"/subjects/([^/]+)", path):
            versions = self.subjects.get(match[1], {})
            return self._row(match[1], next((v for v, (_, text) in versions.items() if text == body["schema"]), 0))
        raise Refused(404, f"no such path: {path}")

    def _by_id(self, schema_id: int) -> str:
        for versions in self.subjects.values():
            for number, text in versions.values():
                if number == schema_id:
                    return text
        raise Refused(404, "Schema not found")

    def _row(self, subject: str, version: int) -> dict[str, Any]:
        if version not in self.subjects.get(subject, {}):
            raise Refused(404, "Version not found")
        schema_id, text = self.subjects[subject][version]
        return {"subject": subject, "version": version, "id": schema_id, "schema": text}

    def _mode(self, method: str, subject: str, forced: bool, mode: str | None) -> dict[str, Any]:
        if method == "PUT" and mode:
            if mode == "IMPORT" and self.subjects.get(subject) and not forced:
                raise Refused(422, "Cannot import since found existing subjects")
            self.modes[subject] = mode
            return {"mode": mode}
        if subject not in self.modes:
            raise Refused(404, "Subject does not have subject-level mode configured")
        return {"mode": self.modes.pop(subject) if method == "DELETE" else self.modes[subject]}

    def _register(self, subject: str, body: dict[str, Any]) -> dict[str, Any]:
        if self.refuse:
            raise Refused(422, self.refuse)
        if (self.modes.get(subject) == "IMPORT") is not ("id" in body):
            raise Refused(422, "Subject is (not) in import mode")
        self.subjects.setdefault(subject, {})[body["version"]] = (body["id"], body["schema"])
        return {"id": body["id"]}


@pytest.fixture
def server() -> Iterator[tuple[ImportModeRegistry, str]]:
    """Yields the registry and its host:port."""
    rules = ImportModeRegistry()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            rules.seen.append(self.headers["Authorization"])
            length = int(self.headers["Content-Length"] or 0)
            try:
                status, value = 200, rules.answer(self.command, self.path, json.loads(self.rfile.read(length) or b"{}"))
            except Refused as refused:
                status, value = refused.status, {"error_code": refused.status * 100 + 1, "message": str(refused)}
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_DELETE = answer

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield rules, f"127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_every_schema_is_imported_with_its_id_and_no_subject_stays_in_import_mode(server: tuple[ImportModeRegistry, str]) -> None:
    rules, address = server
    assert publish(f"http://{address}", "eu.") == schema_versions()
    expected: dict[str, dict[int, tuple[int, str]]] = {}
    for s in schema_versions():
        expected.setdefault(s.subject("eu."), {})[s.version] = s.id, s.text
    assert rules.subjects == expected
    assert rules.modes == {}
    assert publish(f"http://{address}/", "eu.") == ()


def test_a_subjects_own_mode_is_restored(server: tuple[ImportModeRegistry, str]) -> None:
    rules, address = server
    rules.modes["order-events-value"] = "READONLY"
    publish(f"http://{address}")
    assert rules.modes == {"order-events-value": "READONLY"}


def test_a_refusal_is_reported_in_the_registrys_words_and_the_mode_is_restored(server: tuple[ImportModeRegistry, str]) -> None:
    rules, address = server
    rules.refuse = "the disk is full"
    with pytest.raises(ConfigError, match="answers 422 to registering order-audit-value version 1: the disk is full"):
        publish(f"http://{address}")
    assert rules.modes == {}


def test_a_new_version_is_imported_beside_the_older_ones(
    server: tuple[ImportModeRegistry, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rules, address = server
    publish(f"http://{address}")
    schema = versions_of(EVENTS)[-1].parsed
    schema["doc"] = "the next version"
    second = SchemaVersion(EVENTS, versions_of(EVENTS)[-1].version + 1, minify(json.dumps(schema)))
    monkeypatch.setattr(registry, "schema_versions", lambda: (*schema_versions(), second))
    assert publish(f"http://{address}") == (second,)
    assert rules.subjects["order-events-value"][second.version] == (second.id, second.text)
    assert len(rules.subjects["order-events-value"]) == second.version


def test_a_password_in_the_address_is_sent_as_basic_credentials_and_never_logged(
    server: tuple[ImportModeRegistry, str], caplog: pytest.LogCaptureFixture
) -> None:
    rules, address = server
    with caplog.at_level(logging.DEBUG):
        publish(f"http://ledger:pass%40word@{address}")
    assert set(rules.seen) == {"Basic " + base64.b64encode(b"ledger:pass@word").decode()}
    assert "DEBUG" in caplog.text  # log everything
    assert "pass%40word" not in caplog.text
    assert "pass@word" not in caplog.text


def test_a_registry_that_does_not_answer_is_named_by_its_setting(server: tuple[ImportModeRegistry, str]) -> None:
    _, address = server
    for url in ("http://127.0.0.1:1", "127.0.0.1", "http://[", f"https://{address}"):
        with pytest.raises(ConfigError, match="SCHEMA_REGISTRY_URL"):
            check_registry(url, timeout_s=2.0)


def test_an_answer_that_is_not_a_schema_is_named(server: tuple[ImportModeRegistry, str], monkeypatch: pytest.MonkeyPatch) -> None:
    rules, address = server
    monkeypatch.setattr(rules, "_by_id", lambda _: "<html>")
    with pytest.raises(ConfigError, match=r"is SCHEMA_REGISTRY_URL a schema registry\?"):
        check_registry(f"http://{address}")


def test_a_schema_that_differs_in_one_default_is_found(server: tuple[ImportModeRegistry, str]) -> None:
    rules, address = server
    publish(f"http://{address}")
    (event,) = versions_of(EVENTS)[:1]
    rules.subjects[event.subject()][1] = (event.id, event.text.replace('"default":[]', '"default":[null]'))
    assert rules.subjects[event.subject()][1][1] != event.text
    with pytest.raises(ConfigError, match=f"another schema under id {event.id} than order-events-value version 1"):
        check_registry(f"http://{address}")


def test_a_registry_that_ignores_the_id_is_not_taken_for_published(
    server: tuple[ImportModeRegistry, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rules, address = server
    monkeypatch.setattr(rules, "_register", lambda *_: {"id": 1})
    with pytest.raises(ConfigError, match="gave order-audit-value version 1 the id 1, not "):
        publish(f"http://{address}")
    assert rules.modes == {}
