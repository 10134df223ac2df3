"""What the simulator takes the place of: time, random numbers, fresh ids. Everything else of the product runs as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from commands.processor import batches, claims, held_back, writer_loop
from commands.reconciler import clients, performing
from ledger import hanging, jitter, last_record, log_identity, reading
from ledger.contact_rows import KeptContacts
from ledger.schemas.codec import Codec
from ledger.store import Store
from projections import databases
from tests.simulator.scheduling import Scheduler

TIMED: tuple[Any, ...] = (
    writer_loop,
    batches,
    claims,
    held_back,
    clients,
    last_record,
    hanging,
    log_identity,
    reading,
)  # they import `time`, to wait and measure


class SimulatedTime:
    """What a module calls `time`, where it only waits and measures."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.monotonic, self.sleep = scheduler.monotonic, scheduler.sleep


def replace(names: Sequence[tuple[Any, str, Any]]) -> Callable[[], None]:
    """Give each (module or class, name) another value. Returns a function that gives them back their own."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in names]
    for owner, name, value in names:
        setattr(owner, name, value)

    def restore() -> None:
        for owner, name, own in reversed(before):
            setattr(owner, name, own)

    return restore


@contextmanager
def simulated(scheduler: Scheduler, wall_ms: Callable[[], int], fresh_id: Callable[[], str], seed: int) -> Iterator[None]:
    """While the block runs, the product has the time of `scheduler`, and chance and ids of `seed`."""
    time, decode = SimulatedTime(scheduler), Codec.decode
    decoded: dict[tuple[Codec[Any], bytes], Any] = {}

    def decode_once(codec: Codec[Any], data: bytes | None) -> Any:
        """Every node decodes the same records, which takes a fifth of a run; what it gets cannot be changed."""
        if data is None:
            return decode(codec, data)
        if (value := decoded.get((codec, data))) is None:
            value = decoded[codec, data] = decode(codec, data)
        return value

    def contacts(store: Store, topic: str, partitions: int) -> KeptContacts:
        return KeptContacts(store, topic, partitions, wall_ms)

    jitter.CHANCE.seed(f"{seed}/jitter")
    restore = replace(
        [
            *((module, "time", time) for module in TIMED),
            (performing, "fresh_command_id", fresh_id),
            (databases, "KeptContacts", contacts),
            (Codec, "decode", decode_once),
        ]
    )
    try:
        yield
    finally:
        restore()
