"""The schemas in a real registry: under their own ids, readable by Confluent's deserialiser, still there after a restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

from ledger.contacts import Address, OrderContact
from ledger.errors import ConfigError
from ledger.events import Adjustment, Line, OrderEvent, OrderRefusal, Placed, Stock, StockItem
from ledger.kafka.settings import KafkaSettings
from ledger.schemas import versions as schemas
from ledger.schemas.codec import contact_codec, event_codec, refusal_codec
from ledger.schemas.registry import apicurio_archive, check_registry, publish
from ledger.schemas.versions import EVENTS, schema_versions, versions_of
from tests.support import later_schemas
from tests.support.apicurio import running_apicurio

pytestmark = pytest.mark.apicurio

ROOT = Path(__file__).parents[2]

EVENT = {
    "order_id": "ord_1",
    "version": 1,
    "occurred_at": 1_795_465_196_626,
    "customer_id": "c-1",
    "currency": "EUR",
    "total_minor": 2890,
    "actor": "gateway:web",
    "command_id": "cmd_1",
    "fingerprint": bytes(range(16)),
    "status": "pending",
    "command_offset": 2**40,
    "prev_hash": bytes(range(32)),
}
PLACED = Placed(
    lines=(Line("product", "espresso-1kg", "Espresso ☕ 1 kg", 1, 2490), Line("merch", "mug", "Mug", 2, 0)),
    adjustments=(Adjustment("shipping", "Parcel", 400),),
    contact_digest=bytes(range(32)),
    expires_at=1_795_467_196_626,
)
REFUSAL = OrderRefusal(
    code="undecodable",
    detail="truncated: 7 bytes",
    occurred_at=1_795_465_196_626,
    command_log=bytes(range(16)),
    command_offset=7,
    batch_first=7,
    writer_epoch=3,
    original=b"\x00\xff",
)
STOCK = Stock("product", reason="out_of_stock", items=(StockItem("espresso-1kg", 0),))


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """An empty registry that keeps its schemas in memory."""
    with running_apicurio(tmp_path) as url:
        yield url


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that has the schemas."""
    with running_apicurio(tmp_path_factory.mktemp("apicurio")) as url:
        publish(url)
        yield url


def register(url: str, subject: str, text: str) -> int:
    """Register a schema as anybody would. Returns the id that the registry chose."""
    answer = httpx.post(f"{url}/subjects/{subject}/versions", json={"schema": text, "schemaType": "AVRO"})
    return int(answer.raise_for_status().json()["id"])


def changed(text: str) -> str:
    return text.replace("shown status after this event", "something else")


def import_content(url: str, schema_id: int, text: str) -> None:
    """Import any text under an id."""
    httpx.post(
        url.replace("/ccompat/v7", "/registry/v3/admin/import"),
        params={"requireEmptyRegistry": "false"},
        headers={"Content-Type": "application/zip", "X-Registry-Preserve-ContentId": "true"},
        content=apicurio_archive([(schema_id, text)]),
    ).raise_for_status()


def test_an_empty_registry_is_refused_and_publishing_loads_every_schema_under_its_id_and_version(registry: str) -> None:
    with pytest.raises(ConfigError, match=r"has no schema .*: order-ledger schema publish"):
        check_registry(registry)
    assert publish(registry) == schema_versions()
    check_registry(registry)
    for schema in schema_versions():
        registered = httpx.get(f"{registry}/subjects/{schema.subject()}/versions/{schema.version}").json()
        assert (registered["id"], registered["version"], registered["schema"]) == (schema.id, schema.version, schema.text)
    subjects = httpx.get(f"{registry}/subjects").json()
    assert sorted(subjects) == sorted({schema.subject() for schema in schema_versions()})


def test_publishing_again_loads_nothing(published: str) -> None:
    assert publish(published) == ()


def test_ledgers_with_other_prefixes_share_ids_under_subjects_of_their_own(published: str) -> None:
    assert publish(published, "eu.") == schema_versions()
    assert publish(published, "eu.") == ()
    for schema in schema_versions():
        subjects = [row["subject"] for row in httpx.get(f"{published}/schemas/ids/{schema.id}/versions").json()]
        assert {schema.subject(), schema.subject("eu.")} <= set(subjects)


def test_another_schema_under_an_id_of_the_ledger_is_found_and_nothing_is_written(registry: str) -> None:
    (event,) = versions_of(EVENTS)[:1]
    import_content(registry, event.id, changed(event.text))
    assert register(registry, "somebody-elses", changed(event.text)) == event.id
    with pytest.raises(ConfigError, match=f"another schema under id {event.id} than order-events-value version 1"):
        publish(registry)
    assert httpx.get(f"{registry}/subjects").json() == ["somebody-elses"]


def test_a_start_is_refused_when_a_published_schema_is_not_the_same(registry: str) -> None:
    for schema in schema_versions():
        import_content(registry, schema.id, changed(schema.text))
        register(registry, schema.subject(), changed(schema.text))
    with pytest.raises(ConfigError, match=r"another schema under id .* than order-events-value version 1"):
        check_registry(registry)


def test_a_schema_of_the_ledger_under_an_id_of_the_registrys_choice_is_found_and_nothing_is_written(registry: str) -> None:
    (event,) = versions_of(EVENTS)[:1]
    chosen = register(registry, event.subject(), event.text)
    assert chosen != event.id
    with pytest.raises(ConfigError, match=f"with id {chosen}, not as version 1 with id {event.id}: delete"):
        publish(registry)
    assert httpx.get(f"{registry}/subjects").json() == [event.subject()]


def test_another_schema_in_the_place_of_the_ledgers_is_found_and_nothing_is_written(registry: str) -> None:
    register(registry, "order-events-value", '{"type":"record","name":"Other","fields":[]}')
    with pytest.raises(ConfigError, match="another schema as order-events-value version 1: delete the subject"):
        publish(registry)
    assert httpx.get(f"{registry}/subjects").json() == ["order-events-value"]


@pytest.mark.parametrize(
    ("codec", "value"),
    [
        (event_codec(), OrderEvent(type="OrderPlaced", placed=PLACED, **EVENT)),
        (event_codec(), OrderEvent(type="StockRejected", stock=STOCK, **EVENT)),
        (refusal_codec(), REFUSAL),
        (contact_codec(), OrderContact("c-1", "Ada", "ada@example.org", Address("1 Mill Lane", "Leeds", "LS1 1AA", "GB"))),
    ],
    ids=["placed", "stock", "refusal", "contact"],
)
def test_confluents_deserialiser_reads_the_ledgers_records_without_its_code(published: str, codec: Any, value: Any) -> None:
    data = codec.encode(value)
    with SchemaRegistryClient({"url": published}) as registry:
        decoded = AvroDeserializer(registry)(data, SerializationContext("any-topic", MessageField.VALUE))
    assert decoded == codec.decode_fields(data)
    assert codec.decode(data) == value


@pytest.mark.kafka
def test_the_compose_files_registry_still_has_the_schemas_after_a_restart(kafka: KafkaSettings, tmp_path: Path) -> None:
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["registry"]
    environment = {name: str(value) for name, value in service["environment"].items()} | {
        "APICURIO_KAFKASQL_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "APICURIO_KAFKASQL_TOPIC": f"{tmp_path.name}-journal",
        "APICURIO_KAFKASQL_SNAPSHOTS_TOPIC": f"{tmp_path.name}-snapshots",
        "APICURIO_EVENTS_KAFKA_TOPIC": f"{tmp_path.name}-events",
    }
    assert environment["APICURIO_STORAGE_KIND"] == "kafkasql"
    with running_apicurio(tmp_path, environment) as url:
        assert publish(url) == schema_versions()
    with running_apicurio(tmp_path, environment) as url:
        check_registry(url)
        assert publish(url) == ()


def test_later_versions_are_published_under_their_own_ids_beside_the_first(
    registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`schema publish` of a program that knows three versions, into a registry that has one; then `schema check`."""
    assert publish(registry) == schema_versions()
    folder = later_schemas.folder_with_them(tmp_path / "avro")
    monkeypatch.setattr(schemas, "data_dir", lambda: folder)
    schema_versions.cache_clear()
    try:
        later = later_schemas.event_versions()[1:]
        assert publish(registry) == later
        check_registry(registry)
        for schema in later:
            registered = httpx.get(f"{registry}/subjects/{schema.subject()}/versions/{schema.version}").json()
            assert (registered["id"], registered["version"], registered["schema"]) == (schema.id, schema.version, schema.text)
    finally:
        schema_versions.cache_clear()
