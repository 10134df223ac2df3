"""Several threads may use a type for the first time together: msgspec 0.22 crashed the process then (SIGSEGV)."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ledger.schemas.codec import event_codec
from tests.support.avro_values import real_events

ROOT = Path(__file__).parents[2]

# Forked from a process that has imported everything and decoded nothing: as fresh as a new one, and made in a millisecond.
PROGRAM = """
import os, sys, threading
sys.setswitchinterval(0.0005)  # as `commands` does
import api.app, commands.processor.process, commands.reconciler.loop, projections.projector
from commands.reconciler.stripe_facts import StripeDispute, Intent, StripeRefund, read
from ledger.schemas.codec import event_codec

value = bytes.fromhex(sys.argv[1])
things = [
    ({"id": "pi_1", "status": "x", "amount": 1, "currency": "eur", "latest_charge": {"id": "ch_1"}}, Intent),
    ({"id": "re_1", "status": "x", "amount": 1, "payment_intent": {"id": "pi_1"}}, StripeRefund),
    ({"id": "dp_1", "status": "x", "amount": 1, "evidence_details": {"due_by": 1}}, StripeDispute),
]
crashed = 0
for _ in range(40):
    if (pid := os.fork()) == 0:
        barrier = threading.Barrier(6)

        def decode():
            barrier.wait()
            if _ % 2:
                event_codec().decode(value)
            for thing, kind in things:
                read(thing, kind)

        threads = [threading.Thread(target=decode) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os._exit(0)
    crashed += os.waitpid(pid, 0)[1] != 0
print(crashed)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_six_threads_may_read_the_first_event_and_payment_of_a_process_together() -> None:
    value = event_codec().encode(real_events()[0]).hex()
    done = subprocess.run([sys.executable, "-c", PROGRAM, value], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0"]


def test_every_type_is_known_before_it_is_used() -> None:
    """`decode(..., type=T)` and `convert(..., T)` learn `T` when they are called; a `Decoder(T)` of a module, at import."""
    calls = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for package in ("ledger", "commands", "projections", "api")
        for path in sorted((ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("msgspec.msgpack.decode", "msgspec.json.decode")
        and any(word.arg == "type" for word in node.keywords)
    ]
    assert calls == []


# Where `convert` learns a type, beside a `Decoder` of it that is created at import.
CONVERTS = {
    "ledger/schemas/codec.py",
    "commands/reconciler/stripe_facts.py",
    "commands/processor/readable.py",
    "api/cli/messages.py",  # a verb, which reads one order in one thread
}


def test_nothing_is_converted_into_a_type_that_may_not_be_known() -> None:
    """Seen in a run of the suite: two threads read their first payment together, and the process died."""
    conversions = {
        str(path.relative_to(ROOT))
        for package in ("ledger", "commands", "projections", "api")
        for path in sorted((ROOT / package).rglob("*.py"))
        if re.search(r"from msgspec import .*\bconvert\b|msgspec\.convert\(", path.read_text())
    }
    assert conversions == CONVERTS
