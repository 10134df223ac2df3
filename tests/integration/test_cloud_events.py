"""The official CloudEvents SDK reads every record of `order-events`, on memory and on Kafka."""

from __future__ import annotations

from datetime import UTC, datetime

from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from ledger.schemas.codec import event_codec
from tests.support.harness import RunningLedger, key, order_body


def test_every_event_is_a_cloud_event_to_the_official_sdk(ledger: RunningLedger) -> None:
    client = ledger.client()
    order_id = client.post("/orders", json=order_body(), headers=key()).json()["order_id"]
    assert client.post(f"/orders/{order_id}/cancel", json={}, headers=key()).status_code == 200
    records = ledger.records(ledger.topics.events)
    ids = set()
    for record in records:
        headers = dict(record.headers)
        assert len(headers) == len(record.headers)
        cloud_event = from_kafka(KafkaMessage(headers, record.key, record.value or b""), JSONFormat(), CloudEvent)
        event = event_codec().decode(record.value)
        assert cloud_event.get_specversion() == "1.0"
        assert (cloud_event.get_id(), cloud_event.get_type()) == (f"{event.order_id}/{event.version}", event.type)
        assert cloud_event.get_source() == f"/{ledger.topics.events}"
        assert cloud_event.get_datacontenttype() == "application/avro"
        assert cloud_event.get_time() == datetime.fromtimestamp(event.occurred_at / 1000, UTC)
        assert cloud_event.get_extension("partitionkey") == event.order_id
        data = cloud_event.get_data()
        assert (data.encode() if isinstance(data, str) else data) == record.value
        ids.add((cloud_event.get_source(), cloud_event.get_id()))
    assert len(ids) == len(records) >= 2


def test_headers_hold_nothing_that_an_order_is_about(ledger: RunningLedger) -> None:
    client = ledger.client(customer="canary-customer")
    body = order_body(reference="canary-reference")
    body["contact"] |= {"name": "canary name", "email": "canary@example.org"}
    assert client.post("/orders", json=body, headers=key() | {"Request-Id": "canary"}).status_code == 201
    for record in ledger.records(ledger.topics.events):
        assert "canary" not in repr(record.headers)
        assert {name for name, _ in record.headers} <= {
            *("ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "content-type", "traceparent")
        }
