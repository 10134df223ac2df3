"""The OpenAPI document of a ledger that does not run."""

from __future__ import annotations

import json
from typing import Any

from pydantic import SecretStr

from api.app import build_app
from api.callers.auth import Tokens
from api.context import AppContext
from api.settings import Settings
from ledger.memory.log import MemoryLog
from ledger.memory.store import MemoryStore
from ledger.topics import Topics
from projections.projector import Projector
from projections.queries import Queries
from tests.support.harness import HASH_KEY
from tests.support.serving import AdjustableStatus


def openapi_of_a_ledger() -> dict[str, Any]:
    """The document with the default settings, as a client gets it."""
    log = MemoryLog()
    settings = Settings(_env_file=None, ledger_hash_key=SecretStr(HASH_KEY))  # type: ignore[call-arg]
    projector = Projector.open(lambda name: MemoryStore(), Topics(), 4)
    sender = log.sender("test")
    try:
        context = AppContext(
            settings, log, sender, projector, Queries(projector), Tokens([]), HASH_KEY.encode(), AdjustableStatus()
        )
        built: dict[str, Any] = json.loads(json.dumps(build_app(context).openapi()))
        return built
    finally:
        sender.close()
