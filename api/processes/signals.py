"""Orderly stop of a process: on Ctrl-C, SIGTERM, a closed terminal (SIGHUP), and for children of `up` when `up` ends."""

from __future__ import annotations

import os
import signal
import threading
from _thread import start_new_thread
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any] | int | None


def stop_signals() -> list[signal.Signals]:
    """The signals to act on. Excludes SIGHUP if it is ignored already: `nohup` means to outlive the terminal."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    hang_up: signal.Signals | None = getattr(signal, "SIGHUP", None)  # not on Windows
    if hang_up is not None and signal.getsignal(hang_up) is not signal.SIG_IGN:
        numbers.append(hang_up)
    return numbers


def on_stop_signals(stop: Callable[[], object], in_thread: bool = True) -> Mapping[signal.Signals, Handler]:
    """Call `stop` on each of them from now on. Returns the previous handlers. Call it on the main thread.

    A handler interrupts the main thread anywhere, also where that holds the lock of the very event that `stop` sets. So a thread
    calls `stop`. Without `in_thread`, `stop` has returned before the next line of the main thread, which must not wait for it.
    """

    def handle(*_: object) -> None:
        try:
            start_new_thread(stop, ())  # not `threading.Thread`, which takes locks of its own
        except RuntimeError:  # no more threads, or Python is ending
            stop()

    return {number: signal.signal(number, handle if in_thread else lambda *_: stop()) for number in stop_signals()}


def restore(handlers: Mapping[signal.Signals, Handler]) -> None:
    """Restore the handlers that `on_stop_signals` returned."""
    for number, handler in handlers.items():
        signal.signal(number, handler)


def hang_up_is_terminate() -> None:
    """Turn SIGHUP into SIGTERM, for servers of libraries that handle only INT and TERM."""
    for number in stop_signals():
        if number not in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: os.kill(os.getpid(), signal.SIGTERM))


def stopper() -> threading.Event:
    """Returns an event that a stop signal sets, for verbs that finish their current step by themselves."""
    stopping = threading.Event()
    on_stop_signals(stopping.set)
    return stopping


def stop_with_parent(stop: Callable[[], object]) -> None:
    """Call `stop` when standard input ends. `up` holds the other end of the pipe, so a killed `up` leaves no orphans."""

    import structlog

    from ledger.supervision import WorkerThread

    def wait() -> None:
        while os.read(0, 4096):  # not `sys.stdin`: this thread would hold its lock at exit, and Python aborts over that
            pass
        structlog.get_logger(__name__).warning("the supervisor has ended, stopping")
        stop()

    # then it is unknown whether the parent lives: stopping is safe, and the parent restarts this process
    WorkerThread("stop-with-parent", wait, lambda _: stop(), again=False).start()
