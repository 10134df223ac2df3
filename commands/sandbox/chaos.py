"""Injected faults: shares of calls per port, drawn with a seed so that a run can be repeated."""

from __future__ import annotations

import random
from enum import StrEnum
from pathlib import Path

import msgspec
from msgspec import Struct


class Fate(StrEnum):
    """The fate of one call. The first four never reach the service."""

    ERROR = "error"  # 500 / INTERNAL, nothing done
    TOO_MANY = "too_many"  # 429 / RESOURCE_EXHAUSTED, nothing done
    CONFLICT = "conflict"  # 409 / ABORTED, nothing done: as if another request with the same key were in progress
    RESET = "reset"  # the connection is closed without an answer, nothing done

    TIMEOUT = "timeout"  # done, and never answered
    RESET_AFTER = "reset_after"  # done, and the connection is closed
    SLOW = "slow"  # done and answered, late

    ERROR_KEPT = "error_kept"  # payments only, with a key: 500, nothing done, and the same answer under this key for a day

    NONE = "none"


class PortChaos(Struct, frozen=True, forbid_unknown_fields=True):
    """Shares of calls, 0 to 1; together at most 1. `slow_ms` is how late a slow answer comes."""

    error: float = 0.0
    too_many: float = 0.0
    conflict: float = 0.0
    reset: float = 0.0
    timeout: float = 0.0
    reset_after: float = 0.0
    slow: float = 0.0
    error_kept: float = 0.0
    slow_ms: int = 1_000


class ChaosConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON of the `chaos` file and of `PUT /sandbox/chaos`. Ports: `payments`, `product`, `merch`.

    Webhooks: each message is sent `webhook_copies` times at most (drawn evenly from 1), late by up to `webhook_delay_ms`
    (which reorders them), and the share `webhook_lost` is never sent. `hold_timeout_ms`: how long the connection of an unanswered
    call stays open.
    """

    seed: int = 0
    ports: dict[str, PortChaos] = {}
    webhook_copies: int = 1
    webhook_delay_ms: int = 0
    webhook_lost: float = 0.0
    hold_timeout_ms: int = 60_000


class Chaos:
    """Draws fates. The default lets everything succeed."""

    def __init__(self, config: ChaosConfig | None = None) -> None:
        self.set(config or ChaosConfig())

    def set(self, config: ChaosConfig) -> None:
        self.config = config
        self._random = random.Random(config.seed)

    def of(self, port: str) -> PortChaos:
        return self.config.ports.get(port, _CALM)

    def draw(self, port: str) -> Fate:
        """The fate of the next call of `port`."""
        shares, at = self.of(port), self._random.random()
        for fate in _FATES:
            at -= getattr(shares, fate)
            if at < 0:
                return fate
        return Fate.NONE

    def webhook_sends(self) -> list[int]:
        """Delays in ms of the copies of one message; empty: it is lost."""
        config = self.config
        if self._random.random() < config.webhook_lost:
            return []
        copies = self._random.randint(1, max(1, config.webhook_copies))
        return [self._random.randint(0, config.webhook_delay_ms) for _ in range(copies)]


_CALM = PortChaos()
_FATES = [fate for fate in Fate if fate is not Fate.NONE]


decode_chaos = msgspec.json.Decoder(ChaosConfig).decode


def load_chaos(path: Path) -> ChaosConfig:
    """Read a chaos file. Raises `msgspec.ValidationError` naming the fault."""
    return decode_chaos(path.read_bytes())
