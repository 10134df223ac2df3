"""The program as a new user sees it: help for every verb, and a demo that proves itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from api.cli.verbs import app
from tests.support.patience import PATIENCE_S, until
from tests.support.up_process import PROGRAM, UpProcess
from tests.support.verbs import doctor


def verbs(command: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every verb of the program, groups included."""
    paths = [path]
    for name, child in getattr(command, "commands", {}).items():
        paths += verbs(child, (*path, name))
    return paths


def run(*arguments: str, folder: Path, timeout_s: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "200", "TMPDIR": str(folder), "NO_COLOR": "1"}
    return subprocess.run(
        [PROGRAM, *arguments], capture_output=True, text=True, timeout=timeout_s, cwd=folder, env=environment, check=False
    )


def test_doctor_finds_nothing_wrong_with_a_healthy_ledger(up: UpProcess) -> None:
    report = doctor(up)
    assert report["ok"]
    assert [one for one in report["findings"] if one["verdict"] == "wrong"] == []
    assert {"Kafka", "topics", "commands", "writers", "API"} <= {one["subject"] for one in report["findings"]}


def test_every_verb_explains_itself() -> None:
    all_verbs = verbs(typer.main.get_command(app))
    assert {("up",), ("serve",), ("commands",), ("demo",), ("tail",), ("doctor",), ("schema", "check")} <= set(all_verbs)
    for verb in all_verbs:
        shown = CliRunner().invoke(app, [*verb, "--help"], prog_name="order-ledger", env={"COLUMNS": "200", "NO_COLOR": "1"})
        assert shown.exit_code == 0, shown.output
        assert " ".join(("Usage: order-ledger", *verb)) in shown.output


def test_help_writes_no_file(tmp_path: Path) -> None:
    shown = run("--help", folder=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "Usage: order-ledger" in shown.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("history", "ord_x"), "no ledger is running"),
        (("token", "king"), "choose one of"),
        (("demo", "--orders", "3"), "--orders"),
    ],
)
def test_a_mistake_gets_one_sentence_and_a_code_other_than_zero(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    shown = run(*arguments, folder=tmp_path)
    assert shown.returncode != 0
    assert says in shown.stderr
    assert "Traceback" not in shown.stderr


@pytest.mark.kafka
@pytest.mark.timeout(1_800)  # the demo's own patience; it takes 20 s
def test_the_demo_takes_forty_orders_through_the_whole_path_and_everything_is_as_promised(tmp_path: Path) -> None:
    shown = run("demo", "--orders", "40", "--json", folder=tmp_path, timeout_s=1_700)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    report = json.loads(shown.stdout)
    assert report["passed"] is True
    counts = {step["name"]: step["count"] for step in report["steps"]}
    assert counts["orders compared with the API"] == 40
    assert counts["processes that ended by themselves"] == 0
    assert report["statuses"] == {"pending": 0, "paid": 4, "processing": 4, "shipped": 4, "delivered": 12, "cancelled": 16}
    kinds = report["events_by_type"]
    expected = {
        "OrderPlaced": 40,
        "PaymentCaptured": 28,
        "PaymentDeclined": 4,
        "RefundRequested": 4,
        "RefundSettled": 12,
        "StockRejected": 4,
    }
    assert {kind: kinds[kind] for kind in expected} == expected
    assert counts["orders compared with the sandbox's journal"] == 40
    assert report["sums"]["ledger"] == report["sums"]["journal"]
    assert report["sums"]["ledger"]["captured_minor"] > report["sums"]["ledger"]["refunded_minor"] > 0
    assert report["decoder"] == "confluent_kafka AvroDeserializer"
    parts = report["seconds"]
    assert {"to start everything", "for all steps", "for the consumer to finish", "to stop everything", "in all"} == set(parts)
    assert parts["in all"] / 2 < sum(parts.values()) - parts["in all"] < parts["in all"] + 1
    assert all(step["seconds"] > 0 for step in report["steps"] if step["name"].startswith("orders p"))
    assert parts["for all steps"] / 2 < sum(step["seconds"] for step in report["steps"]) < parts["for all steps"] + 1
    assert list(tmp_path.iterdir()) == []  # nothing is left over


@pytest.mark.kafka
def test_the_demo_names_what_was_not_as_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting under which carts cannot be placed must end the demo non-zero; the reason and the logs are kept."""
    from api.cli.demo import run as demo
    from api.cli.terminal import Screen

    monkeypatch.setitem(demo.ENVIRONMENT, "CURRENCIES", "CHF")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with (tmp_path / "out.txt").open("w") as text:
        assert demo.run_demo(10, False, False, Screen(file=text, width=160), Screen(file=text, width=160)) == 1
    shown = (tmp_path / "out.txt").read_text()
    assert "currency-not-supported" in shown
    assert "Not everything was as promised." in shown
    assert "All files are kept in" in shown


@pytest.mark.kafka
@pytest.mark.timeout(1_800)
def test_an_interrupted_demo_proves_nothing_says_so_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    demo = subprocess.Popen(
        [PROGRAM, "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment
    )
    try:
        while not list(tmp_path.glob("*/run/up.json")):  # everything is up, and the first orders are being placed
            assert demo.poll() is None, demo.communicate()
            time.sleep(0.05)
        demo.send_signal(signal.SIGINT)
        shown, said = demo.communicate(timeout=600)
    finally:
        demo.kill()
        demo.communicate()
    assert (demo.returncode, shown, said) == (130, "", "Interrupted before anything was verified.\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.kafka
@pytest.mark.timeout(1_800)
def test_an_interrupted_demo_does_not_wait_for_a_consumer_that_waits_for_the_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here it never ends; the real one asks for ten minutes."""
    from api.cli.demo import run as demo_run
    from api.cli.terminal import Screen

    def never_ending(info: dict[str, Any], topic: str) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(9999)"], stdin=pipe, stdout=pipe, stderr=pipe)

    def interrupt() -> None:
        until(lambda: "for all steps" in demo.seconds or demo.error, timeout_s=1_000)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(demo_run, "start_consumer", never_ending)
    with (tmp_path / "out.txt").open("w") as text:
        demo = demo_run.Demo(tmp_path / "data", 10, Screen(file=text), None)
        thread = threading.Thread(target=interrupt)
        thread.start()
        interrupted = demo.run()
        thread.join()
    assert interrupted
    assert demo.error is not None
    assert "consumer exited with code -9" in demo.error  # and not after its patience
    assert not demo.passed
