"""What judges the product shares nothing with it: not one import, and none by a detour."""

from __future__ import annotations

import pytest

from tests.support.sources import PACKAGES, ROOT, Module, imports, module

JUDGES = (
    *("checker", "folded", "folded_line", "world_checker", "shown_checker", "line_costs"),
    *("order_model", "order_steps", "order_rules", "desk_rules"),
)
MAY_HELP = ("patience",)


def wrong_imports(judge: Module) -> list[str]:
    """Imports of the product, and of helpers of the tests that may import it."""
    return [
        name
        for name in imports(judge)
        if name.split(".")[0] in PACKAGES
        or (name.startswith("tests.") and name != "tests.support" and not {*name.split(".")} & {*JUDGES, *MAY_HELP})
    ]


def judge(name: str) -> Module:
    path = f"tests/support/{name}.py"
    return module(path, (ROOT / path).read_text("utf-8"))


@pytest.mark.parametrize("name", [*JUDGES, *MAY_HELP])
def test_a_judge_imports_nothing_of_the_product(name: str) -> None:
    assert wrong_imports(judge(name)) == []


@pytest.mark.parametrize(
    "source",
    [
        "from ledger.shares import line_values",
        "def f():\n    import commands.decide",
        "from tests.support.order_space import state_of",
        "import tests.support.story",
    ],
)
def test_a_judge_that_asks_the_product_is_seen(source: str) -> None:
    assert wrong_imports(module("tests/support/checker.py", source))
