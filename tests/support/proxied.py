"""A broker behind a proxy: its own address, and the one on which its replies are disturbed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ledger.broker.node import EmbeddedBroker
from ledger.ports import free_port
from tests.support.kafka_proxy import KafkaProxy, running_proxy


class Proxied(NamedTuple):
    """Both addresses are as in `bootstrap.servers`."""

    proxy: KafkaProxy
    direct: str
    through: str


@contextmanager
def proxied_broker(folder: Path) -> Iterator[Proxied]:
    """A broker of the test's own, until the block ends."""
    port, advertised = free_port(), free_port()
    broker = EmbeddedBroker(folder / "broker", log_file=folder / "broker.log", jit="quick", proxied_ports=(port, advertised))
    with running_proxy({advertised: port}) as proxy, broker:
        yield Proxied(proxy, broker.bootstrap_servers, f"127.0.0.1:{advertised}")
