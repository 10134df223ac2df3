"""Two things that go through one module only: output for people, and what a role sees of an order."""

from __future__ import annotations

import ast

import pytest

from tests.support.sources import Module, imports, module, modules, name_of, within


def prints_past_the_screen(m: Module) -> list[str]:
    """Who creates a console of rich shows people something other than the value; who prints JSON with it, machines too."""
    if m.path == "api/cli/terminal.py":
        return []
    wrong = [
        f"{m.path} imports {name}"
        for name in imports(m)
        if within(name, ("rich.console.Console", "rich.print", "rich.get_console"))
    ]
    wrong += [f"{m.path} calls print_json" for n in ast.walk(m.tree) if isinstance(n, ast.Attribute) and n.attr == "print_json"]
    wrong += [
        f"{m.path} sets {keyword.arg}"
        for n in ast.walk(m.tree)
        if isinstance(n, ast.Call)
        for keyword in n.keywords
        if keyword.arg in ("markup", "emoji") and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
    ]
    return wrong


def test_what_people_and_machines_read_goes_through_one_screen() -> None:
    assert [wrong for m in modules() for wrong in prints_past_the_screen(m)] == []


@pytest.mark.parametrize(
    "source",
    [
        "from rich.console import Console",
        "def f(out):\n    out.print_json(data=1)",
        "def f(out):\n    out.print('x', markup=True)",
    ],
)
def test_a_print_past_the_screen_is_seen(source: str) -> None:
    assert prints_past_the_screen(module("api/cli/doctor.py", source))
    assert prints_past_the_screen(module("api/cli/doctor.py", "from api.cli.terminal import Screen")) == []


# Functions that show an order, or a part of it that not every role may see; and the one place that decides about it.
SHOWS_ORDERS = ("whole_order", "order_summary", "contact_shown", "frozen_shown")
VISIBILITY = "api/visibility.py"


def shows_orders_by_itself(m: Module) -> list[str]:
    """Uses of functions that show an order past `api/visibility.py`, or that read a contact."""
    if not m.path.startswith("api/") or m.path in (VISIBILITY, "api/representations.py"):
        return []
    wrong = [f"{m.path} imports {name}" for name in imports(m) if name.rpartition(".")[2] in SHOWS_ORDERS]
    wrong += [
        f"{m.path}:{n.lineno} reads a contact"
        for n in ast.walk(m.tree)
        if isinstance(n, ast.Attribute) and n.attr == "contact" and name_of(n.value) in ("projector", "contacts")
    ]
    return wrong


def test_one_place_decides_what_a_role_sees_of_an_order() -> None:
    assert [wrong for m in modules() for wrong in shows_orders_by_itself(m)] == []


@pytest.mark.parametrize(
    "source",
    [
        "from api.representations import whole_order",
        "from api import representations as r\ndef f(order):\n    from api.representations import order_summary",
        "def f(ctx, key):\n    return ctx.projector.contact(key)",
        "def f(ctx, key):\n    return ctx.projector.contacts.contact(key)",
    ],
)
def test_a_route_that_shows_an_order_by_itself_is_seen(source: str) -> None:
    assert shows_orders_by_itself(module("api/routes/orders.py", source))
    assert shows_orders_by_itself(module(VISIBILITY, source)) == []
