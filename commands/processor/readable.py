"""The command in a record of `order-commands`, if it can be read, and whether it is where it belongs. Pure."""

from __future__ import annotations

import msgspec
from msgspec import ValidationError, convert

from commands.decisions import MalformedCommand
from commands.messages import CommandHead, OrderCommand, command_codec
from ledger.bounds import ID_PATTERN
from ledger.errors import DecodeError
from ledger.log import Record
from ledger.partitioner import partition_for

# A refusal repeats key, ids and names of its command: a readable command must leave room for it in a record.
MAX_COMMAND_BYTES = 128 * 1024

msgspec.msgpack.Decoder(CommandHead)  # built here, like all types that several threads use (see `ledger.schemas.codec`)


def readable(record: Record) -> OrderCommand:
    """The command. Raises `DecodeError`."""
    if record.value is not None and len(record.value) > MAX_COMMAND_BYTES:
        raise DecodeError("too_large", f"{len(record.value)} bytes, more than {MAX_COMMAND_BYTES}")
    return command_codec().decode(record.value)


def head_of(record: Record) -> OrderCommand | None:
    """The head of a command outside the bounds, if that can be decoded."""
    if record.value is None or len(record.value) > MAX_COMMAND_BYTES:
        return None
    try:
        head = convert(command_codec().decode_fields(record.value), CommandHead)
    except (DecodeError, ValidationError):
        return None
    if not (ID_PATTERN.fullmatch(head.command_id) and ID_PATTERN.fullmatch(head.order_id)):
        return None
    return OrderCommand(
        command_id=head.command_id,
        order_id=head.order_id,
        fingerprint=head.fingerprint,
        operation="",
        actor=head.actor,
        customer_id=head.customer_id,
    )


def check_home(command: OrderCommand, record: Record, partition: int, partitions: int) -> None:
    """Raises `MalformedCommand` if the order would get an unreachable history, or two."""
    if not (ID_PATTERN.fullmatch(command.order_id) and ID_PATTERN.fullmatch(command.command_id)):
        raise MalformedCommand("the order id has an invalid form")
    if record.key != command.order_id.encode():
        raise MalformedCommand("the key of the record is not the order id")
    if partition_for(record.key, partitions) != partition:
        raise MalformedCommand("the order belongs to another partition")
