"""The `serve` process: this node's read models, folded by the Faust agent, and the HTTP API over them, on one event loop."""

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
from api.auth import load_tokens
from api.background import background
from api.connections import Connections, limits_within, raise_file_limit
from api.context import AppContext
from api.doors import build_payments
from api.exposure import check_exposure
from api.generation import open_caught_up, open_generation, projections_of
from api.signals import hang_up_is_terminate, on_stop_signals, restore, stop_with_parent
from api.wiring import open_log, prepare_topics
from commands.payments import PaymentProvider
from ledger.config import KafkaSettings, Settings
from ledger.errors import LogError
from ledger.log import EventLog
from ledger.supervision import keep_at
from projections import faust_app
from projections.live import LiveNode
from projections.projector import Projector
from projections.queries import Queries

log = structlog.get_logger(__name__)


def run_serve(settings: Settings, kafka: KafkaSettings, with_parent: bool = False) -> int:
    """Fold and serve until a signal. Returns the exit code; raises `ConfigError`, `StoreError` before anything is served."""
    check_exposure(settings, kafka)
    tokens, hash_key, files = load_tokens(settings), settings.hash_key(), raise_file_limit()
    stopping = threading.Event()
    before = on_stop_signals(stopping.set)
    if with_parent:
        stop_with_parent(lambda: os.kill(os.getpid(), signal.SIGTERM))
    event_log = open_log(kafka)
    if not prepare_topics(event_log, settings, stopping):
        return 0
    partitions = _partitions(event_log, settings, stopping)
    if partitions is None:
        return 0
    generations = projections_of(settings)
    opened = open_caught_up(generations, settings, event_log, partitions, stopping)
    if opened is None:
        return 0
    restore(before)  # from here on the worker handles INT and TERM
    hang_up_is_terminate()
    generation, databases = opened
    projector = Projector(databases)
    sender = event_log.sender("serve")
    try:
        app = faust_app.build_app(
            app_id=f"{settings.app_id}-serve-{settings.node_id}",
            log=event_log,
            folder=projector,
            state_dir=Path(settings.state_dir),
        )
        live = LiveNode(
            generations,
            generation,
            projector,
            event_log,
            lambda name: open_generation(generations, name, settings.topics, partitions),
            app.feed.held,
            app.reposition,
        )
        payments = build_payments(settings)
        context = AppContext(
            settings=settings,
            log=event_log,
            sender=sender,
            projector=projector,
            queries=Queries(projector),
            tokens=tokens,
            hash_key=hash_key,
            status=app.status,
            payments=payments,
            connections=Connections(limits_within(settings.max_connections, settings.max_connections_per_address, files)),
        )

        def started(port: int) -> None:
            # What is there now stays for good; short-lived objects of requests and chunks need no full collections.
            gc.collect()
            gc.freeze()
            gc.set_threshold(50_000, 50, 50)
            for name, work in background(context).items():
                app.add_future(keep_at(name, work))
            app.add_future(keep_at("verbs beside serve", live.tend_for_ever))
            if payments is not None:
                app.add_future(_close_at_the_end(payments))
            log.info("serving", host=settings.host, port=port, partitions=partitions)

        with closing(context):
            return faust_app.run(
                app,
                build_api(context),
                host=settings.host,
                port=settings.port,
                on_started=started,
                on_stopping=context.end_streams,
                access_log=False,
                http=context.connections.protocol,
            )
    finally:
        sender.close()
        projector.close()


async def _close_at_the_end(payments: PaymentProvider) -> None:
    """Its connections belong to the event loop, which ends with the worker: this is cancelled just before."""
    try:
        await asyncio.Event().wait()
    finally:
        await payments.close()


def _partitions(event_log: EventLog, settings: Settings, stopping: threading.Event) -> int | None:
    """How many partitions the order topics have, asked of the cluster: the setting only counts when they are created."""
    while not stopping.is_set():
        try:
            return event_log.partitions(settings.topics.events)
        except LogError as exc:
            log.warning("waiting for Kafka", why=str(exc))
            stopping.wait(0.5)
    return None
