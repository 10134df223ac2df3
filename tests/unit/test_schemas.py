"""The schema files: fit for every Avro reader, with the shape of the Python types, with ids that anybody can compute."""

from __future__ import annotations

import hashlib
import json
import types
import typing
from io import BytesIO
from typing import Any

import avro.io
import avro.schema
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from commands.messages import PAYLOAD_OF, OrderCommand, command_codec
from ledger.errors import ConfigError
from ledger.events import DETAIL_OF, OrderEvent
from ledger.schemas.codec import PREFIX_BYTES
from ledger.schemas.data_files import data_dir
from ledger.schemas.versions import COMMANDS, EVENTS, SchemaVersion, schema_versions, versions_of
from tests.support.avro_values import KINDS, real_records, values_of

FILES = sorted(data_dir().glob("*.avsc"))
NEWEST = {topic: json.loads(versions_of(topic)[-1].text) for topic in KINDS}
APACHE = {topic: avro.schema.parse(versions_of(topic)[-1].text) for topic in KINDS}


def records_in(schema: Any) -> list[dict[str, Any]]:
    """Every record defined in `schema`, outermost first."""
    if isinstance(schema, list):
        return [r for branch in schema for r in records_in(branch)]
    if not isinstance(schema, dict):
        return []
    if schema["type"] == "array":
        return records_in(schema["items"])
    own = [schema] if schema["type"] == "record" else []
    return own + [r for field in schema.get("fields", ()) for r in records_in(field["type"])]


def types_in(schema: Any) -> list[Any]:
    """Every type written anywhere in `schema`."""
    if isinstance(schema, list):
        return [schema, *(t for branch in schema for t in types_in(branch))]
    if not isinstance(schema, dict):
        return [schema]
    inner = [schema["items"]] if schema["type"] == "array" else [f["type"] for f in schema.get("fields", ())]
    return [schema, *(t for i in inner for t in types_in(i))]


every_topic = pytest.mark.parametrize("topic", sorted(KINDS))


# ---- files and ids --------------------------------------------------------------------------------------------------


def test_every_schema_file_is_known_and_every_topic_has_one() -> None:
    assert {f"{s.topic}-value.v{s.version}.avsc" for s in schema_versions()} == {f.name for f in FILES}
    assert {s.topic for s in schema_versions()} == set(KINDS)


def test_an_id_is_the_first_31_bits_of_the_sha256_of_the_minified_file() -> None:
    for file in FILES:
        minified = json.dumps(json.loads(file.read_text("utf-8")), separators=(",", ":"), ensure_ascii=False)
        bits = bin(int(hashlib.sha256(minified.encode()).hexdigest(), 16))[2:].zfill(256)
        topic, version = file.name.removesuffix(".avsc").split("-value.v")
        assert versions_of(topic)[int(version) - 1].id == int(bits[:31], 2)


def test_ids_are_distinct_and_fit_the_wire_format() -> None:
    ids = [s.id for s in schema_versions()]
    assert len(set(ids)) == len(ids)
    assert all(0 < i < 2**31 for i in ids)


def test_two_files_of_one_id_or_a_missing_version_are_refused_at_start(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.schemas.versions.data_dir", lambda: tmp_path)
    for file in FILES:
        (tmp_path / file.name).write_text(file.read_text("utf-8"), "utf-8")
    schema_versions.__wrapped__()
    (tmp_path / "order-events-value.v3.avsc").write_text('{"type":"string"}', "utf-8")
    with pytest.raises(ConfigError, match=r"\[1, 3\]"):
        schema_versions.__wrapped__()
    (tmp_path / "order-events-value.v2.avsc").write_text(' {"type" : "string"}\n', "utf-8")
    with pytest.raises(ConfigError, match="same id"):
        schema_versions.__wrapped__()


def test_white_space_does_not_change_an_id_but_anything_else_does() -> None:
    one, same, other = (
        SchemaVersion("t", 1, json.dumps(json.loads(text), separators=(",", ":")))
        for text in ('{"type": "string"}', '{ "type":"string" }', '{"type": "bytes"}')
    )
    assert one.id == same.id != other.id


# ---- only what every Avro reader supports ---------------------------------------------------------------------------


@every_topic
def test_a_schema_uses_nothing_that_readers_disagree_on(topic: str) -> None:
    """No enum, no map, no float, no logical type, no union but [null, X]."""
    plain = {"null", "boolean", "string", "int", "long", "bytes"}
    names = {t["name"] for t in types_in(NEWEST[topic]) if isinstance(t, dict) and "name" in t}
    for kind in types_in(NEWEST[topic]):
        if isinstance(kind, list):
            assert len(kind) == 2
            assert kind[0] == "null"
        elif isinstance(kind, dict):
            assert kind["type"] in ("record", "array", "fixed")
            assert "logicalType" not in kind
        else:
            assert kind in plain | names


@every_topic
def test_a_nullable_field_defaults_to_null_so_that_old_and_new_readers_agree(topic: str) -> None:
    for record in records_in(NEWEST[topic]):
        for field in record["fields"]:
            if isinstance(field["type"], list):
                assert field["default"] is None, field["name"]
            elif "default" in field:
                assert (field["default"], field["type"]["type"]) == ([], "array"), field["name"]


@every_topic
def test_no_type_contains_itself(topic: str) -> None:
    """Twenty kilobytes of nested data would kill a recursive reader, and the process with it."""

    def walk(kind: Any, inside: tuple[str, ...]) -> None:
        if isinstance(kind, str):
            assert kind not in inside
        elif isinstance(kind, list):
            for branch in kind:
                walk(branch, inside)
        elif kind["type"] == "array":
            walk(kind["items"], inside)
        elif kind["type"] == "record":
            for field in kind["fields"]:
                walk(field["type"], (*inside, kind["name"]))

    walk(NEWEST[topic], ())


@every_topic
def test_the_end_of_the_data_is_noticed_in_every_array_item(topic: str) -> None:
    """An item of no bytes lets six bytes ask for gigabytes; an item of only fixed bytes lets a reader skip for ever."""
    records = {record["name"]: record for record in records_in(NEWEST[topic])}
    for kind in types_in(NEWEST[topic]):
        if isinstance(kind, dict) and kind["type"] == "array":
            item = records[kind["items"]] if isinstance(kind["items"], str) else kind["items"]
            assert any(field["type"] in ("string", "int", "long") for field in item["fields"])


@every_topic
def test_apache_avro_reads_the_file(topic: str) -> None:
    assert APACHE[topic].fullname == f"order_ledger.{KINDS[topic][0].__name__}"


# ---- the Python types say the same ----------------------------------------------------------------------------------


def struct_types(kind: type[Any], known: dict[str, type[Any]] | None = None) -> dict[str, type[Any]]:
    """Every Struct that `kind` is made of, by name."""
    known = {} if known is None else known
    known[kind.__name__] = kind
    for hint in typing.get_type_hints(kind).values():
        for part in (hint, *typing.get_args(hint), *(a for p in typing.get_args(hint) for a in typing.get_args(p))):
            if isinstance(part, type) and issubclass(part, msgspec.Struct) and part.__name__ not in known:
                struct_types(part, known)
    return known


def avro_type(hint: Any) -> Any:
    """The name of a Python type in a schema; integers and bytes have two spellings each."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        inner = [a for a in typing.get_args(hint) if a is not type(None)]
        return ("null", avro_type(inner[0]))
    if typing.get_origin(hint) is tuple:
        return ("array", avro_type(typing.get_args(hint)[0]))
    return {str: "string", bool: "boolean", int: "integer", bytes: "octets"}.get(hint, getattr(hint, "__name__", hint))


def spelled(kind: Any, fixed: set[str]) -> Any:
    """The same for a type as the schema has it."""
    if isinstance(kind, list):
        return ("null", spelled(kind[1], fixed))
    if isinstance(kind, dict) and kind["type"] == "array":
        return ("array", spelled(kind["items"], fixed))
    name = kind if isinstance(kind, str) else kind.get("name", kind["type"])
    if name in fixed or name == "bytes":
        return "octets"
    return "integer" if name in ("int", "long") else name


@every_topic
def test_every_record_and_field_of_the_schema_is_a_struct_and_field_of_the_product(topic: str) -> None:
    structs = struct_types(KINDS[topic][0])
    fixed = {t["name"] for t in types_in(NEWEST[topic]) if isinstance(t, dict) and t["type"] == "fixed"}
    assert {r["name"] for r in records_in(NEWEST[topic])} == set(structs)
    for record in records_in(NEWEST[topic]):
        hints = typing.get_type_hints(structs[record["name"]])
        ours = {f.encode_name: avro_type(hints[f.name]) for f in msgspec.structs.fields(structs[record["name"]])}
        assert {f["name"]: spelled(f["type"], fixed) for f in record["fields"]} == ours, record["name"]


@every_topic
def test_fields_that_a_struct_may_leave_out_have_the_same_default_in_the_schema(topic: str) -> None:
    for record in records_in(NEWEST[topic]):
        kind = struct_types(KINDS[topic][0])[record["name"]]
        by_name = {f.name: f for f in msgspec.structs.fields(kind)}
        for field in record["fields"]:
            if "default" in field:
                ours = by_name[field["name"]]
                assert not ours.required, f"{record['name']}.{field['name']}"
                assert ours.default == field["default"] or ours.default == tuple(field["default"] or ())


def test_a_command_that_says_no_more_than_it_must_is_complete_on_the_wire() -> None:
    fact = OrderCommand(command_id="fct_1", order_id="ord_1", fingerprint=bytes(16), operation="ExpireOrder", actor="reconciler")
    assert command_codec().decode(command_codec().encode(fact)) == fact


def test_the_nullable_records_of_a_command_are_its_payloads_and_of_an_event_its_twelve_details() -> None:
    def nullable_records(topic: str) -> set[str]:
        return {f["name"] for f in NEWEST[topic]["fields"] if isinstance(f["type"], list) and isinstance(f["type"][1], dict)}

    assert nullable_records(EVENTS) == set(DETAIL_OF.values())
    assert len(nullable_records(EVENTS)) == 12
    assert nullable_records(COMMANDS) == {p for p in PAYLOAD_OF.values() if p is not None}
    assert set(DETAIL_OF.values()) <= set(OrderEvent.__struct_fields__)


# ---- Apache Avro agrees ---------------------------------------------------------------------------------------------


def apache_encode(topic: str, fields: dict[str, Any]) -> bytes:
    out = BytesIO()
    avro.io.DatumWriter(APACHE[topic]).write(fields, avro.io.BinaryEncoder(out))
    return out.getvalue()


def apache_decode(topic: str, body: bytes) -> Any:
    return avro.io.DatumReader(APACHE[topic]).read(avro.io.BinaryDecoder(BytesIO(body)))


def test_apache_avro_reads_every_kind_of_record_that_the_product_writes_and_writes_the_same_bytes() -> None:
    topic_of = {id(codec): topic for topic, (_, codec) in KINDS.items()}
    for codec, data in real_records():
        topic = topic_of[id(codec)]
        fields = apache_decode(topic, data[PREFIX_BYTES:])
        assert fields == codec.decode_fields(data)
        assert apache_encode(topic, fields) == data[PREFIX_BYTES:]


@every_topic
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_the_product_and_apache_avro_write_any_value_as_the_same_bytes_and_read_them_alike(
    topic: str, data: st.DataObject
) -> None:
    kind, codec = KINDS[topic]
    fields = data.draw(values_of(NEWEST[topic], kind=msgspec.inspect.type_info(kind)))
    value = msgspec.convert(fields, kind)
    encoded = codec.encode(value)
    assert encoded[PREFIX_BYTES:] == apache_encode(topic, fields)
    assert codec.decode(encoded) == value
    assert codec.decode_fields(encoded) == fields == apache_decode(topic, encoded[PREFIX_BYTES:])
