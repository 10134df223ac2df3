"""What runs beside the writers and observes their orders: the reconciler, the notifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ledger.order import Order


class OrderListener(Protocol):
    """Observes the orders of this process's writers. Called by the thread of a writer; must not block."""

    def own(self, partitions: Sequence[int]) -> None:
        """From now on, these partitions are decided here; they are folded to the end."""

    def disown(self, partitions: Sequence[int]) -> None:
        """These partitions are not decided here, or not for now."""

    def changed(self, orders: Sequence[Order]) -> None:
        """Orders of own partitions that were just stored."""

    def asked(self, order_ids: Sequence[str]) -> None:
        """Payments of these orders were requested again, which changed nothing."""
