"""Every name of faust and mode that `projections.faust_app` overrides, calls undocumented or relies on still exists.

A failure here after an upgrade says which assumption to check; `tests/integration/test_faust_app.py` says whether it holds.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import mode
import pytest
import uvicorn
from faust import App, Schema
from faust.contrib.asgi import AsgiService, serve_asgi
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.transport.base import Transport
from faust.transport.conductor import Conductor
from faust.transport.consumer import Consumer, Fetcher
from faust.transport.producer import Producer
from faust.types.settings import Settings
from faust.types.tuples import ConsumerMessage
from faust.worker import Worker
from mode.supervisors import CrashingSupervisor, SupervisorStrategy

from projections import faust_app


def parameters(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def test_the_versions_are_the_ones_that_were_read() -> None:
    assert version("faust-streaming") == "0.15.3"
    assert version("mode-streaming") == "0.7.1"


def test_faust_requires_exactly_the_methods_that_the_consumer_implements() -> None:
    assert Consumer.__abstractmethods__ == {
        "_commit",
        "_getmany",
        "_new_topicpartition",
        "_seek",
        "_to_message",
        "assignment",
        "create_topic",
        "earliest_offsets",
        "highwater",
        "highwaters",
        "key_partition",
        "position",
        "seek_to_committed",
        "seek_wait",
        "subscribe",
        "topic_partitions",
    }
    assert not faust_app.FeedConsumer.__abstractmethods__


@pytest.mark.parametrize("name", sorted(Consumer.__abstractmethods__))
def test_methods_of_the_consumer_take_what_faust_passes(name: str) -> None:
    ours = parameters(getattr(faust_app.FeedConsumer, name))
    theirs = parameters(getattr(Consumer, name))
    if name == "create_topic":  # all others go into **_
        theirs = [*theirs[:3], "_"]
    assert ours == theirs


@pytest.mark.parametrize(
    ("owner", "name", "expected"),
    [
        (Consumer, "on_start", []),
        (Consumer, "on_stop", []),
        (Consumer, "on_partitions_assigned", ["assigned", "generation_id"]),
        (Consumer, "perform_seek", []),
        (Consumer, "getmany", ["timeout"]),
        (Consumer, "_drain_messages", ["fetcher"]),
        (Transport, "create_consumer", ["callback", "kwargs"]),
        (Transport, "create_producer", ["kwargs"]),
        (Schema, "loads_key", ["app", "message", "loads", "serializer"]),
        (Schema, "loads_value", ["app", "message", "loads", "serializer"]),
        (App, "_new_transport", []),
        (App, "on_stop", []),
        (App, "on_rebalance_start", []),
        (App, "on_started_init_web_server", []),
        (App, "web_server", ["service"]),
        (Worker, "on_startup_finished", []),
        (mode.Worker, "install_signal_handlers", []),
        (mode.Worker, "_schedule_shutdown", ["signal"]),
        (mode.Service, "add_future", ["coro"]),
        (mode.Service, "crash", ["reason"]),
        (mode.Service, "stop", []),
        (AsgiService, "on_stop", []),
        (Recovery, "_resume_streams", ["generation_id"]),
        (TableManager, "on_start", []),
        (TableManager, "_update_channels", []),
        (TableManager, "on_rebalance", ["assigned", "revoked", "newly_assigned", "generation_id"]),
        (Conductor, "_update_tp_index", ["assigned"]),
    ],
)
def test_an_overridden_or_relied_on_method_has_the_expected_parameters(owner: type, name: str, expected: list[str]) -> None:
    assert parameters(getattr(owner, name)) == expected


def test_the_bare_producer_connects_to_nothing_and_cannot_send() -> None:
    assert Transport.Producer is Producer
    assert faust_app.FeedTransport.Producer is Producer
    assert faust_app.FeedTransport.Fetcher is Fetcher
    assert "NotImplementedError" in inspect.getsource(Producer.send)
    assert inspect.getsource(Producer.on_start).count("await") == 1  # the buffer, no client


def test_tables_are_waited_for_a_second_before_recovery_begins_and_for_nothing_else() -> None:
    """What `NoTables` leaves out."""
    steps = [line.strip() for line in inspect.getsource(TableManager.on_start).splitlines() if "self." in line]
    assert steps == [
        "await self.sleep(1.0)",
        "if not self.should_stop:",
        "await self._update_channels()",
        "await self.recovery.start()",
    ]


def test_the_app_keeps_its_web_service_and_generation_where_they_are_read() -> None:
    assert App._web_server_service_instance is None
    assert App.consumer_generation_id == 0


def test_serve_asgi_takes_a_class_attribute_and_passes_options_on() -> None:
    assert parameters(serve_asgi) == ["app", "asgi_app", "host", "port", "uvicorn_options"]
    assert "_server" in inspect.getsource(AsgiService.__init__)
    server = uvicorn.Server(uvicorn.Config(lambda: None, log_config=None))
    assert server.started is False
    assert "self.servers" in inspect.getsource(uvicorn.Server.startup)


def test_the_worker_can_be_kept_from_logging_and_printing() -> None:
    assert {"quiet", "redirect_stdouts", "kwargs"} <= set(parameters(Worker.__init__))
    assert {"override_logging", "daemon"} <= set(parameters(mode.Worker.__init__))
    assert inspect.signature(mode.Worker.__init__).parameters["daemon"].default is True
    assert "self.spinner" in inspect.getsource(Worker.__init__)


def test_a_crashing_supervisor_sets_no_supervisor_so_that_a_crash_goes_up() -> None:
    assert issubclass(CrashingSupervisor, SupervisorStrategy)
    assert "_contribute_to_service" in vars(CrashingSupervisor)


def test_a_message_takes_the_fields_of_a_chunk() -> None:
    assert {
        "topic",
        "partition",
        "offset",
        "timestamp",
        "timestamp_type",
        "headers",
        "key",
        "value",
        "checksum",
        "serialized_key_size",
        "serialized_value_size",
        "tp",
        "generation_id",
    } <= set(parameters(ConsumerMessage.__init__))


def test_every_setting_exists_and_the_environment_is_shut_out(monkeypatch: pytest.MonkeyPatch) -> None:
    used = {
        "datadir",
        "store",
        "topic_allow_declare",
        "topic_disable_leader",
        "table_standby_replicas",
        "TableManager",
        "stream_wait_empty",
        "web_enabled",
        "worker_redirect_stdouts",
        "broker",
    }
    assert used <= set(Settings.SETTINGS)
    monkeypatch.setenv("TOPIC_ALLOW_DECLARE", "1")
    assert Settings("app", env={}, topic_allow_declare=False).topic_allow_declare is False
    assert Settings("app", topic_allow_declare=False).topic_allow_declare  # what `env` protects from
