"""As a shell in a terminal starts its programs, however this run was started (`nohup`, a background job, CI)."""

from __future__ import annotations

import signal


def as_in_a_terminal() -> None:
    """For `preexec_fn`: what was ignored by who started us would stay ignored in the program."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
