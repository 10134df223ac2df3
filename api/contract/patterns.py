"""Patterns for the parts of a request that are not JSON, used for validation and in the OpenAPI document."""

from __future__ import annotations

from ledger.bounds import ID

NAME = ID  # of a customer, an order, a command
ORDER_ID = r"ord_[a-z2-7]{26}"  # generated: `commands.idempotency`
COMMAND_ID = r"(cmd|fct)_[a-z2-7]{26}"
KEY = r"[!-~]{1,255}"
NUMBER = "[1-9][0-9]{0,5}"  # of a shipment of an order
POSITION = r"[0-9]{1,5}-[0-9]{1,18}"  # partition and offset
VERSION_TAG = r'"(0|[1-9][0-9]{0,8})"'
ENDPOINT_NAME = r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?"  # of a webhook endpoint
SCHEMA_VERSION = r"latest|-1|[0-9]{1,10}"
MAX_VERSION = 2**31 - 1  # of an order


def whole(pattern: str) -> str:
    """The pattern anchored for JSON Schema, which otherwise searches within a text."""
    return f"^({pattern})$"
