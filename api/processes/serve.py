"""The `serve` process: this node's read models, folded by a Faust agent, and the HTTP API, on one event loop."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
from contextlib import closing
from pathlib import Path

import structlog

from api.app import build_app as build_api
from api.callers.oidc import Oidc
from api.callers.proxies import Proxies
from api.callers.tokens_file import TokensFile
from api.connections import Connections, limits_within, raise_file_limit
from api.context import AppContext
from api.processes.background import Works, background, beside_the_fold
from api.processes.beginning import Beginning
from api.processes.doors import build_oidc, build_payments
from api.processes.exposure import check_exposure
from api.processes.running import commands_counts, commands_skews_s
from api.processes.signals import hang_up_is_terminate, on_stop_signals, restore, stop_with_parent
from api.processes.wiring import open_log
from api.services.audit import BY_ITSELF
from api.settings import Settings, program_version
from commands.reconciler.payment_port import PaymentProvider
from ledger.audit import DONE, REFUSED, TOKENS_RELOAD
from ledger.files import private_folder
from ledger.kafka.settings import KafkaSettings
from ledger.log import EventLog
from ledger.supervision import keep_at
from ledger.upgrades.membership import Membership
from projections import faust_app
from projections.live import LiveNode
from projections.opening import nothing, open_generation, open_known, projections_of
from projections.projector import Projector
from projections.queries import Queries

log = structlog.get_logger(__name__)


def run_serve(settings: Settings, kafka: KafkaSettings, with_parent: bool = False) -> int:
    """Fold and serve until a signal. HTTP is served before the log answers, as described in `api.processes.beginning`.

    Returns the exit code. Raises `ConfigError`, `StoreError`, and any other error that prevents the start.
    """
    check_exposure(settings, kafka)
    tokens_file, hash_key, oidc = TokensFile(settings), settings.hash_key(), build_oidc(settings)
    stopping = threading.Event()
    before = on_stop_signals(stopping.set, in_thread=False)
    if with_parent:
        stop_with_parent(_stop_in_order)
    node = _Node(settings, open_log(kafka, settings.topics), tokens_file, hash_key, oidc)
    try:
        restore(before)  # from here on, the Faust worker handles INT and TERM
        hang_up_is_terminate()
        return 0 if stopping.is_set() else node.run()
    finally:
        node.close()


class _Node:
    """The parts of one `serve` process, and when each of them starts."""

    def __init__(
        self, settings: Settings, event_log: EventLog, tokens_file: TokensFile, hash_key: bytes, oidc: Oidc | None
    ) -> None:
        """Open the databases on disk. Raises `StoreError`, `ConfigError`."""
        files = raise_file_limit()
        self._settings, self._log, self._tokens_file = settings, event_log, tokens_file
        self._payments, self._proxies = build_payments(settings), Proxies(settings.proxies)
        private_folder(settings.state_dir)
        self._generations = projections_of(settings.state_dir)
        self._opened = open_known(self._generations, settings.topics)
        self._projector = Projector(self._opened.databases if self._opened else nothing(settings.topics))
        self._sender = event_log.sender("serve")
        self._app = faust_app.build_app(
            app_id=f"{settings.ledger_id}-serve-{settings.node_id}",
            log=event_log,
            folder=self._projector,
            state_dir=Path(settings.state_dir),
            wait=True,
        )
        self._app.feed.known_current_at = self._opened.current_at if self._opened else None
        self._context = AppContext(
            settings=settings,
            log=event_log,
            sender=self._sender,
            projector=self._projector,
            queries=Queries(self._projector),
            tokens=tokens_file.tokens,
            hash_key=hash_key,
            status=self._app.status,
            payments=self._payments,
            oidc=oidc,
            audit_spool=settings.state_dir / "audit.waiting",
            commands_counts=lambda: commands_counts(settings.state_dir),
            commands_skews_s=lambda: commands_skews_s(settings.state_dir),
            connections=Connections(
                limits_within(settings.max_connections, settings.max_connections_per_address, files), self._proxies
            ),
        )
        tokens_file.on_reload = self._tokens_reloaded
        self._membership = Membership(event_log, settings.topics, "serve", settings.node_id, program_version(), self._too_old)
        self._beginning = Beginning(
            settings, event_log, self._generations, self._opened, self._app, self._context, self._membership, _stop_in_order
        )

    def run(self) -> int:
        """Run until a signal or a failure; returns the exit code. Raises the error that prevented the start."""
        self._beginning.start()
        with closing(self._context):
            code = faust_app.run(
                self._app,
                build_api(self._context),
                host=self._settings.host,
                port=self._settings.port,
                on_started=self._started,
                on_stopping=self._ending,
                access_log=False,
                http=self._context.connections.protocol,
                **self._proxies.uvicorn_options(),
            )
        self._beginning.end()
        if self._beginning.error is not None:
            raise self._beginning.error
        return code

    def _too_old(self, exc: BaseException) -> None:
        self._beginning.fail(exc)

    def close(self) -> None:
        try:
            self._membership.leave()
            self._sender.close()
        finally:
            self._context.audit.end()
            self._projector.close()

    # ---- on the event loop

    def _started(self, port: int) -> None:
        """Called when HTTP is served."""
        _freeze_objects()
        log.info("serving", host=self._settings.host, port=port)
        self._keep_at({**background(self._context), "tokens file": self._tokens_file.check_for_ever})
        if self._payments is not None:
            self._app.add_future(_close_at_the_end(self._payments))
        self._beginning.served(self._begun)

    def _begun(self, generation: str) -> None:
        """Called when the log answers and the fold begins."""
        log.info("folding", generation=generation, partitions=self._projector.partitions)
        self._tend(generation)
        if self._opened is None or self._opened.name != generation:
            _freeze_objects()
        self._keep_at(beside_the_fold(self._context))

    def _tend(self, generation: str) -> None:
        """Handle requests of the verbs that run beside this process."""
        live = LiveNode(
            self._generations,
            generation,
            self._projector,
            self._log,
            lambda name: open_generation(self._generations, name, self._settings.topics, self._projector.partitions),
            self._app.feed.held,
            self._app.reposition,
            lambda: self._app.feed.check.current_at,
        )
        self._keep_at({"verbs beside serve": live.tend_for_ever})

    def _keep_at(self, works: Works) -> None:
        for name, work in works.items():
            self._app.add_future(keep_at(name, work))

    def _tokens_reloaded(self, outcome: str) -> None:
        self._context.audit.note(BY_ITSELF, TOKENS_RELOAD, DONE if outcome == "taken" else REFUSED)

    def _ending(self) -> None:
        self._beginning.stop()
        self._context.end_streams()


def _freeze_objects() -> None:
    """Exclude all current objects, which live as long as the process, from garbage collection, and collect less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 50)


def _stop_in_order() -> None:
    """Stop this process as SIGTERM does."""
    os.kill(os.getpid(), signal.SIGTERM)


async def _close_at_the_end(payments: PaymentProvider) -> None:
    """Close its connections while the event loop still runs: this task is cancelled just before the loop ends."""
    try:
        await asyncio.Event().wait()
    finally:
        await payments.close()
