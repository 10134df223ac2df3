"""`commands`, killed at the moment that used to lose writers: it has released its writers and has not joined again.

python -m tests.support.dying_commands commands
"""

from __future__ import annotations

import os
import signal

from api.cli import main
from commands.processor.process import CommandsProcess

give_up = CommandsProcess._revoked


def give_up_and_die(self: CommandsProcess, writers: list[int]) -> None:
    give_up(self, writers)
    os.kill(os.getpid(), signal.SIGKILL)


CommandsProcess._revoked = give_up_and_die  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
