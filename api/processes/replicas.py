"""Refuses, at start in production, a cluster that may lose what was accepted."""

from __future__ import annotations

import threading

import structlog

from api.settings import Settings
from ledger.asking import until_answered
from ledger.durability import weaknesses
from ledger.errors import ConfigError
from ledger.log import EventLog

log = structlog.get_logger(__name__)


def check_replicas(event_log: EventLog, settings: Settings, stopping: threading.Event) -> bool:
    """Waits for a cluster that does not answer yet. Returns False if stopped meanwhile.

    Raises `ConfigError` with a line for each topic with too few replicas. `ALLOW_FEW_REPLICAS` makes it a line in the log.
    """
    if settings.app_env != "production":
        return True
    topics = until_answered(lambda: event_log.durability(settings.topics.names), stopping)
    if topics is None:
        return False
    lines = weaknesses(topics)
    if lines and not settings.allow_few_replicas:
        needed = "production needs what is named, or ALLOW_FEW_REPLICAS=true"
        raise ConfigError("\n".join(f"{line}: {needed}" for line in lines))
    for line in lines:
        log.warning("a failed broker may lose what was accepted, allowed by ALLOW_FEW_REPLICAS", topic=line)
    return True
