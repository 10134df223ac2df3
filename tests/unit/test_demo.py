"""What keeps the demo from racing a clock: who may expire, what it waits for, and when its patience is over."""

from __future__ import annotations

import io
import socket
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from api.cli.demo import calls as demo_calls
from api.cli.demo import plain_consumer
from api.cli.demo import run as demo_run
from api.cli.demo.calls import PATIENCE_S, StepPatience
from api.cli.demo.inputs import LIVES, NEVER_PAID, cart_of, life_of
from api.cli.demo.run import ENVIRONMENT
from api.cli.demo.steps import _finished_with
from api.cli.terminal import Screen
from api.settings import Settings
from ledger.errors import ConfigError


def test_only_orders_that_nobody_pays_for_can_expire_while_the_demo_runs() -> None:
    settings = Settings(_env_file=None, **{name.lower(): value for name, value in ENVIRONMENT.items()})
    assert settings.payment_window_seconds > 100 * PATIENCE_S
    for number in range(len(LIVES)):
        asked = cart_of(number).get("payment_window_seconds")
        if life_of(number).name == NEVER_PAID:
            assert settings.payment_window_min_seconds <= asked <= 10
        else:
            assert asked is None


def test_patience_is_over_only_when_nothing_has_moved_for_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(demo_calls.time, "monotonic", lambda: now)
    patience = StepPatience()
    for _ in range(20):  # in total far longer than the patience
        now += PATIENCE_S - 1
        assert not patience.over
        patience.moved()
    now += PATIENCE_S + 1
    assert patience.over


def stock(*rows: tuple[str, str]) -> list[dict[str, Any]]:
    placed = {"type": "OrderPlaced", "detail": {"service": None}}
    return [placed, *({"type": kind, "detail": {"service": service}} for kind, service in rows)]


@pytest.mark.parametrize(
    ("rows", "finished"),
    [
        ([], set()),
        ([("StockReserved", "product"), ("StockRejected", "merch")], {"merch"}),  # the reservation is still to be released
        ([("StockReserved", "product"), ("StockRejected", "merch"), ("StockReleased", "product")], {"merch", "product"}),
        ([("StockReleased", "product"), ("StockReserved", "product")], set()),  # late, and to be released again
    ],
)
def test_an_order_is_finished_when_no_service_holds_anything_for_it(rows: list[tuple[str, str]], finished: set[str]) -> None:
    assert _finished_with(stock(*rows)) == finished


def test_the_consumer_asks_again_while_the_cluster_has_no_answer_and_gives_up_where_waiting_does_not_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plain_consumer.time, "sleep", lambda _: None)
    failures = [KafkaError(KafkaError._ALL_BROKERS_DOWN), KafkaError(KafkaError.UNKNOWN_LEADER_EPOCH)]

    def question() -> str:
        if failures:
            raise KafkaException(failures.pop())
        return "answer"

    assert plain_consumer.asked(question) == "answer"
    assert failures == []
    assert len(capsys.readouterr().err.splitlines()) == 2
    failures.append(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))
    with pytest.raises(KafkaException):
        plain_consumer.asked(question)


class Failed:
    """A message that carries an error instead of a record."""

    def __init__(self, code: int) -> None:
        self._error = KafkaError(code)

    def error(self) -> KafkaError:
        return self._error

    def partition(self) -> int:
        return 3

    def offset(self) -> int:
        return 17


def test_the_consumer_continues_after_passing_errors_and_notes_where_a_partition_ends() -> None:
    reached: dict[int, int] = {}
    assert not plain_consumer._is_event(Failed(KafkaError._TRANSPORT), reached)  # type: ignore[arg-type]
    assert not plain_consumer._is_event(Failed(KafkaError.UNKNOWN_LEADER_EPOCH), reached)  # type: ignore[arg-type]
    assert reached == {}
    assert not plain_consumer._is_event(Failed(KafkaError._PARTITION_EOF), reached)  # type: ignore[arg-type]
    assert reached == {3: 17}
    with pytest.raises(KafkaException):
        plain_consumer._is_event(Failed(KafkaError.OFFSET_OUT_OF_RANGE), reached)  # type: ignore[arg-type]


@pytest.mark.parametrize("keep", [False, True])
def test_a_demo_that_cannot_begin_leaves_a_folder_only_if_asked_to_and_names_it(
    keep: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    shown = io.StringIO()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(demo_run, "free_port", lambda: taken.getsockname()[1])
        with pytest.raises(ConfigError, match="is in use"):
            demo_run.run_demo(10, keep, False, Screen(file=shown), Screen(file=shown))
    kept = [str(folder) for folder in tmp_path.glob("order-ledger-demo-*")]
    assert shown.getvalue() == "".join(f"All files are kept in {folder}\n" for folder in kept)
    assert len(kept) == keep
