"""How the process of a fold ends itself: with `EXIT_FAILED`, whatever hangs."""

from __future__ import annotations

import logging
import os
import sys
import threading

EXIT_FAILED = 70  # EX_SOFTWARE: the projection failed, or stopping took too long


def end_in(grace_s: float) -> threading.Timer:
    """End the process with `EXIT_FAILED` after `grace_s`, even if something hangs, unless the timer is cancelled."""
    timer = threading.Timer(grace_s, leave)
    timer.daemon = True
    timer.start()
    return timer


def leave() -> None:
    """End the process immediately with `EXIT_FAILED`, after at most a second to write log lines."""
    flush = threading.Thread(target=_flush, daemon=True)  # may wait for ever on a lock or a full pipe
    flush.start()
    flush.join(1.0)
    os._exit(EXIT_FAILED)


def _flush() -> None:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
