"""The command line. Imports everything below it, and is imported by nothing.

verbs       the command line as a whole, and how it ends
run_verbs read_verbs prove_verbs repair_verbs move_verbs setup_verbs
            each verb: reads settings, calls the code that does the work, shows the result
options     shared by several verbs
terminal    standard output and error in any shell
screens     progress bars and panels for people
positions   every position that a node keeps, compared with the log; acts: what an operator decides, with its record in the audit
demo/       the demo: the whole system in a temporary directory, checked from outside
backup/     a backup of the whole ledger in a folder, and the way back

Each of the other files does the work of the verb it is named after.
"""

from api.cli.verbs import main

__all__ = ["main"]
