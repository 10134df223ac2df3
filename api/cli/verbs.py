"""The command line. Each verb reads settings, calls the code that does the work, and shows the result.

Heavy modules are imported inside the verbs, so that `--help` is quick.
"""

from __future__ import annotations

import errno
import faulthandler
import os
import sys

import typer

from api.cli import message_verbs, move_verbs, prove_verbs, read_verbs, repair_verbs, run_verbs, setup_verbs
from api.cli.options import err
from api.cli.terminal import take_over
from ledger.errors import LedgerError

app = typer.Typer(
    name="order-ledger",
    help="A Kafka event-sourced order service: every change of an order is an immutable event.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for verbs in (run_verbs, read_verbs, message_verbs, prove_verbs, repair_verbs, move_verbs, setup_verbs):
    app.add_typer(verbs.app)

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})  # of a write: its error names no file
WRITES_NO_LOG_LINES = frozenset({"up", "broker", "token"})
LOGS_AS_A_PROCESS = frozenset({"commands", "serve", "sandbox"})  # each configures its own


@app.callback()
def _before_every_verb(context: typer.Context) -> None:
    if context.invoked_subcommand not in WRITES_NO_LOG_LINES | LOGS_AS_A_PROCESS:
        from api.processes.log_lines import log_to_stderr

        log_to_stderr()


def main() -> None:
    """Entry point. A `LedgerError`, or a file that cannot be used, is shown as one line with its code, never as a stack trace."""
    os.umask(0o077)  # files may hold what no other user of this machine may read
    take_over()
    faulthandler.enable(2)  # without it, a crash in native code ends the process silently
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # here, where a full device can still be reported
        return
    except LedgerError as exc:
        err.print_error(exc.code, str(exc))
    except OSError as exc:
        if exc.filename is None and exc.errno not in NO_ROOM:
            raise
        err.print_error("file", exc.strerror or str(exc) if exc.filename is None else f"{exc.filename}: {exc.strerror}")
    sys.exit(1)


if __name__ == "__main__":
    main()
