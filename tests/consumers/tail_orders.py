"""Tails `order-events` without the product's code: python tail_orders.py BROKERS TOPIC REGISTRY_URL TOKEN [EVENTS]

Prints a JSON line per event; ends after EVENTS, or at Ctrl-C. It checks the ledger's promises to
readers: versions 1..n per order without gaps, and the chain of each partition.
"""

import base64
import hashlib
import io
import json
import struct
import sys
import urllib.request

import fastavro
from confluent_kafka import Consumer

brokers, topic, registry, token = sys.argv[1:5]
wanted = int(sys.argv[5]) if len(sys.argv) > 5 else None
schemas, versions, links = {}, {}, {}


def schema_of(schema_id):
    if schema_id not in schemas:
        basic = base64.b64encode(f"reader:{token}".encode()).decode()
        request = urllib.request.Request(f"{registry}/schemas/ids/{schema_id}", headers={"Authorization": f"Basic {basic}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            schemas[schema_id] = fastavro.parse_schema(json.loads(json.load(answer)["schema"]))
    return schemas[schema_id]


consumer = Consumer(
    {
        "bootstrap.servers": brokers,
        "group.id": "tail-orders",
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
    }
)
consumer.subscribe([topic])
try:
    while wanted is None or sum(versions.values()) < wanted:
        message = consumer.poll(1.0)
        if message is None or message.error():
            assert message is None, message.error()
            continue
        magic, schema_id = struct.unpack(">bI", message.value()[:5])  # Confluent's wire format
        event = fastavro.schemaless_reader(io.BytesIO(message.value()[5:]), schema_of(schema_id), None)
        order, version = event["order_id"], event["version"]
        assert version == versions.get(order, 0) + 1, f"gap in {order}: version {version} after {versions.get(order, 0)}"
        assert event["prev_hash"] == links.get(message.partition(), bytes(32)), f"chain broken at {message.offset()}"
        versions[order], links[message.partition()] = version, hashlib.sha256(message.value()[5:]).digest()
        print(json.dumps({name: event[name] for name in ("order_id", "version", "type", "status", "captured_minor")}), flush=True)
except KeyboardInterrupt:
    pass
finally:
    consumer.close()
