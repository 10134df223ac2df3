"""What a program writes while an older one reads the log: the newest schema that the level in use allows, and no new word."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from ledger import levels
from ledger.errors import EncodeError, TooNew
from ledger.levels import Additions
from ledger.schemas import codec as codecs
from ledger.schemas import of_the_ledger
from ledger.schemas.codec import Codec
from ledger.schemas.of_the_ledger import level_in_use, use_level
from ledger.schemas.versions import EVENTS, SchemaVersion, schema_versions
from tests.support import later_schemas

FIRST, SECOND, _ = later_schemas.event_versions()


class Wrap(msgspec.Struct, frozen=True, omit_defaults=True):
    paper: str
    ribbon: str | None = None


class Tea(msgspec.Struct, frozen=True):
    type: str
    sugar: int | None = None
    wraps: tuple[Wrap, ...] = ()


def tea(version: int, *more: str) -> SchemaVersion:
    ribbon = ',{"name":"ribbon","type":["null","string"],"default":null}' if "ribbon" in more else ""
    wrap = f'{{"type":"record","name":"Wrap","fields":[{{"name":"paper","type":"string"}}{ribbon}]}}'
    sugar = ',{"name":"sugar","type":["null","int"],"default":null}' if "sugar" in more else ""
    wraps = f',{{"name":"wraps","type":{{"type":"array","items":{wrap}}},"default":[]}}'
    return SchemaVersion(
        EVENTS, version, f'{{"type":"record","name":"Tea","fields":[{{"name":"type","type":"string"}}{sugar}{wraps}]}}'
    )


@pytest.fixture
def two_levels(monkeypatch: pytest.MonkeyPatch) -> Iterator[Codec[Tea]]:
    """A program of level 2, in which teas have sugar and ribbons, and may be iced."""
    new = {2: Additions(frozenset({(EVENTS, 2)}), frozenset({"Iced"}))}
    monkeypatch.setattr(levels, "NEW_IN", new)
    for module in (levels, codecs, of_the_ledger):
        monkeypatch.setattr(module, "LEVEL", 2)
    with later_schemas.nothing_learned():
        yield Codec(Tea, [tea(1), tea(2, "sugar", "ribbon")], word="type")


def test_a_program_writes_with_the_schema_of_the_level_in_use_and_reads_both(two_levels: Codec[Tea]) -> None:
    early = two_levels.encode(Tea("Green"))
    assert two_levels.schema_id == tea(1).id
    use_level(2)
    late = two_levels.encode(Tea("Green", 2, (Wrap("red", "blue"),)))
    assert two_levels.schema_id == tea(2, "sugar", "ribbon").id
    assert two_levels.decode(early) == Tea("Green")
    assert two_levels.decode(late) == Tea("Green", 2, (Wrap("red", "blue"),))
    use_level(1)
    assert two_levels.encode(Tea("Green")) == early


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (Tea("Green", 2), "with sugar"),
        (Tea("Green", 0), "with sugar"),
        (Tea("Green", wraps=(Wrap("red"), Wrap("red", "blue"))), "with ribbon"),
        (Tea("Iced"), "Iced needs feature level 2, 1 is in use"),
    ],
)
def test_what_an_older_program_could_not_read_is_not_written(two_levels: Codec[Tea], value: Tea, reason: str) -> None:
    """Left out, it would be lost without a word."""
    with pytest.raises(TooNew, match=reason):
        two_levels.encode(value)
    use_level(2)
    assert two_levels.decode(two_levels.encode(value)) == value


def test_an_invalid_value_is_still_an_invalid_value(two_levels: Codec[Tea]) -> None:
    with pytest.raises(EncodeError, match="does not match its schema"):
        two_levels.encode(Tea("Green", wraps=(Wrap("\ud800"),)))


def test_a_program_never_writes_above_its_own_level() -> None:
    with later_schemas.nothing_learned():
        use_level(levels.LEVEL + 5)
        assert level_in_use() == levels.LEVEL


def test_a_program_that_knows_nothing_of_its_ledger_writes_what_every_program_reads() -> None:
    with later_schemas.nothing_learned():
        assert level_in_use() == levels.FIRST


def test_every_schema_version_after_the_first_belongs_to_a_level() -> None:
    """Otherwise it would be written as soon as one node has it."""
    later = {(schema.topic, schema.version) for schema in schema_versions() if schema.version > 1}
    listed = [one for new in levels.NEW_IN.values() for one in new.schemas]
    assert set(listed) == later
    assert len(listed) == len(later)
    assert sorted(levels.NEW_IN) == list(range(levels.FIRST + 1, levels.LEVEL + 1))
    assert SECOND.id not in {schema.id for schema in schema_versions()}
