"""A closed terminal stops a process as Ctrl-C does, unless it was started to outlive the terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from api.processes.signals import on_stop_signals, restore
from tests.support.patience import PATIENCE_S

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

ROOT = Path(__file__).parents[2]
STOPPER = "from api.processes.signals import stopper\ns = stopper(); print('up', flush=True); s.wait(60); print('stopped')"
SERVER = """
import asyncio, uvloop
from api.processes.signals import hang_up_is_terminate
import signal
async def serve():
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    print('up', flush=True)
    await asyncio.wait_for(stopped.wait(), 60)
    print('stopped')
hang_up_is_terminate()
asyncio.Runner(loop_factory=uvloop.new_event_loop).run(serve())
"""


def run(source: str, number: signal.Signals) -> tuple[int, str]:
    process = subprocess.Popen([sys.executable, "-c", source], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(number)
        said, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    return process.returncode, said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_of_them_stops_in_order(number: signal.Signals) -> None:
    assert run(STOPPER, number) == (0, "stopped\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_closed_terminal_reaches_a_server_of_uvloop(number: signal.Signals) -> None:
    assert run(SERVER, number) == (0, "stopped\n")


def test_with_nohup_a_closed_terminal_stays_ignored() -> None:
    source = "import signal\nfrom api.processes.signals import *\n{}\nprint(signal.getsignal(signal.SIGHUP).name)"
    for asked in ("stopper()", "hang_up_is_terminate()", "restore(on_stop_signals(print))"):
        command = ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh", sys.executable, "-c", source.format(asked)]
        assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "SIG_IGN\n"


ANYWHERE = """
import os, signal
from api.processes.signals import stopper
stopping = stopper()
with stopping._cond:  # as in `wait`, where the main thread spends its time
    os.kill(os.getpid(), signal.SIGTERM)
print(stopping.wait(60))
"""


def test_a_signal_stops_a_process_wherever_it_interrupts_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ANYWHERE], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert done.stdout == "True\n"


def test_without_a_thread_a_stop_has_happened_by_the_next_line() -> None:
    stops: list[str] = []
    before = on_stop_signals(lambda: stops.append("stop"), in_thread=False)
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stops == ["stop"]
    finally:
        restore(before)
