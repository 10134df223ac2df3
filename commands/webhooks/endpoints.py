"""Records of `order-control` about webhook endpoints, and what they say together. Pure.

    key                              value (JSON), written by
    webhook/<name>                   the endpoint; `serve`, when an admin sets it; deleted with it
    webhook-off/<name>               that it was disabled; `commands`
    webhook-health/<name>/<node>     how deliveries of one node go; `commands`, and `serve` deletes it with the endpoint

No record contains a secret: see `signing`. Two writers never set the same key, so none undoes what the other wrote. A URL may
be confidential: it appears in no log line and no metric.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec
from msgspec import Struct

from ledger.durations import DAY_MS
from ledger.log import Record

ENDPOINT, OFF, HEALTH = b"webhook/", b"webhook-off/", b"webhook-health/"
MAX_ENDPOINTS = 20
ROTATION_MS = DAY_MS  # how long messages are also signed with the previous secret
GIVE_UP_MS = 3 * DAY_MS
DISABLE_MS = 7 * DAY_MS
FAILING, GONE = "failing", "gone"


class Endpoint(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Where events are delivered. Times are ms since the epoch.

    `types` and `customer_id` restrict the events. `start`: where each partition was begun, when `started_at` was set, in the log
    with `log_id`. `enabled_at` distinguishes what disabled it now from what did before. `digest`: see `signing.digest_of`.
    """

    url: str
    types: tuple[str, ...] | None = None
    customer_id: str | None = None
    description: str = ""
    created_at: int
    is_enabled: bool = True
    enabled_at: int
    salt: str
    digest: str
    previous_salt: str = ""
    rotated_at: int = 0
    start: dict[int, int]
    started_at: int
    log_id: str = ""

    def wants(self, kind: str, customer_id: str) -> bool:
        return (self.types is None or kind in self.types) and self.customer_id in (None, customer_id)

    def salts(self, now_ms: int) -> list[str]:
        """Of the secrets that sign now, the newest first."""
        both = self.previous_salt and now_ms - self.rotated_at < ROTATION_MS
        return [self.salt, self.previous_salt] if both else [self.salt]


class Off(Struct, frozen=True):
    """The endpoint that was enabled at `enabled_at` was disabled: `reason` is `FAILING` or `GONE`."""

    enabled_at: int
    at: int
    reason: str


class Health(Struct, frozen=True, omit_defaults=True):
    """How the deliveries of one node go. Counts are since its start; `waiting` are events that failed and wait for a retry."""

    failing_since: int = 0
    succeeded_at: int = 0
    failed_at: int = 0
    error: str = ""
    delivered: int = 0
    failed: int = 0
    abandoned: int = 0
    waiting: int = 0


encode = msgspec.json.Encoder().encode
_decode_endpoint, _decode_off = msgspec.json.Decoder(Endpoint).decode, msgspec.json.Decoder(Off).decode
_decode_health = msgspec.json.Decoder(Health).decode


def endpoint_key(name: str) -> bytes:
    """Key of an endpoint."""
    return ENDPOINT + name.encode()


def off_key(name: str) -> bytes:
    """Key of the record that an endpoint was disabled by itself."""
    return OFF + name.encode()


def health_key(name: str, node: str) -> bytes:
    """Key of how the deliveries of a node go."""
    return HEALTH + f"{name}/{node}".encode()


@dataclass(slots=True)
class EndpointsView:
    """What the records up to `position` say."""

    position: int = 0
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    offs: dict[str, Off] = field(default_factory=dict)
    healths: dict[str, dict[str, Health]] = field(default_factory=dict)  # by endpoint, then by node
    faults: list[str] = field(default_factory=list)

    def apply(self, records: Iterable[Record]) -> None:
        """Apply records in their order. One of another kind, or that is not understood, changes nothing."""
        for record in records:
            self.position = record.offset + 1
            key = record.key or b""
            try:
                if key.startswith(ENDPOINT):
                    self._set(self.endpoints, key[len(ENDPOINT) :].decode(), record.value, _decode_endpoint)
                elif key.startswith(OFF):
                    self._set(self.offs, key[len(OFF) :].decode(), record.value, _decode_off)
                elif key.startswith(HEALTH):
                    name, _, node = key[len(HEALTH) :].decode().partition("/")
                    self._set(self.healths.setdefault(name, {}), node, record.value, _decode_health)
            except ValueError as exc:  # msgspec's errors are ValueErrors, too
                self.faults.append(f"offset {record.offset}: {exc}")

    def copy(self) -> EndpointsView:
        """As it is now, for a reader on another thread."""
        healths = {name: dict(nodes) for name, nodes in self.healths.items()}
        return EndpointsView(self.position, dict(self.endpoints), dict(self.offs), healths)

    @staticmethod
    def _set(kept, name, value, decode) -> None:  # type: ignore[no-untyped-def]
        if value is None:
            kept.pop(name, None)
        else:
            kept[name] = decode(value)

    def off(self, name: str) -> Off | None:
        """Why the endpoint was disabled by itself, if it is."""
        endpoint, off = self.endpoints.get(name), self.offs.get(name)
        return off if endpoint is not None and off is not None and off.enabled_at == endpoint.enabled_at else None

    def is_active(self, name: str) -> bool:
        """Whether events are delivered to it."""
        endpoint = self.endpoints.get(name)
        return endpoint is not None and endpoint.is_enabled and self.off(name) is None

    def healths_of(self, name: str) -> dict[str, Health]:
        """By node, without what is older than the endpoint: that was another one with its name."""
        endpoint = self.endpoints.get(name)
        since = 0 if endpoint is None else endpoint.created_at
        healths = self.healths.get(name, {})
        return {node: one for node, one in healths.items() if max(one.failed_at, one.succeeded_at) >= since}

    def health(self, name: str) -> Health:
        """That of all nodes together: the endpoint is failing while no node has succeeded since the first failure."""
        nodes = list(self.healths_of(name).values())
        latest = max(nodes, key=lambda one: one.failed_at, default=Health())
        succeeded_at = max((one.succeeded_at for one in nodes), default=0)
        failing = [one.failing_since for one in nodes if one.failing_since > succeeded_at]
        return Health(
            failing_since=min(failing, default=0),
            succeeded_at=succeeded_at,
            failed_at=latest.failed_at,
            error=latest.error,
            delivered=sum(one.delivered for one in nodes),
            failed=sum(one.failed for one in nodes),
            abandoned=sum(one.abandoned for one in nodes),
            waiting=sum(one.waiting for one in nodes),
        )


def is_hopeless(health: Health, enabled_at: int, now_ms: int) -> bool:
    """Whether an endpoint has failed for so long, without a single success, that it is disabled."""
    return health.failing_since > 0 and now_ms - max(health.failing_since, enabled_at) >= DISABLE_MS
