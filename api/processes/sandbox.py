"""The `sandbox` process: stand-ins for payments and stock, with the shop's catalogue as stock."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import msgspec
import structlog
import uvicorn

from api.processes.outside import webhook_secrets
from api.processes.process_metrics import health_of_sandbox
from api.processes.signals import hang_up_is_terminate, stop_with_parent
from api.settings import Settings
from commands.sandbox.catalogue import COFFEE, MERCHANDISE, SOLD_OUT
from commands.sandbox.chaos import load_chaos
from commands.sandbox.server import Sandbox, serve_sandbox
from ledger.errors import ConfigError

UNITS = 100_000  # initial stock of every article
DATABASE = "sandbox.db"

log = structlog.get_logger(__name__)


def run_stand_ins(
    settings: Settings,
    data_dir: Path,
    port: int,
    grpc_ports: Mapping[str, int],
    chaos: Path | None = None,
    with_parent: bool = False,
) -> int:
    """Serve until a signal. Raises `ConfigError` in production, and for an invalid `chaos` file."""
    if settings.app_env == "production":
        raise ConfigError("the sandbox is not available when APP_ENV is production")
    secrets = webhook_secrets(settings)
    try:
        config = None if chaos is None else load_chaos(chaos)
    except (OSError, msgspec.DecodeError) as exc:
        raise ConfigError(f"{chaos}: {exc}") from None
    sandbox = Sandbox(data_dir / DATABASE, settings.sandbox_webhook_url, secrets[0] if secrets else None, grpc_ports)
    if config is not None:
        sandbox.chaos.set(config)
    for article in (*COFFEE, *MERCHANDISE):
        sandbox.rooms.seed(article.service, {article.sku: (UNITS, article.unit_price_minor)})
    sandbox.rooms.seed(SOLD_OUT.service, {SOLD_OUT.sku: (0, SOLD_OUT.unit_price_minor)})

    def on_server(server: uvicorn.Server) -> None:
        def stop(*_: object) -> None:
            server.should_exit = True

        health = health_of_sandbox(settings.metrics_host, settings.metrics_port, lambda: server.started)
        health.start()
        closing.callback(health.stop)
        if with_parent:
            stop_with_parent(stop)
        signal.signal(signal.SIGTERM, stop)
        hang_up_is_terminate()
        log.info("sandbox started, no real money moves here", port=port, database=str(data_dir / DATABASE))

    with ExitStack() as closing:
        return serve_sandbox(sandbox, "127.0.0.1", port, on_server)
