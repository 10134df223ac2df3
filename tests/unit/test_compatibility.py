"""`schema check`: the released schemas, and changes of them that must not pass.

Each bad change is made to the real event schema, so a developer would see the same problems.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ledger.errors import ConfigError
from ledger.schemas.compatibility import MAX_REASONS, Incompatibility, check_compatible, compare, same_schema
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
    places = ("prev_hash", "placed.contact_digest", "imported.placed.contact_digest")
    expected = [(r, w, f) for r, w in ((1, 2), (2, 1)) for f in places]
    assert problems(version) == expected


def test_a_change_inside_a_nullable_detail_is_named_by_its_whole_path() -> None:
    def change(schema: Schema) -> None:
        lines = field(inside(schema, "placed"), "lines")["type"]["items"]
        lines["fields"].append({"name": "gift", "type": "boolean"})
        field(inside(schema, "payment"), "attempt")["type"] = "string"

    assert problems(next_version(change)) == [
        (1, 2, "payment.attempt"),
        (2, 1, "placed.lines[].gift"),
        (2, 1, "imported.placed.lines[].gift"),
        (2, 1, "payment.attempt"),
    ]


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


# ---- schemas of any origin ------------------------------------------------------------------------------------------


def test_a_candidate_is_compared_with_the_versions_that_are_named_in_both_directions() -> None:
    first = versions_of(EVENTS)[0]
    second = next_version(lambda s: field(s, "currency").update(default="EUR"))
    third = next_version(lambda s: s["fields"].remove(field(s, "currency")), version=3, of=second)
    assert [(p.reader_version, p.writer_version, p.field) for p in compare(third, [first, second])] == [(1, 3, "currency")]
    assert compare(third, [second]) == []
    assert compare(second, [first]) == []


def test_the_same_schema_is_known_in_other_spellings_and_another_one_is_not() -> None:
    event = versions_of(EVENTS)[0]
    assert same_schema(json.dumps(event.parsed, indent=4, sort_keys=True), event)
    spelled = json.loads(event.text)
    field(spelled, "currency")["type"] = {"type": "string"}
    assert same_schema(json.dumps(spelled), event)
    assert not same_schema(next_version(lambda s: field(s, "currency").update(default="EUR")).text, event)
    assert not same_schema(next_version(lambda s: s.update(doc="something else")).text, event)


NO_SCHEMAS = {
    "no JSON": "{",
    "null": "null",
    "a number": "7",
    "an unknown type": '"strnig"',
    "no type": "{}",
    "an invalid type": '{"type":{"type":["int"]},"name":7}',
    "a record without fields": '{"type":"record","name":"A"}',
    "an invalid field": '{"type":"record","name":"A","fields":[7]}',
    "an invalid name": '{"type":"record","name":"a b","fields":[]}',
    "a union in a union": '[["int"]]',
    "too deep": '{"type":"array","items":' * 5_000 + '"int"' + "}" * 5_000,
    "a default for an empty union": '{"type":"record","name":"A","fields":[{"name":"a","type":[],"default":1}]}',
    "a default beyond bytes": '{"type":"record","name":"A","fields":[{"name":"a","type":"bytes","default":"\u0100"}]}',
}


@pytest.mark.parametrize("text", NO_SCHEMAS.values(), ids=NO_SCHEMAS)
def test_a_text_that_is_no_schema_is_an_error_and_no_accident(text: str) -> None:
    (event,) = versions_of(EVENTS)[:1]
    with pytest.raises(ConfigError):
        compare(SchemaVersion(EVENTS, 2, text), [event])
    with pytest.raises(ConfigError):
        same_schema(text, event)


def test_a_logical_type_that_nobody_knows_is_ignored_as_readers_do() -> None:
    kind = {"type": "string", "logicalType": "made-up"}
    extra = {"name": "extra", "type": ["null", kind], "default": None}
    assert problems(next_version(lambda s: s["fields"].append(extra))) == []


def test_a_hundred_reasons_are_enough_for_whoever_asks() -> None:
    """A schema of an attacker has thousands, and each costs a comparison."""
    extra = [{"name": f"f{n}", "type": "int"} for n in range(1_000)]
    candidate = next_version(lambda s: s["fields"].extend(extra))
    assert len(compare(candidate, versions_of(EVENTS)[:1])) == MAX_REASONS
    assert len(problems(candidate)) == len(extra), "but a check of released versions lists all of them"


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(holder, key) of everything in a JSON value."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places(value[key])


def test_whatever_is_asked_about_the_answer_is_reasons_or_one_error() -> None:
    """The event schema with a few values replaced at random."""
    (event,) = versions_of(EVENTS)[:1]
    odd: list[Any] = [
        None,
        7,
        True,
        "int",
        "string",
        "null",
        "Line",
        "Hash",
        "",
        [],
        {},
        ["null", "int"],
        {"type": "map"},
        "error",
    ]
    chance, judged = random.Random(7), 0
    for _ in range(150):
        schema = copy.deepcopy(event.parsed)
        for _ in range(chance.randint(1, 3)):
            holder, key = chance.choice(list(places(schema)))
            holder[key] = copy.deepcopy(chance.choice(odd))
        try:
            problems = compare(SchemaVersion(EVENTS, 2, json.dumps(schema)), [event])
        except ConfigError:
            continue
        judged += 1
        assert all(isinstance(problem, Incompatibility) for problem in problems)
    assert judged > 10
