"""Commands that make no sense: sensible ones with values, members and addressees changed. And such contacts."""

from __future__ import annotations

import copy
import random
from io import BytesIO
from typing import Any

import fastavro
import msgspec

from commands.messages import OrderCommand, command_codec
from ledger.contacts import Address, OrderContact, contact_key
from ledger.log import NewRecord
from ledger.partitioner import partition_for
from ledger.schemas.codec import PREFIX_BYTES, contact_codec
from ledger.schemas.versions import COMMANDS, versions_of
from ledger.topics import MAX_RECORD_BYTES, Topics
from tests.support.absurd_shop import PARTITIONS, AbsurdShop
from tests.support.order_commands import WHOLE, order_command
from tests.support.order_model import Command

SCHEMA = fastavro.parse_schema(versions_of(COMMANDS)[-1].parsed)
PREFIX = command_codec().encode(order_command(WHOLE[0]))[:PREFIX_BYTES]

MARK = "zaphod"  # in every personal value
PLACES: list[Command] = [{"op": "PlaceOrder", "role": "customer"} | cart for cart in ({}, {"cart": "two and one"})]
CONTACTS_TOPIC = Topics().contacts
ROUND_COMMANDS, ORDERS, ORDER_COMMANDS = 250, 400, 25


def plain(command: OrderCommand) -> dict[str, Any]:
    """Its fields as Avro sees them, without any checks."""
    fields: dict[str, Any] = {f.name: None for f in msgspec.structs.fields(OrderCommand)}
    fields |= {"customer_id": ""} | msgspec.to_builtins(command, builtin_types=(bytes,))
    return fields


def encoded(fields: dict[str, Any]) -> bytes:
    out = BytesIO()
    fastavro.schemaless_writer(out, SCHEMA, as_lists(fields))
    return PREFIX + out.getvalue()


def as_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: as_lists(inner) for name, inner in value.items()}
    return [as_lists(inner) for inner in value] if isinstance(value, list | tuple) else value


_TEXTS = ["", "\0", "x" * 300, "x" * 90_000, "a/b", "\u202e", "😀", "OrderPlaced", "EUR", "product", "-1"]
_NUMBERS = [0, -1, 1, 2, 2**31 - 1, -(2**31), 2**31, 2**53, 2**62, 2**63 - 1, -(2**63)]


def mutated(fields: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """One to three values replaced by others of the same Avro type, or by null."""
    fields = copy.deepcopy(as_lists(fields))
    for _ in range(chance.randint(1, 3)):
        holder: Any = fields
        while True:
            name = chance.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
            if isinstance(holder[name], dict) or (isinstance(holder[name], list) and holder[name] and chance.random() < 0.8):
                holder = holder[name]
                continue
            break
        value = holder[name]
        match value:
            case str():
                holder[name] = chance.choice(_TEXTS)
            case bool():
                holder[name] = not value
            case int():
                holder[name] = chance.choice(_NUMBERS)
            case list():
                holder[name] = value * chance.choice((0, 2, 200))
            case None:
                holder[name] = chance.choice((None, 0, "x", 2**63 - 1))
    return fields


_LIVELY = ("RequestPayment", "StartFulfilment", "ShipOrder", "ConfirmDelivery")
_DESK = ("CancelLines", "RequestRefund", "ShipParcel", "ConfirmParcel", "ChangeMetadata")
LIVELY = [c for c in WHOLE if c["op"] in (*_LIVELY, *_DESK)]
CONTACTS = [
    (MARK, f"{MARK}@example.org", "+44 113 496 0000", "de-AT"),
    (f"{MARK}\nBcc: all", f"<{MARK}@example.org>", "0", f"../{MARK}"),
    ("", "", "", ""),
    (f"\u202e{MARK}", f"{MARK}..a@example.org", None, "ar"),
    (f"{MARK}{'Ä' * 120}", f"{MARK}@müller.example", "+1", "x" * 300),
    ("$name", f"{MARK}@example.org\u200b", None, None),
]


def contact_record(order_id: str, partition: int, chance: random.Random) -> NewRecord:
    name, email, phone, locale = chance.choice(CONTACTS)
    value = contact_codec().encode(OrderContact("c-1", name, email, Address("1", "Leeds", "LS1", "GB"), phone, locale=locale))
    return NewRecord(CONTACTS_TOPIC, partition, contact_key(order_id, bytes(32)), value if chance.random() < 0.95 else b"junk")


def absurd(order_id: str, command_id: str, chance: random.Random) -> bytes:
    """A command that can be decoded: four in ten as a real sender would send it, the others changed."""
    while True:
        wishes = chance.choices((PLACES, LIVELY, WHOLE), (1, 4, 5))[0]
        fields = plain(order_command(chance.choice(wishes), order_id, command_id))
        if chance.random() < 0.6:
            if chance.random() < 0.1:  # a second payload, of another operation
                other = plain(order_command(chance.choice(WHOLE)))
                fields |= {name: value for name, value in other.items() if isinstance(value, dict)}
            fields = mutated(fields, chance)
        try:
            return encoded(fields)
        except Exception:  # a value that does not fit its Avro type cannot be encoded
            continue


def feed(shop: AbsurdShop, commands: int, chance: random.Random, first: int) -> None:
    """Sends this many commands, to `ORDERS` orders at a time and about `ORDER_COMMANDS` to each."""
    number_sent = first
    while number_sent < first + commands:
        turn, of_turn = divmod(number_sent - first, ORDERS * ORDER_COMMANDS)
        homes = {id_: partition_for(id_.encode(), PARTITIONS) for id_ in (f"ord_{turn}_{n}" for n in range(ORDERS))}
        ids = list(homes)
        records = [contact_record(order_id, p, chance) for order_id, p in homes.items()] if of_turn < ROUND_COMMANDS else []
        for _ in range(ROUND_COMMANDS - PARTITIONS):
            order_id = chance.choice(ids)
            number = number_sent if chance.random() < 0.97 else chance.randrange(number_sent + 1)
            value = absurd(order_id, f"cmd_{number}", chance) if chance.random() < 0.995 else b"junk"
            astray = chance.random()
            partition = homes[order_id] if astray > 0.02 else chance.randrange(PARTITIONS)
            key = order_id.encode() if astray < 0.98 else chance.choice((None, b"", b"\xff", b"ord_other"))
            if len(key or b"") + len(value) <= MAX_RECORD_BYTES:  # the broker takes no larger one
                records.append(NewRecord(shop.topics.commands, partition, key, value))
            number_sent += 1
        last = []
        for partition in range(PARTITIONS):
            order_id = next(
                f"ord_last_{number_sent}_{n}"
                for n in range(1000)
                if partition_for(f"ord_last_{number_sent}_{n}".encode(), 4) == partition
            )
            last.append(f"cmd_{number_sent}")
            value = command_codec().encode(order_command(PLACES[0], order_id, last[-1]))
            records.append(NewRecord(shop.topics.commands, partition, order_id.encode(), value))
            number_sent += 1
        shop.feed(records, last)
