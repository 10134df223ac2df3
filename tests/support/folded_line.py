"""One line of an order, for `folded`: its units, and what went back for them. It imports nothing of the product."""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.line_costs import cost_of_units


@dataclass
class OfLine:
    """A line, what it costs in all, and its units by what became of them. `refunded` ones are not cancelled; `back_minor` is
    what went back for them, which may be less than they cost."""

    quantity: int
    cost: int
    cancelled: int = 0
    shipped: int = 0
    refunded: int = 0
    restocked: int = 0
    back_minor: int = 0

    @property
    def to_ship(self) -> int:
        return self.quantity - self.cancelled - self.shipped

    @property
    def to_refund(self) -> int:
        return self.quantity - self.cancelled - self.refunded

    def costs(self, before: int, units: int) -> int:
        return cost_of_units(self.cost, self.quantity, before, units)

    def cut(self, units: int) -> int:
        """These are cancelled, those that were refunded last. What went back for them."""
        again = max(0, units - self.to_refund)
        worth = self.costs(self.cancelled, self.refunded)
        lacking, refunded = worth - self.back_minor, self.refunded
        self.cancelled, self.refunded = self.cancelled + units, refunded - again
        left = self.costs(self.cancelled, self.refunded)
        if lacking > 0:
            lacking -= max(0, min(lacking * again // refunded, worth - left))
        before, self.back_minor = self.back_minor, left - min(lacking, left)
        return before - self.back_minor
