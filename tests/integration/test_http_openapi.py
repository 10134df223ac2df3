"""Every operation of the OpenAPI document, called in every form that the document describes, allows or forbids.

The ledger under test is a whole one, on the broker and with the sandbox (`openapi_calls`). The campaign is the same with many
more calls (CALLS of each form of each operation, 200 unless set), different ones each time:

    uv run pytest -m campaign tests/integration/test_http_openapi.py -s
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from schemathesis.generation import GenerationMode
from schemathesis.generation.case import Case

from api.contract import desk_operations, feed_operations, operations, registry, webhook_operations
from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.topics import Topics
from tests.support.harness import order_body, running_ledger
from tests.support.openapi_calls import CHOICES, Choice, Fuzzed
from tests.support.sandboxed import running_sandbox

pytestmark = [
    pytest.mark.kafka,
    # about the jitter of the ledger's threads while hypothesis draws
    pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies"),
]

OPERATIONS = sorted(
    described["operation_id"]
    for module in (operations, desk_operations, feed_operations, webhook_operations, registry)
    for described in vars(module).values()
    if isinstance(described, dict) and "operation_id" in described
)
NOTHING_TO_BREAK = {"consoleConfig", "live", "ready"}  # no parameter, no body, no token
SHORT = settings(
    max_examples=10,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    verbosity=Verbosity.quiet,
)
CALLS = int(os.environ.get("CALLS", "200"))
LONG = settings(SHORT, max_examples=CALLS, derandomize=False, phases=[Phase.generate, Phase.shrink])


@pytest.fixture(scope="module")
def fuzzed(kafka: KafkaSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    topics = Topics(prefix=f"t{os.getpid()}-openapi.")
    with (
        running_sandbox(tmp_path_factory.mktemp("sandbox")) as sandbox,
        running_ledger(KafkaLog(kafka), topics, sandbox=sandbox) as ledger,
    ):
        fuzzed = Fuzzed(ledger, sandbox)
        yield fuzzed
        fuzzed.close()


def call_often(fuzzed: Fuzzed, operation_id: str, how_often: settings) -> None:
    modes = [m for m in GenerationMode if m is GenerationMode.POSITIVE or operation_id not in NOTHING_TO_BREAK]
    for mode in modes:

        @how_often
        @given(case=fuzzed.fuzzed(operation_id, mode), choice=CHOICES)
        def calls(case: Case, choice: Choice) -> None:
            fuzzed.call(case, choice)

        calls()


def test_the_document_has_these_operations(fuzzed: Fuzzed) -> None:
    assert sorted(fuzzed.operations) == OPERATIONS


@pytest.mark.parametrize("operation_id", OPERATIONS)
def test_an_operation_answers_as_the_document_says(fuzzed: Fuzzed, operation_id: str) -> None:
    for number, case in enumerate(fuzzed.at_the_bounds(operation_id)):
        fuzzed.call(case, Choice(real=number % 2 == 1, number=number))
    call_often(fuzzed, operation_id, SHORT)


def test_after_all_these_calls_orders_are_placed_as_before(fuzzed: Fuzzed) -> None:
    assert fuzzed.placed(order_body())
    assert fuzzed.ledger.context.projector.frozen_count == 0


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("operation_id", OPERATIONS)
def test_an_operation_called_thousands_of_times_answers_as_the_document_says(fuzzed: Fuzzed, operation_id: str) -> None:
    call_often(fuzzed, operation_id, LONG)
    label = fuzzed.operations[operation_id].label
    print(label, {line.rpartition(" ")[2]: n for line, n in sorted(fuzzed.answers.items()) if line.rpartition(" ")[0] == label})
