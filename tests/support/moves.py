"""The moves of the shown status that exist, and those that were reached."""

from __future__ import annotations

from commands.decide import decide
from ledger import events as e
from ledger.evolve import evolve
from ledger.order import display
from tests.support import order_model as model
from tests.support import order_rules as rules
from tests.support.order_commands import WHOLE, at_ms, order_command
from tests.support.order_space import reach
from tests.support.order_universes import Universe

COMMANDS = [(c, order_command(c)) for c in WHOLE]


# The shown statuses that an event may lead to, one line each.
MOVES = {
    ("pending", "paid"): {e.PAYMENT_CAPTURED, e.STOCK_RESERVED, e.LINES_CANCELLED},
    ("paid", "pending"): {e.STOCK_RELEASED},
    ("pending", "cancelled"): {e.ORDER_CANCELLED},
    ("paid", "cancelled"): {e.ORDER_CANCELLED},
    ("processing", "cancelled"): {e.ORDER_CANCELLED},
    ("paid", "processing"): {e.FULFILMENT_STARTED, e.PARCEL_SHIPPED},
    ("paid", "shipped"): {e.ORDER_SHIPPED},
    ("processing", "shipped"): {e.ORDER_SHIPPED, e.LINES_CANCELLED},
    ("processing", "delivered"): {e.LINES_CANCELLED},
    ("shipped", "delivered"): {e.ORDER_DELIVERED},
}


def moves(universes: tuple[Universe, ...]) -> dict[tuple[str, str], set[str]]:
    """The event types that change the shown status, with the status before and after, over every reached state and command."""
    seen: dict[tuple[str, str], set[str]] = {}
    for universe in universes:
        for state, reached in reach(universe).items():
            for c, command in COMMANDS:
                if isinstance(rules.expect(state, c), model.No):
                    continue
                event = decide(command, reached.order, at_ms(c))
                if isinstance(event, e.OrderEvent):
                    step = (str(display(reached.order)), str(display(evolve(reached.order, event))))
                    if step[0] != step[1]:
                        seen.setdefault(step, set()).add(event.type)
    return seen
