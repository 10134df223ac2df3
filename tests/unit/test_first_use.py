"""Several threads may use a type for the first time at once: msgspec 0.22 crashed the process then (SIGSEGV)."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from avro_values import real_events

from ledger.codec import event_codec

ROOT = Path(__file__).parents[2]

# Forked from a process that has imported everything and decoded nothing: as fresh as a new one, and made in a millisecond.
PROGRAM = """
import os, sys, threading
sys.setswitchinterval(0.0005)  # as `commands` does
import api.app, commands.process, commands.reconciler, projections.projector
from ledger.codec import event_codec

value = bytes.fromhex(sys.argv[1])
crashed = 0
for _ in range(40):
    if (pid := os.fork()) == 0:
        barrier = threading.Barrier(6)

        def decode():
            barrier.wait()
            event_codec().decode(value)

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
def test_six_threads_may_decode_the_first_event_of_a_process_at_once() -> None:
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
