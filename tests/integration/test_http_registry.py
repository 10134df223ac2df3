"""The registry paths: by hand, and with Confluent's own client and deserialiser."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator

import pytest

from ledger.memory.log import MemoryLog
from ledger.schemas.codec import event_codec
from ledger.schemas.versions import EVENTS, REFUSALS, schema_versions, versions_of
from ledger.topics import Topics
from tests.support import loopback
from tests.support.harness import RunningLedger, key, order_body, running_ledger

JSON = "application/vnd.schemaregistry.v1+json"


@pytest.fixture(scope="module")
def ledger() -> Iterator[RunningLedger]:
    with running_ledger(MemoryLog(), Topics("shop.")) as running:
        yield running


def test_every_schema_is_found_by_id_by_subject_and_by_version(ledger: RunningLedger) -> None:
    client = ledger.client("reader")
    subjects = client.get("/subjects").json()
    assert subjects == list(dict.fromkeys(s.subject("shop.") for s in schema_versions()))
    for schema in schema_versions():
        subject = schema.subject("shop.")
        by_id = client.get(f"/schemas/ids/{schema.id}", params={"fetchMaxId": "false", "subject": subject})
        assert (by_id.headers["content-type"], by_id.json()) == (JSON, {"schema": schema.text})
        assert client.get(f"/schemas/ids/{schema.id}/schema").text == schema.text
        assert client.get(f"/schemas/ids/{schema.id}/subjects").json() == [subject]
        assert client.get(f"/schemas/ids/{schema.id}/versions").json() == [{"subject": subject, "version": schema.version}]
        assert schema.version in client.get(f"/subjects/{subject}/versions").json()
        answer = client.get(f"/subjects/{subject}/versions/{schema.version}").json()
        assert answer == {"subject": subject, "version": schema.version, "id": schema.id, "schema": schema.text}
        assert client.get(f"/subjects/{subject}/versions/{schema.version}/schema").text == schema.text
    newest = versions_of(EVENTS)[-1]
    for latest in ("latest", "-1"):
        assert client.get(f"/subjects/{newest.subject('shop.')}/versions/{latest}").json()["id"] == newest.id
    assert client.get("/schemas/types").json() == ["AVRO"]


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("/schemas/ids/1", 404, 40403),
        ("/schemas/ids/9999999999", 404, 40403),
        ("/schemas/ids/99999999999999999999", 404, 404),
        ("/schemas/ids/x", 404, 404),
        ("/schemas/ids/1/versions", 404, 40403),
        ("/subjects/nothing-value/versions", 404, 40401),
        ("/subjects/order-events-value/versions", 404, 40401),
        ("/subjects/shop.order-events-value/versions/99", 404, 40402),
        ("/subjects/shop.order-events-value/versions/0", 422, 42202),
        ("/subjects/shop.order-events-value/versions/x", 422, 42202),
        ("/subjects/shop.order-events-value", 405, 405),
        ("/schemas", 404, 404),
        ("/config/nothing-value", 404, 40408),
        ("/config/order-events-value", 404, 40408),
        ("/mode/nothing-value", 404, 40409),
        ("/mode/nothing-value?defaultToGlobal=false", 404, 40409),
        ("/contexts/x", 404, 404),
        ("/compatibility/subjects/shop.order-events-value/versions", 405, 405),
    ],
)
def test_errors_have_the_registrys_shape(ledger: RunningLedger, path: str, status: int, error: int) -> None:
    answer = ledger.client("reader").get(path)
    assert (answer.status_code, answer.json()["error_code"], answer.headers["content-type"]) == (status, error, JSON)
    assert answer.json()["message"]


def test_the_registry_is_read_only_and_needs_a_token(ledger: RunningLedger) -> None:
    with loopback.client(base_url=ledger.url) as client:
        answer = client.get("/subjects")
        assert (answer.status_code, answer.json()["error_code"], "Basic" in answer.headers["www-authenticate"]) == (
            401,
            401,
            True,
        )
    admin = ledger.client("admin")
    for method, path, allow in (
        ("POST", "/subjects/x/versions", "GET, HEAD"),
        ("DELETE", "/subjects/shop.order-events-value", "POST"),
        ("DELETE", "/subjects/shop.order-events-value/versions/1", "GET, HEAD"),
        ("PUT", "/config", "GET, HEAD"),
        ("DELETE", "/config/shop.order-events-value", "GET, HEAD"),
        ("PUT", "/mode/shop.order-events-value", "GET, HEAD"),
    ):
        answer = admin.request(method, path, json={"schema": "{}"})
        assert (answer.status_code, answer.json()["error_code"], answer.headers["allow"]) == (405, 405, allow), path
        assert answer.headers["content-type"] == JSON


def test_level_mode_and_contexts_are_those_of_a_registry_that_is_read_only_and_full_transitive(ledger: RunningLedger) -> None:
    client = ledger.client("reader")
    subjects = [*client.get("/subjects").json(), "nothing-value?defaultToGlobal=true"]
    for path, value in (("/config", {"compatibilityLevel": "FULL_TRANSITIVE"}), ("/mode", {"mode": "READONLY"})):
        for place in (path, *(f"{path}/{subject}" for subject in subjects)):
            answer = client.get(place)
            assert (answer.status_code, answer.headers["content-type"], answer.json()) == (200, JSON, value), place
    assert client.get("/contexts").json() == ["."]


EVENTS_SUBJECT = "shop.order-events-value"


def without(name: str) -> str:
    """The newest event schema without one of its fields."""
    schema = versions_of(EVENTS)[-1].parsed
    schema["fields"] = [field for field in schema["fields"] if field["name"] != name]
    return json.dumps(schema)


def test_a_schema_is_looked_up_in_its_subject_however_it_is_written(ledger: RunningLedger) -> None:
    client = ledger.client("reader")
    for schema in schema_versions():
        subject = schema.subject("shop.")
        for text in (schema.text, json.dumps(schema.parsed, indent=2)):
            answer = client.post(f"/subjects/{subject}?normalize=true", json={"schema": text, "schemaType": "AVRO", "new": 1})
            expected = {"subject": subject, "version": schema.version, "id": schema.id, "schema": schema.text}
            assert (answer.status_code, answer.headers["content-type"], answer.json()) == (200, JSON, expected)
    for subject, text, status, code in (
        (EVENTS_SUBJECT, without("currency"), 404, 40403),
        (EVENTS_SUBJECT, versions_of(REFUSALS)[0].text, 404, 40403),
        ("nothing-value", versions_of(EVENTS)[0].text, 404, 40401),
        (EVENTS_SUBJECT, "no schema", 422, 42201),
    ):
        answer = client.post(f"/subjects/{subject}", json={"schema": text})
        assert (answer.status_code, answer.json()["error_code"], answer.headers["content-type"]) == (status, code, JSON)


def test_compatibility_is_judged_against_one_version_and_against_all(ledger: RunningLedger) -> None:
    client = ledger.client("reader")
    same = versions_of(EVENTS)[-1].text
    for place in ("versions", "versions/latest", "versions/1"):
        path = f"/compatibility/subjects/{EVENTS_SUBJECT}/{place}"
        assert client.post(path, json={"schema": same}).json() == {"is_compatible": True}
        assert client.post(path, json={"schema": without("currency")}).json() == {"is_compatible": False}
        answer = client.post(f"{path}?verbose=True", json={"schema": without("currency")}).json()
        assert answer["is_compatible"] is False
        assert [message for message in answer["messages"] if "field currency: it is not written" in message]
    for place, text, status, code in (
        ("nothing-value/versions/latest", same, 404, 40401),
        ("nothing-value/versions", same, 404, 40401),
        (f"{EVENTS_SUBJECT}/versions/99", same, 404, 40402),
        (f"{EVENTS_SUBJECT}/versions/0", same, 422, 42202),
        (f"{EVENTS_SUBJECT}/versions/1", '{"type":"record"}', 422, 42201),
    ):
        answer = client.post(f"/compatibility/subjects/{place}", json={"schema": text})
        assert (answer.status_code, answer.json()["error_code"], answer.headers["content-type"]) == (status, code, JSON)


@pytest.mark.parametrize(
    ("content", "media", "status", "code"),
    [
        (b"{", JSON, 400, 400),
        (b"", JSON, 400, 400),
        (b'{"schema": "\\ud800"}', JSON, 400, 400),
        (b"[]", JSON, 422, 422),
        (b"{}", JSON, 422, 42201),
        (b'{"schema": ""}', JSON, 422, 42201),
        (b'{"schema": {}}', JSON, 422, 42201),
        (b'{"schema": "{}", "schemaType": "PROTOBUF"}', JSON, 422, 42201),
        (b'{"schema": "{}", "references": [{"name": "x", "subject": "y", "version": 1}]}', JSON, 422, 42201),
        (b'{"schema": "\\"strnig\\"", "references": []}', "application/json; charset=utf-8", 422, 42201),
        (b"schema=1", "application/x-www-form-urlencoded", 415, 415),
        (b"x" * (64 * 1024 + 1), JSON, 413, 413),
    ],
)
def test_a_body_that_is_no_question_is_refused_in_the_registrys_shape(
    ledger: RunningLedger, content: bytes, media: str, status: int, code: int
) -> None:
    for path in (f"/subjects/{EVENTS_SUBJECT}", f"/compatibility/subjects/{EVENTS_SUBJECT}/versions/latest"):
        answer = ledger.client("reader").post(path, content=content, headers={"Content-Type": media})
        assert (answer.status_code, answer.json()["error_code"], answer.headers["content-type"]) == (status, code, JSON)
        assert answer.json()["message"]


def test_work_for_a_caller_is_charged_to_the_caller(ledger: RunningLedger) -> None:
    charged: list[float] = []
    limits = ledger.context.limits
    charge = limits.charge
    limits.charge = lambda principal, customer, worked_s: charged.append(worked_s)  # type: ignore[method-assign]
    try:
        ledger.client("reader").post(f"/subjects/{EVENTS_SUBJECT}", json={"schema": without("currency")})
    finally:
        limits.charge = charge  # type: ignore[method-assign]
    assert len(charged) == 1
    assert charged[0] > 0


def test_confluents_deserialiser_reads_the_topic_with_this_registry_alone(ledger: RunningLedger) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from the client's own imports
        from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
        from confluent_kafka.schema_registry.avro import AvroDeserializer
        from confluent_kafka.serialization import MessageField, SerializationContext
    answer = ledger.client().post("/orders", json=order_body(), headers=key())
    record = next(r for r in ledger.records(ledger.topics.events) if r.key == answer.json()["order_id"].encode())
    settings = {"url": ledger.url, "basic.auth.user.info": f"anybody:{ledger.tokens['reader']}"}
    with SchemaRegistryClient(settings) as registry:
        read = AvroDeserializer(registry)(record.value, SerializationContext(record.topic, MessageField.VALUE))
        assert registry.get_latest_version("shop.order-events-value").schema_id == event_codec().schema_id
        assert registry.get_subjects() == ledger.client("reader").get("/subjects").json()
        with pytest.raises(Exception, match="40403"):
            registry.get_schema(1)
        newest = versions_of(EVENTS)[-1]
        subject = newest.subject("shop.")
        assert (registry.get_compatibility(), registry.get_compatibility(subject)) == ("FULL_TRANSITIVE", "FULL_TRANSITIVE")
        assert (registry.get_global_mode(), registry.get_mode(subject), registry.get_contexts()) == (
            "READONLY",
            "READONLY",
            ["."],
        )
        assert registry.lookup_schema(subject, Schema(newest.text, "AVRO")).schema_id == newest.id
        fits, fits_not = Schema(newest.text, "AVRO"), Schema(without("currency"), "AVRO")
        assert registry.test_compatibility(subject, fits)
        assert registry.test_compatibility_all_versions(subject, fits, verbose=True)
        assert not registry.test_compatibility(subject, fits_not, version=1)
        assert not registry.test_compatibility_all_versions(subject, fits_not)
    event = event_codec().decode(record.value)
    assert (read["order_id"], read["version"], read["type"], read["total_minor"]) == (event.order_id, 1, "OrderPlaced", 3400)
    assert read["placed"]["lines"][0] == order_body()["lines"][0]
