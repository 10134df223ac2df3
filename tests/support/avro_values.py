"""Random values of a schema, for Hypothesis and for the fuzzers; and one real record of every kind."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import strategies as st

from commands.messages import OrderCommand, command_codec
from ledger.audit import CONTACT_READ, CUSTOMER_ERASURE, DONE, AuditRecord
from ledger.contacts import Address, OrderContact
from ledger.envelope import Written, seal
from ledger.events import OrderEvent, OrderRefusal
from ledger.evolve import evolve
from ledger.order import Order
from ledger.schemas.codec import Codec, audit_codec, contact_codec, event_codec, refusal_codec
from ledger.schemas.versions import AUDIT, COMMANDS, CONTACTS, EVENTS, REFUSALS
from tests.support.order_commands import DESK, WHOLE, order_command, part_back
from tests.support.order_space import history, placed, reach
from tests.support.order_universes import UNIVERSES

KINDS: dict[str, tuple[type[Any], Codec[Any]]] = {
    COMMANDS: (OrderCommand, command_codec()),
    EVENTS: (OrderEvent, event_codec()),
    REFUSALS: (OrderRefusal, refusal_codec()),
    CONTACTS: (OrderContact, contact_codec()),
    AUDIT: (AuditRecord, audit_codec()),
}

_INT = st.one_of(st.sampled_from([0, -1, 63, 64, 2**31 - 1, -(2**31)]), st.integers(-(2**31), 2**31 - 1))
_LONG = st.one_of(st.sampled_from([0, -1, 2**63 - 1, -(2**63)]), st.integers(-(2**63), 2**63 - 1))
_CHARACTERS = st.characters(exclude_categories=["Cs"])


def values_of(schema: Any, named: dict[str, Any] | None = None, kind: Any = None) -> st.SearchStrategy[Any]:
    """Plain values that fit `schema` (as JSON values) and the bounds of `kind` (as `msgspec.inspect` describes it)."""
    named = {} if named is None else named
    if isinstance(schema, list):
        inner = next((k for k in kind.types if not isinstance(k, msgspec.inspect.NoneType)), None) if kind is not None else None
        return st.one_of(st.none(), values_of(schema[1], named, inner))
    if isinstance(schema, str) and schema in named:
        return values_of(named[schema], dict(named), kind)
    match schema if isinstance(schema, str) else schema["type"]:
        case "string":
            return _texts(kind)
        case "int":
            return _integers(_INT, 2**31, kind)
        case "long":
            return _integers(_LONG, 2**63, kind)
        case "boolean":
            return st.booleans()
        case "bytes":
            return st.binary(max_size=40)
        case "fixed":
            named[schema["name"]] = schema
            return st.binary(min_size=schema["size"], max_size=schema["size"])
        case "array":
            items = kind.item_type if kind is not None else None
            return st.lists(values_of(schema["items"], named, items), min_size=getattr(kind, "min_length", None) or 0, max_size=3)
        case "record":
            named[schema["name"]] = schema
            kinds = {field.name: field.type for field in kind.fields} if kind is not None else {}
            return st.fixed_dictionaries({f["name"]: values_of(f["type"], named, kinds.get(f["name"])) for f in schema["fields"]})
    raise AssertionError(f"no values of {schema}")


def _texts(kind: Any) -> st.SearchStrategy[str]:
    least, most = getattr(kind, "min_length", None) or 0, getattr(kind, "max_length", None) or 12
    return st.text(_CHARACTERS, min_size=least, max_size=max(least, min(most, 12)))


def _integers(any_of: st.SearchStrategy[int], beyond: int, kind: Any) -> st.SearchStrategy[int]:
    least, most = getattr(kind, "ge", None), getattr(kind, "le", None)
    if least is None and most is None:
        return any_of
    least, most = -beyond if least is None else int(least), beyond - 1 if most is None else int(most)
    return st.one_of(st.sampled_from([least, most]), st.integers(least, most))


def real_events() -> list[OrderEvent]:
    """At least one sealed event of every type."""
    events: dict[str, OrderEvent] = {}
    written = Written(bytes(range(16)), 41, 3)
    for universe in UNIVERSES:
        opening = placed(universe)[1]
        events.setdefault(universe.name, seal(opening, evolve(None, opening), written, 41, bytes(32)))
        for reached in reach(universe).values():
            if reached.event.type not in events:
                order: Order | None = None
                for event in history(reached):
                    order = evolve(order, event)
                assert order is not None
                events[reached.event.type] = seal(reached.event, order, written, 42, bytes(range(32)))
    return list(events.values())


def real_records() -> list[tuple[Codec[Any], bytes]]:
    """Encoded commands, events, refusals, a contact and audit records, as the log has them."""
    events = event_codec()
    records: list[tuple[Codec[Any], bytes]] = [(events, events.encode(event)) for event in real_events()]
    commands = [*WHOLE[:80:4], *(c for kind in DESK for c in kind[:2]), part_back("product", 1)]
    records += [(command_codec(), command_codec().encode(order_command(c))) for c in commands]
    refusal = OrderRefusal(
        code="payment_open",
        detail="attempt 1 is open",
        occurred_at=1_700_000_000_000,
        command_log=bytes(range(16)),
        command_offset=77,
        batch_first=70,
        writer_epoch=3,
        order_id="ord_1",
        command_id="cmd_1",
        fingerprint=bytes(16),
        actor="gateway:web",
        customer_id="c-1",
    )
    unreadable = OrderRefusal(
        code="undecodable",
        detail="wrong_magic",
        occurred_at=1,
        command_log=bytes(16),
        command_offset=1,
        batch_first=1,
        writer_epoch=1,
        original=b"{'not': 'avro'}",
    )
    records += [(refusal_codec(), refusal_codec().encode(r)) for r in (refusal, unreadable)]
    home = Address("1 Main St", "Springfield", "12345", "US", region="OR")
    contact = OrderContact("c-1", "Ada Løvelace", "ada@example.org", home, "+1 555", home, "ring twice", locale="en-US")
    records.append((contact_codec(), contact_codec().encode(contact)))
    read = AuditRecord(
        audit_id="0" * 32,
        occurred_at=1_700_000_000_000,
        node="serve-1",
        actor="admin:desk",
        role="admin",
        action=CONTACT_READ,
        outcome=DONE,
        order_id="ord_1",
        customer_id="c-1",
        request_id="f" * 32,
    )
    erased = AuditRecord(
        audit_id="1" * 32,
        occurred_at=1,
        node="",
        actor="serve",
        role="",
        action=CUSTOMER_ERASURE,
        outcome=DONE,
        customer_id="c-1",
        count=3,
    )
    records += [(audit_codec(), audit_codec().encode(r)) for r in (read, erased)]
    return records


def varint(number: int) -> bytes:
    """Avro's zig-zag spelling of a 64-bit number."""
    number = ((number << 1) ^ (number >> 63)) & (2**64 - 1)
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])
