"""Orders that an operator froze: a flag (`attention`) with a code of its own, so it is in the log like any other. Pure.

While it is open, requests are refused (`order_frozen`) and nothing is owed (`obligations`). Facts are accepted, because they
happened. It is resolved like any other flag, or by `order-ledger thaw`.
"""

from __future__ import annotations

from commands.decide import is_foreign
from commands.decisions import Refusal
from commands.messages import OrderCommand
from commands.obligations import is_held
from ledger.order import Order
from ledger.transitions import REQUESTS, Code


def hold_key(order_id: str) -> str:
    """Key of the flag."""
    return f"att:{order_id}:frozen"


def refuse_held(command: OrderCommand, order: Order | None) -> Refusal | None:
    """The refusal of a request about an order that an operator froze; None for everything else."""
    if command.operation not in REQUESTS or order is None or not is_held(order) or is_foreign(command, order):
        return None
    return Refusal(Code.ORDER_FROZEN, "an operator froze the order")
