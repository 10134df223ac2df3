"""How many brokers may fail before an acknowledged event is lost: what a cluster promises, and what is too little. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

# A broker may be down for maintenance while another one fails, and what was acknowledged is on two brokers at least.
# https://kafka.apache.org/documentation/#topicconfigs_min.insync.replicas
LEAST_REPLICAS = 3
LEAST_IN_SYNC = 2


class Durability(NamedTuple):
    """What the log promises for one topic.

    `replicas`: of the partition that has the fewest. `in_sync`: replicas that have a record before it is acknowledged
    (`min.insync.replicas`). `unclean`: whether a replica that lacks acknowledged records may become the leader.
    """

    topic: str
    replicas: int
    in_sync: int
    unclean: bool


def weaknesses(topics: Iterable[Durability]) -> list[str]:
    """A line for each topic that may lose acknowledged records when one broker fails, or that stops being written then."""
    return [f"{one.topic} has {', '.join(lacks)}" for one in topics if (lacks := list(_lacks(one)))]


def _lacks(one: Durability) -> Iterable[str]:
    if one.replicas < LEAST_REPLICAS:
        yield f"{one.replicas} {'replica' if one.replicas == 1 else 'replicas'} (needed: {LEAST_REPLICAS})"
    if one.in_sync < LEAST_IN_SYNC:
        yield f"min.insync.replicas={one.in_sync} (needed: {LEAST_IN_SYNC})"
    if one.unclean:
        yield "unclean.leader.election.enable=true (needed: false)"
