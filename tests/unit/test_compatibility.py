"""`schema check`: the released schemas, and changes of them that must not pass.

Each bad change is made to the real event schema, so a developer would see the same problems.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from ledger.errors import ConfigError
from ledger.schemas.compatibility import Incompatibility, check_compatible
from ledger.schemas.versions import EVENTS, SchemaVersion, minify, schema_versions, versions_of

Schema = dict[str, Any]


def field(record: Schema, name: str) -> Schema:
    """The field `name` of a record."""
    declared: Schema = next(f for f in record["fields"] if f["name"] == name)
    return declared


def inside(record: Schema, name: str) -> Schema:
    """The record inside the nullable field `name`."""
    nested: Schema = field(record, name)["type"][1]
    return nested


def next_version(change: Callable[[Schema], object], version: int = 2, of: SchemaVersion | None = None) -> SchemaVersion:
    """The event schema after `change`, as the file of the next version would have it."""
    schema = (of or versions_of(EVENTS)[-1]).parsed
    change(schema)
    return SchemaVersion(EVENTS, version, minify(json.dumps(schema)))


def problems(*versions: SchemaVersion) -> list[tuple[int, int, str]]:
    """(reader, writer, field) of each problem between the first released event schema and `versions`."""
    incompatible = check_compatible([versions_of(EVENTS)[0], *versions])
    return [(p.reader_version, p.writer_version, p.field) for p in incompatible]


def test_every_released_schema_version_can_read_every_other_one() -> None:
    schemas = schema_versions()
    assert {s.topic for s in schemas} == {"order-commands", "order-events", "order-refusals", "order-contacts", "order-audit"}
    assert check_compatible(schemas) == []


def test_a_new_nullable_detail_with_a_default_is_compatible_in_both_directions() -> None:
    hold = {"type": "record", "name": "Hold", "fields": [{"name": "code", "type": "string"}]}
    detail = {"name": "hold", "type": ["null", hold], "default": None}
    assert problems(next_version(lambda s: s["fields"].append(detail))) == []


def test_a_new_field_without_a_default_cannot_be_read_from_older_events() -> None:
    version = next_version(lambda s: s["fields"].append({"name": "channel", "type": "string"}))
    assert problems(version) == [(2, 1, "channel")]


def test_a_removed_field_without_a_default_is_missed_by_older_readers() -> None:
    version = next_version(lambda s: s["fields"].remove(field(s, "currency")))
    assert problems(version) == [(1, 2, "currency")]


def test_a_renamed_field_is_missed_in_both_directions() -> None:
    version = next_version(lambda s: field(s, "currency").update(name="money"))
    assert sorted(problems(version)) == [(1, 2, "currency"), (2, 1, "money")]


def test_an_alias_lets_only_the_newer_reader_follow_a_rename() -> None:
    version = next_version(lambda s: field(s, "currency").update(name="money", aliases=["currency"]))
    assert problems(version) == [(1, 2, "currency")]


def test_a_widened_number_cannot_be_read_by_older_readers() -> None:
    assert problems(next_version(lambda s: field(s, "version").update(type="long"))) == [(1, 2, "version")]


def test_a_field_that_became_nullable_cannot_be_read_by_older_readers() -> None:
    version = next_version(lambda s: field(s, "status").update(type=["null", "string"], default=None))
    assert problems(version) == [(1, 2, "status")]


def test_a_hash_of_another_size_is_found_at_each_place_it_is_used() -> None:
    version = next_version(lambda s: field(s, "prev_hash")["type"].update(size=64))
    expected = [(r, w, f) for r, w in ((1, 2), (2, 1)) for f in ("prev_hash", "placed.contact_digest")]
    assert problems(version) == expected


def test_a_change_inside_a_nullable_detail_is_named_by_its_whole_path() -> None:
    def change(schema: Schema) -> None:
        lines = field(inside(schema, "placed"), "lines")["type"]["items"]
        lines["fields"].append({"name": "gift", "type": "boolean"})
        field(inside(schema, "payment"), "attempt")["type"] = "string"

    assert problems(next_version(change)) == [(1, 2, "payment.attempt"), (2, 1, "placed.lines[].gift"), (2, 1, "payment.attempt")]


def test_a_renamed_record_inside_a_nullable_detail_is_found_in_both_directions() -> None:
    version = next_version(lambda s: inside(s, "cancel").update(name="Cancellation"))
    assert problems(version) == [(1, 2, "cancel"), (2, 1, "cancel")]


def test_a_renamed_event_record_is_found_although_every_field_fits() -> None:
    assert problems(next_version(lambda s: s.update(name="OrderChange"))) == [(1, 2, ""), (2, 1, "")]


def test_versions_that_fit_their_neighbours_are_compared_with_all_others_too() -> None:
    """v2 gives a field a default, v3 drops it: each step is fine, yet version 1 misses the field in what version 3 wrote."""
    second = next_version(lambda s: field(s, "currency").update(default="EUR"))
    third = next_version(lambda s: s["fields"].remove(field(s, "currency")), version=3, of=second)
    assert problems(second) == []
    assert check_compatible([second, third]) == []
    assert problems(second, third) == [(1, 3, "currency")]


def test_schemas_of_different_subjects_are_not_compared() -> None:
    other = SchemaVersion("order-other", 2, '{"type":"record","name":"Other","fields":[]}')
    assert check_compatible([versions_of(EVENTS)[0], other]) == []


def test_a_recursive_schema_that_does_not_fit_ends_the_search() -> None:
    node = '{"type":"record","name":"Node","fields":[{"name":"next","type":["null","Node"]},{"name":"n","type":"%s"}]}'
    incompatible = check_compatible([SchemaVersion("nodes", 1, node % "int"), SchemaVersion("nodes", 2, node % "string")])
    assert (1, 2, "n") in [(p.reader_version, p.writer_version, p.field) for p in incompatible]


def test_a_message_names_subject_versions_direction_and_field() -> None:
    version = next_version(lambda s: s["fields"].append({"name": "channel", "type": "string"}))
    (problem,) = check_compatible([versions_of(EVENTS)[0], version])
    assert str(problem) == (
        "order-events-value: version 2 cannot read what version 1 wrote (backward): field channel: "
        "it is not written, and the reader has no default for it"
    )
    assert "(forward): the record: " in str(Incompatibility("s", 1, 2, "", "reason"))


def test_a_file_that_is_not_an_avro_schema_is_named() -> None:
    broken = SchemaVersion(EVENTS, 2, '{"type":"record","name":"OrderEvent","fields":[{"name":"a","type":"strnig"}]}')
    with pytest.raises(ConfigError, match="order-events-value version 2 is not an Avro schema"):
        check_compatible([broken])


@pytest.mark.parametrize(
    ("kind", "default"),
    [("int", "zero"), (["null", "string"], "EUR"), (["string", "null"], None), ({"type": "array", "items": "int"}, None)],
)
def test_a_default_that_does_not_fit_its_type_is_named(kind: object, default: object) -> None:
    """Readers of older events would get it, or refuse the whole schema."""
    version = next_version(lambda s: inside(s, "refund")["fields"].append({"name": "extra", "type": kind, "default": default}))
    with pytest.raises(ConfigError, match=r"order-events-value version 2: the default of Refund\.extra"):
        problems(version)


@pytest.mark.parametrize(
    ("kind", "default"),
    [
        ("int", 0),
        (["null", "string"], None),
        (["string", "null"], "EUR"),
        ("bytes", "\u00ff"),
        ({"type": "array", "items": "int"}, []),
    ],
)
def test_a_default_that_fits_its_type_is_accepted(kind: object, default: object) -> None:
    version = next_version(lambda s: inside(s, "refund")["fields"].append({"name": "extra", "type": kind, "default": default}))
    assert problems(version) == []
