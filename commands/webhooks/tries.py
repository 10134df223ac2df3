"""Records of `order-deliveries`: every try to deliver an event to a webhook endpoint. JSON, by the endpoint's name.

They contain no body, no URL and no text of the receiver. Nothing depends on them: one that is lost is counted, not repeated.
"""

from __future__ import annotations

import threading
from collections import Counter

import msgspec
from msgspec import Struct

from ledger.errors import LogError
from ledger.log import Acked, NewRecord, Sender


class Tried(Struct, frozen=True, omit_defaults=True):
    """`at` is in ms since the epoch, `took_ms` how long the try took, `attempt` counts from 1. `result`: see `door`."""

    message_id: str
    type: str
    order_id: str
    partition: int
    offset: int
    at: int
    took_ms: int
    attempt: int
    result: str
    status: int = 0
    detail: str = ""
    is_abandoned: bool = False
    node: str = ""


_encode = msgspec.json.Encoder().encode
decode_tried = msgspec.json.Decoder(Tried).decode


class DeliveryLog:
    """Writes them to `topic`; from any thread."""

    def __init__(self, sender: Sender, topic: str) -> None:
        self._sender, self._topic, self._lock = sender, topic, threading.Lock()
        self.lost = 0
        self.results: Counter[str] = Counter()  # tries of this process; `abandoned` counts beside the result of the last try

    def note(self, endpoint: str, tried: Tried) -> None:
        """Write one. Never waits, never raises `LogError`."""
        with self._lock:
            self.results[tried.result] += 1
            if tried.is_abandoned:
                self.results["abandoned"] += 1
        try:
            self._sender.send(NewRecord(self._topic, 0, endpoint.encode(), _encode(tried)), self._answered)
        except LogError:
            self._lose()

    def _answered(self, _acked: Acked | None, error: LogError | None) -> None:
        if error is not None:
            self._lose()

    def _lose(self) -> None:
        with self._lock:
            self.lost += 1
