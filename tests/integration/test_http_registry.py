"""The registry paths: by hand, and with Confluent's own client and deserialiser."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest

from ledger.memory.log import MemoryLog
from ledger.schemas.codec import event_codec
from ledger.schemas.versions import EVENTS, schema_versions, versions_of
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
        ("/subjects/shop.order-events-value", 404, 404),
        ("/schemas", 404, 404),
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
    answer = ledger.client("admin").post("/subjects/x/versions", json={"schema": "{}"})
    assert (answer.status_code, answer.json()["error_code"], answer.headers["allow"]) == (405, 405, "GET, HEAD")


def test_confluents_deserialiser_reads_the_topic_with_this_registry_alone(ledger: RunningLedger) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from the client's own imports
        from confluent_kafka.schema_registry import SchemaRegistryClient
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
    event = event_codec().decode(record.value)
    assert (read["order_id"], read["version"], read["type"], read["total_minor"]) == (event.order_id, 1, "OrderPlaced", 3400)
    assert read["placed"]["lines"][0] == order_body()["lines"][0]
