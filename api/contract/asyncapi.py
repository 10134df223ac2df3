"""The AsyncAPI 3.1 document of the topics, including the Avro schemas. Generated from the code."""

from __future__ import annotations

from typing import Any

from api.settings import program_version
from ledger.schemas.versions import AUDIT, COMMANDS, CONTACTS, EVENTS, REFUSALS, versions_of
from ledger.topics import Topics, TopicSpec

AVRO_FORMAT = "application/vnd.apache.avro;version=1.9.0"

_TEXTS = {
    EVENTS: (
        "The ledger: every change of every order, for ever. Public: read it with `isolation.level=read_committed`.",
        "order_id",
    ),
    COMMANDS: ("Requests and observed facts about orders. Internal: only the processor reads it.", "order_id"),
    REFUSALS: ("Commands that changed nothing, and why. Internal.", "order_id"),
    AUDIT: (
        "What staff did and saw that no event records: contacts read, customers erased, attention resolved; and reloads of the "
        "tokens. For auditors. A record that was written twice has the same `audit_id` both times.",
        "order_id, else customer_id, else none",
    ),
    CONTACTS: (
        "Personal data of orders, compacted; erased by a tombstone. Internal. Other keys do not hold contacts: "
        "they mark erased contacts, and erasures in progress.",
        "order_id/contact_digest",
    ),
}
# CloudEvents 1.0 in Kafka's binary mode.
_HEADERS = {
    "type": "object",
    "required": ["ce_id", "ce_type", "content-type"],
    "properties": {
        "ce_id": {"type": "string", "description": "order_id/version"},
        "ce_type": {"type": "string", "description": "type of the event"},
        "content-type": {"const": "application/avro", "description": "a zero byte, a 4-byte schema id, an Avro body"},
        "ce_specversion": {"const": "1.0", "description": "early events have neither this one nor the next two"},
        "ce_source": {"type": "string", "description": "a slash and the topic that the event was first written to"},
        "ce_time": {"type": "string", "format": "date-time", "description": "`occurred_at` of the event, RFC 3339 in UTC"},
        "traceparent": {"type": "string", "description": "W3C trace context, if there is one"},
    },
}


def asyncapi_document(topics: Topics, partitions: int, writers: int) -> dict[str, Any]:
    """The document for a ledger with these topics; `partitions` of the order topics."""
    names = {
        EVENTS: topics.events,
        COMMANDS: topics.commands,
        REFUSALS: topics.refusals,
        CONTACTS: topics.contacts,
        AUDIT: topics.audit,
    }
    specs = {spec.name: spec for spec in topics.specs(partitions, writers)}
    messages = {topic: _message(topic, topics.prefix) for topic in names}
    return {
        "asyncapi": "3.1.0",
        "info": {
            "title": "Order Ledger",
            "version": program_version(),
            "description": "Confluent wire format: byte 0, a 4-byte schema id, an Avro body. Keys are UTF-8 text.",
            "license": {"name": "Apache 2.0"},
        },
        "defaultContentType": "application/vnd.confluent.avro",
        "channels": {topic: _channel(topic, specs[name]) for topic, name in names.items()},
        "operations": {
            "readEvents": {
                "action": "send",
                "channel": {"$ref": f"#/channels/{EVENTS}"},
                "summary": "The ledger sends every committed event.",
                "messages": [{"$ref": f"#/channels/{EVENTS}/messages/{EVENTS}"}],
            }
        },
        "components": {"messages": messages},
    }


def _channel(topic: str, spec: TopicSpec) -> dict[str, Any]:
    configuration: dict[str, Any] = {}
    if "cleanup.policy" in spec.settings:
        configuration["cleanup.policy"] = [spec.settings["cleanup.policy"]]
    for name in ("retention.ms", "retention.bytes"):
        if name in spec.settings:
            configuration[name] = int(spec.settings[name])
    return {
        "address": spec.name,
        "description": _TEXTS[topic][0],
        "messages": {topic: {"$ref": f"#/components/messages/{topic}"}},
        "bindings": {
            "kafka": {
                "topic": spec.name,
                "partitions": spec.partitions,
                "topicConfiguration": configuration,
                "bindingVersion": "0.5.0",
            }
        },
    }


def _message(topic: str, prefix: str) -> dict[str, Any]:
    newest = versions_of(topic)[-1]
    message: dict[str, Any] = {
        "name": newest.parsed["name"],
        "title": f"{newest.subject(prefix)} version {newest.version} (schema id {newest.id})",
        "contentType": "application/vnd.confluent.avro",
        "payload": {"schemaFormat": AVRO_FORMAT, "schema": newest.parsed},
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": _TEXTS[topic][1]},
                "schemaIdLocation": "payload",
                "schemaIdPayloadEncoding": "confluent",
                "bindingVersion": "0.5.0",
            }
        },
    }
    if topic == EVENTS:
        message["headers"] = _HEADERS
    return message
