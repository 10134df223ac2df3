"""The roles of callers."""

from __future__ import annotations

from typing import Literal, get_args

Role = Literal["gateway", "admin", "reader", "operator"]
ROLES: tuple[Role, ...] = get_args(Role)
